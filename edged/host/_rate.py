"""How much there is to do: calls a minute, and how long they take."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edged.calls import Answer, Call
from edged.management import CallFigures

__all__ = ["CallRate", "bin_of", "quantile"]

_WINDOW: Final = 60.0
_STEP: Final = 1.0
# Times are told apart by a twelfth of a doubling, 6 %.
_BINS_PER_DOUBLING: Final = 12


@dataclass(slots=True)
class _Second:
    """What was answered in one.

    Attributes:
        began: by the clock.
        times: how many took how long, by bin.
        failed: how many of them were answered with an error.
    """

    began: float
    times: Counter[int] = field(default_factory=Counter)
    failed: int = 0


class CallRate:
    """Counts and times calls, and says how those of the last minute were.

    Args:
        clock: seconds, growing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        # Those in which there were calls.
        self._seconds: deque[_Second] = deque(maxlen=int(_WINDOW / _STEP) + 1)

    def count(self, took: float, failed: bool = False) -> None:
        """A call was answered after *took* seconds."""
        now = self._clock()
        if not self._seconds or now - self._seconds[-1].began >= _STEP:
            self._seconds.append(_Second(now))
        second = self._seconds[-1]
        second.times[bin_of(took)] += 1
        second.failed += failed

    def per_minute(self) -> float:
        """Calls in the last minute; in the first one, as many as it would have at this rate."""
        return self.figures().per_minute

    def figures(self) -> CallFigures:
        """The calls of the last minute, as the management API says it."""
        now = self._clock()
        seconds = [second for second in self._seconds if now - second.began < _WINDOW]
        times: Counter[int] = Counter()
        for second in seconds:
            times.update(second.times)
        return CallFigures(
            per_minute=times.total() * _WINDOW / min(_WINDOW, max(now - self._began, _STEP)),
            failed=sum(second.failed for second in seconds),
            p50_seconds=quantile(times, 0.5),
            p99_seconds=quantile(times, 0.99),
        )

    def counting(self, answer: Answer) -> Answer:
        """*answer*, with each call counted."""

        async def counted(call: Call) -> bytes:
            began, failed = self._clock(), True
            try:
                response = await answer(call)
                failed = False
                return response
            finally:
                self.count(self._clock() - began, failed)

        return counted


def bin_of(seconds: float) -> int:
    """The bin whose upper end is next."""
    return math.ceil(math.log2(max(seconds, 1e-6)) * _BINS_PER_DOUBLING)


def quantile(times: Counter[int], part: float) -> float | None:
    """The upper end of the bin that it is in, seconds."""
    wanted = part * times.total()
    for number in sorted(times):
        wanted -= times[number]
        if wanted <= 0:
            return float(2.0 ** (number / _BINS_PER_DOUBLING))
    return None
