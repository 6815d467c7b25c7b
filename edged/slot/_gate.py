"""The gate that every call passes: open, held, or refusing."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import operator

from edged.errors import DeadlineError, EdgedError, LimitError

__all__ = ["Gate", "again"]


class Gate:
    """Counts the calls inside, and holds or refuses those outside.

    Open: a call passes at once. Closed: it waits, in order of arrival, until the gate opens, its
    time is up, or the gate refuses. Refusing: it fails at once with the error given.

    Args:
        max_held: calls that may wait at the closed gate.
        max_held_bytes: what their requests may have together.
    """

    def __init__(self, max_held: int, max_held_bytes: int = 256 << 20) -> None:
        self.max_held = max_held
        self.max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._open = False
        self._refusal: EdgedError | None = None
        self._arrivals = itertools.count()
        self._held: list[tuple[int, asyncio.Future[None]]] = []
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Calls that have passed and not left."""
        return self._inside

    @property
    def held(self) -> int:
        """Calls that wait."""
        return len(self._held)

    async def enter(self, seconds: float, size: int = 0, arrival: int | None = None) -> int:
        """Pass, or wait at most *seconds* to. A call that passed must :meth:`leave`.

        Args:
            size: bytes of the request, which it keeps in memory while it waits.
            arrival: what a call was given that had passed, and comes back because it was sent
                back. It has its old place in the line, and no bound refuses it.

        Returns:
            the number of its arrival.

        Raises:
            LimitError: too many calls wait already, or too many bytes with them.
            DeadlineError: the gate did not open in time.
            EdgedError: what the gate refuses with.
        """
        came_back = arrival is not None
        if arrival is None:
            arrival = next(self._arrivals)
        if self._open:
            self._let_in()
            return arrival
        if self._refusal is not None:
            raise again(self._refusal)
        if not came_back:
            self._check(size)
        await self._wait(seconds, size, arrival)
        return arrival

    def leave(self) -> None:
        """Say that a call that passed is over."""
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    def close(self) -> None:
        """Hold the calls that come from now on."""
        self._open, self._refusal = False, None

    def open(self) -> None:
        """Let the held calls pass, first come first, and all that follow."""
        self._open, self._refusal = True, None
        self._release(None)

    def refuse(self, error: EdgedError) -> None:
        """Fail the held calls, and all that follow, with *error*."""
        self._open, self._refusal = False, error
        self._release(error)

    async def drained(self, seconds: float) -> None:
        """Wait until no call is inside.

        Raises:
            DeadlineError: *seconds* passed first.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError as error:
            raise DeadlineError(
                f"cannot drain: {self._inside} calls still run after {seconds:g} s"
            ) from error

    async def _wait(self, seconds: float, size: int, arrival: int) -> None:
        self._held_bytes += size
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bisect.insort(self._held, (arrival, turn), key=operator.itemgetter(0))
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            if isinstance(error, TimeoutError):
                raise DeadlineError(
                    f"cannot answer in time: the model was not ready within {seconds:.3g} s"
                ) from error
            raise
        finally:
            self._held_bytes -= size
            if (arrival, turn) in self._held:
                self._held.remove((arrival, turn))

    def _check(self, size: int) -> None:
        """Whether one more call of *size* bytes may wait."""
        if len(self._held) >= self.max_held:
            raise LimitError(
                f"cannot hold the call while models change: {self.max_held} wait already;"
                " try again in a second"
            )
        if self._held_bytes + size > self.max_held_bytes:
            raise LimitError(
                f"cannot hold the call while models change: it has {size} bytes, and of"
                f" {self.max_held_bytes} for all, {self._held_bytes} are taken; try again in a"
                " second"
            )

    def _release(self, error: EdgedError | None) -> None:
        while self._held:
            _, turn = self._held.pop(0)
            if turn.done():
                continue
            if error is None:
                # Inside from now on: the gate may close again before the call's task runs.
                self._let_in()
                turn.set_result(None)
            else:
                turn.set_exception(again(error))

    def _let_in(self) -> None:
        self._inside += 1
        self._empty.clear()


def again(error: EdgedError) -> EdgedError:
    """A fresh instance: one raised twice would collect the tracebacks of all callers."""
    return type(error)(*error.args)
