"""Calls for models that are in the store but not loaded: who waits, and whose turn is next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from edged.bundle import Digest
from edged.errors import DeadlineError, EdgedError, OverloadError
from edged.slot._gate import again
from edged.store import BundleRecord

__all__ = ["Demand"]


@dataclass(slots=True, eq=False)
class _Wanted:
    """A model and the calls that wait for it, the oldest first."""

    record: BundleRecord
    waiters: list[asyncio.Future[None]] = field(default_factory=list)


class Demand:
    """A queue of models by the age of the oldest call that waits for each.

    Fair because a model comes up in the order in which it was first asked for, however many calls
    ask for another; and because the one who loads them leaves each its minimum time.

    Args:
        max_waiting: calls that may wait, for all models together.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._wanted: OrderedDict[Digest, _Wanted] = OrderedDict()
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(len(wanted.waiters) for wanted in self._wanted.values())

    async def wait(self, record: BundleRecord, seconds: float) -> None:
        """Wait at most *seconds* until *record* was loaded.

        Raises:
            OverloadError: too many calls wait already.
            DeadlineError: its turn did not come in time.
            EdgedError: why it cannot be loaded.
        """
        if self.waiting >= self.max_waiting:
            raise OverloadError(
                f"cannot wait for {record}: {self.waiting} calls wait for models already; try again"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wanted = self._wanted.setdefault(record.digest, _Wanted(record))
        wanted.waiters.append(turn)
        self._changed.set()
        try:
            async with asyncio.timeout(seconds):
                await turn
        except TimeoutError as error:
            raise DeadlineError(
                f"cannot answer in time: {record} was not loaded within {seconds:.3g} s"
            ) from error
        finally:
            if turn in wanted.waiters:
                wanted.waiters.remove(turn)
            if not wanted.waiters and self._wanted.get(record.digest) is wanted:
                del self._wanted[record.digest]

    async def next(self) -> BundleRecord:
        """The model whose oldest call waits longest; waits for one to be asked for."""
        while not self._wanted:
            self._changed.clear()
            await self._changed.wait()
        return next(iter(self._wanted.values())).record

    def refuse(self, error: EdgedError) -> None:
        """Tell all who wait that none of their models can be loaded now."""
        for wanted in list(self._wanted.values()):
            self.settle(wanted.record, error)

    def settle(self, record: BundleRecord, error: EdgedError | None = None) -> None:
        """Tell all who wait for *record* that it is loaded, or why it cannot be."""
        wanted = self._wanted.pop(record.digest, None)
        for turn in wanted.waiters if wanted else ():
            if turn.done():
                continue
            if error is None:
                turn.set_result(None)
            else:
                turn.set_exception(again(error))
