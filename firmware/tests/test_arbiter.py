"""Two users of one DRAM: each gets its own data, in its order, and neither is kept waiting."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.sim import Simulator

from firmware.rtl.arbiter import Arbiter
from firmware.tests.memory import SIZE, Memory


@pytest.mark.parametrize("seed", range(3))
def test_reads_and_writes_of_both(seed: int) -> None:
    rng = random.Random(seed)
    dut = Arbiter()
    dram = Memory(dut.dram, 0, rng, host=False)
    half = SIZE // 2
    finished = []

    async def world(ctx: Any) -> None:
        while True:
            dram.drive(ctx)
            dram.look(ctx)
            await ctx.tick()

    def writes(port: Any, number: int) -> Callable[[Any], Any]:
        async def bench(ctx: Any) -> None:
            for _ in range(60):
                at = number * half + rng.randrange(half // 64) * 64
                data = rng.randbytes(64)
                ctx.set(port.write.payload.address, at)
                ctx.set(port.write.payload.data, int.from_bytes(data, "little"))
                ctx.set(port.write.payload.strobe, (1 << 64) - 1)
                ctx.set(port.write.valid, 1)
                await ctx.tick().until(port.write.ready)
                ctx.set(port.write.valid, 0)
                assert dram.bytes[at : at + 64] == data
                await ctx.tick().repeat(rng.randint(1, 3))
            finished.append(f"write {number}")

        return bench

    def reads(port: Any, number: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """What asks, and what takes the answers; of the half that is not written by the other."""
        asked: list[int] = []

        async def ask(ctx: Any) -> None:
            for _ in range(60):
                beats = rng.randint(1, 5)
                at = 64 * rng.randrange(SIZE // 64 - beats)
                ctx.set(port.request.payload.address, at)
                ctx.set(port.request.payload.beats, beats)
                ctx.set(port.request.valid, 1)
                await ctx.tick().until(port.request.ready)
                ctx.set(port.request.valid, 0)
                asked.extend(at + 64 * beat for beat in range(beats))
                await ctx.tick().repeat(rng.randint(1, 4))
            asked.append(-1)

        async def take(ctx: Any) -> None:
            while True:
                while not asked:
                    await ctx.tick()
                at = asked.pop(0)
                if at < 0:
                    break
                ctx.set(port.data.ready, 1)
                (beat,) = await ctx.tick().sample(port.data.payload).until(port.data.valid)
                ctx.set(port.data.ready, 0)
                if seed == 0:  # nobody writes meanwhile
                    assert beat == int.from_bytes(dram.bytes[at : at + 64], "little")
                if rng.random() < 0.3:
                    await ctx.tick().repeat(2)
            finished.append(f"read {number}")

        return ask, take

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for number, port in enumerate((dut.core, dut.shell)):
        if seed:
            simulator.add_testbench(writes(port, number))
        for bench in reads(port, number):
            simulator.add_testbench(bench)
    # The last: in each cycle it looks at what the others have said.
    simulator.add_testbench(world, background=True)
    simulator.run()
    assert len(finished) == (4 if seed else 2)
