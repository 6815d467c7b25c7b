"""Eventfds, by which one thread tells another, or another process."""

from __future__ import annotations

import contextlib
import os
import select
import threading

__all__ = ["Event", "Listeners"]


class Event:
    """An eventfd, closed at the end."""

    def __enter__(self) -> Event:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def signal(self) -> None:
        os.eventfd_write(self.fd, 1)

    def take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def is_set(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))


class Listeners:
    """Whom to tell of an interrupt that all vectors share. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._eventfds: dict[int, int] = {}

    def set(self, vector: int, eventfd: int | None) -> None:
        """Tell a copy of this, or nobody any more."""
        copy = None if eventfd is None else os.dup(eventfd)
        with self._lock:
            old = self._eventfds.pop(vector, None)
            if copy is not None:
                self._eventfds[vector] = copy
        if old is not None:
            os.close(old)

    def tell(self) -> None:
        """An interrupt is a hint: who has nothing looks once for nothing."""
        with self._lock:
            for eventfd in self._eventfds.values():
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(eventfd, 1)

    def close(self) -> None:
        with self._lock:
            while self._eventfds:
                os.close(self._eventfds.popitem()[1])
