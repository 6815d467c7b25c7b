"""The load unit: DRAM to the buffers."""

from __future__ import annotations

from amaranth import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import Flag, Opcode
from firmware.rtl.activations import beat_layout
from firmware.rtl.landing import Landing, job_layout
from firmware.rtl.parameters import Parameters
from firmware.rtl.planes import Origin, Walk
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, ReadRequest
from firmware.rtl.records import ENTRY, FINISHED, operands
from firmware.rtl.window import Requests

__all__ = ["Load"]

_JOBS = 8
"""Instructions whose beats are requested and that have not landed yet, beside the first."""


class Load(wiring.Component):
    """Executes LOAD_PLANE, LOAD, LOAD_WEIGHTS and LOAD_MATRIX.

    A matrix is a plane of one column, a row for each input channel; weights are one long pixel.

    An instruction is taken when all its beats have been requested: while these are on their way
    those of the next one are requested, so that the latency of DRAM is seen once. What becomes of
    the beats is said by jobs, one for each instruction.

    Attributes
    ----------
    instruction: :py:`In(stream.Signature(ENTRY))`
        ``ready`` says that all of it has been requested.
    fault: :py:`Out(1)`
        The instruction cannot be executed. Valid with ``instruction.valid``.
    finishes: :py:`Out(1)`
        Strobe: an instruction has been executed, in the order in which they were taken.
    finished: :py:`Out(FINISHED)`
        That instruction.
    idle: :py:`Out(1)`
        Asserted while none that was taken is not finished.
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
        super().__init__(
            {
                "instruction": In(stream.Signature(ENTRY)),
                "fault": Out(1),
                "finishes": Out(1),
                "finished": Out(FINISHED),
                "idle": Out(1),
                "stop": In(1),
                "clear": In(1),
                "base": In(ADDRESS_BITS),
                "size": In(ADDRESS_BITS),
                "packed": In(ADDRESS_BITS),
                "packed_size": In(ADDRESS_BITS),
                "request": Out(stream.Signature(ReadRequest)),
                "data": In(stream.Signature(8 * BEAT_BYTES)),
                "bank": Out(stream.Signature(beat_layout(parameters))),
                "weights_write": Out(parameters.slices),
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
        entry = self.instruction.payload
        new_plane = operands(Opcode.LOAD_PLANE, entry)
        move = operands(Opcode.LOAD, entry)
        packed = operands(Opcode.LOAD_WEIGHTS, entry)
        matrix = operands(Opcode.LOAD_MATRIX, entry)
        plane, plane_valid = Signal.like(new_plane), Signal()

        m.submodules.origin = origin = Origin()
        m.submodules.walk = walk = Walk(words, tp)
        m.submodules.requests = requests = Requests(words, tp)
        m.submodules.landing = landing = Landing(self._parameters)
        layout = job_layout(self._parameters)
        m.submodules.jobs = jobs = ResetInserter(self.stop)(
            SyncFIFOBuffered(width=layout.size, depth=_JOBS)
        )

        # The job, and what it is walked over.
        job = Signal(layout)
        over = job.walk
        is_weights, is_matrix = Signal(), Signal()
        # Rows of the matrix up to a whole word.
        low = ti.bit_length() - 1
        matrix_rows = ((matrix.rows + (ti - 1)) >> low) << low
        columns = Mux(matrix.columns > to, to, matrix.columns)[: to.bit_length()]
        m.d.comb += [
            is_weights.eq(move.op == Opcode.LOAD_WEIGHTS),
            is_matrix.eq(move.op == Opcode.LOAD_MATRIX),
            origin.address.eq(Mux(is_matrix, matrix.address, move.address)),
            origin.row.eq(Mux(is_matrix, 0, move.row)),
            origin.column.eq(Mux(is_matrix, 0, move.column)),
            origin.row_bytes.eq(plane.row_bytes),
            origin.pixel_bytes.eq(plane.pixel_bytes),
            origin.lane_rows.eq(Mux(is_matrix, 0, plane.lane_rows)),
            origin.lane_columns.eq(Mux(is_matrix, 0, plane.lane_columns)),
            job.weights.eq(is_weights),
            job.matrix.eq(is_matrix),
            job.wide.eq((plane.wide != 0) & ~is_matrix),
            job.fill.eq(Mux(plane.wide[0] | is_matrix, plane.fill, plane.fill[:8].replicate(2))),
            job.offset.eq(is_matrix & (matrix.flags & Flag.OFFSET).any()),
            job.words.eq(packed.words),
            job.pixel_bytes.eq(move.bytes),
            job.finished.signal.eq(move.signal),
            job.finished.address.eq(entry.address),
            over.origin.eq(Mux(is_weights, packed.address, origin.origin)),
            over.down.eq(origin.down),
            over.right.eq(origin.right),
            over.height.eq(plane.height),
            over.width.eq(plane.width),
            over.row_bytes.eq(plane.row_bytes),
            over.pixel_bytes.eq(plane.pixel_bytes),
            over.lanes_across.eq(plane.lanes_across),
            over.lane_rows.eq(plane.lane_rows),
            over.lane_columns.eq(plane.lane_columns),
            over.buffer_row.eq(plane.buffer_row),
            over.buffer_pixel.eq(plane.buffer_pixel),
            over.lanes.eq(tp),
            over.row.eq(move.row),
            over.column.eq(move.column),
            over.buffer.eq(move.buffer),
            over.rows.eq(move.rows),
            over.columns.eq(move.columns),
        ]
        with m.If(is_weights | is_matrix):
            m.d.comb += [
                over.height.eq(1),
                over.width.eq(1),
                over.lanes.eq(1),
                over.row.eq(0),
                over.column.eq(0),
                over.rows.eq(1),
                over.columns.eq(1),
            ]
        with m.If(is_matrix):
            m.d.comb += [
                over.height.eq(Mux(columns == 0, 0, matrix.rows)),
                over.row_bytes.eq(matrix.row_bytes),
                over.rows.eq(matrix_rows),
                over.buffer.eq(matrix.buffer),
                job.pixel_bytes.eq(Mux(columns == 0, 1, columns)),
            ]
        with m.If(is_weights):
            m.d.comb += over.buffer.eq(packed.buffer)

        m.d.comb += [
            walk.over.eq(over),
            walk.stop.eq(self.stop),
            requests.pixel_bytes.eq(Mux(is_weights, packed.words * (ti * to), job.pixel_bytes)),
            requests.base.eq(Mux(is_weights, self.packed, self.base)),
            requests.size.eq(Mux(is_weights, self.packed_size, self.size)),
            requests.stop.eq(self.stop),
            requests.arrived.eq(self.data.valid & self.data.ready),
            self.quiet.eq(requests.quiet),
        ]
        wiring.connect(m, walk.pixels, requests.pixels)
        wiring.connect(m, requests.request, wiring.flipped(self.request))

        # To the buffers.
        wiring.connect(m, wiring.flipped(self.data), landing.beats)
        wiring.connect(m, landing.bank, wiring.flipped(self.bank))
        m.d.comb += [
            jobs.w_data.eq(job),
            landing.job.eq(jobs.r_data),
            landing.job_valid.eq(jobs.r_rdy),
            jobs.r_en.eq(landing.finishes),
            landing.stop.eq(self.stop),
            self.finishes.eq(landing.finishes),
            self.finished.eq(landing.job.finished),
            self.idle.eq(jobs.level == 0),
            self.weights_write.eq(landing.weights_write),
            self.weights_word.eq(landing.weights_word),
            self.weights_mask.eq(landing.weights_mask),
            self.weights_data.eq(landing.weights_data),
        ]

        begin = Signal()
        m.d.comb += [walk.start.eq(begin), requests.start.eq(begin)]
        nothing = Signal()
        with m.If(nothing):
            m.d.comb += [
                job.nothing.eq(1),
                jobs.w_en.eq(1),
                self.instruction.ready.eq(jobs.w_rdy),
            ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.instruction.valid):
                    with m.Switch(move.op):
                        with m.Case(Opcode.LOAD_PLANE):
                            m.d.sync += [plane.eq(new_plane), plane_valid.eq(1)]
                            m.d.comb += nothing.eq(1)
                        with m.Case(Opcode.LOAD):
                            with m.If(~plane_valid | (plane.lanes_across == 0)):
                                m.d.comb += self.fault.eq(1)
                            with m.Elif((move.rows == 0) | (move.columns == 0) | (move.bytes == 0)):
                                m.d.comb += nothing.eq(1)
                            with m.Else():
                                m.d.comb += origin.start.eq(1)
                                m.next = "BEGIN"
                        with m.Case(Opcode.LOAD_WEIGHTS):
                            with m.If(packed.address[:6].any()):
                                m.d.comb += self.fault.eq(1)
                            with m.Elif(packed.words == 0):
                                m.d.comb += nothing.eq(1)
                            with m.Else():
                                m.next = "BEGIN"
                        with m.Case(Opcode.LOAD_MATRIX):
                            with m.If(matrix.rows == 0):
                                m.d.comb += nothing.eq(1)
                            with m.Else():
                                m.d.comb += origin.start.eq(1)
                                m.next = "BEGIN"
                        with m.Default():
                            m.d.comb += self.fault.eq(1)
            with m.State("BEGIN"):
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif((origin.done | is_weights) & jobs.w_rdy):
                    m.d.comb += [begin.eq(1), jobs.w_en.eq(1)]
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.fault.eq(requests.outside)
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(~walk.pixels.valid & requests.idle):
                    m.d.comb += self.instruction.ready.eq(1)
                    m.next = "IDLE"
        with m.If(self.clear):
            m.d.sync += plane_valid.eq(0)
        return m
