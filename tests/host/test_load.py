"""The load of the last seconds, by stage and by client."""

from __future__ import annotations

import asyncio

import pytest

from edged.calls import Call, Stopwatch
from edged.errors import LimitError
from edged.host import LoadMeter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Taking(Stopwatch):
    """Says that *queue* and *device* took so long."""

    def __init__(self, queue: float, device: float) -> None:
        super().__init__()
        self._steps = {"queue": queue, "device": device}


async def test_clients_and_stages_are_told_apart_and_old_seconds_forgotten() -> None:
    clock = Clock()
    meter = LoadMeter(lambda: 3, lambda: 0.5, clock)

    async def answer(call: Call) -> bytes:
        clock.now += 0.01
        if call.payload == b"refused":
            raise LimitError("cannot")
        return b""

    measured = meter.measuring(answer)
    for _ in range(30):
        await measured(Call("m", b"", 2000, client="ann", watch=Taking(0.001, 0.008)))
    for _ in range(10):
        with pytest.raises(LimitError):
            await measured(Call("m", b"refused", 2000, client="bob", watch=Taking(0.1, 0.0)))
    load = meter.load()
    ann, bob = load.clients
    assert (ann.name, ann.per_second, ann.failed_per_second) == ("ann", 3.0, 0.0)
    assert (bob.name, bob.per_second, bob.failed_per_second) == ("bob", 1.0, 1.0)
    assert load.calls.per_second == 4.0
    assert ann.times.p50 == pytest.approx(0.01, rel=0.07)
    assert load.stages["queue"].p50 == pytest.approx(0.001, rel=0.07)
    assert load.stages["queue"].p99 == pytest.approx(0.1, rel=0.07)
    assert load.stages["epilogue"].p50 is None
    assert (load.queued, load.running, load.device_busy) == (3, 0, 0.5)
    clock.now += 11
    assert meter.load().calls.per_second == 0
    assert meter.load().clients == ()


async def test_however_many_clients_there_are_few_are_told_apart() -> None:
    meter = LoadMeter(lambda: 0, lambda: None, Clock())

    async def answer(_call: Call) -> bytes:
        return b""

    measured = meter.measuring(answer)
    await asyncio.gather(*(measured(Call("m", b"", 2000, client=str(n))) for n in range(500)))
    load = meter.load()
    assert load.calls.per_second == 50.0
    assert len(load.clients) == 100
    assert load.clients[0].name == ""
    assert load.clients[0].per_second == 40.0
