"""The register file has the words that the contract's table has, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.sim import Simulator

from edged.npu.regmap import BAR0_SIZE, Access, Capability, Queue, Reg, Word, address_map
from firmware.rtl.registers import RegisterFile, member

ONES = 0xFFFF_FFFF


def pattern(offset: int) -> int:
    """Another value for each word."""
    return offset * 0x9E37_79B1 + 0x1234_5678 & ONES


class Bench:
    """A register file whose inputs hold a pattern each."""

    def __init__(self, capabilities: int) -> None:
        self.words = address_map(capabilities)
        self.file = RegisterFile(capabilities)
        self.held = {
            at
            for at, word in self.words.items()
            if word.register.access in (Access.RW, Access.LOCK)
            and word.register is not Queue.CONTROL
        }

    def simulate(self, act: Any) -> None:
        async def bench(ctx: Any) -> None:
            for at, word in self.words.items():
                name = member(word.register, word.index)
                if at not in self.held and hasattr(self.file, name) and not word.part:
                    whole = sum(
                        pattern(at + 4 * part) << 32 * part
                        for part in range(word.register.nbytes // 4)
                    )
                    ctx.set(getattr(self.file, name), whole & (1 << word.register.bits) - 1)
            await act(ctx)

        simulator = Simulator(self.file)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()

    async def access(self, ctx: Any, at: int, value: int | None = None) -> int:
        bus = self.file.bus
        ctx.set(bus.valid, 1)
        ctx.set(bus.address, at)
        ctx.set(bus.write, value is not None)
        ctx.set(bus.data, value or 0)
        await ctx.tick()
        ctx.set(bus.valid, 0)
        return int(ctx.get(bus.answer))

    def expected(self, word: Word, at: int) -> int:
        if word.register.access in (Access.COMMAND, Access.W1C):
            return 0
        return word.register.reset or 0 if at in self.held else pattern(at) & word.mask


@pytest.mark.parametrize("capabilities", [0, int(Capability.FLASH | Capability.FAULT_INJECTION)])
def test_every_word_is_where_the_table_has_it(capabilities: int) -> None:
    bench = Bench(capabilities)

    async def act(ctx: Any) -> None:
        near = {at + step for at in bench.words for step in (-4, 4)}
        far = set(range(0, BAR0_SIZE, 0x3C))
        for at in sorted((near | far | bench.words.keys()) - {-4}):
            word = bench.words.get(at)
            wanted = 0 if word is None else bench.expected(word, at)
            assert await bench.access(ctx, at) == wanted, hex(at)

    bench.simulate(act)


def test_what_is_written_is_kept_or_told() -> None:
    """And only of those that may be written to."""
    bench = Bench(0)

    async def act(ctx: Any) -> None:
        for at, word in bench.words.items():
            before = await bench.access(ctx, at)
            strobe = getattr(bench.file, f"{member(word.register, word.index)}_write", None)
            bus = bench.file.bus
            ctx.set(bus.valid, 1)
            ctx.set(bus.address, at)
            ctx.set(bus.write, 1)
            ctx.set(bus.data, ONES)
            if strobe is not None:
                assert ctx.get(strobe) == 1
                assert ctx.get(bench.file.data) == ONES
            await ctx.tick()
            ctx.set(bus.valid, 0)
            found = await bench.access(ctx, at)
            takes = word.register.takes and pattern(Queue.CONTROL.address(word.index)) & 1
            if at in bench.held and not takes:
                assert found == word.mask, hex(at)
            else:
                assert found == before, hex(at)

    bench.simulate(act)


def test_resets_give_the_values_of_the_table() -> None:
    bench = Bench(0)
    scratch = Reg.SCRATCH.address()

    async def act(ctx: Any) -> None:
        await bench.access(ctx, scratch, 0x5EED)
        ctx.set(bench.file.soft, 1)
        await ctx.tick()
        ctx.set(bench.file.soft, 0)
        assert await bench.access(ctx, scratch) == 0x5EED
        ctx.set(bench.file.clear, 1)
        await ctx.tick()
        ctx.set(bench.file.clear, 0)
        for at in bench.held:
            assert await bench.access(ctx, at) == bench.expected(bench.words[at], at)

    bench.simulate(act)
