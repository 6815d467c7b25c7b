"""What went wrong with models, whose fault it was, and when something is tried again."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Final

from edged.bundle import Digest
from edged.errors import EdgedError, LimitError
from edged.store import BundleRecord, Store

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Failures"]

_log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0


class Failures:
    """The one ledger of failed starts and lost containers.

    Starts of a model that is to serve after a restart are counted by the store, before they are
    made: one that takes the machine down counts as well. All else is of this process. What the
    machine is at fault for is never counted against a model; it only makes pauses longer.

    Args:
        losses: containers of a model lost within *window* seconds that are too many.
        window: see *losses*; a model that serves for so long is well.
    """

    def __init__(self, store: Store, losses: int, window: float) -> None:
        self._store = store
        self.max_losses = losses
        self.window = window
        self._losses: deque[tuple[float, bool]] = deque()
        self._deployments: Counter[Digest] = Counter()
        self._unwritten: Counter[Digest] = Counter()
        self._pauses = 0

    def begin_start(self, record: BundleRecord) -> int:
        """Count one more attempt to start *record*; how many there are. Blocking."""
        try:
            return self._store.begin_attempt(record.digest)
        except LimitError as error:
            # What is committed serves on a full disk, too.
            _log.error("cannot count an attempt to start %s: %s", record, error)
            self._unwritten[record.digest] += 1
            return record.attempts + self._unwritten[record.digest]

    def forget_starts(self, record: BundleRecord) -> None:
        """One went well, or failed by the machine's fault. Blocking."""
        del self._unwritten[record.digest]
        try:
            self._store.clear_attempts(record.digest)
        except EdgedError as error:
            _log.warning("cannot forget the attempts to start %s: %s", record, error)

    def count_deployment(self, digest: Digest) -> int:
        """Count a deployment in which the container ended by itself; how many there were."""
        self._deployments[digest] += 1
        return self._deployments[digest]

    def forget_deployments(self, digest: Digest) -> None:
        """It was deployed, or set aside."""
        del self._deployments[digest]

    def count_loss(self, now: float, by_model: bool) -> tuple[int, float]:
        """Count the loss of a container that served.

        Args:
            now: by a clock that only goes forward, in seconds.
            by_model: whether the model brought it about.

        Returns:
            how many the model brought about within the window, and for how long to wait before
            another container is started: not at all, unless they were too many by anyone's fault.
        """
        self._losses.append((now, by_model))
        while now - self._losses[0][0] > self.window:
            self._losses.popleft()
        many = len(self._losses) >= self.max_losses
        return sum(by for _, by in self._losses), self.pause() if many else 0.0

    def pause(self, failed: int = 0) -> float:
        """Seconds until what failed is tried again: each time twice as long, up to a minute.

        Args:
            failed: how often it did at least, as is known from before this process.
        """
        self._pauses = max(self._pauses, failed) + 1
        return float(min(FIRST_PAUSE * 2 ** min(self._pauses - 1, 16), LONGEST_PAUSE))

    def all_well(self) -> None:
        """Another model serves, or this one has for the whole window."""
        self._losses.clear()
        self._pauses = 0
