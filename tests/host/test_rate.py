"""Calls a minute."""

from __future__ import annotations

from edged.calls import Call
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
        rate.count()
        rate.count()
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
        rate.count()
    assert rate.per_minute() == 300


async def test_each_call_is_counted_and_passed_on():
    rate = CallRate(Clock())

    async def answer(call: Call) -> bytes:
        return call.payload * 2

    assert await rate.counting(answer)(Call("m", b"x", 1.0)) == b"xx"
    assert rate.per_minute() > 0
