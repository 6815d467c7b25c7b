"""The transport to a card on this machine's bus: the kernel's VFIO.

After ``<linux/vfio.h>`` and "VFIO - Virtual Function I/O" of the kernel's documentation; names in
capitals are theirs, and the structures that vfio-user took over stand in :mod:`edged._vfio_user`.
The function has to be bound to vfio-pci, and to be in an IOMMU group whose others nobody uses.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged._vfio_user import (
    IRQ_INFO,
    IRQ_SET,
    REGION_BAR0,
    REGION_CONFIG,
    REGION_INFO,
    DmaFlag,
    IrqIndex,
    IrqSetFlag,
)
from edged.device._events import Event
from edged.device._kernel import ALL_INTERRUPTS, GONE, VECTORS, KernelTransport
from edged.device._transport import GivenMemory
from edged.errors import DeviceError, DeviceLostError, EdgedError, IncompatibleError, LimitError
from edged.npu.registers import BAR0_SIZE, Reg

__all__ = ["VfioTransport"]

_IOCTL: Final = ord(";") << 8 | 100
"""_IO(VFIO_TYPE, VFIO_BASE)"""
_GET_API_VERSION: Final = _IOCTL + 0
_CHECK_EXTENSION: Final = _IOCTL + 1
_SET_IOMMU: Final = _IOCTL + 2
_GROUP_GET_STATUS: Final = _IOCTL + 3
_GROUP_SET_CONTAINER: Final = _IOCTL + 4
_GROUP_GET_DEVICE_FD: Final = _IOCTL + 6
_DEVICE_GET_REGION_INFO: Final = _IOCTL + 8
_DEVICE_GET_IRQ_INFO: Final = _IOCTL + 9
_DEVICE_SET_IRQS: Final = _IOCTL + 10
_DEVICE_RESET: Final = _IOCTL + 11
_IOMMU_MAP_DMA: Final = _IOCTL + 13
_IOMMU_UNMAP_DMA: Final = _IOCTL + 14

_API_VERSION: Final = 0
_TYPE1V2_IOMMU: Final = 3
_GROUP_VIABLE: Final = 1
_GROUP_STATUS: Final = struct.Struct("<II")
"""Size of this, flags."""
_MAP: Final = struct.Struct("<IIQQQ")
"""Size of this, :class:`DmaFlag`, address in this process, IO address, size."""
_UNMAP: Final = struct.Struct("<IIQQ")
"""Size of this, flags, IO address, size."""
_DESCRIPTOR: Final = struct.Struct("<i")
_NONE: Final = _DESCRIPTOR.pack(-1)

_COMMAND_AT: Final = 0x04
_COMMAND_MEMORY_AND_MASTER: Final = 0x0006


@dataclass(frozen=True, slots=True)
class _Region:
    offset: int
    size: int


class VfioTransport(KernelTransport):
    """A :class:`~edged.device.Transport` to a PCI function.

    Registers are read and written by system call and not through a mapping: it costs a microsecond,
    and a card that goes away is then an error, and no SIGBUS.

    Args:
        folder: of the function in sysfs; its name is the address.

    Raises:
        DeviceError: it is not bound to vfio-pci, not behind an IOMMU, or another process has it.
        IncompatibleError: it has no such BAR as ours.
        DeviceLostError: it is gone.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._maps: dict[tuple[int, int], mmap.mmap] = {}
        with self._opening() as stack:
            self._container, self._device = _open(folder, stack)
            self._bar0 = self._region(REGION_BAR0)
            self._config = self._region(REGION_CONFIG)
            if self._bar0.size < BAR0_SIZE:
                raise IncompatibleError(
                    f"cannot open card {self._name}: its BAR0 has {self._bar0.size} bytes,"
                    f" ours {BAR0_SIZE}"
                )
            # Not a card that answers only half: its DMA is what it is for.
            command = self.config_read(_COMMAND_AT, 2)
            self.config_write(_COMMAND_AT, command | _COMMAND_MEMORY_AND_MASTER, 2)
            self._unplug = stack.enter_context(Event())
            self._error = stack.enter_context(Event())
            self._interrupt = stack.enter_context(Event())
            self._index, self._is_shared = self._enable_interrupts()
            for index, event in ((IrqIndex.REQUEST, self._unplug), (IrqIndex.ERROR, self._error)):
                if self._vectors(index):
                    self._set_irqs(index, IrqSetFlag.CONNECT, _DESCRIPTOR.pack(event.fd))

    def region_read(self, offset: int, size: int = 4) -> int:
        return self._read(self._device, self._bar0.offset + offset, size)

    def region_write(self, offset: int, value: int, size: int = 4, *, posted: bool = False) -> None:
        self._write(self._device, self._bar0.offset + offset, value, size)

    def config_read(self, offset: int, size: int) -> int:
        if offset + size > self._config.size:
            return 0  # Where the kernel does not reach the extended space, nothing is in it.
        return self._read(self._device, self._config.offset + offset, size)

    def config_write(self, offset: int, value: int, size: int) -> None:
        self._write(self._device, self._config.offset + offset, value, size)

    def dma_map(self, iova: int, fd: int, offset: int, size: int) -> None:
        memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, offset=offset)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        flags = DmaFlag.READ | DmaFlag.WRITE
        try:
            request = bytearray(_MAP.pack(_MAP.size, flags, address, iova, size))
            self._ioctl(self._container, _IOMMU_MAP_DMA, request, "let it reach memory")
        except BaseException:
            memory.close()
            raise
        with self._lock:
            self._maps[iova, size] = memory

    def dma_allocate(self, iova: int, size: int) -> GivenMemory | None:
        return None

    def dma_unmap(self, iova: int, size: int) -> None:
        with self._lock:
            memory = self._maps.pop((iova, size), None)
        if memory is None:
            raise DeviceError(f"cannot take memory from card {self._name}: {iova:#x} is not mapped")
        try:
            request = bytearray(_UNMAP.pack(_UNMAP.size, 0, iova, size))
            self._ioctl(self._container, _IOMMU_UNMAP_DMA, request, "take memory from it")
        finally:
            memory.close()

    def reset(self) -> None:
        self._ioctl(self._device, _DEVICE_RESET, 0, "reset it")

    def _let_go(self) -> None:
        # The kernel has unmapped what was mapped for DMA with the last descriptor.
        for memory in self._maps.values():
            memory.close()

    # Interrupts.

    def _connect(self, vector: int, eventfd: int | None) -> None:
        if self._is_shared:
            super()._connect(vector, eventfd)
            return
        data = _NONE if eventfd is None else _DESCRIPTOR.pack(eventfd)
        self._set_irqs(self._index, IrqSetFlag.CONNECT, data, vector)

    def _enable_interrupts(self) -> tuple[IrqIndex, bool]:
        """One MSI for each of ours, or one for all, or a line; which, and whether it is shared."""
        if self._vectors(IrqIndex.MSI) >= VECTORS and self._enable_msi(_NONE * VECTORS):
            return IrqIndex.MSI, False
        ours = _DESCRIPTOR.pack(self._interrupt.fd)
        if self._vectors(IrqIndex.MSI) and self._enable_msi(ours):
            return IrqIndex.MSI, True
        if not self._vectors(IrqIndex.INTX):
            raise IncompatibleError(f"cannot open card {self._name}: it has no interrupt")
        self._set_irqs(IrqIndex.INTX, IrqSetFlag.CONNECT, ours)
        return IrqIndex.INTX, True

    def _enable_msi(self, descriptors: bytes) -> bool:
        try:
            # More than zero: so many there are instead.
            return not self._set_irqs(IrqIndex.MSI, IrqSetFlag.CONNECT, descriptors)
        except DeviceError:
            return False

    def _vectors(self, index: IrqIndex) -> int:
        request = bytearray(IRQ_INFO.pack(IRQ_INFO.size, 0, index, 0))
        try:
            fcntl.ioctl(self._device, _DEVICE_GET_IRQ_INFO, request)
        except OSError:  # EINVAL, where there is no such kind
            return 0
        return int(IRQ_INFO.unpack(request)[3])

    def _set_irqs(self, index: IrqIndex, flags: IrqSetFlag, data: bytes, start: int = 0) -> int:
        count = max(1, len(data) // _DESCRIPTOR.size)
        head = IRQ_SET.pack(IRQ_SET.size + len(data), flags, index, start, count)
        return self._ioctl(
            self._device, _DEVICE_SET_IRQS, bytearray(head + data), "set up its interrupts"
        )

    def _attend(self) -> None:
        """What the kernel says beside completions, and interrupts that all share."""
        poll = select.poll()
        for event in (self._stop, self._unplug, self._error, self._interrupt):
            poll.register(event.fd, select.POLLIN)
        while not self._stop.is_set():
            ready = {fd for fd, _ in poll.poll()}
            if self._interrupt.fd in ready:
                self._share_interrupt()
            for event, why in (
                (self._unplug, "it is being removed"),
                (self._error, "it reported an error on its link that nothing can correct"),
            ):
                if event.fd in ready:
                    poll.unregister(event.fd)
                    self._lose(why)

    def _share_interrupt(self) -> None:
        self._interrupt.take()
        with contextlib.suppress(DeviceLostError, DeviceError):
            if self._index is IrqIndex.INTX:
                # A line stays up until it is acknowledged, and the kernel masks it until then.
                self.region_write(Reg.INTERRUPT_ACK, ALL_INTERRUPTS)
                self._set_irqs(IrqIndex.INTX, IrqSetFlag.UNMASK, b"")
        self._listeners.tell()

    # The kernel.

    def _region(self, index: int) -> _Region:
        request = bytearray(REGION_INFO.pack(REGION_INFO.size, 0, index, 0, 0, 0))
        self._ioctl(self._device, _DEVICE_GET_REGION_INFO, request, f"use its region {index}")
        size, offset = REGION_INFO.unpack(request)[4:]
        return _Region(offset, size)

    def _ioctl(self, fd: int, request: int, argument: bytearray | int, what: str) -> int:
        self._check()
        try:
            return fcntl.ioctl(fd, request, argument)
        except OSError as error:
            raise self._refused(error, what) from error

    def _refused(self, error: OSError, what: str) -> EdgedError:
        if error.errno == errno.ENOMEM:
            return LimitError(
                f"cannot {what}: card {self._name}: the kernel locks no more memory for this"
                " process; raise LimitMEMLOCK of the unit, or `ulimit -l`"
            )
        return super()._refused(error, what)


def _open(folder: Path, stack: contextlib.ExitStack) -> tuple[int, int]:
    """Container and device, which *stack* closes, and the group between them."""
    name = folder.name
    group_number = _group(folder)

    def opened(path: str) -> int:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _not_opened(name, path, error) from error
        stack.callback(os.close, fd)
        return fd

    container = opened("/dev/vfio/vfio")
    group = opened(f"/dev/vfio/{group_number}")
    try:
        if fcntl.ioctl(container, _GET_API_VERSION) != _API_VERSION or not fcntl.ioctl(
            container, _CHECK_EXTENSION, _TYPE1V2_IOMMU
        ):
            raise DeviceError(
                f"cannot open card {name}: the kernel's VFIO knows no IOMMU of type 1;"
                " modprobe vfio_iommu_type1"
            )
        status = bytearray(_GROUP_STATUS.pack(_GROUP_STATUS.size, 0))
        fcntl.ioctl(group, _GROUP_GET_STATUS, status)
        if not _GROUP_STATUS.unpack(status)[1] & _GROUP_VIABLE:
            others = ", ".join(
                other.name
                for other in sorted((folder / "iommu_group/devices").iterdir())
                if other.name != name
            )
            raise DeviceError(
                f"cannot open card {name}: its IOMMU group {group_number} has functions that other"
                f" drivers use ({others}); unbind them, or put the card into another slot"
            )
        fcntl.ioctl(group, _GROUP_SET_CONTAINER, bytearray(_DESCRIPTOR.pack(container)))
        fcntl.ioctl(container, _SET_IOMMU, _TYPE1V2_IOMMU)
        device = fcntl.ioctl(group, _GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"))
    except OSError as error:
        raise _not_opened(name, f"/dev/vfio/{group_number}", error) from error
    stack.callback(os.close, device)
    os.set_inheritable(device, False)
    return container, device


def _group(folder: Path) -> str:
    try:
        return (folder / "iommu_group").readlink().name
    except FileNotFoundError as error:
        if not folder.exists():
            raise DeviceLostError(f"cannot open card {folder.name}: it is gone") from error
        raise DeviceError(
            f"cannot open card {folder.name}: it has no IOMMU group; is there an IOMMU in use?"
        ) from error


def _not_opened(name: str, path: str, error: OSError) -> DeviceError:
    if error.errno == errno.EBUSY:
        return DeviceError(f"cannot open card {name}: another process has it ({path} is busy)")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeviceError(f"cannot open card {name}: we may not use {path}: {error.strerror}")
    if error.errno in (errno.ENOENT, *GONE):
        return DeviceError(
            f"cannot open card {name}: {path}: {error.strerror}; is it bound to vfio-pci, and is"
            " that driver loaded?"
        )
    return DeviceError(f"cannot open card {name}: {path}: {error.strerror or error}")
