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
    "EMULATED",
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
    "Target",
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

    @classmethod
    def parse(cls, text: str) -> Self:
        """The array that is printed as *text*.

        Raises:
            ValueError: it is none.
        """
        numbers = text.split("x")
        if len(numbers) != 3 or not all(
            n.isdecimal() and 0 < int(n) <= MAX_ARRAY_SIZE for n in numbers
        ):
            raise ValueError(
                f"{text!r} is no MAC array; wanted three sizes from 1 to {MAX_ARRAY_SIZE}, such as"
                " 16x32x4"
            )
        return cls(*(int(n) for n in numbers))


@dataclass(frozen=True, slots=True)
class Target:
    """What a program is compiled for.

    Attributes:
        activation_buffer, weight_buffer: on-chip bytes that code is made for; 0: there is to be
            none.
    """

    array: Array = Array()
    activation_buffer: int = 0
    weight_buffer: int = 0

    def __str__(self) -> str:
        if not self.activation_buffer:
            return str(self.array)
        return f"{self.array},{self.activation_buffer},{self.weight_buffer}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The target that is printed as *text*.

        Raises:
            ValueError: it is none.
        """
        array, *buffers = text.split(",")
        if len(buffers) not in (0, 2) or not all(
            n.isdecimal() and 0 < int(n) < 1 << 32 for n in buffers
        ):
            raise ValueError(
                f"{text!r} is no target; wanted a MAC array, or one and the bytes of both buffers,"
                " such as 16x32x4,2097152,1048576"
            )
        return cls(Array.parse(array), *(int(n) for n in buffers))


EMULATED = Target(Array(), 2 << 20, 1 << 20)
"""The device that the emulator is, unless it is told otherwise."""


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
