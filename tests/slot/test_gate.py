"""The gate holds, releases in order, refuses, and counts."""

from __future__ import annotations

import asyncio

import pytest

from edged.errors import DeadlineError, LimitError, UnavailableError
from edged.slot import Gate


async def waiting(gate: Gate, order: list[int], number: int) -> None:
    await gate.enter(5)
    order.append(number)
    gate.leave()


async def held(gate: Gate, count: int) -> None:
    while gate.held < count:
        await asyncio.sleep(0)


async def test_held_calls_pass_in_order_of_arrival_once_it_opens() -> None:
    gate = Gate(max_held=10)
    order: list[int] = []
    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(waiting(gate, order, number)))
        await held(gate, number + 1)
    assert order == []
    gate.open()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert gate.inside == 0


async def test_a_full_gate_turns_calls_away_with_the_bound() -> None:
    gate = Gate(max_held=1)
    task = asyncio.create_task(waiting(gate, [], 0))
    await held(gate, 1)
    with pytest.raises(LimitError, match="1 wait already"):
        await gate.enter(5)
    gate.open()
    await task


async def test_a_held_call_ends_at_its_deadline_and_leaves_no_trace() -> None:
    gate = Gate(max_held=1)
    with pytest.raises(DeadlineError, match="cannot answer in time"):
        await gate.enter(0.01)
    assert gate.held == 0
    gate.open()
    await gate.enter(0.01)


async def test_a_cancelled_call_frees_its_place() -> None:
    gate = Gate(max_held=1)
    task = asyncio.create_task(gate.enter(5))
    await held(gate, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gate.held == 0


async def test_refusing_fails_those_who_wait_and_those_who_come() -> None:
    gate = Gate(max_held=10)
    task = asyncio.create_task(gate.enter(5))
    await held(gate, 1)
    gate.refuse(UnavailableError("cannot answer: gone"))
    with pytest.raises(UnavailableError, match="gone"):
        await task
    with pytest.raises(UnavailableError, match="gone"):
        await gate.enter(5)


async def test_draining_waits_for_the_calls_inside() -> None:
    gate = Gate(max_held=10)
    gate.open()
    await gate.enter(1)
    gate.close()
    with pytest.raises(DeadlineError, match="1 calls still run"):
        await gate.drained(0.01)
    drained = asyncio.create_task(gate.drained(5))
    gate.leave()
    await drained


async def test_a_call_let_in_is_inside_at_once_though_its_task_runs_later() -> None:
    gate = Gate(10)
    held = asyncio.create_task(gate.enter(5))
    while not gate.held:
        await asyncio.sleep(0)
    gate.open()
    gate.close()
    with pytest.raises(DeadlineError, match="1 calls still run"):
        await gate.drained(0.01)
    await held
    gate.leave()
    await gate.drained(1)


async def test_a_call_that_is_called_off_as_it_is_let_in_is_not_inside() -> None:
    gate = Gate(10)
    held = asyncio.create_task(gate.enter(5))
    while not gate.held:
        await asyncio.sleep(0)
    gate.open()
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert gate.inside == 0
    await gate.drained(1)


async def test_a_call_that_comes_back_has_its_old_place_and_is_not_refused() -> None:
    gate = Gate(2, max_held_bytes=10)
    gate.open()
    first, second = await gate.enter(5), await gate.enter(5)
    gate.close()
    order: list[str] = []

    async def enter(name: str, arrival: int | None = None) -> None:
        await gate.enter(5, 5, arrival)
        order.append(name)

    waiting = [asyncio.create_task(enter(name)) for name in ("third", "fourth")]
    while gate.held < 2:
        await asyncio.sleep(0)
    for name, arrival in (("second", second), ("first", first)):
        gate.leave()
        waiting.append(asyncio.create_task(enter(name, arrival)))
    while gate.held < 4:
        await asyncio.sleep(0)
    with pytest.raises(LimitError):
        await gate.enter(5)
    gate.open()
    await asyncio.gather(*waiting)
    assert order == ["first", "second", "third", "fourth"]
    assert gate.inside == 4
