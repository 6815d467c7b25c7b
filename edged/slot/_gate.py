"""The gate that every call passes, and the line in front of it."""

from __future__ import annotations

import asyncio
import itertools

from edged.calls import Call
from edged.errors import DeadlineError, EdgedError, OverloadError
from edged.slot._line import Line, Waiting

__all__ = ["Gate", "again"]


class Gate:
    """Counts the calls inside, and lets in, holds or refuses those outside.

    Open: a call passes when fewer than *at_once* are inside, and else waits for its turn in the
    line; see :class:`Line` for the order. Closed: all wait. Refusing: all fail at once with the
    error given.

    Args:
        max_queued: calls that may wait.
        max_queued_bytes: what their requests may have together.
        at_once: calls that may be inside.
    """

    def __init__(
        self, max_queued: int, max_queued_bytes: int = 256 << 20, at_once: int = 1 << 30
    ) -> None:
        self.max_queued = max_queued
        self.max_queued_bytes = max_queued_bytes
        self._at_once = at_once
        self._open = False
        self._refusal: EdgedError | None = None
        self._arrivals = itertools.count()
        self._line = Line()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Calls that have passed and not left."""
        return self._inside

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return len(self._line)

    async def enter(self, call: Call, arrival: int | None = None) -> int:
        """Pass, or wait to for as long as the caller does. A call that passed must :meth:`leave`.

        Args:
            arrival: what a call was given that had passed, and comes back because it was sent
                back. It goes before those that have not passed, and no bound refuses it.

        Returns:
            the number of its arrival.

        Raises:
            OverloadError: too many calls wait already, or too many bytes with them. A call that
                waits gets it, too, when it has to make room for another client's.
            DeadlineError: its turn did not come in time.
            EdgedError: what the gate refuses with.
        """
        came_back = arrival is not None
        if arrival is None:
            arrival = next(self._arrivals)
        if self._refusal is not None:
            raise again(self._refusal)
        if call.left <= 0:
            raise _too_late(call)
        # Whoever waits while the gate is open does so because it is full.
        if self._open and self._inside < self._at_once:
            self._let_in()
            return arrival
        if not came_back:
            self._make_room(call)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._wait(Waiting(call, arrival, turn, came_back))
        return arrival

    def leave(self) -> None:
        """Say that a call that passed is over."""
        self._inside -= 1
        self._let_in_next()
        if not self._inside:
            self._empty.set()

    def close(self) -> None:
        """Hold the calls that come from now on."""
        self._open, self._refusal = False, None

    def open(self) -> None:
        """Let calls pass."""
        self._open, self._refusal = True, None
        self._let_in_next()

    def refuse(self, error: EdgedError) -> None:
        """Fail the calls that wait, and all that follow, with *error*."""
        self._open, self._refusal = False, error
        for waiting in self._line:
            self._turn_away(waiting, again(error))

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

    async def _wait(self, waiting: Waiting) -> None:
        self._line.add(waiting)
        left = waiting.call.left
        try:
            async with asyncio.timeout(left):
                await waiting.turn
        except BaseException as error:
            turn = waiting.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            if isinstance(error, TimeoutError):
                raise _too_late(waiting.call, left) from error
            raise
        finally:
            self._line.remove(waiting)

    def _make_room(self, call: Call) -> None:
        """See that one more call may wait, if another has to give way for that."""
        leaving = self._line.who_gives_way(call, self.max_queued, self.max_queued_bytes)
        for waiting in leaving or ():
            self._turn_away(waiting, self._overload(waiting.size))
        if leaving is None:
            raise self._overload(len(call.payload))

    def _overload(self, size: int) -> OverloadError:
        return OverloadError(
            f"cannot take the call, of {size} bytes: {len(self._line)} calls with"
            f" {self._line.size} bytes wait already, and serving.max_queued_calls is"
            f" {self.max_queued}, serving.max_queued_bytes {self.max_queued_bytes}; try again in a"
            " second"
        )

    def _turn_away(self, waiting: Waiting, error: EdgedError) -> None:
        self._line.remove(waiting)
        if not waiting.turn.done():
            waiting.turn.set_exception(error)

    def _let_in_next(self) -> None:
        while self._open and self._inside < self._at_once and (waiting := self._line.pop()):
            if waiting.turn.done():
                continue
            if waiting.call.left <= 0:
                # Its timer is late, as timers are on a busy loop. Nobody waits for the answer.
                waiting.turn.set_exception(_too_late(waiting.call))
                continue
            # Inside from now on: the gate may close again before the call's task runs.
            self._let_in()
            waiting.turn.set_result(None)

    def _let_in(self) -> None:
        self._inside += 1
        self._empty.clear()


def again(error: EdgedError) -> EdgedError:
    """A fresh instance: one raised twice would collect the tracebacks of all callers."""
    return type(error)(*error.args)


def _too_late(call: Call, waited: float = 0.0) -> DeadlineError:
    where = f" within {waited:.3g} s" if waited else " before the caller's time was over"
    return DeadlineError(f"cannot answer in time: the call's turn did not come{where}")
