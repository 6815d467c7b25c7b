"""Registers between streams lose nothing, double nothing, and keep the order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from firmware.sim.decoupled import Decoupled


@pytest.mark.parametrize(("puts", "takes"), [(1.0, 1.0), (0.5, 0.5), (1.0, 0.3), (0.3, 1.0)])
def test_what_goes_in_comes_out(puts: float, takes: float) -> None:
    rng = random.Random(1)
    dut = Decoupled(16)
    sent = [rng.getrandbits(16) for _ in range(200)]
    got: list[int] = []
    cycles = 0

    async def put(ctx: Any) -> None:
        for value in sent:
            while rng.random() >= puts:
                await ctx.tick()
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def take(ctx: Any) -> None:
        nonlocal cycles
        while len(got) < len(sent):
            ctx.set(dut.o.ready, rng.random() < takes)
            stream = dut.o
            *_, valid, ready, payload = await ctx.tick().sample(
                stream.valid, stream.ready, stream.payload
            )
            cycles += 1
            if valid and ready:
                got.append(payload)
        assert ctx.get(dut.empty)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(put)
    simulator.add_testbench(take)
    simulator.run()
    assert got == sent
    if puts == takes == 1.0:
        assert cycles <= len(sent) + 2, "it takes more than a cycle each"
