"""The interrupts of one opening of a card: whom it wants to be told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final

from edged._vfio_user_server import copied_eventfd
from edged.npu.registers import QUEUES

__all__ = ["VECTORS", "Interrupts"]

VECTORS: Final = 1 + QUEUES
"""The device as a whole, then each queue."""


class Interrupts:
    """Keeps an opening's eventfds.

    Args:
        on_change: told which vector has another one.
    """

    def __init__(self, on_change: Callable[[int], None]) -> None:
        self.enabled = 0
        self._on_change = on_change
        self._eventfds: list[int | None] = [None] * VECTORS

    def eventfd(self, vector: int) -> int | None:
        return self._eventfds[vector]

    def set_msi(self, start: int, eventfds: Sequence[int | None]) -> None:
        """Signal vectors from *start* on through copies of these, or not at all.

        Raises:
            OSError: EINVAL, no such vector or no eventfd.
        """
        if start + len(eventfds) > VECTORS:
            raise OSError(errno.EINVAL, "no such vector")
        for vector, fd in enumerate(eventfds, start):
            old = self._eventfds[vector]
            self._eventfds[vector] = None if fd is None else copied_eventfd(fd)
            self._on_change(vector)
            if old is not None:
                os.close(old)

    def set_intx(self, eventfd: int | None) -> None:
        """There is none.

        Raises:
            OSError: EINVAL.
        """
        raise OSError(errno.EINVAL, "no INTx")

    def mask_intx(self, masked: bool) -> None:
        """There is none.

        Raises:
            OSError: EINVAL.
        """
        raise OSError(errno.EINVAL, "no INTx")

    def close(self) -> None:
        """Let go of every eventfd."""
        for fd in self._eventfds:
            if fd is not None:
                os.close(fd)
        self._eventfds = [None] * VECTORS
