"""Two memories: the device's own DRAM, and what each client lets the device reach by DMA."""

from __future__ import annotations

import bisect
import errno
import mmap
import threading
from dataclasses import dataclass
from typing import Final

from edged._vfio_user import DmaFlag
from edged._vfio_user_server import mapped_file
from edged.errors import LimitError

__all__ = ["DmaFault", "Dram", "HostMemory"]

_MAP_NORESERVE: Final = 0x4000
"""Of <sys/mman.h> on Linux; Python does not name it."""
_CHUNK: Final = 4 << 20
"""Bytes copied before the lock is let go, so that an unmap waits a millisecond at most."""
_MAX_REGIONS: Final = 1024
_MAX_ADDRESS: Final = 1 << 63


class DmaFault(Exception):  # noqa: N818  (the device's term)
    """A host or device range that cannot be accessed; never leaves the emulator."""


class Dram:
    """The device's memory: zero until written, and taken from the system only then.

    Args:
        size: bytes.

    Raises:
        LimitError: the system does not let a process have as much address space.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:
            self._map = mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            raise LimitError(
                f"cannot emulate {size >> 20} MiB of DRAM: {error.strerror}; try less of it"
            ) from error
        self._view = memoryview(self._map)

    def slice(self, address: int, length: int) -> memoryview:
        """The bytes themselves, writable.

        Raises:
            DmaFault: not all of them exist.
        """
        if not 0 <= address <= self.size or not 0 <= length <= self.size - address:
            raise DmaFault(f"device range {address:#x} + {length:#x} is outside the DRAM")
        return self._view[address : address + length]

    def scrub(self, address: int, length: int) -> None:
        """Make a page-aligned range zero again, and give its pages back to the system."""
        self._map.madvise(mmap.MADV_DONTNEED, address, length)


@dataclass(frozen=True, slots=True)
class _Region:
    address: int
    size: int
    flags: DmaFlag
    data: mmap.mmap | None
    """None where the client gave no descriptor: such memory is known, but out of reach."""


class HostMemory:
    """What one client has mapped for DMA; addresses are its IO virtual addresses.

    Safe to use from several threads: a region is let go of only between chunks of a copy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: list[_Region] = []
        self._starts: list[int] = []
        self._closed = False

    def map(self, address: int, size: int, flags: DmaFlag, fd: int | None, offset: int) -> None:
        """Let the device reach *size* bytes at *address*, kept in the file *fd* from *offset*.

        Raises:
            OSError: with the errno that the client is told.
        """
        if not 0 < size <= _MAX_ADDRESS or address > _MAX_ADDRESS - size:
            raise OSError(errno.EINVAL, "range is empty or too large")
        data = None if fd is None else mapped_file(fd, offset, size, flags)
        with self._lock:
            at = bisect.bisect_right(self._starts, address)
            before = self._regions[at - 1] if at else None
            after = self._regions[at] if at < len(self._regions) else None
            if (before and before.address + before.size > address) or (
                after and address + size > after.address
            ):
                raise OSError(errno.EEXIST, "range overlaps one that is mapped")
            if self._closed or len(self._regions) >= _MAX_REGIONS:
                raise OSError(errno.ENOSPC, f"at most {_MAX_REGIONS} regions")
            self._regions.insert(at, _Region(address, size, flags, data))
            self._starts.insert(at, address)

    def unmap(self, address: int, size: int) -> None:
        """Let go of a region, which has to be one that was mapped as it is named.

        Raises:
            OSError: there is none.
        """
        with self._lock:
            for at, region in enumerate(self._regions):
                if (region.address, region.size) == (address, size):
                    del self._regions[at], self._starts[at]
                    if region.data is not None:
                        region.data.close()
                    return
        raise OSError(errno.ENOENT, "no such region")

    def close(self) -> None:
        """Let go of everything: each later access is a fault."""
        with self._lock:
            self._closed = True
            for region in self._regions:
                if region.data is not None:
                    region.data.close()
            self._regions.clear()
            self._starts.clear()

    def read_small(self, address: int, size: int) -> bytes:
        """A few bytes of one region.

        Raises:
            DmaFault: they are not mapped for reading, or not in one region.
        """
        with self._lock:
            data, start = self._find(address, size, DmaFlag.READ)
            return data[start : start + size]

    def read(self, address: int, into: memoryview) -> None:
        """Copy from the host.

        Raises:
            DmaFault: a part of the range is not mapped for reading.
        """
        self._copy(address, into, DmaFlag.READ)

    def write(self, address: int, data: memoryview | bytes) -> None:
        """Copy to the host.

        Raises:
            DmaFault: a part of the range is not mapped for writing.
        """
        self._copy(address, memoryview(data), DmaFlag.WRITE)

    def write_ordered(self, address: int, first: bytes, second: bytes) -> None:
        """Write two parts that follow each other, so that who sees the second sees the first.

        Two stores, which the processors that this runs on keep in order.

        Raises:
            DmaFault: they are not mapped for writing, or not in one region.
        """
        with self._lock:
            data, start = self._find(address, len(first) + len(second), DmaFlag.WRITE)
            middle = start + len(first)
            data[start:middle] = first
            data[middle : middle + len(second)] = second

    def _copy(self, address: int, local: memoryview, access: DmaFlag) -> None:
        done = 0
        while done < len(local):
            with self._lock:
                region = self._region(address + done, access)
                start = address + done - region.address
                count = min(len(local) - done, region.size - start, _CHUNK)
                assert region.data is not None
                with memoryview(region.data) as view:
                    if access is DmaFlag.READ:
                        local[done : done + count] = view[start : start + count]
                    else:
                        view[start : start + count] = local[done : done + count]
            done += count

    def _find(self, address: int, size: int, access: DmaFlag) -> tuple[mmap.mmap, int]:
        """The mapping that holds a whole range, and where in it."""
        region = self._region(address, access)
        if address + size > region.address + region.size or region.data is None:
            raise DmaFault(f"host range {address:#x} + {size} is not in one region")
        return region.data, address - region.address

    def _region(self, address: int, access: DmaFlag) -> _Region:
        at = bisect.bisect_right(self._starts, address) - 1
        if at >= 0:
            region = self._regions[at]
            if address < region.address + region.size and region.data and region.flags & access:
                return region
        raise DmaFault(f"host address {address:#x} is not mapped for {access.name}")
