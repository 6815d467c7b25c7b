"""A bank is zero after it was wiped, and what was not written to is not written again."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from firmware.rtl.wiper import Wiper

BANK = 1 << 16
CHUNK = 1 << 12


@pytest.mark.parametrize("zeroed", [True, False])
def test_what_was_written_is_wiped_and_nothing_else(zeroed: bool) -> None:
    rng = random.Random(1)
    dut = Wiper(BANK, zeroed=zeroed)
    port = dut.dram.memory
    dirty: list[set[int]] = [set() if zeroed else set(range(BANK // CHUNK)) for _ in range(2)]

    async def write(ctx: Any, at: int) -> None:
        ctx.set(dut.address, at)
        ctx.set(dut.write, 1)
        await ctx.tick()
        ctx.set(dut.write, 0)
        dirty[at // BANK].add(at % BANK // CHUNK)

    async def wipe(ctx: Any, bank: int) -> list[int]:
        """Addresses of the beats that it makes zero."""
        ctx.set(dut.bank, bank)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        wiped = []
        while not ctx.get(dut.done):
            ctx.set(port.write.ready, rng.random() < 0.8)
            ctx.set(port.written, rng.random() < 0.3)
            if ctx.get(port.write.valid) and ctx.get(port.write.ready):
                assert ctx.get(dut.dram.claim)
                assert ctx.get(port.write.payload.data) == 0
                assert ctx.get(port.write.payload.strobe) == (1 << 64) - 1
                wiped.append(ctx.get(port.write.payload.address))
            await ctx.tick()
        await ctx.tick()
        return wiped

    async def bench(ctx: Any) -> None:
        for _ in range(6):
            for _ in range(rng.randrange(4)):
                await write(ctx, rng.randrange(2 * BANK // 64) * 64)
            await ctx.tick()
            bank = rng.randrange(2)
            wanted = [
                bank * BANK + chunk * CHUNK + at
                for chunk in sorted(dirty[bank])
                for at in range(0, CHUNK, 64)
            ]
            assert await wipe(ctx, bank) == wanted
            dirty[bank].clear()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
