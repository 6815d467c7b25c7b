"""The transport to a card where no IOMMU is in use: the kernel's ``uio_pci_generic``.

After "The Userspace I/O HOWTO" of the kernel's documentation, and sysfs-bus-pci of its ABI. The
card then sees memory as it is: a wrong address is a write to anywhere. Only the process that has
this transport knows addresses, and tells the card none but those of memory that it gave out itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
from pathlib import Path
from typing import Final

from edged.device._hugepages import HugePages
from edged.device._kernel import ALL_INTERRUPTS, KernelTransport
from edged.device._transport import GivenMemory
from edged.errors import DeviceError, DeviceLostError, IncompatibleError
from edged.npu.registers import BAR0_SIZE, Reg

__all__ = ["UioTransport"]

_COMMAND: Final = 0x04
_MEMORY: Final = 0x02
_MASTER: Final = 0x04
_COMMAND_HIGH: Final = 0x05
_NO_INTX: Final = 0x04
_INTERRUPT_PIN: Final = 0x3D
_COUNT: Final = 4
"""Bytes of a read of ``/dev/uioN``: how many interrupts there were."""


class UioTransport(KernelTransport):
    """A :class:`~edged.device.Transport` to a PCI function that is bound to uio_pci_generic.

    Registers are read and written through ``/proc/self/mem``: of a card that goes away that is an
    error, where an access to the mapping itself is a SIGBUS.

    Args:
        folder: of the function in sysfs; its name is the address.
        devices: where the nodes of devices are.

    Raises:
        DeviceError: it is not bound to uio_pci_generic, or the kernel does not let us.
        IncompatibleError: it has no such BAR as ours, or no interrupt line.
        DeviceLostError: it is gone.
    """

    def __init__(self, folder: Path, devices: Path = Path("/dev")) -> None:
        super().__init__(folder)
        self._given: dict[int, HugePages] = {}
        with self._opening() as stack:
            try:
                self._open(devices, stack)
            except OSError as error:
                if not folder.exists():
                    raise DeviceLostError(f"cannot open card {self._name}: it is gone") from error
                raise DeviceError(
                    f"cannot open card {self._name}: {error.filename or 'its registers'}:"
                    f" {error.strerror}; with Secure Boot the kernel lets nobody at a card without"
                    " an IOMMU"
                ) from error

    def region_read(self, offset: int, size: int = 4) -> int:
        # A register of 64 bits is two of 32, on any processor.
        words = range(0, size, 4)
        return sum(self._read(self._memory, self._bar0 + offset + at, 4) << 8 * at for at in words)

    def region_write(self, offset: int, value: int, size: int = 4, *, posted: bool = False) -> None:
        for at in range(0, size, 4):
            word = value >> 8 * at & 0xFFFF_FFFF
            self._write(self._memory, self._bar0 + offset + at, word, 4)

    def config_read(self, offset: int, size: int) -> int:
        return self._read(self._config, offset, size)

    def config_write(self, offset: int, value: int, size: int) -> None:
        self._write(self._config, offset, value, size)

    def dma_map(self, iova: int, fd: int, offset: int, size: int) -> None:
        raise DeviceError(
            f"cannot let card {self._name} reach that memory: with no IOMMU it reaches only what it"
            " was given"
        )

    def dma_allocate(self, iova: int, size: int) -> GivenMemory | None:
        pages = HugePages(size)
        with self._lock:
            self._given[pages.address] = pages
        return GivenMemory(pages.fd, pages.address)

    def dma_unmap(self, iova: int, size: int) -> None:
        with self._lock:
            pages = self._given.pop(iova, None)
        if pages is None:
            raise DeviceError(f"cannot take memory from card {self._name}: {iova:#x} is not given")
        pages.close()

    def reset(self) -> None:
        self._check()
        try:
            (self._folder / "reset").write_text("1")
        except OSError as error:
            raise self._refused(error, "reset it") from error
        self._switch_on()

    def _quiesce(self) -> None:
        # It must not write to what is somebody else's next.
        self._switch(_COMMAND, off=_MASTER)
        self._switch(_COMMAND_HIGH, on=_NO_INTX)

    def _let_go(self) -> None:
        for pages in self._given.values():
            pages.close()

    def _open(self, devices: Path, stack: contextlib.ExitStack) -> None:
        def opened(path: Path, flags: int = os.O_RDWR) -> int:
            fd = os.open(path, flags | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return fd

        numbers = [path.name for path in (self._folder / "uio").glob("uio*")]
        if not numbers:
            raise DeviceError(f"cannot open card {self._name}: it is not bound to uio_pci_generic")
        # When this is closed, by whatever end of ours, the kernel takes its DMA away.
        self._uio = opened(devices / numbers[0], os.O_RDWR | os.O_NONBLOCK)
        self._config = opened(self._folder / "config")
        resource = opened(self._folder / "resource0", os.O_RDWR | os.O_SYNC)
        self._memory = opened(Path("/proc/self/mem"))
        size = os.fstat(resource).st_size
        if size < BAR0_SIZE or not self.config_read(_INTERRUPT_PIN, 1):
            raise IncompatibleError(
                f"cannot open card {self._name}: its BAR0 has {size} bytes, ours {BAR0_SIZE}; or it"
                " has no interrupt line (INTx)"
            )
        registers = stack.enter_context(mmap.mmap(resource, BAR0_SIZE))
        self._bar0 = ctypes.addressof(ctypes.c_char.from_buffer(registers))
        # Whatever it was doing with memory that is another's now ends before it may do more.
        (self._folder / "reset").write_text("1")
        self._switch_on()

    def _switch_on(self) -> None:
        self._switch(_COMMAND, on=_MEMORY | _MASTER)
        self._switch(_COMMAND_HIGH, off=_NO_INTX)

    def _switch(self, at: int, *, on: int = 0, off: int = 0) -> None:
        """Bits of a byte: of the other half of that register another thread may change some."""
        self.config_write(at, (self.config_read(at, 1) | on) & ~off, 1)

    def _attend(self) -> None:
        """Pass on interrupts; the kernel switches the line off with each."""
        poll = select.poll()
        poll.register(self._stop.fd, select.POLLIN)
        poll.register(self._uio, select.POLLIN)
        while not self._stop.is_set():
            poll.poll()
            try:
                os.read(self._uio, _COUNT)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lose(f"it is being removed ({error.strerror})")
                return
            with contextlib.suppress(DeviceLostError, DeviceError):
                self.region_write(Reg.INTERRUPT_ACK, ALL_INTERRUPTS)
                self._switch(_COMMAND_HIGH, off=_NO_INTX)
            self._listeners.tell()
