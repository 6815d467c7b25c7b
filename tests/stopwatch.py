"""How long two ways to do the same take, beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

__all__ = ["in_turn"]

_UNCOUNTED = 3


def in_turn(sides: Sequence[Callable[[], object]], calls: int) -> list[float]:
    """Medians of this thread's processor time in seconds, each side called once a round.

    So a drift of the machine's speed reaches all. Three rounds before do not count.
    """
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(calls + _UNCOUNTED):
        for side, call in enumerate(sides):
            begin = time.thread_time()
            call()
            if turn >= _UNCOUNTED:
                times[side].append(time.thread_time() - begin)
    return [statistics.median(side) for side in times]
