"""What each opening of a card shares with it, in the one address space that the card has."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from edged._vfio_user import DmaFlag
from edged._vfio_user_server import mapped_file
from edged.device import Transport
from edged.errors import DeviceError, DeviceLostError, LimitError

__all__ = ["AddressSpace", "Memory", "told"]

_FIRST: Final = 1 << 32
"""Above what the machine keeps for interrupts."""
_END: Final = 1 << 38
"""Below what the narrowest IOMMUs translate: 39 bits."""
_MAX_REGIONS: Final = 64
_MAX_BYTES: Final = 1 << 33
_MAX_SCARCE_BYTES: Final = 1 << 26
_MAX_ADDRESS: Final = 1 << 63


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What the card's errors are to a client of vfio-user."""
    try:
        yield
    except DeviceLostError as error:
        raise OSError(errno.ENODEV, str(error)) from error
    except LimitError as error:
        raise OSError(errno.ENOMEM, str(error)) from error
    except DeviceError as error:
        raise OSError(errno.EIO, str(error)) from error


class AddressSpace:
    """Gives out ranges of IO addresses. One that was given back is given out again late.

    So what the card still does for one opening, as it goes, never falls into another's memory.
    """

    def __init__(self) -> None:
        self._next = _FIRST
        self._taken: dict[int, int] = {}

    def take(self, size: int) -> int:
        """The start of a free range.

        Raises:
            OSError: ENOSPC.
        """
        start = self._next
        for _ in range(len(self._taken) + 2):
            blocking = self._overlapping(start, size)
            if start + size > _END:
                start = _FIRST
            elif blocking is None:
                self._taken[start] = size
                self._next = start + size
                return start
            else:
                start = blocking + self._taken[blocking]
        raise OSError(errno.ENOSPC, "no IO addresses are left")

    def give_back(self, start: int) -> None:
        """Unless it was never taken, as where the card sees memory as it is."""
        self._taken.pop(start, None)

    def _overlapping(self, start: int, size: int) -> int | None:
        return next(
            (at for at, n in self._taken.items() if at < start + size and start < at + n), None
        )


@dataclass(frozen=True, slots=True)
class _Region:
    """One mapping: where the opening has it, where the card has it, and the bytes."""

    address: int
    size: int
    flags: DmaFlag
    io_address: int
    data: mmap.mmap

    def has(self, address: int, size: int) -> bool:
        return self.address <= address and address + size <= self.address + self.size


class Memory:
    """What one opening has mapped; its addresses mean nothing to the others.

    Where the card sees memory as it is, with no IOMMU between, it is memory that we gave: it alone
    is known to be in one piece, and to stay where it is.

    Args:
        transport: to the card.
        space: shared by all openings.
        in_use: whether the card may be at it still, so that nothing can be let go of.
        is_scarce: whether there is little of it, of which none may take all.
    """

    def __init__(
        self,
        transport: Transport,
        space: AddressSpace,
        in_use: Callable[[], bool],
        is_scarce: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._space = space
        self._in_use = in_use
        self._is_scarce = is_scarce
        self._regions: list[_Region] = []

    @told()
    def map(
        self, address: int, size: int, flags: DmaFlag, fd: int | None, offset: int
    ) -> int | None:
        """Let the card reach *size* bytes at *address*, kept in the sealed file *fd*.

        Returns:
            without one, where memory is given: the file that it is.

        Raises:
            OSError: with the errno that the client is told.
        """
        if not 0 < size <= _MAX_BYTES or address > _MAX_ADDRESS - size:
            raise OSError(errno.EINVAL, "range is empty or too large")
        if (address | size) % mmap.PAGESIZE:
            raise OSError(errno.EINVAL, "range is not page aligned")
        if any(r.address < address + size and address < r.address + r.size for r in self._regions):
            raise OSError(errno.EEXIST, "range overlaps one that is mapped")
        most = _MAX_SCARCE_BYTES if self._is_scarce() else _MAX_BYTES
        if sum(region.size for region in self._regions) + size > most:
            raise OSError(errno.ENOSPC, f"at most {most} bytes")
        if len(self._regions) >= _MAX_REGIONS:
            raise OSError(errno.ENOSPC, f"at most {_MAX_REGIONS} regions")
        if fd is None:
            return self._give(address, size, flags)
        data = mapped_file(fd, offset, size, flags)
        try:
            io_address = self._space.take(size)
            try:
                self._transport.dma_map(io_address, fd, offset, size)
            except BaseException:
                self._space.give_back(io_address)
                raise
        except BaseException:
            data.close()
            raise
        self._regions.append(_Region(address, size, flags, io_address, data))
        return None

    def _give(self, address: int, size: int, flags: DmaFlag) -> int:
        given = self._transport.dma_allocate(address, size)
        if given is None:
            raise OSError(errno.EINVAL, "range has no file")
        try:
            data = mmap.mmap(given.fd, 0, flags=mmap.MAP_SHARED)
        except BaseException:
            self._transport.dma_unmap(given.iova, size)
            os.close(given.fd)
            raise
        self._regions.append(_Region(address, size, flags, given.iova, data))
        return given.fd

    @told()
    def unmap(self, address: int, size: int) -> None:
        """Let go of a region, as it was mapped.

        Raises:
            OSError: there is none.
        """
        for region in self._regions:
            if (region.address, region.size) == (address, size):
                if self._in_use():
                    raise OSError(errno.EBUSY, "the card may be at it: disable the queue first")
                self._release(region)
                return
        raise OSError(errno.ENOENT, "no such region")

    def close(self) -> None:
        """Let go of everything."""
        while self._regions:
            self._release(self._regions[-1])

    def translated(self, address: int, size: int, access: DmaFlag) -> int | None:
        """Where the card has a range; None if it is not in one region that allows *access*."""
        for region in self._regions:
            if region.has(address, size) and access in region.flags:
                return region.io_address + address - region.address
        return None

    def read(self, address: int, size: int) -> bytes | None:
        """A copy of a range; None if it is not in one region that is readable."""
        for region in self._regions:
            if region.has(address, size) and DmaFlag.READ in region.flags:
                start = address - region.address
                return region.data[start : start + size]
        return None

    def _release(self, region: _Region) -> None:
        self._regions.remove(region)
        try:
            self._transport.dma_unmap(region.io_address, region.size)
        finally:
            self._space.give_back(region.io_address)
            region.data.close()
