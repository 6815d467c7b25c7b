"""Who waits for which model, and whose turn is next."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from edged.errors import DeadlineError, ModelError, OverloadError
from edged.slot._demand import Demand
from edged.store import BundleRecord


def record(name: str) -> BundleRecord:
    return cast(BundleRecord, SimpleNamespace(digest=name))


async def waiting(demand: Demand, count: int) -> None:
    while demand.waiting < count:
        await asyncio.sleep(0)


async def test_the_oldest_wish_comes_first_however_many_want_another() -> None:
    demand = Demand(max_waiting=100)
    a, b = record("a"), record("b")
    tasks = [asyncio.create_task(demand.wait(a, 5))]
    await waiting(demand, 1)
    tasks += [asyncio.create_task(demand.wait(b, 5)) for _ in range(20)]
    await waiting(demand, 21)
    assert await demand.next() is a
    demand.settle(a)
    assert await demand.next() is b
    tasks.append(asyncio.create_task(demand.wait(a, 5)))
    await waiting(demand, 21)
    demand.settle(b)
    assert (await demand.next()).digest == "a"
    demand.settle(a)
    await asyncio.gather(*tasks)
    assert demand.waiting == 0


async def test_who_waits_is_told_why_it_cannot_be() -> None:
    demand = Demand(max_waiting=1)
    task = asyncio.create_task(demand.wait(record("a"), 5))
    await waiting(demand, 1)
    with pytest.raises(OverloadError, match="1 calls wait"):
        await demand.wait(record("a"), 5)
    demand.settle(record("a"), ModelError("cannot compile it"))
    with pytest.raises(ModelError, match="cannot compile it"):
        await task


async def test_a_wish_ends_with_the_last_who_had_it() -> None:
    demand = Demand(max_waiting=5)
    with pytest.raises(DeadlineError, match="cannot answer in time"):
        await demand.wait(record("a"), 0.01)
    assert demand.waiting == 0
    task = asyncio.create_task(demand.next())
    other = asyncio.create_task(demand.wait(record("b"), 5))
    assert (await task).digest == "b"
    demand.settle(record("b"))
    await other
