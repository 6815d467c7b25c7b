"""How a driver reaches its device: VFIO's terms, whatever carries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edged.device._ladder import Step

__all__ = ["BusOwner", "GivenMemory", "Transport"]


@dataclass(frozen=True, slots=True)
class GivenMemory:
    """Memory that the device's side chose.

    Attributes:
        fd: a file that is this memory, all of it; the caller's to close.
        iova: host address by which descriptors name its first byte.
    """

    fd: int
    iova: int


class Transport(Protocol):
    """One opening of a device. Safe to use from several threads.

    Every method raises :class:`~edged.errors.DeviceLostError` once the device is gone, and
    :class:`~edged.errors.DeviceError` when it refuses.
    """

    def region_read(self, offset: int, size: int = 4) -> int:
        """The value at *offset* of BAR0, little endian.

        Of more than 8 bytes, a multiple of 4, those that come first are read first.
        """

    def region_write(self, offset: int, value: int, size: int = 4, *, posted: bool = False) -> None:
        """Write 4 or 8 bytes to BAR0. *posted* does not wait, and does not hear of a refusal."""

    def config_read(self, offset: int, size: int) -> int:
        """The value at *offset* of the PCI configuration space, 1, 2 or 4 bytes, little endian."""

    def config_write(self, offset: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes to the PCI configuration space."""

    def dma_map(self, iova: int, fd: int, offset: int, size: int) -> None:
        """Let the device read and write *size* bytes of file *fd* at host address *iova*.

        All page aligned; the file is a memfd sealed against shrinking.
        """

    def dma_allocate(self, iova: int, size: int) -> GivenMemory | None:
        """New memory that the device may read and write, at *iova* if that can be chosen.

        Returns:
            None where memory of one's own is to be mapped: that is, where there is an IOMMU.

        Raises:
            LimitError: there is not as much.
        """

    def dma_unmap(self, iova: int, size: int) -> None:
        """Take a mapping back; after this returns, the device does not touch it."""

    def set_interrupt(self, vector: int, eventfd: int | None) -> None:
        """Have an interrupt vector signal an eventfd, or nothing any more."""

    def reset(self) -> None:
        """Function-level reset."""

    def fileno(self) -> int:
        """A descriptor that polls as POLLRDHUP or POLLHUP when the device is gone."""

    def close(self) -> None:
        """Close this opening; what waits for the device ends with DeviceLostError."""


@runtime_checkable
class BusOwner(Protocol):
    """What a :class:`Transport` is as well whose other end owns the bus that the card is on."""

    @property
    def bus_steps(self) -> frozenset[Step]:
        """The steps beyond a function-level reset that it can take."""

    def reset_bus(self, step: Step) -> None:
        """Take one of these. After REMOVE_AND_RESCAN the device is gone, and comes back."""
