"""Calls a minute."""

from __future__ import annotations

import pytest

from edged.calls import Call
from edged.errors import LimitError
from edged.host import CallRate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_calls_of_the_last_minute_count_and_older_ones_do_not():
    clock = Clock()
    rate = CallRate(clock)
    for _ in range(120):
        rate.count(0.004)
        rate.count(0.004)
        clock.now += 1
    assert rate.per_minute() == 118  # a second is on its way out
    clock.now += 30
    assert 50 < rate.per_minute() < 62
    clock.now += 60
    assert rate.per_minute() == 0


def test_in_the_first_minute_the_rate_is_what_it_would_be():
    clock = Clock()
    rate = CallRate(clock)
    clock.now += 10
    for _ in range(50):
        rate.count(0.004)
    assert rate.per_minute() == 300


def test_how_long_they_take_is_told_to_a_few_percent():
    clock = Clock()
    rate = CallRate(clock)
    assert rate.figures().p50_seconds is None
    for number in range(100):
        rate.count(0.5 if number == 50 else 0.004, failed=number < 3)
        clock.now += 0.1
    rate.count(2.0)
    figures = rate.figures()
    assert figures.failed == 3
    assert 0.004 <= (figures.p50_seconds or 0) < 0.0043
    assert 0.5 <= (figures.p99_seconds or 0) < 0.54
    clock.now += 61
    assert rate.figures().p99_seconds is None


async def test_each_call_is_counted_and_passed_on():
    rate = CallRate(Clock())

    async def answer(call: Call) -> bytes:
        return call.payload * 2

    assert await rate.counting(answer)(Call("m", b"x", 1.0)) == b"xx"
    assert rate.per_minute() > 0
    assert rate.figures().failed == 0


async def test_a_call_that_fails_is_counted_as_one():
    rate = CallRate(Clock())

    async def answer(_call: Call) -> bytes:
        raise LimitError("cannot: too many")

    with pytest.raises(LimitError):
        await rate.counting(answer)(Call("m", b"x", 1.0))
    assert rate.figures().failed == 1
