"""The vfio-user protocol: what driver and emulator say to each other over a UNIX socket.

After "vfio-user Protocol Specification", ``docs/interop/vfio-user.rst`` of QEMU, version 0.1 of the
protocol. Constants with a VFIO name are those of ``<linux/vfio.h>``. A message is a header and a
payload; file descriptors travel with its first byte. Everything is little endian, as the hosts are.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

__all__ = [
    "BUS_STEPS",
    "DEVICE_INFO",
    "DMA_MAP",
    "DMA_UNMAP",
    "GIVEN_MEMORY",
    "IRQ_INFO",
    "IRQ_SET",
    "MAX_MESSAGE",
    "MAX_MESSAGE_FDS",
    "MAX_TRANSFER",
    "NUM_IRQS",
    "NUM_REGIONS",
    "REGION_ACCESS",
    "REGION_BAR0",
    "REGION_CONFIG",
    "REGION_INFO",
    "VERSION",
    "VERSION_MAJOR",
    "VERSION_MINOR",
    "Command",
    "DeviceFlag",
    "DmaFlag",
    "Header",
    "HeaderFlag",
    "IrqFlag",
    "IrqIndex",
    "IrqSetFlag",
    "RegionFlag",
]

VERSION_MAJOR: Final = 0
VERSION_MINOR: Final = 1

MAX_TRANSFER: Final = 1 << 16
"""Most bytes that one region access may carry: ``max_data_xfer_size`` of the negotiation."""
MAX_MESSAGE_FDS: Final = 8
MAX_MESSAGE: Final = MAX_TRANSFER + 64
"""Longest message that either side sends or takes, header included."""

REGION_BAR0: Final = 0
REGION_CONFIG: Final = 7
NUM_REGIONS: Final = 9
"""Six BARs, expansion ROM, configuration space, VGA."""
NUM_IRQS: Final = 5

BUS_STEPS: Final = "edged_bus_steps"
"""A capability of ours: with it DEVICE_RESET may carry one of the names that it lists."""

GIVEN_MEMORY: Final = "edged_given_memory"
"""A capability of ours: with it, what is mapped for DMA is the server's memory, and no other can
be. A DMA_MAP comes without a descriptor, and its reply brings that of the memory."""

VERSION: Final = struct.Struct("<HH")
"""Major, minor; then JSON with a NUL."""
DMA_MAP: Final = struct.Struct("<IIQQQ")
"""Size of this, :class:`DmaFlag`, offset in the file, address, size."""
DMA_UNMAP: Final = struct.Struct("<IIQQ")
"""Size of the reply, flags, address, size."""
DEVICE_INFO: Final = struct.Struct("<IIII")
"""Size of this, :class:`DeviceFlag`, number of regions, number of interrupt types."""
REGION_INFO: Final = struct.Struct("<IIIIQQ")
"""Size of this, :class:`RegionFlag`, index, offset of capabilities, size, offset for mmap."""
IRQ_INFO: Final = struct.Struct("<IIII")
"""Size of this, :class:`IrqFlag`, index, count."""
IRQ_SET: Final = struct.Struct("<IIIII")
"""Size of this and its data, :class:`IrqSetFlag`, index, start, count."""
REGION_ACCESS: Final = struct.Struct("<QII")
"""Offset, region, count; then the data."""


class Command(enum.IntEnum):
    """``Header.command``; the commands that this build sends or answers."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DEVICE_RESET = 13


class HeaderFlag(enum.IntFlag):
    """``Header.flags``; the four low bits are the type of message."""

    REPLY = 1
    TYPE_MASK = 15
    NO_REPLY = 16
    ERROR = 32


@dataclass(frozen=True, slots=True)
class Header:
    """What each message starts with.

    Attributes:
        message_id: chosen by who asks, echoed in the reply.
        command: a :class:`Command`, or one that this build does not know.
        size: bytes of the whole message.
        error: errno, in a reply with the ERROR flag.
    """

    message_id: int
    command: int
    size: int
    flags: int = 0
    error: int = 0

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<HHIII")
    SIZE: ClassVar[int] = 16

    def pack(self) -> bytes:
        return self.STRUCT.pack(self.message_id, self.command, self.size, self.flags, self.error)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Self:
        return cls(*cls.STRUCT.unpack(data))


class DeviceFlag(enum.IntFlag):
    """VFIO_DEVICE_FLAGS."""

    RESET = 1
    PCI = 2


class RegionFlag(enum.IntFlag):
    """VFIO_REGION_INFO_FLAG."""

    READ = 1
    WRITE = 2


class DmaFlag(enum.IntFlag):
    """What the device may do with a mapped range."""

    READ = 1
    WRITE = 2


class IrqIndex(enum.IntEnum):
    """VFIO_PCI_*_IRQ_INDEX."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERROR = 3
    REQUEST = 4


class IrqFlag(enum.IntFlag):
    """VFIO_IRQ_INFO."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSetFlag(enum.IntFlag):
    """VFIO_IRQ_SET: one kind of data and one action."""

    DATA_NONE = 1
    DATA_BOOL = 2
    DATA_EVENTFD = 4
    ACTION_MASK = 8
    ACTION_UNMASK = 16
    ACTION_TRIGGER = 32
    CONNECT = DATA_EVENTFD | ACTION_TRIGGER
    DISCONNECT_ALL = DATA_NONE | ACTION_TRIGGER
    MASK = DATA_NONE | ACTION_MASK
    UNMASK = DATA_NONE | ACTION_UNMASK
