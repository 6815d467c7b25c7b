"""A core that ends every run at once: for tests of what is around it."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import Memory, Run

__all__ = ["StubCore"]


class StubCore(wiring.Component):
    """Counts one cycle, in which its array multiplies; faults if the first instruction is behind
    the end, and goes on until it is aborted if the bank is said to have 64 bytes."""

    run: In(Run())
    memory: Out(Memory())

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hangs = Signal()
        run = self.run
        m.d.comb += run.done.eq(run.busy & (~hangs | run.abort))
        with m.If(run.start & ~run.busy):
            m.d.sync += [
                run.busy.eq(1),
                run.cycles.eq(1),
                run.array.eq(1),
                run.fault.eq(run.code >= run.code_end),
                run.fault_address.eq(run.code),
                hangs.eq(run.size == 64),
            ]
        with m.Elif(run.done):
            m.d.sync += run.busy.eq(0)
        return m
