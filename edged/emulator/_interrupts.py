"""The interrupts of one opening of the device: MSI vectors or INTx, signalled through eventfds."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Sequence

from edged._vfio_user_server import copied_eventfd
from edged.emulator._pci import MSI_VECTORS

__all__ = ["Interrupts"]

_BITS = (1 << MSI_VECTORS) - 1


class Interrupts:
    """Which interrupts are enabled and pending, and whom to tell. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._enabled = 0
        self._pending = 0
        self._msi: list[int | None] = [None] * MSI_VECTORS
        self._intx: int | None = None
        self._intx_masked = False

    @property
    def enabled(self) -> int:
        return self._enabled

    @property
    def pending(self) -> int:
        return self._pending

    @property
    def raises_line(self) -> bool:
        """Whether INTx is up, as far as the device goes."""
        with self._lock:
            return self._intx is not None and bool(self._pending & self._enabled)

    def enable(self, bits: int) -> None:
        """Take *bits* as the enabled ones; what is pending among them is signalled."""
        with self._lock:
            fresh = bits & ~self._enabled & self._pending
            self._enabled = bits & _BITS
            for vector in range(MSI_VECTORS):
                if fresh >> vector & 1:
                    self._signal(vector)

    def acknowledge(self, bits: int) -> None:
        """Clear pending *bits*."""
        with self._lock:
            self._pending &= ~bits

    def trigger(self, vector: int) -> None:
        """Make *vector* pending, and signal it if it is enabled."""
        with self._lock:
            self._pending |= 1 << vector
            if self._enabled >> vector & 1:
                self._signal(vector)

    def set_msi(self, start: int, eventfds: Sequence[int | None]) -> None:
        """Signal vectors from *start* on through copies of these, or not at all.

        Raises:
            OSError: EINVAL, no such vector or no eventfd.
        """
        if start + len(eventfds) > MSI_VECTORS:
            raise OSError(errno.EINVAL, "no such vector")
        copies = [None if fd is None else copied_eventfd(fd) for fd in eventfds]
        with self._lock:
            old = self._msi[start : start + len(copies)]
            self._msi[start : start + len(copies)] = copies
        _close(old)

    def set_intx(self, eventfd: int | None) -> None:
        """Signal INTx through a copy of this, or not at all.

        Raises:
            OSError: EINVAL, it is no eventfd.
        """
        copy = None if eventfd is None else copied_eventfd(eventfd)
        with self._lock:
            old, self._intx, self._intx_masked = self._intx, copy, False
        _close([old])

    def mask_intx(self, masked: bool) -> None:
        """INTx masks itself when it fires; when it is unmasked, what still pends fires again."""
        with self._lock:
            self._intx_masked = masked
            if not masked and self._pending & self._enabled:
                self._signal_intx()

    def disable(self) -> None:
        """As after a reset: nothing enabled, nothing pending; the eventfds stay."""
        with self._lock:
            self._enabled = self._pending = 0
            self._intx_masked = False

    def close(self) -> None:
        """Let go of every eventfd."""
        self.set_msi(0, [None] * MSI_VECTORS)
        self.set_intx(None)

    def _signal(self, vector: int) -> None:
        # With fewer messages than vectors, the first one stands for those that have none.
        fd = self._msi[0] if self._msi[vector] is None else self._msi[vector]
        if fd is None:
            self._signal_intx()
        else:
            _signal(fd)

    def _signal_intx(self) -> None:
        if self._intx is not None and not self._intx_masked:
            self._intx_masked = True
            _signal(self._intx)


def _signal(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if poll.poll(0):  # else its counter is full: signalled more often than anyone can count
        os.eventfd_write(fd, 1)


def _close(fds: Sequence[int | None]) -> None:
    for fd in fds:
        if fd is not None:
            os.close(fd)
