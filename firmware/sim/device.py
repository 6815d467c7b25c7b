"""The RTL as a driver reaches a card: registers, memory that it may use, interrupts, reset."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
from pathlib import Path
from typing import Any, Final

from edged._vfio_user import DmaFlag
from edged.errors import DeviceError, DeviceLostError
from edged.npu.registers import Capability
from edged.npu.regmap import PCI_CLASS
from firmware.rtl.array import SOURCE as ARRAY_SOURCE
from firmware.rtl.core import Core
from firmware.rtl.parameters import Parameters
from firmware.rtl.shell import Shell
from firmware.sim.build import build, verilog_of
from firmware.sim.top import Top

__all__ = ["CLOCK_KHZ", "DRAM_BYTES", "RtlTransport", "simulated"]

DRAM_BYTES: Final = 4 << 30
CLOCK_KHZ: Final = 1000
"""What the simulated clock about is: the watchdog's milliseconds are to be some of the host's."""
_RIGHTS: Final = int(DmaFlag.READ | DmaFlag.WRITE)
_CLASS_AT: Final = 0x08


def simulated(parameters: Parameters) -> RtlTransport:
    """A device with these sizes, switched on; it is built if it was not before."""
    source = verilog_of(_top, parameters=parameters, dram_bytes=DRAM_BYTES, clock_khz=CLOCK_KHZ)
    identity = hashlib.blake2s(source.encode()).digest()[:8]
    return RtlTransport(build(source, [ARRAY_SOURCE]), int.from_bytes(identity, "little"))


def _top(parameters: Parameters, dram_bytes: int, clock_khz: int) -> Top:
    shell = Shell(
        parameters,
        dram_bytes=dram_bytes,
        clock_khz=clock_khz,
        capabilities=int(Capability.MODELLED_READINGS),
        zeroed=True,
    )
    return Top(shell, Core(parameters))


class RtlTransport:
    """The one user of a simulated device, as :class:`edged.device.Transport` has it.

    Args:
        library: what :func:`~firmware.sim.build.build` made.
        gateware_id: what ``GATEWARE_ID`` is to be.

    Raises:
        DeviceError: there is not as much memory.
    """

    def __init__(self, library: Path, gateware_id: int) -> None:
        self._library = ctypes.CDLL(os.fspath(library))
        for name, result, *arguments in _FUNCTIONS:
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._gone, self._alive = os.pipe()
        self._device = self._library.device_new(DRAM_BYTES, gateware_id)
        if not self._device:
            raise DeviceError(f"cannot simulate: no address space for {DRAM_BYTES} bytes of DRAM")

    def region_read(self, offset: int, size: int = 4) -> int:
        device = self._here()
        first = offset & ~3
        last = -(-(offset + size) // 4) * 4
        value = 0
        for at in range(first, last, 4):
            value |= self._library.device_read(device, at) << 8 * (at - first)
        return value >> 8 * (offset - first) & (1 << 8 * size) - 1

    def region_write(self, offset: int, value: int, size: int = 4, *, posted: bool = False) -> None:
        device = self._here()
        for at in range(0, size, 4):
            self._library.device_write(device, offset + at, value >> 8 * at & 0xFFFF_FFFF)

    def config_read(self, offset: int, size: int) -> int:
        # The hard PCI Express core has the rest, and there is none here.
        space = (PCI_CLASS << 8).to_bytes(4, "little")
        data = bytes(_CLASS_AT) + space
        return int.from_bytes(data[offset : offset + size], "little")

    def config_write(self, offset: int, value: int, size: int) -> None:
        pass  # nothing of it can be changed

    def dma_map(self, iova: int, fd: int, offset: int, size: int) -> None:
        if not self._library.device_map(self._here(), iova, size, fd, offset, _RIGHTS):
            raise DeviceError(f"cannot map {size} bytes for DMA: the system refused it")

    def dma_allocate(self, iova: int, size: int) -> None:
        return None

    def dma_unmap(self, iova: int, size: int) -> None:
        if not self._library.device_unmap(self._here(), iova):
            raise DeviceError(f"cannot unmap {size} bytes at {iova:#x}: nothing is mapped there")

    def set_interrupt(self, vector: int, eventfd: int | None) -> None:
        self._library.device_interrupt(self._here(), vector, -1 if eventfd is None else eventfd)

    def reset(self) -> None:
        if not self._library.device_reset(self._here()):
            raise DeviceError("cannot reset the device: an operation does not end")

    def cycles(self) -> int:
        """Periods of the clock since power-on."""
        return int(self._library.device_cycles(self._here()))

    def fileno(self) -> int:
        return self._gone

    def close(self) -> None:
        device, self._device = self._device, None
        if device:
            self._library.device_delete(device)
            for fd in (self._alive, self._gone):
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _here(self) -> int:
        if not self._device:
            raise DeviceLostError("cannot reach device: it is switched off")
        return int(self._device)


_HANDLE: Final = ctypes.c_void_p
_FUNCTIONS: Final[tuple[tuple[Any, ...], ...]] = (
    ("device_new", _HANDLE, ctypes.c_uint64, ctypes.c_uint64),
    ("device_delete", None, _HANDLE),
    ("device_read", ctypes.c_uint32, _HANDLE, ctypes.c_uint32),
    ("device_write", None, _HANDLE, ctypes.c_uint32, ctypes.c_uint32),
    (
        "device_map",
        ctypes.c_int,
        _HANDLE,
        ctypes.c_uint64,
        ctypes.c_uint64,
        ctypes.c_int,
        ctypes.c_uint64,
        ctypes.c_int,
    ),
    ("device_unmap", ctypes.c_int, _HANDLE, ctypes.c_uint64),
    ("device_interrupt", None, _HANDLE, ctypes.c_uint, ctypes.c_int),
    ("device_reset", ctypes.c_int, _HANDLE),
    ("device_cycles", ctypes.c_uint64, _HANDLE),
)
"""Of ``harness.cpp``: name, result, arguments."""
