"""The gate holds, releases in order, refuses, and counts."""

from __future__ import annotations

import asyncio
import time

import pytest

from edged.calls import Call, Priority
from edged.errors import DeadlineError, OverloadError, UnavailableError
from edged.slot import Gate


def call(
    seconds: float = 5.0,
    size: int = 0,
    client: str = "",
    priority: Priority = Priority.NORMAL,
) -> Call:
    deadline = time.monotonic() + seconds
    return Call("Predict", bytes(size), deadline, client=client, priority=priority)


async def waiting(gate: Gate, order: list[int], number: int) -> None:
    await gate.enter(call())
    order.append(number)
    gate.leave()


async def held(gate: Gate, count: int) -> None:
    while gate.queued < count:
        await asyncio.sleep(0)


async def test_held_calls_pass_in_order_of_arrival_once_it_opens() -> None:
    gate = Gate(max_queued=10)
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
    gate = Gate(max_queued=1)
    task = asyncio.create_task(waiting(gate, [], 0))
    await held(gate, 1)
    with pytest.raises(OverloadError, match="1 calls with 0 bytes wait already"):
        await gate.enter(call())
    gate.open()
    await task


async def test_a_held_call_ends_at_its_deadline_and_leaves_no_trace() -> None:
    gate = Gate(max_queued=1)
    with pytest.raises(DeadlineError, match="cannot answer in time"):
        await gate.enter(call(0.01))
    assert gate.queued == 0
    gate.open()
    await gate.enter(call(0.01))


async def test_a_cancelled_call_frees_its_place() -> None:
    gate = Gate(max_queued=1)
    task = asyncio.create_task(gate.enter(call()))
    await held(gate, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gate.queued == 0


async def test_refusing_fails_those_who_wait_and_those_who_come() -> None:
    gate = Gate(max_queued=10)
    task = asyncio.create_task(gate.enter(call()))
    await held(gate, 1)
    gate.refuse(UnavailableError("cannot answer: gone"))
    with pytest.raises(UnavailableError, match="gone"):
        await task
    with pytest.raises(UnavailableError, match="gone"):
        await gate.enter(call())


async def test_draining_waits_for_the_calls_inside() -> None:
    gate = Gate(max_queued=10)
    gate.open()
    await gate.enter(call(1))
    gate.close()
    with pytest.raises(DeadlineError, match="1 calls still run"):
        await gate.drained(0.01)
    drained = asyncio.create_task(gate.drained(5))
    gate.leave()
    await drained


async def test_a_call_let_in_is_inside_at_once_though_its_task_runs_later() -> None:
    gate = Gate(10)
    held = asyncio.create_task(gate.enter(call()))
    while not gate.queued:
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
    held = asyncio.create_task(gate.enter(call()))
    while not gate.queued:
        await asyncio.sleep(0)
    gate.open()
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert gate.inside == 0
    await gate.drained(1)


async def test_a_call_that_comes_back_has_its_old_place_and_is_not_refused() -> None:
    gate = Gate(2, max_queued_bytes=10)
    gate.open()
    first, second = await gate.enter(call()), await gate.enter(call())
    gate.close()
    order: list[str] = []

    async def enter(name: str, arrival: int | None = None) -> None:
        await gate.enter(call(size=5), arrival)
        order.append(name)

    waiting = [asyncio.create_task(enter(name)) for name in ("third", "fourth")]
    while gate.queued < 2:
        await asyncio.sleep(0)
    for name, arrival in (("second", second), ("first", first)):
        gate.leave()
        waiting.append(asyncio.create_task(enter(name, arrival)))
    while gate.queued < 4:
        await asyncio.sleep(0)
    with pytest.raises(OverloadError):
        await gate.enter(call())
    gate.open()
    await asyncio.gather(*waiting)
    assert order == ["first", "second", "third", "fourth"]
    assert gate.inside == 4


async def test_no_more_are_let_in_than_may_be_inside_and_who_leaves_lets_in_the_next() -> None:
    gate = Gate(10, at_once=2)
    gate.open()
    first = await gate.enter(call())
    assert first == await gate.enter(call()) - 1
    waiting = asyncio.create_task(gate.enter(call()))
    await held(gate, 1)
    assert gate.inside == 2
    gate.leave()
    await waiting
    assert (gate.inside, gate.queued) == (2, 0)


async def test_a_closed_gate_lets_nobody_in_when_a_call_leaves() -> None:
    gate = Gate(10, at_once=1)
    gate.open()
    await gate.enter(call())
    waiting = asyncio.create_task(gate.enter(call()))
    await held(gate, 1)
    gate.close()
    gate.leave()
    await gate.drained(1)
    assert not waiting.done()
    gate.open()
    await waiting


async def order_of(gate: Gate, *calls: Call) -> list[int]:
    """In which order a gate that lets in one at a time lets in *calls*, which came in theirs."""
    gate.open()
    await gate.enter(call())
    order: list[int] = []

    async def pass_through(number: int, one: Call) -> None:
        await gate.enter(one)
        order.append(number)
        gate.leave()

    tasks = []
    for number, one in enumerate(calls):
        tasks.append(asyncio.create_task(pass_through(number, one)))
        await held(gate, number + 1)
    gate.leave()
    await asyncio.gather(*tasks)
    return order


async def test_clients_take_turns_however_many_calls_one_has() -> None:
    greedy = [call(client="greedy") for _ in range(5)]
    others = [call(client="modest"), call(client="modest"), call(client="shy")]
    order = await order_of(Gate(100, at_once=1), *greedy, *others)
    assert order == [0, 5, 7, 1, 6, 2, 3, 4]


async def test_priorities_go_first_and_none_is_passed_over_for_ever() -> None:
    low = [call(priority=Priority.LOW) for _ in range(2)]
    high = [call(priority=Priority.HIGH) for _ in range(18)]
    order = await order_of(Gate(100, at_once=1), *low, *high)
    assert order == [*range(2, 10), 0, *range(10, 18), 1, 18, 19]


async def test_a_full_line_makes_room_at_the_cost_of_who_filled_it() -> None:
    gate = Gate(3, at_once=1)
    gate.open()
    await gate.enter(call())
    greedy = []
    for number in range(3):
        greedy.append(asyncio.create_task(gate.enter(call(client="greedy"))))
        await held(gate, number + 1)
    modest = asyncio.create_task(gate.enter(call(client="modest")))
    with pytest.raises(OverloadError, match=r"serving\.max_queued_calls"):
        await greedy[2]
    with pytest.raises(OverloadError):
        await gate.enter(call(client="greedy"))
    # One each would be no fairer if the newcomer had it.
    shy = asyncio.create_task(gate.enter(call(client="shy")))
    with pytest.raises(OverloadError):
        await greedy[1]
    with pytest.raises(OverloadError):
        await gate.enter(call(client="modest"))
    with pytest.raises(OverloadError):
        await gate.enter(call(client="another"))
    for task in (greedy[0], modest, shy):
        gate.leave()
        await task


async def test_bytes_are_bounded_as_calls_are() -> None:
    gate = Gate(100, max_queued_bytes=100, at_once=1)
    gate.open()
    await gate.enter(call())
    greedy = []
    for number in range(4):
        greedy.append(asyncio.create_task(gate.enter(call(size=25, client="greedy"))))
        await held(gate, number + 1)
    with pytest.raises(OverloadError, match=r"serving\.max_queued_bytes"):
        # It would have more than what is left to the other.
        await gate.enter(call(size=80, client="modest"))
    modest = asyncio.create_task(gate.enter(call(size=40, client="modest")))
    for task in greedy[2:]:
        with pytest.raises(OverloadError):
            await task
    for task in (greedy[0], modest, greedy[1]):
        gate.leave()
        await task


async def test_a_call_whose_time_is_over_is_not_let_in_though_its_timer_is_late() -> None:
    gate = Gate(10, at_once=1)
    gate.open()
    await gate.enter(call())
    late = call()
    expired = asyncio.create_task(gate.enter(late))
    await held(gate, 1)
    late.deadline = time.monotonic()  # of which its timer does not know
    gate.leave()
    with pytest.raises(DeadlineError):
        await expired
    assert gate.inside == 0
    with pytest.raises(DeadlineError):
        await gate.enter(call(0))
