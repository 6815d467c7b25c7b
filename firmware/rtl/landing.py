"""Where beats from DRAM land: the second half of the load unit."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.activations import beat_layout
from firmware.rtl.parameters import Parameters
from firmware.rtl.planes import Walk, walk_layout
from firmware.rtl.ports import BEAT_BYTES
from firmware.rtl.records import FINISHED
from firmware.rtl.window import Window

__all__ = ["Landing", "job_layout"]


def job_layout(parameters: Parameters) -> data.StructLayout:
    """What becomes of the beats of an instruction.

    nothing, weights, matrix: it has none; they are words of weights; rows of a matrix. Otherwise
        pixels of a plane.
    wide, fill, offset: as the instruction has them; narrow, both bytes of ``fill`` are the same.
    words: of weights.
    pixel_bytes: of each pixel, or row of the matrix.
    """
    return data.StructLayout(
        {
            "nothing": 1,
            "weights": 1,
            "matrix": 1,
            "wide": 1,
            "offset": 1,
            "fill": 16,
            "words": 32,
            "pixel_bytes": 32,
            "walk": walk_layout(parameters.array.tp),
            "finished": FINISHED,
        }
    )


class Landing(wiring.Component):
    """Takes the beats of one job after the other to the buffers.

    Attributes
    ----------
    job: :py:`In(job_layout(parameters))`
        The job at work, from ``job_valid`` on until it ``finishes``.
    finishes: :py:`Out(1)`
        Strobe: all of it is in the buffers.
    beats:
        Of memory. While ``stop`` is asserted they are thrown away, and the job is forgotten.
    bank, weights_write, weights_word, weights_mask, weights_data:
        To the buffers.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        super().__init__(
            {
                "job": In(job_layout(parameters)),
                "job_valid": In(1),
                "finishes": Out(1),
                "stop": In(1),
                "beats": In(stream.Signature(8 * BEAT_BYTES)),
                "bank": Out(stream.Signature(beat_layout(parameters))),
                "weights_write": Out(parameters.slices),
                "weights_word": Out(range(parameters.weight_words)),
                "weights_mask": Out(BEAT_BYTES // parameters.array.to),
                "weights_data": Out(8 * BEAT_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parameters = self._parameters
        array, parts, slices = parameters.array, parameters.parts, parameters.slices
        ti, to = array.ti, array.to
        job, beats = self.job, self.beats
        m.submodules.walk = walk = Walk(parameters.activation_words, array.tp)
        m.submodules.window = window = Window(parameters.activation_words, array.tp, parts)
        wiring.connect(m, walk.pixels, window.pixels)

        begin, weighs = Signal(), Signal()
        words_left = Signal(32)
        m.d.comb += [
            walk.over.eq(job.walk),
            walk.start.eq(begin & ~job.weights),
            walk.stop.eq(self.stop),
            window.start.eq(begin | self.stop),
            window.pixel_bytes.eq(job.pixel_bytes),
            window.beats.valid.eq(beats.valid),
            window.beats.payload.eq(beats.payload),
            weighs.eq(words_left != 0),
            beats.ready.eq(weighs | self.stop | window.beats.ready),
        ]

        # Chunks: what is not there is filled in, and bytes of s16 go to words of their own.
        chunk = window.chunks.payload
        present = Signal(BEAT_BYTES)
        filled = Signal(8 * BEAT_BYTES)
        m.d.comb += present.eq((C(1, BEAT_BYTES + 1) << chunk.count) - 1)
        zero = job.matrix & ~chunk.inside
        flip = Cat(C(0, 7), job.offset)
        m.d.comb += filled.eq(
            Cat(
                Mux(
                    present[place] & ~zero,
                    Mux(
                        chunk.inside,
                        chunk.data.word_select(place, 8),
                        job.fill.word_select(place % 2, 8),
                    )
                    ^ flip,
                    0,
                )
                for place in range(BEAT_BYTES)
            )
        )
        apart = Cat(
            Cat(filled.word_select(place, 8) for place in range(first + half, first + 2 * ti, 2))
            for first in range(0, BEAT_BYTES, 2 * ti)
            for half in range(2)
        )
        narrow_mask = Cat(chunk.count > ti * part for part in range(parts))
        wide_mask = Cat(chunk.count > 2 * ti * (part // 2) for part in range(parts))
        stage = Signal.like(self.bank.payload)
        stage_valid = Signal()
        m.d.comb += [
            self.bank.valid.eq(stage_valid),
            self.bank.payload.eq(stage),
            window.chunks.ready.eq(job.matrix | ~stage_valid | self.bank.ready),
        ]
        with m.If(self.stop):
            m.d.sync += stage_valid.eq(0)
        with m.Elif(~stage_valid | self.bank.ready):
            m.d.sync += stage_valid.eq(window.chunks.valid & ~job.matrix)
            with m.If(window.chunks.valid):
                m.d.sync += [
                    stage.lane.eq(chunk.lane),
                    stage.word.eq(chunk.word),
                    stage.mask.eq(Mux(job.wide, wide_mask, narrow_mask)),
                    stage.data.eq(Mux(job.wide, apart, filled)),
                ]

        # Weights: a slice of a word a cycle; of a matrix a row, whose bytes are repeated over the
        # slice and written to their place in it.
        word, slice_number = Signal.like(self.weights_word), Signal(range(max(slices, 2)))
        row = Signal(range(ti))
        rows_of_slice = BEAT_BYTES // to
        low = (rows_of_slice - 1).bit_length()
        m.d.comb += self.weights_word.eq(word)
        with m.If(weighs):
            m.d.comb += [
                self.weights_write.eq((beats.valid & ~self.stop) << slice_number),
                self.weights_mask.eq(-1),
                self.weights_data.eq(beats.payload),
            ]
            with m.If(beats.valid):
                m.d.sync += slice_number.eq(slice_number + 1)
                with m.If(slice_number == slices - 1):
                    m.d.sync += [
                        slice_number.eq(0),
                        word.eq(word + 1),
                        words_left.eq(words_left - 1),
                    ]
        with m.Elif(job.matrix):
            m.d.comb += [
                self.weights_write.eq((window.chunks.valid & ~self.stop) << row[low:]),
                self.weights_mask.eq(1 << row[:low]),
                self.weights_data.eq(filled[: 8 * to].replicate(rows_of_slice)),
            ]
            with m.If(window.chunks.valid):
                m.d.sync += row.eq(row + 1)
                with m.If(row == ti - 1):
                    m.d.sync += word.eq(word + 1)

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.job_valid & ~self.stop):
                    with m.If(job.nothing):
                        m.d.comb += self.finishes.eq(1)
                    with m.Else():
                        m.d.comb += begin.eq(1)
                        m.d.sync += [
                            words_left.eq(Mux(job.weights, job.words, 0)),
                            word.eq(job.walk.buffer),
                            slice_number.eq(0),
                            row.eq(0),
                        ]
                        m.next = "LAND"
            with m.State("LAND"):
                landed = ~walk.pixels.valid & window.idle & ~stage_valid & ~weighs
                with m.If(self.stop):
                    m.d.sync += words_left.eq(0)
                    m.next = "IDLE"
                with m.Elif(landed):
                    m.d.comb += self.finishes.eq(1)
                    m.next = "IDLE"
        return m
