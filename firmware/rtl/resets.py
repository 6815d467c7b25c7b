"""Soft and function-level reset: the queues abort, then all that the contract names is reset."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from edged.npu.regmap import ResetCause

__all__ = ["Resets"]


class Resets(wiring.Component):
    """Carries out one reset after the other.

    Attributes
    ----------
    soft, function_level: Signal, in
        Strobes: one is wanted. A function-level reset that is wanted during a soft one is done
        instead.
    quiet: Signal, in
        Asserted: no queue is enabled, and nothing is under way.
    resetting: Signal, out
        Asserted until it is done. Queues have to abort.
    soft_done, function_level_done: Signal, out
        Strobes: take the reset values of the one kind or the other.
    cause: Signal(32), out
        Of the last one, a :class:`~edged.npu.regmap.ResetCause`.
    """

    soft: In(1)
    function_level: In(1)
    quiet: In(1)
    resetting: Out(1)
    soft_done: Out(1)
    function_level_done: Out(1)
    cause: Out(32, init=ResetCause.POWER_ON)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        everything = Signal()
        with m.If(self.resetting & self.quiet):
            m.d.comb += [
                self.soft_done.eq(~everything),
                self.function_level_done.eq(everything),
            ]
            m.d.sync += [self.resetting.eq(0), everything.eq(0)]
        with m.If(self.soft):
            m.d.sync += [self.resetting.eq(1), self.cause.eq(ResetCause.SOFT)]
        with m.If(self.function_level):
            m.d.sync += [
                self.resetting.eq(1),
                everything.eq(1),
                self.cause.eq(ResetCause.FUNCTION_LEVEL),
            ]
        return m
