"""The arithmetic blocks against the integer reference, in Amaranth's simulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from edged.npu.numerics import shift_round_half_even
from edged.npu.registers import Array
from firmware.rtl.elements import Mean
from firmware.rtl.planes import PLANE_ADDRESS_BITS, Origin
from firmware.rtl.requantise import Requantiser


def _run(component: Any, process: Any) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(process)
    simulator.run()


def _cases() -> Iterator[tuple[int, int, int]]:
    """(sum, bias, shift): ties of both parities and signs, the extremes, and any."""
    for shift in (0, 1, 2, 7, 24, 31, 32, 33, 34, 47):
        half = (1 << shift) >> 1
        for whole in (-3, -2, -1, 0, 1, 2, 3):
            for beside in (-1, 0, 1):
                total = (whole << shift) + half + beside
                if -(2**31) <= total < 2**31:
                    yield total, 0, shift
        for total in (-(2**31), 2**31 - 1):
            for bias in (-(2**31), 2**31 - 1):
                yield total, bias, shift
    random = np.random.default_rng(1)
    for _ in range(300):
        bits = int(random.integers(1, 32))
        bound = 1 << bits - 1
        total, bias = (int(v) for v in random.integers(-bound, bound, 2))
        yield total, bias, int(random.integers(0, 48))


def test_requantiser_rounds_half_to_even_and_bounds() -> None:
    channel = Requantiser()

    async def process(ctx: Any) -> None:
        for number, (total, bias, shift) in enumerate(_cases()):
            low, high = ((-32768, 32767), (-128, 127), (0, 255), (3, 7))[number % 4]
            for signal, value in (
                (channel.sum, total),
                (channel.bias, bias),
                (channel.shift, shift),
                (channel.lo, low),
                (channel.hi, high),
                (channel.bounded, 1),
                (channel.valid, 1),
            ):
                ctx.set(signal, value)
            await ctx.tick()
            ctx.set(channel.valid, 0)
            await ctx.tick().repeat(2)
            exact = int(shift_round_half_even(np.array(total + bias), shift))
            assert ctx.get(channel.result) == min(max(exact, low), high), (total, bias, shift)

    _run(channel, process)


def test_mean_rounds_the_product() -> None:
    array = Array(8, 8, 2)
    mean = Mean(array)
    random = np.random.default_rng(2)

    async def process(ctx: Any) -> None:
        for bits in (8, 15, 23, 31):
            sums = random.integers(-(1 << bits), 1 << bits, (2, 8))
            multiplier = int(random.integers(1, (1 << 24) + 1))
            shifts = random.integers(10, 48, 8, np.uint8)
            for channel in range(8):
                ctx.set(mean.shifts[channel], int(shifts[channel]))
                for lane in range(2):
                    ctx.set(mean.sums[lane][channel], int(sums[lane, channel]))
            ctx.set(mean.multiplier, multiplier)
            ctx.set(mean.start, 1)
            await ctx.tick()
            ctx.set(mean.start, 0)
            await ctx.tick().until(mean.done)
            exact = shift_round_half_even(sums * multiplier, shifts)
            expected = np.clip(exact, -(2**31), 2**31 - 1)
            for lane, channel in np.ndindex(2, 8):
                assert ctx.get(mean.means[lane][channel]) == expected[lane, channel]

    _run(mean, process)


def test_origin_is_where_the_pixel_lies() -> None:
    origin = Origin()
    random = np.random.default_rng(3)

    async def process(ctx: Any) -> None:
        for number in range(60):
            row, column = (int(v) for v in random.integers(-(2**15), 2**15, 2) >> number % 16)
            row_bytes, pixel_bytes, address = (int(v) for v in random.integers(0, 2**32, 3))
            down, right = (int(v) for v in random.integers(0, 2**16, 2))
            for signal, value in (
                (origin.row, row),
                (origin.column, column),
                (origin.row_bytes, row_bytes),
                (origin.pixel_bytes, pixel_bytes),
                (origin.address, address),
                (origin.lane_rows, down),
                (origin.lane_columns, right),
                (origin.start, 1),
            ):
                ctx.set(signal, value)
            await ctx.tick()
            ctx.set(origin.start, 0)
            await ctx.tick().until(origin.done)
            modulus = 1 << PLANE_ADDRESS_BITS
            at = address + row * row_bytes + column * pixel_bytes
            assert ctx.get(origin.origin) == at % modulus
            assert ctx.get(origin.down) == down * row_bytes % modulus
            assert ctx.get(origin.right) == right * pixel_bytes % modulus

    _run(origin, process)
