"""From the beats of DRAM to runs of bytes that begin anywhere."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.planes import PLANE_ADDRESS_BITS, pixel_layout
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, ReadRequest
from firmware.rtl.rotate import rotated_right

__all__ = ["BEAT_BITS", "Requests", "Window", "chunk_layout"]

BEAT_BITS = PLANE_ADDRESS_BITS - 6
_BURST = 16
"""Beats of a request at most."""
_OUTSTANDING = 128
"""Beats that are requested and not there yet, at most: what covers the latency of DRAM."""


class Requests(wiring.Component):
    """Requests the beats in which pixels lie, each once where one follows the other.

    Attributes
    ----------
    start: :py:`In(1)`
        Strobe: forget which beat was the last one.
    stop: :py:`In(1)`
        While it is asserted nothing is requested.
    pixels:
        Pixels; those that are not inside are passed over.
    pixel_bytes: :py:`In(42)`
        Bytes that are read of each, at least one.
    base, size: :py:`In(40)`
        What may be read. A pixel that is not inside of it is not requested.
    outside: :py:`Out(1)`
        There is such a pixel.
    request:
        To memory.
    arrived: :py:`In(1)`
        Strobe: a beat came.
    quiet: :py:`Out(1)`
        Asserted while no beat is outstanding.
    idle: :py:`Out(1)`
        Asserted while all pixels that were taken have been requested.
    """

    def __init__(self, bank_words: int, lanes: int) -> None:
        super().__init__(
            {
                "start": In(1),
                "stop": In(1),
                "pixels": In(stream.Signature(pixel_layout(bank_words, lanes))),
                "pixel_bytes": In(42),
                "base": In(ADDRESS_BITS),
                "size": In(ADDRESS_BITS),
                "outside": Out(1),
                "request": Out(stream.Signature(ReadRequest)),
                "arrived": In(1),
                "quiet": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pixel = self.pixels.payload
        # Beats that are to be requested.
        beat = Signal(ADDRESS_BITS - 6)
        left = Signal(ADDRESS_BITS - 6)
        last = Signal(ADDRESS_BITS - 6)
        last_valid = Signal()
        outstanding = Signal(range(_OUTSTANDING + 1))

        end = Signal(PLANE_ADDRESS_BITS + 1)
        m.d.comb += end.eq(pixel.address + self.pixel_bytes)
        first_beat, last_beat = pixel.address[6:], (end - 1)[6:]
        again = Signal()
        m.d.comb += again.eq(last_valid & (last == first_beat))
        more = Signal(ADDRESS_BITS - 6)
        m.d.comb += more.eq(last_beat - first_beat + 1 - again)
        outside = end > self.size
        follows = again | (first_beat == last + 1)

        # Beats are gathered for a request while pixels go on from one to the next.
        gathers = self.pixels.valid & (~pixel.inside | (follows & (left < _BURST)))
        beats = Signal(range(_BURST + 1))
        m.d.comb += beats.eq(Mux(left > _BURST, _BURST, left))
        requested = self.request.valid & self.request.ready
        m.d.comb += [
            self.request.valid.eq(
                (left != 0)
                & (~gathers | self.quiet)
                & (outstanding <= _OUTSTANDING - _BURST)
                & ~self.stop
            ),
            self.request.payload.address.eq(self.base + (beat << 6)),
            self.request.payload.beats.eq(beats),
            self.quiet.eq(outstanding == 0),
            self.idle.eq(left == 0),
        ]
        m.d.sync += outstanding.eq(outstanding + Mux(requested, beats, 0) - self.arrived)
        with m.If(requested):
            m.d.sync += [left.eq(left - beats), beat.eq(beat + beats)]

        free = (left == 0) | (requested & (left <= _BURST))
        m.d.comb += self.outside.eq(self.pixels.valid & pixel.inside & outside)
        m.d.comb += self.pixels.ready.eq(
            ~self.stop & (~pixel.inside | (~outside & (free | (gathers & ~requested))))
        )
        with m.If(self.pixels.valid & self.pixels.ready & pixel.inside):
            m.d.sync += [last.eq(last_beat), last_valid.eq(1)]
            with m.If(free):
                m.d.sync += [beat.eq(first_beat + again), left.eq(more)]
            with m.Else():
                m.d.sync += left.eq(left + more)
        with m.If(self.start | self.stop):
            m.d.sync += [left.eq(0), last_valid.eq(0)]
        return m


def chunk_layout(bank_words: int, lanes: int) -> data.StructLayout:
    """Up to 64 bytes of a pixel.

    data: the bytes, from the lowest on.
    count: how many there are; those beyond are anything.
    inside: they come from DRAM. If not asserted, ``data`` is anything.
    lane, word: where the first one belongs in the buffer.
    """
    return data.StructLayout(
        {
            "data": 8 * BEAT_BYTES,
            "count": range(BEAT_BYTES + 1),
            "inside": 1,
            "lane": range(max(lanes, 2)),
            "word": range(bank_words),
        }
    )


class Window(wiring.Component):
    """Cuts pixels out of beats, up to 64 bytes a cycle.

    It sees the same pixels as :class:`Requests`, and so knows which beats come.

    Attributes
    ----------
    start: :py:`In(1)`
        Strobe: forget the beat that is held, and the chunk on its way.
    pixels, pixel_bytes:
        As those of :class:`Requests`.
    beats: :py:`In(stream.Signature(512))`
        What memory gives. One is taken when there is a pixel that needs it.
    chunks: :py:`Out(stream.Signature(chunk_layout(bank_words, lanes)))`
        The pixels, 64 bytes after the other; the last of each may have fewer.
    idle: :py:`Out(1)`
        Asserted while no chunk is on its way.
    """

    def __init__(self, bank_words: int, lanes: int, parts: int) -> None:
        self._parts = parts
        self._chunk = chunk_layout(bank_words, lanes)
        super().__init__(
            {
                "start": In(1),
                "pixels": In(stream.Signature(pixel_layout(bank_words, lanes))),
                "pixel_bytes": In(32),
                "beats": In(stream.Signature(8 * BEAT_BYTES)),
                "chunks": Out(stream.Signature(self._chunk)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pixel = self.pixels.payload
        held, held_beat, held_valid = Signal(8 * BEAT_BYTES), Signal(BEAT_BITS), Signal()
        # The chunk of the pixel at work, from the second on.
        number, rest, later = Signal(26), Signal(32), Signal()

        left = Mux(later, rest, self.pixel_bytes)
        chunk = Mux(later, number, 0)
        is_last = left <= BEAT_BYTES
        count = Mux(is_last, left, BEAT_BYTES)[:7]
        offset = pixel.address[:6]
        beat = (pixel.address[6:] + chunk)[:BEAT_BITS]
        crosses = (offset + count) > BEAT_BYTES
        has = held_valid & (held_beat == beat)

        # One beat a cycle at most: what the chunk begins with, or else what it ends with.
        takes = Signal()  # a beat from memory
        gives = Signal()  # a chunk
        room = Signal()
        with m.If(self.pixels.valid):
            with m.If(~pixel.inside | (has & ~crosses)):
                m.d.comb += gives.eq(room)
            with m.Elif(has | ~crosses):
                m.d.comb += gives.eq(room & self.beats.valid)
                m.d.comb += takes.eq(gives)
            with m.Else():
                m.d.comb += takes.eq(self.beats.valid)
        m.d.comb += self.beats.ready.eq(takes)
        with m.If(takes):
            m.d.sync += [
                held.eq(self.beats.payload),
                held_beat.eq(beat + has),
                held_valid.eq(1),
            ]
        with m.If(gives):
            m.d.sync += [later.eq(~is_last), rest.eq(left - BEAT_BYTES), number.eq(chunk + 1)]
        m.d.comb += self.pixels.ready.eq(gives & is_last)
        with m.If(self.start):
            m.d.sync += [held_valid.eq(0), later.eq(0)]

        # The bytes of both beats in one, to be rotated in the next stage.
        first = Signal(8 * BEAT_BYTES)
        m.d.comb += first.eq(Mux(has, held, self.beats.payload))
        mixed = Cat(
            Mux(
                place >= offset,
                first.word_select(place, 8),
                self.beats.payload.word_select(place, 8),
            )
            for place in range(BEAT_BYTES)
        )
        mixed_data, rotation = Signal(8 * BEAT_BYTES), Signal(6)
        stage = Signal(self._chunk)
        stage_valid = Signal()
        m.d.comb += room.eq(~stage_valid | self.chunks.ready)
        with m.If(gives):
            m.d.sync += [
                mixed_data.eq(mixed),
                rotation.eq(offset),
                stage.count.eq(count),
                stage.inside.eq(pixel.inside),
                stage.lane.eq(pixel.lane),
                stage.word.eq(pixel.word + chunk * self._parts),
            ]
        with m.If(self.start):
            m.d.sync += stage_valid.eq(0)
        with m.Elif(room):
            m.d.sync += stage_valid.eq(gives)
        m.d.comb += [
            self.chunks.valid.eq(stage_valid),
            self.chunks.payload.eq(stage),
            self.chunks.payload.data.eq(rotated_right(m, mixed_data, rotation, 8)),
            self.idle.eq(~stage_valid),
        ]
        return m
