"""Tokens: what makes a unit wait for another."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import MAX_TOKENS, Unit

__all__ = ["Tokens"]


class Tokens(wiring.Component):
    """A counter for each giver and taker.

    Attributes
    ----------
    wait: :py:`In(3).array(3)`
        Of each unit: the units whose token its next instruction takes, a bit each.
    signal: :py:`In(3).array(3)`
        Of each unit: the units to which an instruction that it has executed gives a token.
    granted: :py:`Out(3)`
        A bit for each unit: every token that it waits for is there. While it is not asserted the
        instruction must not begin. Once it is, it stays so until they are taken.
    take, give: :py:`In(3)`
        Strobes, a bit for each unit: its instruction takes them; one that it executed gives them.
    overflow: :py:`Out(3)`
        Strobes, a bit for each unit: it gave a token of which there were as many as there may be.
    clear: :py:`In(1)`
        Strobe: there are no tokens.
    """

    def __init__(self) -> None:
        units = len(Unit)
        super().__init__(
            {
                "wait": In(units).array(units),
                "signal": In(units).array(units),
                "granted": Out(units),
                "take": In(units),
                "give": In(units),
                "overflow": Out(units),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        overflows: dict[Unit, list[Value]] = {unit: [] for unit in Unit}
        for taker in Unit:
            missing = []
            for giver in Unit:
                count = Signal(range(MAX_TOKENS + 1), name=f"{giver.name}_to_{taker.name}".lower())
                missing.append(self.wait[taker][giver] & (count == 0))
                give = Signal(name=f"give_{giver.name}_{taker.name}".lower())
                take = Signal(name=f"take_{giver.name}_{taker.name}".lower())
                m.d.comb += give.eq(self.give[giver] & self.signal[giver][taker])
                m.d.comb += take.eq(self.take[taker] & self.wait[taker][giver])
                with m.If(self.clear):
                    m.d.sync += count.eq(0)
                with m.Elif(give & ~take):
                    m.d.sync += count.eq(count + 1)
                with m.Elif(take & ~give):
                    m.d.sync += count.eq(count - 1)
                overflows[giver].append(give & ~take & (count == Const(MAX_TOKENS)))
            m.d.comb += self.granted[taker].eq(~Cat(missing).any())
        for giver in Unit:
            m.d.comb += self.overflow[giver].eq(Cat(overflows[giver]).any())
        return m
