"""How warm the emulated card is."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["TRIP", "Thermal"]

TRIP: Final = 110.0
"""Degrees Celsius at which the device protects itself: nothing runs any more."""

_IDLE: Final = 41.0
_RUNNING: Final = 52.0


class Thermal:
    """A temperature that is what the load makes it, until it is told to go elsewhere."""

    def __init__(self) -> None:
        self._from = self._to = 0.0
        self._begun = 0.0
        self._seconds = 0.0

    def ramp(self, celsius: int, seconds: float) -> None:
        """Go from where it is to *celsius* within *seconds*, and stay; 0 lets it be."""
        self._from, self._to = self.celsius(running=False), float(celsius)
        self._begun, self._seconds = time.monotonic(), seconds

    def celsius(self, *, running: bool) -> float:
        """At this moment."""
        if not self._to:
            return _RUNNING if running else _IDLE
        elapsed = time.monotonic() - self._begun
        part = min(1.0, elapsed / self._seconds) if self._seconds else 1.0
        return self._from + (self._to - self._from) * part
