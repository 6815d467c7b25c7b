"""The store unit: the activation buffer to DRAM."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import Opcode, Unit
from firmware.rtl.activations import place_layout
from firmware.rtl.parameters import Parameters
from firmware.rtl.planes import Origin, Walk
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, WriteBeat
from firmware.rtl.records import ENTRY, FINISHED, operands
from firmware.rtl.rotate import rotated_left

__all__ = ["Store"]


class Store(wiring.Component):
    """Executes STORE_PLANE and STORE.

    Pixels that lie next to each other are gathered to beats. An instruction that gives a token to
    the load unit is done when all has reached DRAM, others when all is on its way there.

    Attributes
    ----------
    instruction, fault, finishes, finished, idle, stop, clear, base, size:
        As those of :class:`~firmware.rtl.load.Load`.
    bank, bank_data:
        To :class:`~firmware.rtl.activations.Banks`, ``store``.
    write, written:
        To memory.
    quiet: :py:`Out(1)`
        Asserted while there is nothing that has not reached DRAM.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._parts = parameters.parts
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
                "bank": Out(stream.Signature(place_layout(parameters))),
                "bank_data": In(8 * BEAT_BYTES),
                "write": Out(stream.Signature(WriteBeat)),
                "written": In(1),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array, words = self._parameters.array, self._parameters.activation_words
        ti, tp = array.ti, array.tp
        new_plane = operands(Opcode.STORE_PLANE, self.instruction.payload)
        move = operands(Opcode.STORE, self.instruction.payload)
        plane, plane_valid = Signal.like(new_plane), Signal()
        m.submodules.origin = origin = Origin()
        m.submodules.walk = walk = Walk(words, tp)
        m.d.comb += [
            origin.address.eq(move.address),
            origin.row.eq(move.row),
            origin.column.eq(move.column),
            origin.row_bytes.eq(plane.row_bytes),
            origin.pixel_bytes.eq(plane.pixel_bytes),
            origin.lane_rows.eq(plane.lane_rows),
            origin.lane_columns.eq(plane.lane_columns),
            walk.stop.eq(self.stop),
            walk.over.origin.eq(origin.origin),
            walk.over.down.eq(origin.down),
            walk.over.right.eq(origin.right),
            walk.over.height.eq(plane.height),
            walk.over.width.eq(plane.width),
            walk.over.row_bytes.eq(plane.row_bytes),
            walk.over.pixel_bytes.eq(plane.pixel_bytes),
            walk.over.lanes_across.eq(plane.lanes_across),
            walk.over.lane_rows.eq(plane.lane_rows),
            walk.over.lane_columns.eq(plane.lane_columns),
            walk.over.buffer_row.eq(plane.buffer_row),
            walk.over.buffer_pixel.eq(plane.buffer_pixel),
            walk.over.buffer.eq(move.buffer),
            walk.over.row.eq(move.row),
            walk.over.column.eq(move.column),
            walk.over.rows.eq(move.rows),
            walk.over.columns.eq(move.columns),
            walk.over.lanes.eq(tp),
        ]

        # Read a chunk of 64 bytes of the pixel.
        pixel = walk.pixels.payload
        number = Signal(26)
        rest = Signal(32)
        later = Signal()
        left = Mux(later, rest, move.bytes)
        chunk = Mux(later, number, 0)
        is_last = left <= BEAT_BYTES
        outside = pixel.inside & (pixel.address + move.bytes > self.size)
        reads = Signal()
        room = Signal()  # for what is read now, in the next cycle
        m.d.comb += [
            self.bank.valid.eq(walk.pixels.valid & pixel.inside & ~outside & room & ~self.stop),
            self.bank.payload.lane.eq(pixel.lane),
            self.bank.payload.word.eq(pixel.word + chunk * self._parts),
            reads.eq(self.bank.valid & self.bank.ready),
            walk.pixels.ready.eq(Mux(pixel.inside, reads & is_last, 1)),
        ]
        with m.If(reads):
            m.d.sync += [later.eq(~is_last), rest.eq(left - BEAT_BYTES), number.eq(chunk + 1)]

        # Its words as bytes of the pixel, and these at their places in one or two beats.
        where = data.StructLayout(
            {"beat": ADDRESS_BITS - 6, "offset": 6, "count": range(BEAT_BYTES + 1)}
        )
        fetched = Signal(where)
        fetched_valid = Signal()
        placed = Signal(where)
        placed_valid = Signal()
        placed_data = Signal(8 * BEAT_BYTES)
        together = Cat(
            self.bank_data.word_select(
                2 * ti * (place // (2 * ti)) + ti * (place % 2) + place % (2 * ti) // 2, 8
            )
            for place in range(BEAT_BYTES)
        )
        straight = Signal(8 * BEAT_BYTES)
        m.d.comb += straight.eq(Mux(plane.wide != 0, together, self.bank_data))
        rotated = rotated_left(m, straight, fetched.offset, 8)
        takes = Signal()  # the placed chunk, into beats
        m.d.comb += room.eq(~fetched_valid | ~placed_valid | takes)
        with m.If(~placed_valid | takes):
            m.d.sync += placed_valid.eq(fetched_valid)
            m.d.sync += fetched_valid.eq(0)
            with m.If(fetched_valid):
                m.d.sync += [placed.eq(fetched), placed_data.eq(rotated)]
        with m.If(reads):
            m.d.sync += [
                fetched_valid.eq(1),
                fetched.beat.eq(pixel.address[6:] + chunk),
                fetched.offset.eq(pixel.address[:6]),
                fetched.count.eq(Mux(is_last, left, BEAT_BYTES)),
            ]

        # The beat that is gathered, and the one on its way to memory.
        gathered = Signal(WriteBeat)
        gathered_valid = Signal()
        leaving = Signal(WriteBeat)
        leaving_valid = Signal()
        strobes = Signal(2 * BEAT_BYTES)
        m.d.comb += strobes.eq(
            ((C(1, BEAT_BYTES + 1) << placed.count) - 1)[:BEAT_BYTES] << placed.offset
        )
        lower, upper = strobes[:BEAT_BYTES], strobes[BEAT_BYTES:]
        crosses = upper.any()
        address = Signal(ADDRESS_BITS)
        m.d.comb += address.eq(self.base + (placed.beat << 6))
        same = gathered_valid & (gathered.address == address)
        merged = Signal(WriteBeat)
        m.d.comb += [
            merged.address.eq(address),
            merged.strobe.eq(lower | Mux(same, gathered.strobe, 0)),
            merged.data.eq(
                Cat(
                    Mux(
                        lower[place],
                        placed_data.word_select(place, 8),
                        gathered.data.word_select(place, 8),
                    )
                    for place in range(BEAT_BYTES)
                )
            ),
        ]
        free = ~leaving_valid | self.write.ready
        flush = Signal()
        leaves = Signal()
        m.d.comb += [self.write.valid.eq(leaving_valid), self.write.payload.eq(leaving)]
        with m.If(self.write.ready):
            m.d.sync += leaving_valid.eq(0)
        with m.If(placed_valid & gathered_valid & ~same & crosses):
            # What is gathered has to go first.
            m.d.comb += leaves.eq(free)
            with m.If(free):
                m.d.sync += [leaving.eq(gathered), gathered_valid.eq(0)]
        with m.Elif(placed_valid & gathered_valid & ~same):
            m.d.comb += [leaves.eq(free), takes.eq(free)]
            with m.If(free):
                m.d.sync += [leaving.eq(gathered), gathered.eq(merged)]
        with m.Elif(placed_valid & crosses):
            m.d.comb += [leaves.eq(free), takes.eq(free)]
            with m.If(free):
                m.d.sync += [
                    leaving.eq(merged),
                    gathered.address.eq(address + BEAT_BYTES),
                    gathered.data.eq(placed_data),
                    gathered.strobe.eq(upper),
                    gathered_valid.eq(1),
                ]
        with m.Elif(placed_valid):
            m.d.comb += takes.eq(1)
            m.d.sync += [gathered.eq(merged), gathered_valid.eq(1)]
        with m.Elif(flush & gathered_valid):
            m.d.comb += leaves.eq(free)
            with m.If(free):
                m.d.sync += [leaving.eq(gathered), gathered_valid.eq(0)]
        with m.If(leaves):
            m.d.sync += leaving_valid.eq(1)
        with m.If(self.stop):
            m.d.sync += [
                fetched_valid.eq(0),
                placed_valid.eq(0),
                gathered_valid.eq(0),
                later.eq(0),
            ]

        m.d.comb += [
            self.finishes.eq(self.instruction.valid & self.instruction.ready),
            self.finished.signal.eq(move.signal),
            self.finished.address.eq(self.instruction.payload.address),
            self.idle.eq(1),
        ]
        m.d.comb += self.quiet.eq(self.written & ~leaving_valid & ~gathered_valid)
        moved = ~walk.pixels.valid & ~fetched_valid & ~placed_valid
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.instruction.valid):
                    with m.Switch(move.op):
                        with m.Case(Opcode.STORE_PLANE):
                            m.d.sync += [plane.eq(new_plane), plane_valid.eq(1)]
                            m.next = "SETTLE"
                        with m.Case(Opcode.STORE):
                            with m.If(~plane_valid | (plane.lanes_across == 0)):
                                m.d.comb += self.fault.eq(1)
                            with m.Elif((move.rows == 0) | (move.columns == 0) | (move.bytes == 0)):
                                m.next = "SETTLE"
                            with m.Else():
                                m.d.comb += origin.start.eq(1)
                                m.next = "ORIGIN"
                        with m.Default():
                            m.d.comb += self.fault.eq(1)
            with m.State("ORIGIN"):
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(origin.done):
                    m.d.comb += walk.start.eq(1)
                    m.next = "MOVE"
            with m.State("MOVE"):
                m.d.comb += self.fault.eq(walk.pixels.valid & outside)
                m.d.comb += flush.eq(moved)
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(moved & ~gathered_valid):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                # A token for the load unit says that it may read what was stored.
                reached = ~leaving_valid & self.written
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(reached | ~move.signal[Unit.LOAD]):
                    m.d.comb += self.instruction.ready.eq(1)
                    m.next = "IDLE"
        with m.If(self.clear):
            m.d.sync += plane_valid.eq(0)
        return m
