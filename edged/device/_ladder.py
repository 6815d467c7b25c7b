"""The reset ladder: what is done to a device that does not work, and how often it was."""

from __future__ import annotations

import enum
import threading
from collections import Counter
from typing import Self

__all__ = ["Resets", "Step"]


class Step(enum.Enum):
    """In the order in which they are taken, each only when the one before did not help.

    Attributes:
        text: what it does, as Markdown.
    """

    text: str

    def __new__(cls, name: str, text: str = "") -> Self:
        step = object.__new__(cls)
        step._value_ = name
        step.text = text
        return step

    QUEUE_ABORT = (
        "queue abort",
        "Abort the data queue, clear the fault, take the management queue anew. Banks stay.",
    )
    SOFT_RESET = "soft reset", "Banks are emptied."
    FUNCTION_LEVEL_RESET = "function-level reset", "Counters and faults as well."
    BUS_RESET = "bus reset", "The bus of the card, by its owner, if nothing else is on it."
    REMOVE_AND_RESCAN = (
        "remove and rescan",
        "The card is taken off the bus, which is scanned anew; once, until the card is fit again.",
    )
    GOLDEN_IMAGE = (
        "golden image",
        "The factory's firmware, which ends whatever hangs, and waits to be flashed.",
    )


class Resets:
    """Counts the steps taken, over all openings of a device. Safe to use from several threads.

    Attributes:
        rescanned: whether the card was removed and found again without being fit since.
    """

    def __init__(self) -> None:
        self.rescanned = False
        self._taken: Counter[Step] = Counter()
        self._failed: Counter[Step] = Counter()
        self._lock = threading.Lock()

    def count(self, step: Step, why: str) -> None:
        """Note that *step* was taken; *why* it did not help, or an empty text if it did."""
        with self._lock:
            self._taken[step] += 1
            self._failed[step] += bool(why)

    def taken(self) -> dict[Step, int]:
        """How often each step was."""
        with self._lock:
            return {step: self._taken[step] for step in Step}

    def failed(self) -> dict[Step, int]:
        """How often each step did not help."""
        with self._lock:
            return {step: self._failed[step] for step in Step}
