"""The requantiser: from sums to elements."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Requantiser", "rounded_shift"]


def rounded_shift(m: Module, value: Signal, places: Signal) -> Signal:
    """``round(value / 2**places)``, ties to even; numerics' ``shift_round_half_even``.

    The bits that are shifted out are more than a half, or a half and what remains is odd: then one
    is added. They are kept by shifting left first, so that they stand below the binary point.
    """
    bits = len(value)
    wide = Signal(signed(2 * bits), name="with_fraction")
    m.d.comb += wide.eq((value << bits) >> places)
    whole, half, rest = wide[bits:].as_signed(), wide[bits - 1], wide[: bits - 1].any()
    result = Signal(signed(bits), name="rounded")
    m.d.comb += result.eq(whole + (half & (rest | whole[0])))
    return result


class Requantiser(wiring.Component):
    """One channel: bias, shift, bounds, in three cycles.

    Attributes
    ----------
    valid: :py:`In(1)`
        Strobe: there is a sum.
    sum, bias: :py:`In(signed(32))`
    shift: :py:`In(6)`
        Places to the right.
    bounded: :py:`In(1)`
        The result is at least ``lo`` and at most ``hi``. If not asserted, it has the lowest 16
        bits of the sum.
    lo, hi: :py:`In(signed(16))`
        They stay the same while there is a sum on its way.
    result: :py:`Out(signed(16))`
        Three cycles after ``valid``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "valid": In(1),
                "sum": In(signed(32)),
                "bias": In(signed(32)),
                "shift": In(6),
                "bounded": In(1),
                "lo": In(signed(16)),
                "hi": In(signed(16)),
                "result": Out(signed(16)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, places, valid = Signal(signed(33)), Signal(6), Signal(2)
        m.d.sync += valid.eq((valid << 1) | self.valid)
        with m.If(self.valid):
            m.d.sync += [total.eq(self.sum + self.bias), places.eq(self.shift)]
        shifted = Signal(signed(33))
        with m.If(valid[0]):
            m.d.sync += shifted.eq(rounded_shift(m, total, places))
        with m.If(valid[1]):
            raised = Mux(shifted < self.lo, self.lo, shifted)
            bounded = Mux(raised > self.hi, self.hi, raised)
            m.d.sync += self.result.eq(Mux(self.bounded, bounded, shifted))
        return m
