"""The load of the last seconds, by stage and by client, and the calls of the last minute."""

from __future__ import annotations

import pytest

from edged.calls import Call, Outcome, Stopwatch
from edged.host import LoadMeter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


CALL = Call("m", b"", 2000.0)


def taking(seconds: float, code: str = "OK") -> Outcome:
    return Outcome(code, 0, seconds, seconds)


def call(client: str, queue: float, device: float) -> Call:
    """One of *client* that says that *queue* and *device* took so long."""
    watch = Stopwatch()
    watch._steps = {"queue": queue, "device": device}
    return Call("m", b"", 2000.0, client=client, watch=watch)


def meter_at(clock: Clock) -> LoadMeter:
    return LoadMeter(lambda: 7, lambda: 3, lambda: 0.5, clock)


def test_clients_and_stages_are_told_apart_and_old_seconds_forgotten() -> None:
    clock = Clock()
    meter = meter_at(clock)
    for _ in range(30):
        meter.observe(call("ann", 0.001, 0.008), taking(0.01))
    for _ in range(10):
        meter.observe(call("bob", 0.1, 0.0), taking(0.1, "RESOURCE_EXHAUSTED"))
    load = meter.load()
    ann, bob = load.clients
    assert (ann.name, ann.per_second, ann.failed_per_second) == ("ann", 3.0, 0.0)
    assert (bob.name, bob.per_second, bob.failed_per_second) == ("bob", 1.0, 1.0)
    assert load.calls.per_second == 4.0
    assert ann.times.p50 == pytest.approx(0.01, rel=0.07)
    assert load.stages["queue"].p50 == pytest.approx(0.001, rel=0.07)
    assert load.stages["queue"].p99 == pytest.approx(0.1, rel=0.07)
    assert load.stages["epilogue"].p50 is None
    assert (load.queued, load.running, load.device_busy) == (3, 7, 0.5)
    clock.now += 11
    assert meter.load().calls.per_second == 0
    assert meter.load().clients == ()


def test_however_many_clients_there_are_few_are_told_apart() -> None:
    meter = meter_at(Clock())
    for number in range(500):
        meter.observe(call(str(number), 0.0, 0.0), taking(0.01))
    load = meter.load()
    assert load.calls.per_second == 50.0
    assert len(load.clients) == 100
    assert load.clients[0].name == ""
    assert load.clients[0].per_second == 40.0


def test_calls_of_the_last_minute_count_and_older_ones_do_not() -> None:
    clock = Clock()
    meter = meter_at(clock)
    for _ in range(120):
        meter.observe(CALL, taking(0.004))
        meter.observe(CALL, taking(0.004))
        clock.now += 1
    assert meter.figures().per_minute == 118  # a second is on its way out
    clock.now += 30
    assert 50 < meter.figures().per_minute < 62
    clock.now += 60
    assert meter.figures().per_minute == 0


def test_in_the_first_minute_the_rate_is_what_it_would_be() -> None:
    clock = Clock()
    meter = meter_at(clock)
    clock.now += 10
    for _ in range(50):
        meter.observe(CALL, taking(0.004))
    assert meter.figures().per_minute == 300


def test_how_long_they_take_is_told_to_a_few_percent() -> None:
    clock = Clock()
    meter = meter_at(clock)
    assert meter.figures().p50_seconds is None
    for number in range(100):
        meter.observe(
            CALL, taking(0.5 if number == 50 else 0.004, "INTERNAL" if number < 3 else "OK")
        )
        clock.now += 0.1
    meter.observe(CALL, taking(2.0))
    figures = meter.figures()
    assert figures.failed == 3
    assert 0.004 <= (figures.p50_seconds or 0) < 0.0043
    assert 0.5 <= (figures.p99_seconds or 0) < 0.54
    clock.now += 61
    assert meter.figures().p99_seconds is None
