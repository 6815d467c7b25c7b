"""Calls are worked on by several threads; here they pass one point in the order they came in."""

from __future__ import annotations

import threading
import time

from edged.errors import DeadlineError

__all__ = ["Order", "left"]


class Order:
    """The order in which calls were begun, for those to whom it matters.

    Args:
        matters: whether it does to anyone; else it is not kept, and nobody waits.
    """

    def __init__(self, *, matters: bool = True) -> None:
        self._matters = matters
        self._changed = threading.Condition()
        self._before: set[int] = set()
        self._threads = threading.local()

    def begin(self, number: int) -> None:
        """The call *number* is about to be worked on. Numbers grow from one to the next."""
        if self._matters:
            with self._changed:
                self._before.add(number)

    def work_on(self, number: int) -> None:
        """This thread works on the call *number* from now on."""
        self._threads.number = number

    def wait(self, deadline: float) -> None:
        """Wait until all calls that were begun before this thread's have passed or ended.

        Args:
            deadline: by time.monotonic().

        Raises:
            DeadlineError: it passed first.
        """
        number: int = getattr(self._threads, "number", 0)
        with self._changed:
            if not self._changed.wait_for(
                lambda: min(self._before, default=number) >= number, left(deadline)
            ):
                raise DeadlineError("cannot answer: calls that came before took too long")

    def passed(self) -> None:
        """Those behind this thread's call need not wait for it any more."""
        if not self._matters:
            return
        number: int = getattr(self._threads, "number", 0)
        with self._changed:
            if number in self._before:
                self._before.remove(number)
                self._changed.notify_all()


def left(deadline: float) -> float:
    """Seconds until *deadline*, by time.monotonic(), as a wait takes them."""
    return min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
