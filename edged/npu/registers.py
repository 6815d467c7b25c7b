"""What the host sees of the device, as code: the names of :mod:`edged.npu.regmap`, and its rings.

The contract itself, with what each name means, is data in that module.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from edged.npu.regmap import (
    ABI,
    BANKS,
    BAR0_SIZE,
    COMPLETION,
    DESCRIPTOR,
    FLASH_KEY,
    MAGIC,
    MAX_ARRAY_SIZE,
    MAX_FLASH_WRITE,
    MAX_LOG2_SIZE,
    NO_BANK,
    PCI_CLASS,
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    QUEUES,
    RING_ALIGN,
    Bank,
    BankStatus,
    Capability,
    Command,
    DescriptorFlag,
    Fault,
    Flash,
    FlashCommand,
    FlashStatus,
    Inject,
    Injection,
    Interrupt,
    Operation,
    Queue,
    QueueControl,
    Reg,
    ResetCause,
    State,
    Status,
    Timing,
)

__all__ = [
    "ABI",
    "BANKS",
    "BAR0_SIZE",
    "FLASH_KEY",
    "MAGIC",
    "MAX_ARRAY_SIZE",
    "MAX_FLASH_WRITE",
    "MAX_LOG2_SIZE",
    "NO_BANK",
    "PCI_CLASS",
    "QUEUES",
    "QUEUE_DATA",
    "QUEUE_MANAGEMENT",
    "RING_ALIGN",
    "Array",
    "Bank",
    "BankStatus",
    "Capability",
    "Command",
    "Completion",
    "Descriptor",
    "DescriptorFlag",
    "Fault",
    "Flash",
    "FlashCommand",
    "FlashStatus",
    "Inject",
    "Injection",
    "Interrupt",
    "Operation",
    "Queue",
    "QueueControl",
    "Reg",
    "ResetCause",
    "State",
    "Status",
    "Timing",
    "bank_offset",
    "interrupt_of_queue",
    "queue_offset",
]


@dataclass(frozen=True, slots=True)
class Array:
    """The MAC array: input channels × output channels × pixels per cycle."""

    ti: int = 16
    to: int = 32
    tp: int = 4

    @property
    def macs_per_cycle(self) -> int:
        return self.ti * self.to * self.tp

    def __str__(self) -> str:
        return f"{self.ti}x{self.to}x{self.tp}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One entry of a descriptor ring: :data:`~edged.npu.regmap.DESCRIPTOR`."""

    op: int
    flags: int = 0
    tag: int = 0
    length: int = 0
    host_address: int = 0
    device_address: int = 0
    crc: int = 0

    STRUCT: ClassVar[struct.Struct] = struct.Struct(DESCRIPTOR.format)
    SIZE: ClassVar[int] = DESCRIPTOR.size

    def pack(self) -> bytes:
        return self.STRUCT.pack(
            self.op,
            self.flags,
            self.tag,
            self.length,
            self.host_address,
            self.device_address,
            self.crc,
        )

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        return cls(*cls.STRUCT.unpack(data))


@dataclass(frozen=True, slots=True)
class Completion:
    """One entry of a completion ring: :data:`~edged.npu.regmap.COMPLETION`.

    A host that finds the sequence it waits for finds the rest as well. Interrupts are hints.
    """

    tag: int
    status: int
    cycles: int
    sequence: int

    STRUCT: ClassVar[struct.Struct] = struct.Struct(COMPLETION.format)
    SIZE: ClassVar[int] = COMPLETION.size
    SEQUENCE_OFFSET: ClassVar[int] = COMPLETION.offset("sequence")

    def pack(self) -> bytes:
        return self.STRUCT.pack(self.tag, self.status, self.cycles, self.sequence)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        return cls(*cls.STRUCT.unpack(data))


def queue_offset(queue: int, register: Queue) -> int:
    """Offset in BAR0 of a register of queue number *queue*."""
    return register.address(queue)


def bank_offset(bank: int, register: Bank) -> int:
    """Offset in BAR0 of a register of bank number *bank*."""
    return register.address(bank)


def interrupt_of_queue(queue: int) -> int:
    """Number of the interrupt vector, and of the bit in ``INTERRUPT_*``, of a queue."""
    return 1 + queue
