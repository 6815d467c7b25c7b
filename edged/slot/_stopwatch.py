"""Where the time goes: of a call, and while the gate is closed."""

from __future__ import annotations

import time
from collections.abc import Mapping

__all__ = ["Stopwatch"]


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
