"""Shared memory between front and worker: one sealed memfd for each direction.

The side that fills an arena decides what lies where. The other side is told offset and length, and
checks them, for the worker may be hostile.
"""

from __future__ import annotations

import bisect
import fcntl
import mmap
import os
from typing import Final

__all__ = ["Arena", "Memory"]

_ALIGN: Final = 64
_HOLE: Final = 4 << 20
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Memory:
    """A mapping of shared memory whose size nobody can change: no access to it can fault.

    Attributes:
        fd: the memfd, for the other side to map.
        size: in bytes.
    """

    def __init__(self, fd: int) -> None:
        """Map the memory behind *fd*, which then belongs to the object."""
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self._map = mmap.mmap(fd, self.size)

    @classmethod
    def create(cls, name: str, size: int) -> Memory:
        """*size* bytes of which each page takes memory once it is written."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def read(self, offset: int, length: int) -> bytes:
        """A copy of a piece.

        Raises:
            ValueError: it reaches beyond the memory.
        """
        if not 0 <= offset <= offset + length <= self.size:
            raise ValueError(f"bytes {offset} … {offset + length} of {self.size}")
        return self._map[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        self._map[offset : offset + len(data)] = data

    def forget(self, offset: int, length: int) -> None:
        """Give the whole pages of a piece back to the kernel."""
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self._map.madvise(mmap.MADV_REMOVE, start, end - start)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


class Arena:
    """Places payloads in a memory: first fit, so that few pages are ever touched."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._free: list[tuple[int, int]] = [(0, memory.size)]
        self._used: dict[int, int] = {}

    @property
    def size(self) -> int:
        return self._memory.size

    @property
    def in_use(self) -> int:
        """Bytes that are taken, with what rounding adds."""
        return sum(self._used.values())

    def put(self, data: bytes) -> int | None:
        """Where *data* was placed; None if there is no room now."""
        length = max(-(-len(data) // _ALIGN) * _ALIGN, _ALIGN)
        for index, (offset, free) in enumerate(self._free):
            if free >= length:
                if free == length:
                    del self._free[index]
                else:
                    self._free[index] = (offset + length, free - length)
                self._used[offset] = length
                self._memory.write(offset, data)
                return offset
        return None

    def release(self, offset: int) -> None:
        """Take back what :meth:`put` placed at *offset*.

        Raises:
            KeyError: nothing is placed there.
        """
        length = self._used.pop(offset)
        # Large payloads are rare: their pages would stay taken for nothing.
        if length >= _HOLE:
            self._memory.forget(offset, length)
        index = bisect.bisect(self._free, (offset, 0))
        if index < len(self._free) and self._free[index][0] == offset + length:
            length += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == offset:
            offset, before = self._free.pop(index - 1)
            length, index = length + before, index - 1
        self._free.insert(index, (offset, length))
