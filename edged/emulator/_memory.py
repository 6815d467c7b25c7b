"""Two memories: the device's own DRAM, and what each client lets the device reach by DMA."""

from __future__ import annotations

import bisect
import errno
import mmap
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from edged._vfio_user import DmaFlag
from edged._vfio_user_server import mapped_file
from edged.errors import LimitError

__all__ = ["DmaFault", "Dram", "HostMemory"]

_MAP_NORESERVE: Final = 0x4000
"""Of <sys/mman.h> on Linux; Python does not name it."""
_READ: Final = int(DmaFlag.READ)
_WRITE: Final = int(DmaFlag.WRITE)
_CHUNK: Final = 4 << 20
"""Bytes copied before the lock is let go, so that an unmap waits a millisecond at most."""
_MAX_REGIONS: Final = 65535
"""As many as the protocol lets a client expect. Behind an IOMMU, each page may be one."""
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


@dataclass(slots=True, eq=False)
class _File:
    """A client's file, mapped whole and once, however many of its pages are regions.

    Attributes:
        key: device, inode, and what may be done with it.
        regions: how many are in it.
    """

    key: tuple[int, int, DmaFlag]
    data: mmap.mmap
    regions: int = 0


@dataclass(frozen=True, slots=True)
class _Region:
    address: int
    size: int
    flags: int
    file: _File | None
    """None where the client gave no descriptor: such memory is known, but out of reach."""
    offset: int


class HostMemory:
    """What one client has mapped for DMA; addresses are its IO virtual addresses.

    Safe to use from several threads: a region is let go of only between chunks of a copy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: list[_Region] = []
        self._starts: list[int] = []
        self._files: dict[tuple[int, int, DmaFlag], _File] = {}
        self._closed = False

    def map(self, address: int, size: int, flags: DmaFlag, fd: int | None, offset: int) -> None:
        """Let the device reach *size* bytes at *address*, kept in the file *fd* from *offset*.

        Raises:
            OSError: with the errno that the client is told.
        """
        if not 0 < size <= _MAX_ADDRESS or address > _MAX_ADDRESS - size:
            raise OSError(errno.EINVAL, "range is empty or too large")
        if offset % mmap.ALLOCATIONGRANULARITY:
            raise OSError(errno.EINVAL, "offset is not page aligned")
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
            file = None if fd is None else self._file(fd, offset, size, flags)
            self._regions.insert(at, _Region(address, size, int(flags), file, offset))
            self._starts.insert(at, address)

    def unmap(self, address: int, size: int) -> None:
        """Let go of the regions in a range; as with the kernel's VFIO there may be none in it.

        Raises:
            OSError: one is only partly in it.
        """
        with self._lock:
            first = bisect.bisect_left(self._starts, address)
            last = bisect.bisect_left(self._starts, address + size)
            gone = self._regions[first:last]
            before = self._regions[first - 1] if first else None
            if (before and before.address + before.size > address) or (
                gone and gone[-1].address + gone[-1].size > address + size
            ):
                raise OSError(errno.EINVAL, "range is a part of what was mapped at once")
            del self._regions[first:last], self._starts[first:last]
            self._release(gone)

    def close(self) -> None:
        """Let go of everything: each later access is a fault."""
        with self._lock:
            self._closed = True
            self._release(self._regions)
            self._regions.clear()
            self._starts.clear()

    def read_small(self, address: int, size: int) -> bytes:
        """A few bytes of one region.

        Raises:
            DmaFault: they are not mapped for reading, or not in one region.
        """
        with self._lock:
            data, start = self._find(address, size, _READ)
            return data[start : start + size]

    def read(self, address: int, into: memoryview) -> None:
        """Copy from the host.

        Raises:
            DmaFault: a part of the range is not mapped for reading.
        """
        self._copy(address, into, _READ)

    def write(self, address: int, data: memoryview | bytes) -> None:
        """Copy to the host.

        Raises:
            DmaFault: a part of the range is not mapped for writing.
        """
        self._copy(address, memoryview(data), _WRITE)

    def write_ordered(self, address: int, first: bytes, second: bytes) -> None:
        """Write two parts that follow each other, so that who sees the second sees the first.

        Two stores, which the processors that this runs on keep in order.

        Raises:
            DmaFault: they are not mapped for writing, or not in one region.
        """
        with self._lock:
            data, start = self._find(address, len(first) + len(second), _WRITE)
            middle = start + len(first)
            data[start:middle] = first
            data[middle : middle + len(second)] = second

    def _copy(self, address: int, local: memoryview, access: int) -> None:
        done = 0
        while done < len(local):
            with self._lock:
                region = self._region(address + done, access)
                within = address + done - region.address
                count = min(len(local) - done, region.size - within, _CHUNK)
                assert region.file is not None
                start = region.offset + within
                with memoryview(region.file.data) as view:
                    if access == _READ:
                        local[done : done + count] = view[start : start + count]
                    else:
                        view[start : start + count] = local[done : done + count]
            done += count

    def _file(self, fd: int, offset: int, size: int, flags: DmaFlag) -> _File:
        """The file that a region is in, with that region counted."""
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, flags)
        file = self._files.get(key)
        if file is None or offset + size > len(file.data):
            # What was mapped before it grew stays until its last region goes.
            file = _File(key, mapped_file(fd, 0, max(status.st_size, offset + size), flags))
            self._files[key] = file
        file.regions += 1
        return file

    def _release(self, regions: Iterable[_Region]) -> None:
        for region in regions:
            if region.file is None:
                continue
            region.file.regions -= 1
            if not region.file.regions:
                region.file.data.close()
                if self._files.get(region.file.key) is region.file:
                    del self._files[region.file.key]

    def _find(self, address: int, size: int, access: int) -> tuple[mmap.mmap, int]:
        """The mapping that holds a whole range, and where in it."""
        region = self._region(address, access)
        if address + size > region.address + region.size or region.file is None:
            raise DmaFault(f"host range {address:#x} + {size} is not in one region")
        return region.file.data, region.offset + address - region.address

    def _region(self, address: int, access: int) -> _Region:
        at = bisect.bisect_right(self._starts, address) - 1
        if at >= 0:
            region = self._regions[at]
            if address < region.address + region.size and region.file and region.flags & access:
                return region
        raise DmaFault(f"host address {address:#x} is not mapped for {DmaFlag(access).name}")
