"""Memory in one piece, and where it is: for a card that sees memory as it is.

The kernel gives no memory in one piece to a process, and moves pages about. Huge pages, as
``vm.nr_hugepages`` sets them aside, are 2 MiB each and stay; ``/proc/self/pagemap`` says where
(Documentation/admin-guide/mm/pagemap.rst and hugetlbpage.rst of Linux).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import Final

from edged.errors import DeviceError, LimitError

__all__ = ["PAGE", "HugePages"]

PAGE: Final = 2 << 20
_POOL: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_FLAGS: Final = mmap.MAP_SHARED | mmap.MAP_POPULATE
_ENTRY: Final = struct.Struct("<Q")
_FRAME: Final = (1 << 55) - 1
"""Of an entry: the frame's number. Zero for who may not know it."""
_FALLOC_PUNCH_HOLE: Final = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE"""
_SPLICE_F_NONBLOCK: Final = 2
_SLOTS: Final = 256
"""Most pages that a pipe holds for who has no privilege over them."""
_ATTEMPTS: Final = 3
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class HugePages:
    """Pages that follow each other in memory, as a file, held where they are until :meth:`close`.

    Attributes:
        fd: the file, sealed in size, of whole pages; whoever takes it closes it.
        address: of the first byte, as the memory bus has it.

    Args:
        size: bytes.

    Raises:
        LimitError: there are not as many free pages, or not in one piece.
        DeviceError: the kernel does not tell us where they are.
    """

    def __init__(self, size: int) -> None:
        count = -(-size // PAGE)
        self._pipes: list[int] = []
        for _ in range(_ATTEMPTS):
            self.fd = _in_one_piece(count) if count > 1 else _file(1)
            try:
                with mmap.mmap(self.fd, 0, flags=_FLAGS) as memory:
                    # Held first, so that what is read of their addresses stays true.
                    self._hold(memory, count)
                    places = _places(memory, count)
                if all(after - before == PAGE for before, after in pairwise(places)):
                    self.address = places[0]
                    return
            except BaseException:
                self.close()
                os.close(self.fd)
                raise
            self.close()  # Someone else took pages meanwhile.
            os.close(self.fd)
        raise _too_few(count, "in one piece")

    def close(self) -> None:
        """Let go of them: they are free once nobody maps the file any more."""
        while self._pipes:
            os.close(self._pipes.pop())

    def _hold(self, memory: mmap.mmap, count: int) -> None:
        """Have pipes refer to the pages.

        Whoever has the file can punch holes into it: a page is taken out of it then, but stays what
        it is, and nobody else gets it while we hold it. Nor does the kernel move it.
        """
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for first in range(0, count, _SLOTS):
            pages = range(first, min(first + _SLOTS, count))
            ends = os.pipe2(os.O_CLOEXEC)
            self._pipes += ends
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, mmap.PAGESIZE * len(pages))
            # A byte of each page is enough: it is of one piece to the kernel.
            parts = (_IoVec * len(pages))(*(_IoVec(start + page * PAGE, 1) for page in pages))
            held = _LIBC.vmsplice(ends[1], parts, ctypes.c_size_t(len(pages)), _SPLICE_F_NONBLOCK)
            if held != len(pages):
                why = os.strerror(ctypes.get_errno()) if held < 0 else f"{held} of {len(pages)}"
                raise DeviceError(f"cannot hold memory for a card where it is: {why}")


class _IoVec(ctypes.Structure):
    """``struct iovec``"""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def _in_one_piece(count: int) -> int:
    """A file of pages that most likely follow each other.

    The kernel gives out first what it got back last. So all free pages are taken, *count* that
    follow each other are given back from the last to the first, and then those of the file come in
    order; after that the others are given back.
    """
    free = _free()
    if free < count:
        raise _too_few(count, f"and {free} are free")
    pool = _file(free)
    try:
        with mmap.mmap(pool, 0, flags=_FLAGS) as memory:
            places = _places(memory, free)
        for index in reversed(_run(places, count)):
            _punch(pool, index)
        return _file(count)
    finally:
        os.close(pool)


def _run(places: list[int], count: int) -> list[int]:
    """Indices of *count* pages that follow each other, in order, out of the smallest piece."""
    runs: list[list[int]] = []
    for index in sorted(range(len(places)), key=places.__getitem__):
        if runs and places[index] == places[runs[-1][-1]] + PAGE:
            runs[-1].append(index)
        else:
            runs.append([index])
    fitting = [run for run in runs if len(run) >= count]
    if not fitting:
        raise _too_few(count, f"in one piece, and the longest has {max(map(len, runs))}")
    return min(fitting, key=len)[:count]


def _free() -> int:
    """How many pages nobody has, or has a claim to."""
    try:
        free, claimed = (
            int((_POOL / name).read_text()) for name in ("free_hugepages", "resv_hugepages")
        )
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"cannot find memory for a card: this kernel has no huge pages of 2 MiB ({error})"
        ) from error
    return max(0, free - claimed)


def _file(count: int) -> int:
    """A file of *count* huge pages, sealed in size, with all of them in it."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB | os.MFD_HUGE_2MB
    fd = -1
    try:
        fd = os.memfd_create("edged-card", flags)
        os.ftruncate(fd, count * PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        # The kernel refuses this, and not an access to a page, when there are too few.
        mmap.mmap(fd, 0, flags=_FLAGS).close()
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise _too_few(count, f"and {_free()} are free") from error
    return fd


def _punch(fd: int, page: int) -> None:
    offset, length = ctypes.c_int64(page * PAGE), ctypes.c_int64(PAGE)
    if _LIBC.fallocate(fd, _FALLOC_PUNCH_HOLE, offset, length):
        raise DeviceError(f"cannot sort huge pages: {os.strerror(ctypes.get_errno())}")


def _places(memory: mmap.mmap, count: int) -> list[int]:
    """Where each page is on the memory bus."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    places = []
    with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
        for page in range(count):
            entries.seek((start + page * PAGE) // mmap.PAGESIZE * _ENTRY.size)
            frame = _ENTRY.unpack(entries.read(_ENTRY.size))[0] & _FRAME
            if not frame:
                raise DeviceError(
                    "cannot know where memory is: /proc/self/pagemap tells only who has"
                    " CAP_SYS_ADMIN; edged-card has to run as root"
                )
            places.append(frame * mmap.PAGESIZE)
    return places


def _too_few(count: int, detail: str) -> LimitError:
    return LimitError(
        f"cannot get {count * PAGE >> 20} MiB that a card without an IOMMU can reach: wanted"
        f" {count} huge pages {detail}; raise vm.nr_hugepages (docs/cards.md), best of all in"
        " /etc/sysctl.d and from boot on"
    )
