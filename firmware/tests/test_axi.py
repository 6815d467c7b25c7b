"""The bridges to AXI, each against a model of what is behind it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from firmware.boards.axi import DramBridge, HostBridge, RegisterBridge
from firmware.rtl.ports import BEAT_BYTES

_PAGE = 4096
_UNMAPPED = 0x7000
"""Beats from here on are answered with an error."""


class _Model:
    """Memory behind AXI4: random delays; it notes what no manager may do."""

    def __init__(self, rng: random.Random, axi: Any) -> None:
        self.rng = rng
        self.axi = axi
        self.beats: dict[int, bytes] = {}
        self.bursts: list[tuple[int, int]] = []

    def beat(self, address: int) -> bytes:
        return self.beats.get(address, address.to_bytes(8, "little") * 8)

    async def reads(self, ctx: Any) -> None:
        axi = self.axi
        async for clock, reset, valid, ready, payload in ctx.tick().sample(
            axi.ar.valid, axi.ar.ready, axi.ar.payload
        ):
            assert clock and not reset
            if valid and ready:
                self.bursts.append((payload.addr, payload.len + 1))
            ctx.set(axi.ar.ready, self.rng.random() < 0.5)

    async def answers(self, ctx: Any) -> None:
        axi = self.axi
        served = 0
        while True:
            while served == len(self.bursts):
                await ctx.tick()
            address, count = self.bursts[served]
            served += 1
            for number in range(count):
                while self.rng.random() < 0.3:
                    await ctx.tick()
                at = address + BEAT_BYTES * number
                ctx.set(
                    axi.r.payload,
                    {
                        "data": int.from_bytes(self.beat(at), "little"),
                        "resp": 3 if at >= _UNMAPPED else 0,
                        "last": number == count - 1,
                    },
                )
                ctx.set(axi.r.valid, 1)
                await ctx.tick().until(axi.r.ready)
                ctx.set(axi.r.valid, 0)

    async def writes(self, ctx: Any) -> None:
        axi = self.axi
        addresses: list[Any] = []
        words: list[Any] = []
        while True:
            (
                _,
                _,
                aw,
                aw_ready,
                address,
                w,
                w_ready,
                word,
                b_valid,
                b_ready,
            ) = await ctx.tick().sample(
                axi.aw.valid,
                axi.aw.ready,
                axi.aw.payload,
                axi.w.valid,
                axi.w.ready,
                axi.w.payload,
                axi.b.valid,
                axi.b.ready,
            )
            if aw and aw_ready:
                assert address.len == 0
                addresses.append(address.addr)
            if w and w_ready:
                assert word.last
                words.append(word)
            if b_valid and b_ready:
                ctx.set(axi.b.valid, 0)
                b_valid = 0
            if not b_valid and addresses and words and self.rng.random() < 0.4:
                at, word = addresses.pop(0), words.pop(0)
                if at < _UNMAPPED:
                    new = word.data.to_bytes(BEAT_BYTES, "little")
                    self.beats[at] = bytes(
                        new[n] if word.strb >> n & 1 else old for n, old in enumerate(self.beat(at))
                    )
                ctx.set(axi.b.payload, 2 if at >= _UNMAPPED else 0)
                ctx.set(axi.b.valid, 1)
            ctx.set(axi.aw.ready, self.rng.random() < 0.5)
            ctx.set(axi.w.ready, self.rng.random() < 0.5)


def _simulate(dut: Any, behind: tuple[Any, ...], *benches: Any) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for run in behind:
        simulator.add_testbench(run, background=True)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("kind", [DramBridge, HostBridge])
def test_reads_come_in_order_and_bursts_stay_in_a_page(kind: Any) -> None:
    rng = random.Random(2)
    dut = kind()
    model = _Model(random.Random(3), dut.axi)
    wanted = []
    requests = [
        (BEAT_BYTES * rng.randrange(0x6000 // BEAT_BYTES), rng.choice((1, 2, 16, 64, 65, 130)))
        for _ in range(30)
    ]
    for address, beats in requests:
        wanted += [address + BEAT_BYTES * number for number in range(beats)]

    async def ask(ctx: Any) -> None:
        for address, beats in requests:
            ctx.set(dut.memory.request.payload, {"address": address, "beats": beats})
            ctx.set(dut.memory.request.valid, 1)
            await ctx.tick().until(dut.memory.request.ready)
            ctx.set(dut.memory.request.valid, 0)

    async def take(ctx: Any) -> None:
        for address in wanted:
            while rng.random() < 0.2:
                await ctx.tick()
            ctx.set(dut.memory.data.ready, 1)
            (payload,) = (
                await ctx.tick().sample(dut.memory.data.payload).until(dut.memory.data.valid)
            )
            ctx.set(dut.memory.data.ready, 0)
            data = payload.data if kind is HostBridge else payload
            assert data == int.from_bytes(model.beat(address), "little")
            if kind is HostBridge:
                assert payload.fault == (address >= _UNMAPPED)

    _simulate(dut, (model.reads, model.answers), ask, take)
    assert sum(count for _, count in model.bursts) == len(wanted)
    for address, count in model.bursts:
        assert address // _PAGE == (address + BEAT_BYTES * count - 1) // _PAGE
    assert max(count for _, count in model.bursts) == _PAGE // BEAT_BYTES


@pytest.mark.parametrize("kind", [DramBridge, HostBridge])
def test_written_says_that_all_has_been_answered(kind: Any) -> None:
    rng = random.Random(4)
    dut = kind()
    model = _Model(random.Random(5), dut.axi)
    refused = 0

    async def write(ctx: Any) -> None:
        expected: dict[int, bytes] = {}
        faults = 0
        for number in range(200):
            at = BEAT_BYTES * rng.randrange(0x8000 // BEAT_BYTES)
            data, strobe = rng.randbytes(BEAT_BYTES), rng.getrandbits(BEAT_BYTES)
            ctx.set(
                dut.memory.write.payload,
                {"address": at, "data": int.from_bytes(data, "little"), "strobe": strobe},
            )
            ctx.set(dut.memory.write.valid, 1)
            await ctx.tick().until(dut.memory.write.ready)
            ctx.set(dut.memory.write.valid, 0)
            assert not ctx.get(dut.memory.written)
            if at >= _UNMAPPED:
                faults += 1
            else:
                before = expected.get(at, at.to_bytes(8, "little") * 8)
                expected[at] = bytes(
                    data[n] if strobe >> n & 1 else byte for n, byte in enumerate(before)
                )
            if number % 20 == 19:
                while not ctx.get(dut.memory.written):
                    await ctx.tick()
                assert model.beats == expected
        assert faults
        assert refused == (faults if kind is HostBridge else 0)

    async def watch(ctx: Any) -> None:
        nonlocal refused
        if kind is HostBridge:
            async for *_, strobe in ctx.tick().sample(dut.memory.refused):
                refused += strobe

    _simulate(dut, (model.writes, watch), write)


def test_registers() -> None:
    dut = RegisterBridge()
    seen: list[tuple[int, int]] = []

    async def registers(ctx: Any) -> None:
        """Answer a read of an address with it, one cycle later."""
        async for *_, valid, write, address, data in ctx.tick().sample(
            dut.bus.valid, dut.bus.write, dut.bus.address, dut.bus.data
        ):
            if valid and write:
                seen.append((address, data))
            elif valid:
                ctx.set(dut.bus.answer, 0x10000 + address)

    async def read(ctx: Any, address: int) -> None:
        ctx.set(dut.axi.ar.payload, address)
        ctx.set(dut.axi.ar.valid, 1)
        await ctx.tick().until(dut.axi.ar.ready)
        ctx.set(dut.axi.ar.valid, 0)
        for _ in range(3):
            assert ctx.get(dut.axi.r.valid)
            assert ctx.get(dut.axi.r.payload.data) == 0x10000 + (address & ~3)
            await ctx.tick()
        ctx.set(dut.axi.r.ready, 1)
        await ctx.tick()
        ctx.set(dut.axi.r.ready, 0)

    async def write(ctx: Any, address: int, data: int, strobe: int) -> None:
        ctx.set(dut.axi.aw.payload, address)
        ctx.set(dut.axi.aw.valid, 1)
        await ctx.tick()
        ctx.set(dut.axi.w.payload, {"data": data, "strb": strobe})
        ctx.set(dut.axi.w.valid, 1)
        await ctx.tick().until(dut.axi.w.ready & dut.axi.aw.ready)
        ctx.set(dut.axi.w.valid, 0)
        ctx.set(dut.axi.aw.valid, 0)
        ctx.set(dut.axi.b.ready, 1)
        await ctx.tick().until(dut.axi.b.valid)
        ctx.set(dut.axi.b.ready, 0)

    async def bench(ctx: Any) -> None:
        await read(ctx, 0x104)
        await write(ctx, 0x208, 0xDEADBEEF, 0xF)
        await write(ctx, 0x20C, 1, 0x3)
        await write(ctx, 0x210, 2, 0xF)
        await read(ctx, 0x106)
        assert seen == [(0x208, 0xDEADBEEF), (0x210, 2)]

    _simulate(dut, (registers,), bench)
