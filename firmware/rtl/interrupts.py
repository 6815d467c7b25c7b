"""Which interrupts are pending, and which are signalled."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from edged.npu.regmap import QUEUES

__all__ = ["VECTORS", "Interrupts"]

VECTORS = 1 + QUEUES
"""The device as a whole, then each queue."""


class Interrupts(wiring.Component):
    """Interrupts, a bit for each vector.

    Attributes
    ----------
    enable: Signal, in
        Which are signalled. What is pending when it is enabled is signalled then.
    raised: Signal, in
        Strobes.
    acknowledge: Signal, in
        Strobes: not pending any more, unless it is raised in the same cycle.
    reset: Signal, in
        Strobe: nothing is pending.
    pending: Signal, out
    messages: Signal, out
        Strobes: send the vector's message.
    """

    enable: In(VECTORS)
    raised: In(VECTORS)
    acknowledge: In(VECTORS)
    reset: In(1)
    pending: Out(VECTORS)
    messages: Out(VECTORS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enabled_before = Signal(VECTORS)
        m.d.sync += [
            enabled_before.eq(self.enable),
            self.pending.eq((self.pending & ~self.acknowledge) | self.raised),
        ]
        with m.If(self.reset):
            m.d.sync += self.pending.eq(0)
        m.d.comb += self.messages.eq(self.enable & (self.raised | (self.pending & ~enabled_before)))
        return m
