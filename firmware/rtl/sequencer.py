"""The sequencer: fetches instructions, hands them to the units, and ends the run."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import INSTRUCTION_BYTES, Opcode, Unit, unit_of
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, ReadRequest
from firmware.rtl.records import ENTRY, FINISHED, operands
from firmware.rtl.tokens import Tokens

__all__ = ["Sequencer"]

_PREFETCH = 8
"""Beats of instructions that are there or on their way."""
_QUEUE = 16
"""Instructions that wait for a unit: as many as one may be ahead of another."""


class Sequencer(wiring.Component):
    """Fetch, decode, and dispatch to a queue for each unit.

    Attributes
    ----------
    start, code, code_end, abort:
        As in :class:`~firmware.rtl.ports.Run`.
    busy, done, fault, fault_address:
        Likewise.
    request, data:
        Reads of instructions.
    units: :py:`Out(stream.Signature(ENTRY)).array(3)`
        To each unit its next instruction, once its tokens are there. ``ready`` takes these, and
        with them the instruction; until then it stays. An exception is ``stop``, which takes
        ``valid`` back.
    finishes: :py:`In(3)`
        Strobes, a bit for each unit: it has executed an instruction, in the order in which it took
        them.
    finished: :py:`In(FINISHED).array(3)`
        That instruction.
    idle: :py:`In(3)`
        A bit for each unit: it has executed all that it has taken.
    faults: :py:`In(3)`
        A bit for each unit: its instruction is none that it can execute.
    quiet: :py:`In(1)`
        Asserted while no unit has a transaction of the memory outstanding.
    stop: :py:`Out(1)`
        While it is asserted the units forget what they execute, begin no transaction, and take
        what they have requested.
    clear: :py:`Out(1)`
        Strobe: a run begins, and the units forget what earlier ones have set.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "code": In(ADDRESS_BITS),
                "code_end": In(ADDRESS_BITS),
                "abort": In(1),
                "busy": Out(1),
                "done": Out(1),
                "fault": Out(1),
                "fault_address": Out(ADDRESS_BITS),
                "request": Out(stream.Signature(ReadRequest)),
                "data": In(stream.Signature(8 * BEAT_BYTES)),
                "units": Out(stream.Signature(ENTRY)).array(len(Unit)),
                "finishes": In(len(Unit)),
                "finished": In(FINISHED).array(len(Unit)),
                "idle": In(len(Unit)),
                "faults": In(len(Unit)),
                "quiet": In(1),
                "stop": Out(1),
                "clear": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tokens = tokens = Tokens()
        m.d.comb += tokens.clear.eq(self.clear)

        # Fetch: single beats, as far ahead as there is room.
        m.submodules.beats = beats = ResetInserter(self.stop)(
            SyncFIFOBuffered(width=8 * BEAT_BYTES, depth=_PREFETCH)
        )
        code_end = Signal(ADDRESS_BITS)
        beat = Signal(ADDRESS_BITS - 6)
        ahead = Signal(range(_PREFETCH + 1))  # requested, and not taken out of the FIFO
        outstanding = Signal(range(_PREFETCH + 1))
        requested = self.request.valid & self.request.ready
        arrived = self.data.valid & self.data.ready
        m.d.comb += [
            self.request.valid.eq(
                self.busy
                & ~self.stop
                & ~self.clear
                & (ahead != _PREFETCH)
                & (beat < code_end[6:] + code_end[:6].any())
            ),
            self.request.payload.address.eq(beat << 6),
            self.request.payload.beats.eq(1),
            self.data.ready.eq(1),
            beats.w_en.eq(arrived & ~self.stop),
            beats.w_data.eq(self.data.payload),
        ]
        m.d.sync += [
            ahead.eq(ahead + requested - beats.r_en),
            outstanding.eq(outstanding + requested - arrived),
        ]
        with m.If(requested):
            m.d.sync += beat.eq(beat + 1)

        # Decode: the half of the beat at which the program counter stands.
        counter = Signal(ADDRESS_BITS)
        entry = Signal(ENTRY)
        head = operands(Opcode.END, entry)
        m.d.comb += entry.instruction.eq(Mux(counter[5], beats.r_data[256:], beats.r_data[:256]))
        m.d.comb += entry.address.eq(counter)
        taken = Signal()
        m.d.comb += beats.r_en.eq(taken & counter[5])
        with m.If(taken):
            m.d.sync += counter.eq(counter + INSTRUCTION_BYTES)

        # The queues.
        push = Signal(len(Unit))
        full = Signal(len(Unit))
        empty = Signal(len(Unit))
        for unit in Unit:
            queue = ResetInserter(self.stop)(SyncFIFOBuffered(width=ENTRY.size, depth=_QUEUE))
            m.submodules[f"queue_{unit.name.lower()}"] = queue
            port = self.units[unit]
            waiting = operands(Opcode.END, port.payload)
            done = port.valid & port.ready
            m.d.comb += [
                queue.w_data.eq(entry),
                queue.w_en.eq(push[unit]),
                full[unit].eq(~queue.w_rdy),
                empty[unit].eq(queue.level == 0),
                port.payload.eq(queue.r_data),
                port.valid.eq(queue.r_rdy & tokens.granted[unit] & ~self.stop),
                queue.r_en.eq(done),
                tokens.wait[unit].eq(waiting.wait),
                tokens.take[unit].eq(done),
                tokens.signal[unit].eq(self.finished[unit].signal),
                tokens.give[unit].eq(self.finishes[unit] & ~self.stop),
            ]
        idle = empty.all() & self.idle.all()

        unit_faults = Signal(len(Unit))
        valid = Cat(port.valid for port in self.units)
        m.d.comb += unit_faults.eq((self.faults & valid) | tokens.overflow)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.comb += self.clear.eq(1)
                    m.d.sync += [
                        self.busy.eq(1),
                        self.fault.eq(0),
                        counter.eq(self.code),
                        beat.eq(self.code[6:]),
                        code_end.eq(self.code_end),
                        ahead.eq(0),
                    ]
                    m.next = "RUN"
            with m.State("RUN"):
                bad = Signal()
                with m.If(counter >= code_end):
                    m.d.comb += bad.eq(1)
                with m.Elif(beats.r_rdy):
                    with m.Switch(head.op):
                        for op in Opcode:
                            unit_or_none = unit_of(op)
                            with m.Case(op):
                                if unit_or_none is not None:
                                    m.d.comb += push[unit_or_none].eq(~full[unit_or_none])
                                    m.d.comb += taken.eq(~full[unit_or_none])
                                elif op is Opcode.SYNC:
                                    m.d.comb += taken.eq(idle & self.quiet)
                                else:
                                    with m.If(idle & self.quiet):
                                        m.next = "STOP"
                        with m.Default():
                            m.d.comb += bad.eq(1)
                with m.If(self.abort):
                    m.next = "STOP"
                with m.Elif(unit_faults.any() | bad):
                    m.d.sync += self.fault.eq(1)
                    m.d.sync += self.fault_address.eq(counter)
                    for unit in reversed(Unit):
                        with m.If(tokens.overflow[unit]):
                            m.d.sync += self.fault_address.eq(self.finished[unit].address)
                        with m.Elif(unit_faults[unit]):
                            m.d.sync += self.fault_address.eq(self.units[unit].payload.address)
                    m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += self.stop.eq(1)
                with m.If(self.quiet & (outstanding == 0)):
                    m.d.comb += self.done.eq(1)
                    m.d.sync += self.busy.eq(0)
                    m.next = "IDLE"
        return m
