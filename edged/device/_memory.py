"""Memory that driver and device share."""

from __future__ import annotations

import fcntl
import mmap
import os
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from edged.device._transport import Transport

__all__ = ["DmaBuffer"]

_PAGE: Final = mmap.PAGESIZE
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class DmaBuffer:
    """A range of memory that the device may read and write until :meth:`close`.

    Sealed in size, so that the device's side may trust it to stay; or given by that side, where it
    can be no other.

    Args:
        iova: host address by which descriptors name its first byte, if it can be chosen.
        size: bytes; rounded up to pages.

    Attributes:
        iova: that address, or another.
        is_given: whether it is memory of the device's side.

    Raises:
        DeviceError, DeviceLostError: the device does not map it.
        LimitError: there is not as much.
    """

    def __init__(self, transport: Transport, iova: int, size: int) -> None:
        self.size = -(-size // _PAGE) * _PAGE
        self._transport = transport
        given = transport.dma_allocate(iova, self.size)
        self.is_given = given is not None
        self.iova = iova if given is None else given.iova
        fd = _sealed(self.size) if given is None else given.fd
        try:
            # Populated at once: no page fault falls into anyone's first request. The whole file:
            # what is given may be of larger pages.
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._bytes = np.frombuffer(mmap.mmap(fd, 0, flags=flags), np.uint8)
            if given is None:
                transport.dma_map(iova, fd, 0, self.size)
        finally:
            os.close(fd)

    def array(
        self, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8
    ) -> npt.NDArray[Any]:
        """A part of the buffer as an array, writable."""
        return np.ndarray(shape, dtype, self._bytes.data, offset)

    def close(self) -> None:
        """Take it back from the device; arrays of it stay valid."""
        self._transport.dma_unmap(self.iova, self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _sealed(size: int) -> int:
    """A file of so many bytes in memory, for good."""
    fd = os.memfd_create("edged-dma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
