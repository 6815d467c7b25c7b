"""What the transports through the kernel's own drivers have in common."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edged.device._bus import PciBus
from edged.device._events import Event, Listeners
from edged.device._ladder import Step
from edged.errors import DeviceError, DeviceLostError, EdgedError
from edged.npu.registers import QUEUES

__all__ = ["ALL_INTERRUPTS", "GONE", "VECTORS", "KernelTransport"]

VECTORS: Final = 1 + QUEUES
ALL_INTERRUPTS: Final = (1 << VECTORS) - 1
GONE: Final = (errno.EIO, errno.ENODEV, errno.ENXIO)
"""What the kernel says of a function that is not there any more."""


class KernelTransport(ABC):
    """A PCI function by descriptors of the kernel's: once it is lost, it stays so.

    Args:
        folder: of the function in sysfs; its name is the address.
    """

    def __init__(self, folder: Path) -> None:
        self._name = folder.name
        self._folder = folder
        self._bus = PciBus(folder)
        self._lock = threading.Lock()
        self._access = threading.Lock()
        self._lost = ""
        self._closed = False
        self._listeners = Listeners()
        self._hangup, self._far_end = socket.socketpair()

    @contextlib.contextmanager
    def _opening(self) -> Iterator[contextlib.ExitStack]:
        """What is entered into the stack is closed with this, or at once if it cannot be opened."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._hangup.close)
            stack.callback(self._far_end.close)
            self._stop = stack.enter_context(Event())
            yield stack
            self._thread = threading.Thread(target=self._attend, name=self._name, daemon=True)
            self._thread.start()
            self._resources = stack.pop_all()

    @property
    def bus_steps(self) -> frozenset[Step]:
        return self._bus.offers

    def reset_bus(self, step: Step) -> None:
        self._bus.take(step)

    def fileno(self) -> int:
        return self._hangup.fileno()

    def set_interrupt(self, vector: int, eventfd: int | None) -> None:
        if not 0 <= vector < VECTORS:
            raise DeviceError(f"cannot have interrupt {vector} of a card: it has {VECTORS}")
        self._connect(vector, eventfd)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(DeviceError, DeviceLostError):
            self._quiesce()
        self._lose("it was closed")
        self._stop.signal()
        self._thread.join()
        with self._access:
            self._resources.close()
        # What it reached is only let go of now that it reaches nothing.
        self._let_go()
        self._listeners.close()

    @abstractmethod
    def _attend(self) -> None:
        """In a thread, until `_stop` is set: pass on what the kernel tells."""

    @abstractmethod
    def _let_go(self) -> None:
        """Release the memory that it was given."""

    def _quiesce(self) -> None:  # noqa: B027  (most need none)
        """End its DMA, where the kernel does not with the last descriptor."""

    def _connect(self, vector: int, eventfd: int | None) -> None:
        """Have an interrupt signal *eventfd*."""
        self._listeners.set(vector, eventfd)

    def _read(self, fd: int, at: int, size: int) -> int:
        try:
            with self._access:  # or close() lets go of the descriptor in between
                self._check()
                data = os.pread(fd, size, at)
        except OSError as error:
            raise self._refused(error, "read it") from error
        if len(data) != size:
            raise self._lose(f"it answered {len(data)} bytes of {size}")
        return int.from_bytes(data, "little")

    def _write(self, fd: int, at: int, value: int, size: int) -> None:
        try:
            with self._access:
                self._check()
                os.pwrite(fd, value.to_bytes(size, "little"), at)
        except OSError as error:
            raise self._refused(error, "write to it") from error

    def _check(self) -> None:
        """That it is not lost."""
        if self._lost:
            raise DeviceLostError(f"cannot reach card {self._name}: {self._lost}")

    def _refused(self, error: OSError, what: str) -> EdgedError:
        if not self._folder.exists() or error.errno in GONE:
            return self._lose(error.strerror or str(error))
        return DeviceError(f"cannot {what}: card {self._name}: {error.strerror or error}")

    def _lose(self, why: str) -> DeviceLostError:
        if not self._lost:
            self._lost = why
            with contextlib.suppress(OSError):
                self._far_end.shutdown(socket.SHUT_RDWR)
        return DeviceLostError(f"cannot reach card {self._name}: {self._lost}")
