"""The shared memory of clients, as far as this container was told of it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from edged.errors import NotFoundError, RequestError

__all__ = ["Regions"]


@dataclass(slots=True)
class _Region:
    """Not closed while it is read or written: the number could be another file's by then."""

    fd: int
    offset: int
    size: int
    users: threading.Lock = field(default_factory=threading.Lock)


class Regions:
    """Read and written a piece at a time; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: dict[str, _Region] = {}

    def add(self, name: str, offset: int, size: int, fd: int) -> None:
        """Know the region of that name; *fd* belongs to it from now on."""
        with self._lock:
            before, self._regions[name] = self._regions.get(name), _Region(fd, offset, size)
        _close(before)

    def remove(self, name: str) -> None:
        """Forget it, once nobody is at it any more."""
        with self._lock:
            before = self._regions.pop(name, None)
        _close(before)

    def read(self, name: str, offset: int, size: int) -> memoryview:
        """A copy of a piece of a region.

        Raises:
            NotFoundError: there is no such region.
            RequestError: it does not reach that far, or its file no longer does.
        """
        region = self._find(name, offset, size)
        buffer = memoryview(bytearray(size))
        with region.users:
            _check_open(region, name)
            at = 0
            while at < size:
                count = os.preadv(region.fd, [buffer[at:]], region.offset + offset + at)
                if not count:
                    raise _cut_short(name)
                at += count
        return buffer

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Put *data* into a piece of a region; raises as :meth:`read`."""
        region = self._find(name, offset, len(data))
        start = region.offset + offset
        with region.users:
            _check_open(region, name)
            # To write behind its end would make the file longer.
            if os.fstat(region.fd).st_size < start + len(data):
                raise _cut_short(name)
            view = memoryview(data)
            try:
                while view:
                    count = os.pwrite(region.fd, view, start)
                    view, start = view[count:], start + count
            except OSError as error:
                raise RequestError(
                    f"cannot write to shared memory {name[:80]!r}: {error.strerror}"
                ) from error

    def _find(self, name: str, offset: int, size: int) -> _Region:
        with self._lock:
            region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"cannot find shared memory {name[:80]!r}: it is not registered")
        if offset < 0 or size < 0 or offset + size > region.size:
            raise RequestError(
                f"cannot use shared memory {name[:80]!r}: it has {region.size} bytes, wanted are"
                f" {size} from {offset} on"
            )
        return region


def _close(region: _Region | None) -> None:
    if region is not None:
        with region.users:
            os.close(region.fd)
            region.fd = -1


def _check_open(region: _Region, name: str) -> None:
    if region.fd < 0:
        raise NotFoundError(f"cannot find shared memory {name[:80]!r}: it was unregistered")


def _cut_short(name: str) -> RequestError:
    return RequestError(f"cannot use shared memory {name[:80]!r}: its file was cut short")
