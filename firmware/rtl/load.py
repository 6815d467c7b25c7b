"""The load unit: DRAM to the buffers."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import Flag, Opcode
from firmware.rtl.activations import beat_layout
from firmware.rtl.parameters import Parameters
from firmware.rtl.planes import Origin, Walk
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, ReadRequest
from firmware.rtl.records import ENTRY, operands
from firmware.rtl.window import Requests, Window

__all__ = ["Load"]


class Load(wiring.Component):
    """Executes LOAD_PLANE, LOAD, LOAD_WEIGHTS and LOAD_MATRIX.

    A matrix is a plane of one column, a row for each input channel; weights are one long pixel.

    Attributes
    ----------
    instruction: :py:`In(stream.Signature(ENTRY))`
        ``ready`` says that it has been executed.
    fault: :py:`Out(1)`
        The instruction cannot be executed. Valid with ``instruction.valid``.
    stop, clear, base, size:
        As those of the sequencer and of :class:`~firmware.rtl.ports.Run`.
    packed, packed_size: :py:`In(40)`
        Section PACKED.
    request, data:
        Of memory.
    bank: to :class:`~firmware.rtl.activations.Banks`, ``load``.
    weights_write, weights_word, weights_mask, weights_data:
        To :class:`~firmware.rtl.weights.Weights`.
    quiet: :py:`Out(1)`
        Asserted while nothing that was requested is outstanding.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._parts, self._slices = parameters.parts, parameters.slices
        super().__init__(
            {
                "instruction": In(stream.Signature(ENTRY)),
                "fault": Out(1),
                "stop": In(1),
                "clear": In(1),
                "base": In(ADDRESS_BITS),
                "size": In(ADDRESS_BITS),
                "packed": In(ADDRESS_BITS),
                "packed_size": In(ADDRESS_BITS),
                "request": Out(stream.Signature(ReadRequest)),
                "data": In(stream.Signature(8 * BEAT_BYTES)),
                "bank": Out(stream.Signature(beat_layout(parameters))),
                "weights_write": Out(self._slices),
                "weights_word": Out(range(parameters.weight_words)),
                "weights_mask": Out(BEAT_BYTES // parameters.array.to),
                "weights_data": Out(8 * BEAT_BYTES),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array, words = self._parameters.array, self._parameters.activation_words
        ti, to, tp = array.ti, array.to, array.tp
        new_plane = operands(Opcode.LOAD_PLANE, self.instruction.payload)
        move = operands(Opcode.LOAD, self.instruction.payload)
        packed = operands(Opcode.LOAD_WEIGHTS, self.instruction.payload)
        matrix = operands(Opcode.LOAD_MATRIX, self.instruction.payload)
        plane, plane_valid = Signal.like(new_plane), Signal()

        m.submodules.origin = origin = Origin()
        m.submodules.ahead = ahead = Walk(words, tp)
        m.submodules.behind = behind = Walk(words, tp)
        m.submodules.requests = requests = Requests(words, tp)
        m.submodules.window = window = Window(words, tp, self._parts)

        is_weights, is_matrix = Signal(), Signal()
        m.d.comb += is_weights.eq(move.op == Opcode.LOAD_WEIGHTS)
        m.d.comb += is_matrix.eq(move.op == Opcode.LOAD_MATRIX)
        # Rows of the matrix up to a whole word.
        matrix_rows = ((matrix.rows + (ti - 1)) >> (ti.bit_length() - 1)) << (ti.bit_length() - 1)
        matrix_columns = Mux(matrix.columns > to, to, matrix.columns)[: to.bit_length()]
        packed_bytes = packed.words * (ti * to)
        m.d.comb += [
            origin.address.eq(Mux(is_matrix, matrix.address, move.address)),
            origin.row.eq(Mux(is_matrix, 0, move.row)),
            origin.column.eq(Mux(is_matrix, 0, move.column)),
            origin.row_bytes.eq(plane.row_bytes),
            origin.pixel_bytes.eq(plane.pixel_bytes),
            origin.lane_rows.eq(Mux(is_matrix, 0, plane.lane_rows)),
            origin.lane_columns.eq(Mux(is_matrix, 0, plane.lane_columns)),
        ]
        for walk in (ahead, behind):
            m.d.comb += [
                walk.stop.eq(self.stop),
                walk.origin.eq(Mux(is_weights, packed.address, origin.origin)),
                walk.down.eq(origin.down),
                walk.right.eq(origin.right),
                walk.pixel_bytes.eq(plane.pixel_bytes),
                walk.lanes_across.eq(plane.lanes_across),
                walk.lane_rows.eq(plane.lane_rows),
                walk.lane_columns.eq(plane.lane_columns),
                walk.buffer_row.eq(plane.buffer_row),
                walk.buffer_pixel.eq(plane.buffer_pixel),
                walk.buffer.eq(move.buffer),
            ]
            with m.If(is_weights):
                m.d.comb += [walk.height.eq(1), walk.width.eq(1)]
            with m.Elif(is_matrix):
                m.d.comb += [
                    walk.height.eq(Mux(matrix_columns == 0, 0, matrix.rows)),
                    walk.width.eq(1),
                    walk.row_bytes.eq(matrix.row_bytes),
                    walk.rows.eq(matrix_rows),
                ]
            with m.Else():
                m.d.comb += [
                    walk.height.eq(plane.height),
                    walk.width.eq(plane.width),
                    walk.row_bytes.eq(plane.row_bytes),
                    walk.rows.eq(move.rows),
                    walk.columns.eq(move.columns),
                    walk.row.eq(move.row),
                    walk.column.eq(move.column),
                    walk.lanes.eq(tp),
                ]
            with m.If(is_weights | is_matrix):
                m.d.comb += [walk.columns.eq(1), walk.lanes.eq(1)]
            with m.If(is_weights):
                m.d.comb += walk.rows.eq(1)

        pixel_bytes = Mux(is_matrix, Mux(matrix_columns == 0, 1, matrix_columns), move.bytes)
        wiring.connect(m, ahead.pixels, requests.pixels)
        m.d.comb += [
            requests.pixel_bytes.eq(Mux(is_weights, packed_bytes, pixel_bytes)),
            requests.base.eq(Mux(is_weights, self.packed, self.base)),
            requests.size.eq(Mux(is_weights, self.packed_size, self.size)),
            requests.stop.eq(self.stop),
            requests.arrived.eq(self.data.valid & self.data.ready),
            self.quiet.eq(requests.quiet),
        ]
        wiring.connect(m, requests.request, wiring.flipped(self.request))
        wiring.connect(m, behind.pixels, window.pixels)
        m.d.comb += window.pixel_bytes.eq(pixel_bytes)

        begin = Signal()
        m.d.comb += [
            ahead.start.eq(begin),
            behind.start.eq(begin & ~is_weights),
            requests.start.eq(begin),
            window.start.eq(begin | self.stop),
        ]

        # Weights go straight to the buffer, a slice a cycle.
        words_left = Signal(32)
        slice_number = Signal(range(max(self._slices, 2)))
        weights_word = Signal.like(self.weights_word)
        m.d.comb += [
            self.weights_word.eq(weights_word),
            window.beats.valid.eq(self.data.valid & ~is_weights),
            window.beats.payload.eq(self.data.payload),
            self.data.ready.eq(is_weights | self.stop | window.beats.ready),
        ]
        slice_done = Signal()
        with m.If(slice_done):
            m.d.sync += slice_number.eq(slice_number + 1)
            with m.If(slice_number == self._slices - 1):
                m.d.sync += [
                    slice_number.eq(0),
                    weights_word.eq(weights_word + 1),
                    words_left.eq(words_left - 1),
                ]

        # Chunks go to the banks; those of a matrix are rows of a word of weights.
        chunk = window.chunks.payload
        present = Signal(BEAT_BYTES)
        m.d.comb += present.eq((C(1, BEAT_BYTES + 1) << chunk.count) - 1)
        filled = Signal(8 * BEAT_BYTES)
        pair = Mux(plane.wide[0], plane.fill, plane.fill[:8].replicate(2))
        zero = is_matrix & ~chunk.inside
        offset = is_matrix & (matrix.flags & Flag.OFFSET).any()
        bytes_of_chunk = []
        for place in range(BEAT_BYTES):
            byte = Mux(
                chunk.inside, chunk.data.word_select(place, 8), pair.word_select(place % 2, 8)
            )
            byte = byte ^ Cat(C(0, 7), offset)
            bytes_of_chunk.append(Mux(present[place] & ~zero, byte, 0))
        m.d.comb += filled.eq(Cat(bytes_of_chunk))
        apart = Cat(
            Cat(filled.word_select(place, 8) for place in range(first + half, first + 2 * ti, 2))
            for first in range(0, BEAT_BYTES, 2 * ti)
            for half in range(2)
        )
        wide = (plane.wide != 0) & ~is_matrix
        narrow_mask = Cat(chunk.count > ti * part for part in range(self._parts))
        wide_mask = Cat(chunk.count > 2 * ti * (part // 2) for part in range(self._parts))
        stage = Signal.like(self.bank.payload)
        stage_valid = Signal()
        m.d.comb += [
            self.bank.valid.eq(stage_valid),
            self.bank.payload.eq(stage),
            window.chunks.ready.eq(is_matrix | ~stage_valid | self.bank.ready),
        ]
        with m.If(~stage_valid | self.bank.ready):
            m.d.sync += stage_valid.eq(window.chunks.valid & ~is_matrix)
            m.d.sync += [
                stage.lane.eq(chunk.lane),
                stage.word.eq(chunk.word),
                stage.mask.eq(Mux(wide, wide_mask, narrow_mask)),
                stage.data.eq(Mux(wide, apart, filled)),
            ]

        row = Signal(range(ti))
        rows_of_slice = BEAT_BYTES // to
        with m.If(is_weights):
            m.d.comb += [
                self.weights_write.eq(
                    (self.data.valid & ~self.stop & (words_left != 0)) << slice_number
                ),
                self.weights_mask.eq(-1),
                self.weights_data.eq(self.data.payload),
                slice_done.eq(self.weights_write.any()),
            ]
        with m.Elif(is_matrix):
            low = (rows_of_slice - 1).bit_length()
            m.d.comb += [
                self.weights_write.eq(window.chunks.valid << row[low:]),
                self.weights_mask.eq(1 << row[:low]),
                self.weights_data.eq(filled[: 8 * to].replicate(rows_of_slice)),
            ]
            with m.If(window.chunks.valid):
                m.d.sync += row.eq(row + 1)
                with m.If(row == ti - 1):
                    m.d.sync += weights_word.eq(weights_word + 1)

        moved = ~ahead.pixels.valid & ~behind.pixels.valid & window.idle & ~stage_valid
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.instruction.valid):
                    m.d.sync += [
                        row.eq(0),
                        slice_number.eq(0),
                        words_left.eq(packed.words),
                        weights_word.eq(packed.buffer),
                    ]
                    with m.Switch(move.op):
                        with m.Case(Opcode.LOAD_PLANE):
                            m.d.sync += [plane.eq(new_plane), plane_valid.eq(1)]
                            m.d.comb += self.instruction.ready.eq(1)
                        with m.Case(Opcode.LOAD):
                            with m.If(~plane_valid | (plane.lanes_across == 0)):
                                m.d.comb += self.fault.eq(1)
                            with m.Elif((move.rows == 0) | (move.columns == 0) | (move.bytes == 0)):
                                m.d.comb += self.instruction.ready.eq(1)
                            with m.Else():
                                m.d.comb += origin.start.eq(1)
                                m.next = "ORIGIN"
                        with m.Case(Opcode.LOAD_WEIGHTS):
                            with m.If(packed.address[:6].any()):
                                m.d.comb += self.fault.eq(1)
                            with m.Elif(packed.words == 0):
                                m.d.comb += self.instruction.ready.eq(1)
                            with m.Else():
                                m.next = "BEGIN"
                        with m.Case(Opcode.LOAD_MATRIX):
                            with m.If(matrix.rows == 0):
                                m.d.comb += self.instruction.ready.eq(1)
                            with m.Else():
                                m.d.comb += origin.start.eq(1)
                                m.next = "ORIGIN"
                        with m.Default():
                            m.d.comb += self.fault.eq(1)
            with m.State("ORIGIN"):
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(origin.done):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += begin.eq(1)
                m.next = "MOVE"
                with m.If(self.stop):
                    m.next = "IDLE"
            with m.State("MOVE"):
                m.d.comb += self.fault.eq(requests.outside)
                done = Mux(is_weights, words_left == 0, moved)
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(done & ~self.fault):
                    m.d.comb += self.instruction.ready.eq(1)
                    m.next = "IDLE"
        with m.If(self.stop):
            m.d.sync += stage_valid.eq(0)
        with m.If(self.clear):
            m.d.sync += plane_valid.eq(0)
        return m
