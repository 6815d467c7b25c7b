"""The calls of the last minute: how many, by whom, and where their time went."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from edged.calls import Call, Outcome
from edged.management import CallFigures, ClientLoad, Load, Times

__all__ = ["LoadMeter"]

_MINUTE: Final = 60
_WINDOW: Final = 10
# Times are told apart by a twelfth of a doubling, 6 %.
_BINS_PER_DOUBLING: Final = 12
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
        self.times[_bin_of(took)] += 1
        self.failed += failed

    def merge(self, other: _Tally) -> None:
        self.times.update(other.times)
        self.failed += other.failed


@dataclass(slots=True)
class _Second:
    """What was answered in one; *number* of it by the clock."""

    number: int
    clients: dict[str, _Tally] = field(default_factory=dict)
    stages: dict[str, Counter[int]] = field(default_factory=dict)


class LoadMeter:
    """Observes calls, and says how those of the last ten seconds were, or of the last minute.

    Args:
        running: how many calls there are now.
        queued: how many of them wait for their turn.
        device_busy: for what part of the time the device is at work.
        clock: seconds, growing.
    """

    def __init__(
        self,
        running: Callable[[], int],
        queued: Callable[[], int],
        device_busy: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._running = running
        self._queued = queued
        self._device_busy = device_busy
        self._clock = clock
        self._began = clock()
        # Those in which there were calls.
        self._seconds: deque[_Second] = deque(maxlen=_MINUTE)

    def observe(self, call: Call, outcome: Outcome) -> None:
        """Count it."""
        number = int(self._clock())
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
        second = self._seconds[-1]
        known = call.client in second.clients or len(second.clients) < _MOST_CLIENTS
        tally = second.clients.setdefault(call.client if known else "", _Tally())
        tally.add(outcome.seconds, outcome.failed)
        for stage, seconds in call.watch.steps.items():
            second.stages.setdefault(stage, Counter())[_bin_of(seconds)] += 1

    def figures(self) -> CallFigures:
        """The calls of the last minute, as the management API says it.

        In the first minute there are as many in one as there would be at this rate.
        """
        tally = _everyone(_clients(self._last(_MINUTE)))
        there_for = min(_MINUTE, max(self._clock() - self._began, 1.0))
        return CallFigures(
            per_minute=tally.times.total() * _MINUTE / there_for,
            failed=tally.failed,
            p50_seconds=_quantile(tally.times, 0.5),
            p99_seconds=_quantile(tally.times, 0.99),
        )

    def load(self) -> Load:
        """The last ten seconds, as the management API says it."""
        seconds = self._last(_WINDOW)
        clients = _clients(seconds)
        loads = sorted(
            (_load_of(name, tally) for name, tally in clients.items()),
            key=lambda client: -client.per_second,
        )
        return Load(
            seconds=_WINDOW,
            calls=_load_of("", _everyone(clients)),
            running=self._running(),
            queued=self._queued(),
            stages={
                stage: _times(_sum(second.stages.get(stage) for second in seconds))
                for stage in _STAGES
            },
            clients=tuple(loads[:_MOST_CLIENTS]),
            device_busy=self._device_busy(),
        )

    def _last(self, count: int) -> list[_Second]:
        oldest = int(self._clock()) - count
        return [second for second in self._seconds if second.number > oldest]


def _clients(seconds: Iterable[_Second]) -> dict[str, _Tally]:
    clients: dict[str, _Tally] = {}
    for second in seconds:
        for name, tally in second.clients.items():
            clients.setdefault(name, _Tally()).merge(tally)
    return clients


def _everyone(clients: dict[str, _Tally]) -> _Tally:
    everyone = _Tally()
    for tally in clients.values():
        everyone.merge(tally)
    return everyone


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
    return Times(_quantile(bins, 0.5), _quantile(bins, 0.99))


def _bin_of(seconds: float) -> int:
    """The bin whose upper end is next."""
    return math.ceil(math.log2(max(seconds, 1e-6)) * _BINS_PER_DOUBLING)


def _quantile(times: Counter[int], part: float) -> float | None:
    """The upper end of the bin that it is in, seconds."""
    wanted = part * times.total()
    for number in sorted(times):
        wanted -= times[number]
        if wanted <= 0:
            return float(2.0 ** (number / _BINS_PER_DOUBLING))
    return None
