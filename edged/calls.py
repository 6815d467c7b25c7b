"""A call on its way through the daemon, from whichever protocol it came by.

What stands on the way (counts, times, logs, holds) takes an `Answer` and is one.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from edged.wire import RequestedModel

__all__ = ["Answer", "Call", "Priority", "Stopwatch"]


class Priority(enum.IntEnum):
    """Which of the calls that wait go first; the smaller, the sooner."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @classmethod
    def parse(cls, text: str) -> Priority:
        """Read ``high``, ``normal`` or ``low``.

        Raises:
            ValueError: it is none.
        """
        for priority in cls:
            if text == priority.name.lower():
                return priority
        raise ValueError(text)

    def __str__(self) -> str:
        return self.name.lower()


class Stopwatch:
    """Seconds since it was made, and what each step of them took."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._steps: dict[str, float] = {}

    def lap(self, step: str) -> None:
        """What was done since the step before was *step*."""
        now = time.monotonic()
        self._steps[step] = self._steps.get(step, 0.0) + now - self._last
        self._last = now

    @property
    def steps(self) -> Mapping[str, float]:
        """Seconds of each step, in order."""
        return self._steps

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last step."""
        return self._last - self._began

    def __str__(self) -> str:
        """In milliseconds: ``drain 12, detach 3``."""
        return ", ".join(f"{step} {seconds * 1e3:.0f}" for step, seconds in self._steps.items())


@dataclass(slots=True, eq=False)
class Call:
    """One request, unparsed, and all that is known about it beside its bytes.

    Attributes:
        method: what is asked, by the full name of a gRPC method.
        payload: the request's bytes.
        deadline: until when the caller waits, by time.monotonic().
        model: the one that it names, where whoever made this looked.
        client: who calls: the name of its token or certificate, or else its address without the
            port. Those of one client take turns with those of the others.
        priority: which of the calls that wait go first.
        watch: is told what each stage took.
    """

    method: str
    payload: bytes
    deadline: float
    model: RequestedModel | None = None
    client: str = ""
    priority: Priority = Priority.NORMAL
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def left(self) -> float:
        """Seconds that the caller still waits; below 0 when it no longer does."""
        return self.deadline - time.monotonic()


Answer = Callable[[Call], Awaitable[bytes]]
"""The bytes of the response to a call; raises EdgedError."""
