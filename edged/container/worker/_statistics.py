"""What was asked of the model since it was loaded, and where the time went."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from edged.calls import Stopwatch
from edged.container.worker._recall import GivenBack

__all__ = ["INFER", "INPUT", "OUTPUT", "Counting", "Statistics"]

INPUT: Final = "input"
INFER: Final = "infer"
OUTPUT: Final = "output"


@dataclass(slots=True, eq=False)
class Counting:
    """One request while it is answered.

    Attributes:
        samples: how many it holds, once that is known.
        watch: told when `INPUT`, `INFER` and `OUTPUT` are done.
    """

    samples: int = 0
    watch: Stopwatch = field(default_factory=Stopwatch)


class Statistics:
    """Sums over requests; for many threads.

    Attributes:
        succeeded, failed: requests.
        samples: of those that succeeded. Each is a run of the device.
        seconds: what those that succeeded took, in all and by step.
        seconds_failed: what the others took.
        last: when a request was answered last, seconds since 1970; 0 for never.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.succeeded = self.failed = self.samples = 0
        self.seconds = self.seconds_failed = self.last = 0.0
        self.steps = {INPUT: 0.0, INFER: 0.0, OUTPUT: 0.0}

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counting]:
        """Count what is done in the context as a request: a failed one, if it raises."""
        counting = Counting()
        began = time.monotonic()
        try:
            yield counting
        except GivenBack:  # It is asked again, of whatever model comes.
            raise
        except BaseException:
            with self._lock:
                self.failed += 1
                self.seconds_failed += time.monotonic() - began
            raise
        with self._lock:
            self.succeeded += 1
            self.samples += counting.samples
            self.seconds += time.monotonic() - began
            for step, seconds in counting.watch.steps.items():
                self.steps[step] += seconds
            self.last = time.time()
