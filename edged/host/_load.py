"""The calls of the last seconds: how many, by whom, and where their time went."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from edged.calls import Answer, Call
from edged.host._rate import bin_of, quantile
from edged.management import ClientLoad, Load, Times

__all__ = ["LoadMeter"]

_WINDOW: Final = 10
_MOST_CLIENTS: Final = 100
"""Clients that are told apart in a second; what comes from others is counted together."""
_STAGES: Final = (
    "receive",
    "queue",
    "channel",
    "decode",
    "device",
    "epilogue",
    "encode",
    "container",
)


@dataclass(slots=True)
class _Tally:
    """Calls, by the bin of what they took."""

    times: Counter[int] = field(default_factory=Counter)
    failed: int = 0

    def add(self, took: float, failed: bool) -> None:
        self.times[bin_of(took)] += 1
        self.failed += failed


@dataclass(slots=True)
class _Second:
    """What was answered in one; *number* of it by the clock."""

    number: int
    clients: dict[str, _Tally] = field(default_factory=dict)
    stages: dict[str, Counter[int]] = field(default_factory=dict)


class LoadMeter:
    """Measures calls as they are answered, and says how those of the last ten seconds were.

    Args:
        queued: how many calls wait for their turn now.
        device_busy: for what part of the time the device is at work.
        clock: seconds, growing.
    """

    def __init__(
        self,
        queued: Callable[[], int],
        device_busy: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queued = queued
        self._device_busy = device_busy
        self._clock = clock
        self._running = 0
        self._seconds: deque[_Second] = deque(maxlen=_WINDOW)

    def measuring(self, answer: Answer) -> Answer:
        """*answer*, with each call measured."""

        async def measured(call: Call) -> bytes:
            began, failed = self._clock(), True
            self._running += 1
            try:
                response = await answer(call)
                failed = False
                return response
            finally:
                self._running -= 1
                self._add(call, self._clock() - began, failed)

        return measured

    def load(self) -> Load:
        """As the management API says it."""
        oldest = int(self._clock()) - _WINDOW
        seconds = [second for second in self._seconds if second.number > oldest]
        clients: dict[str, _Tally] = {}
        for second in seconds:
            for name, tally in second.clients.items():
                _merge(clients.setdefault(name, _Tally()), tally)
        everyone = _Tally()
        for tally in clients.values():
            _merge(everyone, tally)
        loads = sorted(
            (_load_of(name, tally) for name, tally in clients.items()),
            key=lambda client: -client.per_second,
        )
        return Load(
            seconds=_WINDOW,
            calls=_load_of("", everyone),
            running=self._running,
            queued=self._queued(),
            stages={
                stage: _times(_sum(second.stages.get(stage) for second in seconds))
                for stage in _STAGES
            },
            clients=tuple(loads[:_MOST_CLIENTS]),
            device_busy=self._device_busy(),
        )

    def _add(self, call: Call, took: float, failed: bool) -> None:
        number = int(self._clock())
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
        second = self._seconds[-1]
        known = call.client in second.clients or len(second.clients) < _MOST_CLIENTS
        second.clients.setdefault(call.client if known else "", _Tally()).add(took, failed)
        for stage, seconds in call.watch.steps.items():
            second.stages.setdefault(stage, Counter())[bin_of(seconds)] += 1


def _merge(into: _Tally, tally: _Tally) -> None:
    into.times.update(tally.times)
    into.failed += tally.failed


def _sum(counters: Iterable[Counter[int] | None]) -> Counter[int]:
    total: Counter[int] = Counter()
    for counter in counters:
        total.update(counter or ())
    return total


def _load_of(name: str, tally: _Tally) -> ClientLoad:
    return ClientLoad(
        name, tally.times.total() / _WINDOW, tally.failed / _WINDOW, _times(tally.times)
    )


def _times(bins: Counter[int]) -> Times:
    return Times(quantile(bins, 0.5), quantile(bins, 0.99))
