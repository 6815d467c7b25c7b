"""Calls that wait for their turn, and whose turn is next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edged.calls import Call, Priority

__all__ = ["Line", "Waiting"]

_PASSED_OVER: Final = 8
"""Turns that go to calls of higher priority in a row while one of lower priority waits."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A call in the line.

    Attributes:
        arrival: the number that it was given when it came.
        turn: done when it may pass, or may not at all.
        came_back: it had passed once, and was sent back.
    """

    call: Call
    arrival: int
    turn: asyncio.Future[None]
    came_back: bool

    @property
    def size(self) -> int:
        return len(self.call.payload)


@dataclass(slots=True)
class _Share:
    """What one client has in the line."""

    calls: int = 0
    size: int = 0


class Line:
    """Who waits.

    What came back goes first, in order of arrival. Then goes what has the highest priority, though
    no priority is passed over more than eight times in a row. Among calls of one priority clients
    take turns, and those of one client go in order of arrival.
    """

    def __init__(self) -> None:
        self._came_back: dict[int, Waiting] = {}
        self._levels = {priority: _Level() for priority in Priority}
        self._passed_over = dict.fromkeys(Priority, 0)
        self._shares: dict[str, _Share] = {}
        self._count = 0
        self._size = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiting]:
        yield from list(self._came_back.values())
        for level in self._levels.values():
            yield from list(level)

    @property
    def size(self) -> int:
        """Bytes of the requests together."""
        return self._size

    def add(self, waiting: Waiting) -> None:
        if waiting.came_back:
            self._came_back[waiting.arrival] = waiting
        else:
            self._levels[waiting.call.priority].add(waiting)
        share = self._shares.setdefault(waiting.call.client, _Share())
        share.calls += 1
        share.size += waiting.size
        self._count += 1
        self._size += waiting.size

    def remove(self, waiting: Waiting) -> bool:
        """Take it out, wherever it stands; False when it is not in the line."""
        if waiting.came_back:
            there = self._came_back.pop(waiting.arrival, None) is not None
        else:
            there = self._levels[waiting.call.priority].remove(waiting)
        if there:
            share = self._shares[waiting.call.client]
            share.calls -= 1
            share.size -= waiting.size
            if not share.calls:
                del self._shares[waiting.call.client]
            self._count -= 1
            self._size -= waiting.size
        return there

    def pop(self) -> Waiting | None:
        """Take out whose turn it is, if anyone waits."""
        if self._came_back:
            first = self._came_back[min(self._came_back)]
        elif (priority := self._priority()) is not None:
            level = self._levels[priority]
            first = level.first()
            level.next_client()
        else:
            return None
        self.remove(first)
        return first

    def who_gives_way(self, call: Call, most: int, most_size: int) -> list[Waiting] | None:
        """Which of those in the line have to leave it for *call*, for it to stay within bounds.

        They are the newest of the client that has the most there, and it keeps no less than the
        client of *call* then has: whoever fills the line does so at its own cost.

        Args:
            most: calls that may wait.
            most_size: bytes that they may have together.

        Returns:
            None when the call has no more right to a place than those that are there.
        """
        size = len(call.payload)
        over, over_size = self._count + 1 - most, self._size + size - most_size
        if over <= 0 and over_size <= 0:
            return []
        by_size = over <= 0
        own = self._shares.get(call.client, _Share())
        greedy, share = max(
            self._shares.items(),
            key=lambda item: item[1].size if by_size else item[1].calls,
            default=("", own),
        )
        left = _Share(share.calls, share.size)
        leaving: list[Waiting] = []
        for waiting in self._newest(greedy):
            left.calls -= 1
            left.size -= waiting.size
            if left.size < own.size + size if by_size else left.calls < own.calls + 1:
                return None
            leaving.append(waiting)
            if len(leaving) >= over and share.size - left.size >= over_size:
                return leaving
        return None

    def _newest(self, client: str) -> Iterator[Waiting]:
        """Those of *client*, the least urgent first, the newest of those first."""
        for priority in reversed(Priority):
            yield from self._levels[priority].newest(client)

    def _priority(self) -> Priority | None:
        """Whose turn it is, which is counted; None when nobody waits."""
        waiting = [priority for priority in Priority if self._levels[priority]]
        if not waiting:
            return None
        due = [each for each in waiting if self._passed_over[each] >= _PASSED_OVER]
        chosen = due[-1] if due else waiting[0]
        for priority in Priority:
            passed = priority > chosen and priority in waiting
            self._passed_over[priority] += passed
        self._passed_over[chosen] = 0
        return chosen


class _Level:
    """Those of one priority: clients in the order of their turns, each with its calls."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, dict[int, Waiting]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._clients)

    def __iter__(self) -> Iterator[Waiting]:
        for calls in self._clients.values():
            yield from calls.values()

    def add(self, waiting: Waiting) -> None:
        self._clients.setdefault(waiting.call.client, {})[waiting.arrival] = waiting

    def remove(self, waiting: Waiting) -> bool:
        calls = self._clients.get(waiting.call.client, {})
        if calls.pop(waiting.arrival, None) is None:
            return False
        if not calls:
            del self._clients[waiting.call.client]
        return True

    def first(self) -> Waiting:
        """The oldest call of the client whose turn it is."""
        return next(iter(next(iter(self._clients.values())).values()))

    def next_client(self) -> None:
        self._clients.move_to_end(next(iter(self._clients)))

    def newest(self, client: str) -> Iterator[Waiting]:
        yield from list(reversed(self._clients.get(client, {}).values()))
