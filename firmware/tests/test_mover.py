"""The mover copies what it is told, wherever it is, and nothing beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from amaranth.sim import Simulator

from firmware.rtl.checksum import INITIAL
from firmware.rtl.mover import Mover
from firmware.tests.memory import HOST, SIZE, Memory


@pytest.mark.parametrize("seed", range(4))
def test_pieces_of_two_users_at_once(seed: int) -> None:
    rng = random.Random(seed)
    dut = Mover(2)
    host = Memory(dut.host.memory, HOST, rng, host=True)
    dram = Memory(dut.dram.memory, 0, rng, host=False)
    half = SIZE // 2  # what each user keeps to, so that neither sees what the other writes
    done = [0, 0]

    async def world(ctx: Any) -> None:
        while True:
            host.drive(ctx)
            dram.drive(ctx)
            host.look(ctx)
            dram.look(ctx)
            await ctx.tick()

    def user(number: int) -> Callable[[Any], Any]:
        async def bench(ctx: Any) -> None:
            piece = dut.pieces[number]
            for _ in range(25):
                length = rng.choice((1, 7, 64, 65, rng.randrange(1, 700)))
                to_host = rng.random() < 0.5
                at, device = (
                    number * half + rng.choice((0, 64, rng.randrange(half - length)))
                    for _ in range(2)
                )
                copies = not to_host or rng.random() < 0.7
                sums = rng.random() < 0.5
                source, target = (dram, host) if to_host else (host, dram)
                first, to = (device, at) if to_host else (at, device)
                data = bytes(source.bytes[first : first + length])
                own = slice(number * half, (number + 1) * half)
                wanted = bytearray(target.bytes[own])
                if copies:
                    wanted[to - own.start : to - own.start + length] = data
                ctx.set(piece.to_host, to_host)
                ctx.set(piece.copies, copies)
                ctx.set(piece.sums, sums)
                ctx.set(piece.host, HOST + at)
                ctx.set(piece.device, device)
                ctx.set(piece.length, length)
                ctx.set(piece.crc, INITIAL)
                ctx.set(piece.valid, 1)
                next_crc, fault = (
                    await ctx.tick().sample(piece.next_crc, piece.fault).until(piece.done)
                )
                assert not fault
                ctx.set(piece.valid, 0)
                assert target.bytes[own] == wanted, (at, device, length, to_host)
                assert not sums or next_crc ^ INITIAL == google_crc32c.value(data)
                done[number] += 1
                await ctx.tick()

        return bench

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(world, background=True)
    for number in range(2):
        simulator.add_testbench(user(number))
    simulator.run()
    assert done == [25, 25]


@pytest.mark.parametrize("to_host", [False, True])
def test_what_the_host_does_not_map_is_told(to_host: bool) -> None:
    rng = random.Random(1)
    dut = Mover(1)
    host = Memory(dut.host.memory, HOST, rng, host=True)
    dram = Memory(dut.dram.memory, 0, rng, host=False)
    host.mapped = 1024
    faults = []

    async def world(ctx: Any) -> None:
        while True:
            host.drive(ctx)
            dram.drive(ctx)
            host.look(ctx)
            dram.look(ctx)
            await ctx.tick()

    async def user(ctx: Any) -> None:
        piece = dut.pieces[0]
        for at in (0, 900, 1000, 1024, 0):
            ctx.set(piece.to_host, to_host)
            ctx.set(piece.copies, 1)
            ctx.set(piece.host, HOST + at)
            ctx.set(piece.device, 3)
            ctx.set(piece.length, 100)
            ctx.set(piece.valid, 1)
            (fault,) = await ctx.tick().sample(piece.fault).until(piece.done)
            faults.append(fault)
            ctx.set(piece.valid, 0)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(world, background=True)
    simulator.add_testbench(user)
    simulator.run()
    assert faults == [0, 0, 1, 1, 0]
