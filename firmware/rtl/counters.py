"""What the device counts of its runs."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.ports import BEAT_BYTES

__all__ = ["Counters"]


class Counters(wiring.Component):
    """Sums since power-on or the last function-level reset.

    Attributes
    ----------
    reset: Signal, in
        Strobe: begin anew.
    ended: Signal, in
        Strobe: a run is over, of which the core says ``run_cycles``, ``run_array``, ``run_read``
        and ``run_written``, as :class:`~firmware.rtl.ports.Run` has them.
    expired: Signal, in
        Strobe: the watchdog has ended a run.
    cycles: Signal(64), out
        Periods of the clock.
    busy: Signal(64), out
        Cycles in which the array multiplied.
    stalled: Signal(64), out
        Cycles of runs in which it did not: it waited for DRAM, or for what comes before.
    read, written: Signal(64), out
        Bytes of DRAM, by runs.
    timeouts: Signal(32), out
    """

    reset: In(1)
    ended: In(1)
    expired: In(1)
    run_cycles: In(32)
    run_array: In(32)
    run_read: In(32)
    run_written: In(32)
    cycles: Out(64)
    busy: Out(64)
    stalled: Out(64)
    read: Out(64)
    written: Out(64)
    timeouts: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums = (self.cycles, self.busy, self.stalled, self.read, self.written, self.timeouts)
        m.d.sync += [
            self.cycles.eq(self.cycles + 1),
            self.timeouts.eq(self.timeouts + self.expired),
        ]
        with m.If(self.ended):
            m.d.sync += [
                self.busy.eq(self.busy + self.run_array),
                self.stalled.eq(self.stalled + (self.run_cycles - self.run_array)[:32]),
                self.read.eq(self.read + self.run_read * BEAT_BYTES),
                self.written.eq(self.written + self.run_written * BEAT_BYTES),
            ]
        with m.If(self.reset):
            m.d.sync += [value.eq(0) for value in sums]
        return m
