"""Tokens are counted, and the counters never wrap. Proved by induction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Module, Signal

from edged.npu.instructions import MAX_TOKENS, Unit
from firmware.formal.prove import broken, harness, inner, opened, proved
from firmware.rtl import tokens


def _tokens(module: Any) -> tuple[Module, list[Signal]]:
    """Beside each counter one that is wide enough: a unit is granted what that one says.

    A unit ends only what was granted; a run ends with an overflow.
    """
    m, inputs = harness()
    dut = module.Tokens()
    m.submodules.dut = block = opened(dut)
    inputs += [dut.done, dut.clear, *dut.wait, *dut.signal]
    ended = Signal()
    with m.If(dut.overflow.any()):
        m.d.sync += ended.eq(1)
    with m.If(dut.clear):
        m.d.sync += ended.eq(0)
    for unit in Unit:
        with m.If(dut.done[unit]):
            m.d.comb += Assume(dut.granted[unit] & ~ended)
    for taker in Unit:
        missing = Signal(name=f"missing_{taker.name}")
        for giver in Unit:
            count = Signal(MAX_TOKENS.bit_length() + 4, name=f"true_{giver.name}_{taker.name}")
            give = dut.done[giver] & dut.signal[giver][taker]
            take = dut.done[taker] & dut.wait[taker][giver]
            with m.If(dut.clear):
                m.d.sync += count.eq(0)
            with m.Else():
                m.d.sync += count.eq(count + give - take)
            with m.If(dut.wait[taker][giver] & (count == 0)):
                m.d.comb += missing.eq(1)
            with m.If(~ended):
                m.d.comb += Assert(count <= MAX_TOKENS)
                m.d.comb += Assert(count == inner(block, f"{giver.name}_to_{taker.name}".lower()))
        with m.If(~ended):
            m.d.comb += Assert(dut.granted[taker] == ~missing)
    return m, inputs


def test_none_is_lost_or_made_up(tmp_path: Path) -> None:
    verdict = proved(lambda: _tokens(tokens), tmp_path)
    assert verdict.holds, verdict.said


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("(count == Const(MAX_TOKENS))", "(count == Const(MAX_TOKENS - 1)) & 0"),
        ("with m.Elif(give & ~take):", "with m.Elif(give):"),
        ("self.wait[taker][giver] & (count == 0)", "self.wait[taker][giver] & (count == 1)"),
    ],
    ids=["no overflow", "both", "grant"],
)
def test_it_would_be_noticed(correct: str, wrong: str, tmp_path: Path) -> None:
    assert not proved(
        lambda: _tokens(broken("firmware.rtl.tokens", (correct, wrong))), tmp_path
    ).holds
