"""How much there is to do, in calls a minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from edged.calls import Answer, Call

__all__ = ["CallRate"]

_WINDOW: Final = 60.0
_STEP: Final = 1.0


class CallRate:
    """Counts calls, and says how many there were in the last minute.

    Args:
        clock: seconds, growing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        # One pair for each second in which there were calls: its beginning, and how many.
        self._counts: deque[list[float]] = deque(maxlen=int(_WINDOW / _STEP) + 1)

    def count(self) -> None:
        """There was one."""
        now = self._clock()
        if not self._counts or now - self._counts[-1][0] >= _STEP:
            self._counts.append([now, 0])
        self._counts[-1][1] += 1

    def per_minute(self) -> float:
        """Calls in the last minute; in the first one, as many as it would have at this rate."""
        now = self._clock()
        counted = sum(count for at, count in self._counts if now - at < _WINDOW)
        return counted * _WINDOW / min(_WINDOW, max(now - self._began, _STEP))

    def counting(self, answer: Answer) -> Answer:
        """*answer*, with each call counted."""

        def counted(call: Call) -> Awaitable[bytes]:
            self.count()
            return answer(call)

        return counted
