"""The watchdog of runs: one thread that is there while runs are, however many there are."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Watchdog", "Watched"]


@dataclass(slots=True, eq=False)
class Watched:
    """A run that has to be over in time.

    Attributes:
        expired: whether it was not.
    """

    deadline: float
    expire: Callable[[], None]
    expired: bool = False


class Watchdog:
    """Ends what takes too long. For one run at a time, one after the other.

    To start and end a thread for each run would take 0.7 ms of it; so there is one thread, which
    looks again when the deadline that it knows has passed, and ends when nothing runs then.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: Watched | None = None
        self._thread: threading.Thread | None = None
        self._looks_at = math.inf

    @contextlib.contextmanager
    def watching(self, seconds: float, expire: Callable[[], None]) -> Iterator[Watched]:
        """While the run that this stands around goes on; 0 s is never.

        Args:
            expire: ends the run, and is called in another thread. Not any more once this is left.
        """
        watched = Watched(time.monotonic() + seconds, expire)
        if seconds:
            self._watch(watched)
        try:
            yield watched
        finally:
            with self._changed:
                self._watched = None

    def _watch(self, watched: Watched) -> None:
        with self._changed:
            self._watched = watched
            if self._thread is None:
                self._looks_at = watched.deadline
                self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
                self._thread.start()
            elif watched.deadline < self._looks_at:
                self._changed.notify()

    def _look(self) -> None:
        with self._changed:
            while (watched := self._watched) is not None:
                left = watched.deadline - time.monotonic()
                if left > 0:
                    self._looks_at = watched.deadline
                    self._changed.wait(left)
                else:
                    self._watched, watched.expired = None, True
                    watched.expire()
            self._thread = None
