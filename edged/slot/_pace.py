"""How fast calls may come in while the device has to cool down."""

from __future__ import annotations

import asyncio

from edged.errors import DeadlineError

__all__ = ["Pace"]


class Pace:
    """Lets calls pass one by one, an interval apart.

    Attributes:
        interval: seconds between two calls; 0 lets all pass at once. May change at any time: who
            waits already keeps its turn.
    """

    def __init__(self) -> None:
        self.interval = 0.0
        self._next = 0.0

    async def turn(self, seconds: float) -> None:
        """Wait for the turn of one more call.

        Raises:
            DeadlineError: it does not come within *seconds*; told at once.
        """
        if not self.interval:
            return
        now = asyncio.get_running_loop().time()
        wait = max(0.0, self._next - now)
        if wait > seconds:
            raise DeadlineError(
                "cannot answer in time: the device is hot, and calls are let in every"
                f" {self.interval:g} s only; try again when it is cooler"
            )
        self._next = now + wait + self.interval
        await asyncio.sleep(wait)
