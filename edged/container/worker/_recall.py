"""Calls that the front wants back, because another model is about to take the device."""

from __future__ import annotations

import threading

__all__ = ["GivenBack", "Recall"]


class GivenBack(Exception):  # noqa: N818 (nothing is wrong)
    """The call that this thread works on is given back unanswered."""


class Recall:
    """Up to which call all are wanted back; each thread knows the one that it works on."""

    def __init__(self) -> None:
        self._threads = threading.local()
        self._wanted = 0

    def begin(self, number: int) -> None:
        """This thread begins to work on the call *number*. Numbers grow."""
        self._threads.number = number

    def recall(self, number: int) -> None:
        """All calls up to *number* are wanted back."""
        self._wanted = number

    def check(self) -> None:
        """Go on, unless this thread's call is wanted back; that of a self-test is nobody's.

        Raises:
            GivenBack: it is.
        """
        number: int | None = getattr(self._threads, "number", None)
        if number is not None and number <= self._wanted:
            raise GivenBack
