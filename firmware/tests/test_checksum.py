"""CRC32C in hardware equals the library's."""

from __future__ import annotations

import random
from typing import Any

import google_crc32c
from amaranth.sim import Simulator

from firmware.rtl.checksum import INITIAL, Checksum


def test_beats_and_parts_of_beats() -> None:
    rng = random.Random(1)
    data = rng.randbytes(1000)
    dut = Checksum()

    async def bench(ctx: Any) -> None:
        ctx.set(dut.value, INITIAL)
        ctx.set(dut.load, 1)
        await ctx.tick()
        ctx.set(dut.load, 0)
        at = 0
        while at < len(data):
            count = min(rng.choice((1, 3, 17, 63, 64, 64, 64)), len(data) - at)
            first = rng.randrange(65 - count)
            beat = rng.randbytes(first) + data[at : at + count]
            ctx.set(dut.data, int.from_bytes(beat, "little"))
            ctx.set(dut.first, first)
            ctx.set(dut.count, count)
            ctx.set(dut.add, 1)
            cycles = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                cycles += 1
            await ctx.tick()
            ctx.set(dut.add, 0)
            at += count
            assert cycles == (4 if count == 64 else count)
            assert ctx.get(~dut.crc) & INITIAL == google_crc32c.value(data[:at])

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
