"""Calls while the device has to cool down."""

from __future__ import annotations

import asyncio

import pytest

from edged.errors import DeadlineError
from edged.slot._pace import Pace


async def test_calls_pass_an_interval_apart() -> None:
    pace, passed = Pace(), list[float]()
    loop = asyncio.get_running_loop()

    async def call() -> None:
        await pace.turn(10)
        passed.append(loop.time())

    await asyncio.gather(*(call() for _ in range(5)))
    assert passed[-1] - passed[0] < 0.05
    pace.interval = 0.05
    begun = loop.time()
    await asyncio.gather(*(call() for _ in range(4)))
    assert passed[-1] - begun >= 0.14


async def test_who_cannot_wait_is_told_at_once_and_takes_no_turn() -> None:
    pace = Pace()
    pace.interval = 5.0
    await pace.turn(1)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineError, match="the device is hot"):
        await pace.turn(1)
    assert asyncio.get_running_loop().time() - begun < 0.5
    pace.interval = 0.0
    await pace.turn(0)
