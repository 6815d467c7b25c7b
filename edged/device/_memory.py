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

    Sealed in size, so that the device's side may trust it to stay.

    Args:
        iova: host address by which descriptors name its first byte.
        size: bytes; rounded up to pages.

    Raises:
        DeviceError, DeviceLostError: the device does not map it.
    """

    def __init__(self, transport: Transport, iova: int, size: int) -> None:
        self.iova = iova
        self.size = -(-size // _PAGE) * _PAGE
        self._transport = transport
        fd = os.memfd_create("edged-dma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, self.size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            # Populated at once: no page fault falls into anyone's first request.
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._bytes = np.frombuffer(mmap.mmap(fd, self.size, flags=flags), np.uint8)
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
