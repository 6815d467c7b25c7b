"""What the stages of a call take, for whoever called to add up."""

from __future__ import annotations

import threading

from edged.calls import Stopwatch
from edged.container._messages import STAGES, Stage

__all__ = ["Stages"]


class Stages:
    """Times the call that a thread works on, each thread for itself.

    Who does a part of the work says when it is done; that of a self-test is nobody's call.
    """

    def __init__(self) -> None:
        self._threads = threading.local()

    def begin(self) -> None:
        """This thread begins to work on a call."""
        self._threads.watch = Stopwatch()

    def lap(self, stage: Stage) -> None:
        """What this thread did since the stage before was *stage*."""
        watch: Stopwatch | None = getattr(self._threads, "watch", None)
        if watch is not None:
            watch.lap(stage)

    def end(self, queued: float) -> tuple[int, ...]:
        """The call is answered; microseconds by stage, in the order of `STAGES`.

        Args:
            queued: seconds that it waited before.
        """
        watch: Stopwatch = self._threads.watch
        self._threads.watch = None
        taken = {Stage.QUEUE: queued, **watch.steps}
        return tuple(int(taken.get(stage, 0.0) * 1e6) for stage in STAGES)
