"""An event loop in which waiting takes no time, and which does the same thing every time.

The clock stands still while there is something to do, and jumps to the next timer when there is
not. Work for threads is done in the loop's own thread: it begins a moment after it was asked for,
and its result arrives a moment after it was done, so that anything may happen before and between.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

MOMENT = 0.001
"""Seconds that a step of anything takes."""

_EPOCH = 1_700_000_000.0
_Work = Coroutine[Any, Any, Any]


@dataclass
class Clock:
    """Seconds since the world began; goes on when a process ends."""

    now: float = 0.0


class InstantLoop(asyncio.SelectorEventLoop):
    """The loop of one process, which ends in order (`finish`) or is killed (`kill`).

    Attributes:
        dead: killed; nothing that its tasks still do has any effect.
        lag: seconds by which the result of the next work for a thread is late; then 0 again.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(_Waiting(clock))
        self._clock = clock
        self.dead = False
        self.lag = 0.0
        self._complaints: list[str] = []
        self._ended: list[asyncio.Task[Any]] = []
        self._watched = True
        self.set_task_factory(self._task)
        self.set_exception_handler(self._stray)

    def time(self) -> float:
        return self._clock.now

    def _date(self) -> float:
        return _EPOCH + self._clock.now

    def spawn(self, work: _Work) -> asyncio.Task[Any]:
        """A task whose exception the caller looks at; one of any other task is a stray."""
        self._watched = False
        try:
            return self.create_task(work)
        finally:
            self._watched = True

    def run_for(self, seconds: float) -> None:
        with self._time_of_ours():
            self.run_until_complete(self.spawn(asyncio.sleep(seconds)))

    def turn(self, times: int) -> None:
        """Go round *times* times: no time passes while there is something to do."""

        async def turns() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        with self._time_of_ours():
            self.run_until_complete(self.spawn(turns()))

    def finish(self, work: Coroutine[Any, Any, None]) -> list[str]:
        """Run *work* and what follows from it, and close; returns what is left that should not."""
        with self._time_of_ours():
            self.run_until_complete(self.spawn(work))
            self.run_until_complete(self.spawn(asyncio.sleep(5.0)))
        left = [task.get_name() + " " + repr(task.get_coro()) for task in asyncio.all_tasks(self)]
        if left:
            self.kill()
        else:
            self.close()
        return left

    def kill(self) -> None:
        """End it as ``kill -9`` does: what its tasks still try to do is not done."""
        self.dead = True
        for _ in range(100):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            with self._time_of_ours():
                self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.close()

    def run_in_executor(  # type: ignore[override]  # Awaitable there, Future here
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        result: asyncio.Future[Any] = self.create_future()
        if self.dead:
            result.cancel()
        else:
            self.call_later(MOMENT, self._work, result, func, args)
        return result

    def _work(self, result: asyncio.Future[Any], func: Callable[..., Any], args: Any) -> None:
        if self.dead:
            result.cancel()
            return
        answer, error = None, None
        try:
            answer = func(*args)
        except Exception as raised:
            error = raised
        late, self.lag = self.lag, 0.0
        self.call_later(MOMENT + late, _arrive, result, answer, error)

    def _task(
        self, _loop: asyncio.AbstractEventLoop, work: _Work, **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=self, **options)
        if self._watched:
            task.add_done_callback(self._ended.append)
        return task

    @property
    def strays(self) -> list[str]:
        """Exceptions that nobody took from a task, and whatever else the loop complains of."""
        return self._complaints + [repr(task) for task in self._ended if _untaken(task)]

    def _stray(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        if not self.dead:
            self._complaints.append(f"{context['message']}: {context.get('exception')!r}")

    @contextlib.contextmanager
    def _time_of_ours(self) -> Iterator[None]:
        with (
            mock.patch.object(time, "monotonic", self.time),
            mock.patch.object(time, "time", self._date),
        ):
            yield


class _Waiting(selectors.SelectSelector):
    """Nothing ever comes from outside; waiting is for the clock alone."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits, and for nothing")
        self._clock.now += max(timeout, 0.0)
        return []


def _arrive(result: asyncio.Future[Any], answer: Any, error: Exception | None) -> None:
    if result.done():
        return
    if error is None:
        result.set_result(answer)
    else:
        result.set_exception(error)


def _untaken(task: asyncio.Task[Any]) -> bool:
    """What makes a task complain when it is thrown away; asyncio has no other word for it."""
    return bool(getattr(task, "_log_traceback"))  # noqa: B009 (private, hence not in the stubs)
