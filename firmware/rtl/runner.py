"""RUN: one program at a time, with a watchdog."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import INSTRUCTION_BYTES
from edged.npu.regmap import BANKS, QUEUES, Fault, Status
from firmware.rtl.banks import Program
from firmware.rtl.ports import ADDRESS_BITS, Run

__all__ = ["Runner", "Turn"]


class Turn(wiring.Signature):
    """A run, as the queue that wants it drives it.

    Members
    -------
    valid: :py:`Out(1)`
        Asserted until ``done``.
    entry: :py:`Out(64)`
        Number of the entry point.
    cancel: :py:`Out(1)`
        While it is asserted, the run ends as soon as it can.
    done: :py:`In(1)`
        Strobe.
    status: :py:`In(16)`
        Valid with ``done``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "entry": Out(64),
                "cancel": Out(1),
                "done": In(1),
                "status": In(16),
            }
        )


class Runner(wiring.Component):
    """Gives the core to one queue or the other.

    Parameters
    ----------
    bank_bytes:
        Of a bank.
    clock_khz:
        The clock by which the watchdog counts milliseconds.

    Attributes
    ----------
    turns: list of Interface, in
    core: Interface, out
    fault: Signal(32), in
        A :class:`~edged.npu.regmap.Fault`: nothing runs unless it is NONE.
    watchdog_ms: Signal(32), in
        Longest time of a run; 0: there is none.
    is_active, active_bank, program, instruction:
        From the :class:`~firmware.rtl.banks.Banks`; the last for ``entry_number``, a cycle later.
    busy: Signal, out
        Asserted: a run is looked at or under way, and no bank may be made active.
    running: Signal, out
        Asserted: the core has one.
    ended: Signal, out
        Strobe: the core's counters are those of a run that is over.
    expired: Signal, out
        Strobe: the watchdog has ended a run.
    fault_write: Signal, out
        Strobe: ``new_fault`` has happened at ``fault_address``.
    """

    def __init__(self, bank_bytes: int, clock_khz: int) -> None:
        self._bank_bytes = bank_bytes
        self._clock_khz = clock_khz
        super().__init__(
            {
                "turns": In(Turn()).array(QUEUES),
                "core": Out(Run()),
                "fault": In(32),
                "watchdog_ms": In(32),
                "is_active": In(1),
                "active_bank": In(range(BANKS)),
                "program": In(Program),
                "entry_number": Out(6),
                "instruction": In(32),
                "busy": Out(1),
                "running": Out(1),
                "ended": Out(1),
                "expired": Out(1),
                "fault_write": Out(1),
                "new_fault": Out(32),
                "fault_address": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        user = Signal(range(QUEUES))
        valid, cancel, done = Signal(), Signal(), Signal()
        entry = Signal(64)
        status = Signal(16)
        with m.Switch(user):
            for number in range(QUEUES):
                turn = self.turns[number]
                with m.Case(number):
                    m.d.comb += [
                        valid.eq(turn.valid),
                        entry.eq(turn.entry),
                        cancel.eq(turn.cancel),
                        turn.done.eq(done),
                        turn.status.eq(status),
                    ]
        base = Signal(ADDRESS_BITS)
        program, core = self.program, self.core
        m.d.comb += [
            base.eq(self.active_bank * self._bank_bytes),
            self.entry_number.eq(entry),
            core.code.eq(program.code + self.instruction * INSTRUCTION_BYTES),
            core.code_end.eq(program.code_end),
            core.packed.eq(program.packed),
            core.packed_end.eq(program.packed_end),
            core.base.eq(base),
            core.size.eq((program.dram_bytes + 63) & ~63),
        ]
        ticks = Signal(range(self._clock_khz))
        milliseconds = Signal(32)
        late = Signal()

        def refuse(why: Status) -> None:
            m.d.sync += status.eq(why)
            m.next = "DONE"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(valid):
                    m.next = "CHECK"
                with m.Else():
                    m.d.sync += user.eq(user + 1)
            with m.State("CHECK"):
                m.d.comb += self.busy.eq(1)
                with m.If(self.fault != Fault.NONE):
                    refuse(Status.FAULT)
                with m.Elif(~self.is_active):
                    refuse(Status.NO_IMAGE)
                with m.Elif(entry >= program.entries):
                    refuse(Status.BAD_ENTRY)
                with m.Elif(cancel):
                    refuse(Status.ABORTED)
                with m.Else():
                    m.next = "START"
            with m.State("START"):
                m.d.comb += [self.busy.eq(1), self.running.eq(1), core.start.eq(1)]
                m.d.sync += [ticks.eq(0), milliseconds.eq(0), late.eq(0)]
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [
                    self.busy.eq(1),
                    self.running.eq(1),
                    core.abort.eq(cancel | late),
                ]
                m.d.sync += ticks.eq(ticks + 1)
                with m.If(ticks == self._clock_khz - 1):
                    m.d.sync += [ticks.eq(0), milliseconds.eq(milliseconds + 1)]
                with m.If((self.watchdog_ms != 0) & (milliseconds >= self.watchdog_ms)):
                    m.d.sync += late.eq(1)
                with m.If(core.done):
                    m.d.comb += self.ended.eq(1)
                    with m.If(late):
                        m.d.comb += [
                            self.expired.eq(1),
                            self.fault_write.eq(1),
                            self.new_fault.eq(Fault.WATCHDOG),
                            self.fault_address.eq(base),
                        ]
                        refuse(Status.TIMEOUT)
                    with m.Elif(cancel):
                        refuse(Status.ABORTED)
                    with m.Elif(core.fault):
                        m.d.comb += [
                            self.fault_write.eq(1),
                            self.new_fault.eq(Fault.INSTRUCTION),
                            self.fault_address.eq(core.fault_address),
                        ]
                        refuse(Status.FAULT)
                    with m.Else():
                        refuse(Status.OK)
            with m.State("DONE"):
                m.d.comb += [self.busy.eq(1), done.eq(1)]
                m.d.sync += user.eq(user + 1)
                m.next = "IDLE"
        return m
