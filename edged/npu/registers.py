"""What the host sees of the device: BAR0, descriptors, completions, codes.

This module is the contract between driver, emulator and gateware; nothing in it does anything.
All values are little endian. 64-bit registers may be written as two 32-bit halves, low half first;
reads of one are not atomic. Unassigned offsets read as zero and ignore writes.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

__all__ = [
    "ABI",
    "BANKS",
    "BANK_STRIDE",
    "BAR0_SIZE",
    "FLASH_KEY",
    "MAGIC",
    "MAX_ARRAY_SIZE",
    "PCI_CLASS",
    "QUEUES",
    "QUEUE_DATA",
    "QUEUE_MANAGEMENT",
    "QUEUE_STRIDE",
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
    "Operation",
    "Queue",
    "QueueControl",
    "Reg",
    "ResetCause",
    "State",
    "Status",
    "bank_offset",
    "interrupt_of_queue",
    "queue_offset",
]

MAGIC = 0x4547_4445
"""First register of BAR0, the bytes ``EDGE``: probed before a device is claimed."""

ABI = 1
"""Version of this contract: registers, descriptors and program image together."""

PCI_CLASS = 0x120000
"""Processing accelerator (PCI Code and ID Assignment Specification, class 12h)."""

BAR0_SIZE = 0x1_0000
MAX_ARRAY_SIZE = 1024
"""Of each of the three of an :class:`Array`."""
BANKS = 2
QUEUES = 2
QUEUE_MANAGEMENT = 0
"""The daemon's queue: loads and activates images."""
QUEUE_DATA = 1
"""The container's queue: moves tensors and runs. Refuses LOAD_IMAGE and ACTIVATE_BANK."""
QUEUE_STRIDE = 0x100
BANK_STRIDE = 0x80


class Reg(enum.IntEnum):
    """Offsets in BAR0 of the registers that exist once. 32 bits wide unless said otherwise."""

    MAGIC = 0x0000
    """The bytes ``EDGE``: :data:`MAGIC`."""
    ABI = 0x0004
    """Of this contract: :data:`ABI`."""
    GATEWARE_ID = 0x0008
    """64 bits: first 8 bytes of blake2s over the role image."""
    ARRAY_TI = 0x0010
    """Input channels that the array takes per cycle; see :class:`Array`."""
    ARRAY_TO = 0x0014
    """Output channels."""
    ARRAY_TP = 0x0018
    """Pixels."""
    CAPABILITIES = 0x001C
    """Bits of :class:`Capability`."""
    ACTIVATION_BUFFER = 0x0020
    """On-chip bytes for activations."""
    WEIGHT_BUFFER = 0x0024
    """On-chip bytes for weights."""
    DRAM_SIZE = 0x0028
    """64 bits, bytes."""
    SCRATCH = 0x0030
    """Holds what was written; for a driver to test the path."""
    CLOCK_KHZ = 0x0034
    """Clock of the array, of which ``CYCLES`` counts periods."""

    COMMAND = 0x0100
    """Write a :class:`Command`; reads as zero."""
    STATE = 0x0104
    """A :class:`State`."""
    RESET_CAUSE = 0x0108
    """A :class:`ResetCause`: of the last one."""
    WATCHDOG_MS = 0x010C
    """Longest time a RUN may take before the device faults it; 0 is off."""

    INTERRUPT_ENABLE = 0x0200
    """Bits as in ``INTERRUPT_ACK``: which are signalled. Each opening has its own three."""
    INTERRUPT_PENDING = 0x0204
    """Bits that were raised and not acknowledged."""
    INTERRUPT_ACK = 0x0208
    """Write one to clear. Bit 0: device event; bit 1 + q: queue q."""

    TEMPERATURE_MC = 0x0300
    """Thousandths of a degree Celsius, signed."""
    POWER_MW = 0x0304
    """Thousandths of a watt."""
    ECC_CORRECTED = 0x0308
    """Memory errors made good, since power-on or the last function-level reset."""
    ECC_UNCORRECTED = 0x030C
    """Those that could not be."""
    SEU_COUNT = 0x0310
    """Bits of the configuration that were found flipped."""
    DRAM_CALIBRATED = 0x0314
    """1 if the interface of the DRAM is."""
    FAULT_CODE = 0x0318
    """A :class:`Fault`."""
    FAULT_ADDRESS = 0x0320
    """64 bits."""
    TIMEOUTS = 0x0328
    """Runs that the watchdog ended."""

    CYCLES = 0x0400
    """64 bits, like the four below."""
    BUSY_CYCLES = 0x0408
    """In which the array computed."""
    STALL_CYCLES = 0x0410
    """In which it waited for DRAM."""
    BYTES_READ = 0x0418
    """From DRAM, by runs."""
    BYTES_WRITTEN = 0x0420
    """Likewise."""

    QUEUE = 0x1000
    """First queue block; see :class:`Queue`."""
    BANK = 0x2000
    """First bank block; see :class:`Bank`."""
    ACTIVE_BANK = 0x2400
    """Number of the active bank, ``0xFFFFFFFF`` with none."""
    FLASH = 0x3000
    """The block :class:`Flash`, if :attr:`Capability.FLASH` is there. It is the same in every ABI,
    as are the magic, the state, the management queue and ``WRITE_FLASH``: a card is always
    flashed by whichever edged there is."""
    FAULT_INJECTION = 0x8000
    """The block :class:`Inject`, if :attr:`Capability.FAULT_INJECTION` is there."""


class Queue(enum.IntEnum):
    """Offsets within a queue's block."""

    RING_BASE = 0x00
    """64 bits, host (IO virtual) address of the descriptors; 64-byte aligned."""
    LOG2_SIZE = 0x08
    """Descriptors in the ring, and completions, as a power of two: 1 … 12."""
    HEAD = 0x0C
    """Descriptors fetched since the queue was enabled, modulo 2^32. Read only."""
    TAIL = 0x10
    """The doorbell: descriptors produced since the queue was enabled, modulo 2^32."""
    COMPLETION_BASE = 0x18
    """64 bits, host address of the completions; 64-byte aligned."""
    ERROR = 0x20
    """The first :class:`Status` other than OK that stopped the queue, else 0."""
    CONTROL = 0x24
    """A :class:`QueueControl`."""


class QueueControl(enum.IntFlag):
    """Bits of ``Queue.CONTROL``. Reads back what is in force."""

    ENABLE = 1
    """0→1 starts at head = tail = 0, sequence 1. 1→0 aborts: what is queued completes ABORTED, and
    the bit reads 1 until the device has let go of the host's memory."""


class Bank(enum.IntEnum):
    """Offsets within a bank's block."""

    DIGEST = 0x00
    """32 bytes: blake2s of the image, zero when the bank is empty."""
    BASE = 0x20
    """64 bits: device address at which the bank's DRAM starts. Tensor addresses of the image are
    relative to it."""
    SIZE = 0x28
    """64 bits: bytes of DRAM the bank may use."""
    STATUS = 0x30
    """A :class:`BankStatus`."""
    GENERATION = 0x34
    """Grows by one at each load into this bank."""
    OWNER = 0x38
    """Lock: 0 is free; writing a non-zero value to a free lock takes it; writing 0 frees it."""


class BankStatus(enum.IntEnum):
    """``Bank.STATUS``."""

    EMPTY = 0
    """Nothing was loaded, or a reset has emptied it."""
    LOADING = 1
    """A LOAD_IMAGE is under way."""
    VALID = 2
    """Section CRCs and digest were checked by the device."""
    CORRUPT = 3
    """A load failed, or a bit flipped since. It is not run."""


class State(enum.IntEnum):
    """``Reg.STATE``."""

    GOLDEN = 0
    """The golden image is running: no role is loaded, nothing runs until one is flashed."""
    CLEARED = 1
    """The role is up and no bank is active."""
    LOADING = 2
    """No bank is active and one is being loaded."""
    READY = 3
    """A bank is active and nothing runs."""
    RUNNING = 4
    """A run is under way."""
    FAULTED = 5
    """``FAULT_CODE`` says why; nothing runs until it is cleared or reset."""
    RESETTING = 6
    """A reset or a boot is under way."""
    INCOMPATIBLE = 7
    """The role does not fit the card; flash another."""


class Command(enum.IntEnum):
    """Written to ``Reg.COMMAND``."""

    SOFT_RESET = 1
    """Abort the queues and disable them, deactivate and empty both banks. Ends in CLEARED."""
    CLEAR_FAULT = 2
    """Let a FAULTED device run again; the banks stay."""


class ResetCause(enum.IntEnum):
    """``Reg.RESET_CAUSE``."""

    POWER_ON = 0
    SOFT = 1
    """By command."""
    FUNCTION_LEVEL = 2
    """By PCI Express."""
    WATCHDOG = 3
    """By the device itself."""


class Capability(enum.IntFlag):
    """Bits of ``Reg.CAPABILITIES``."""

    FAULT_INJECTION = 1
    """The block :class:`Inject` is there; an emulator's."""
    MODELLED_PACE = 2
    """An emulator that takes the time that hardware would."""
    FLASH = 4
    """The firmware can be changed through the block :class:`Flash`."""


class Fault(enum.IntEnum):
    """``Reg.FAULT_CODE``."""

    NONE = 0
    WATCHDOG = 1
    """A run took longer than ``WATCHDOG_MS``."""
    DMA = 2
    """The link or the host's memory failed."""
    DRAM = 3
    """A memory error that could not be corrected."""
    IMAGE = 4
    """The active bank is corrupt."""
    OVER_TEMPERATURE = 5
    """The device protects itself."""


class Flash(enum.IntEnum):
    """Offsets within the block at ``Reg.FLASH``: what the card boots, and changing it.

    The flash has a region for the role and one for the golden image, numbered as
    :class:`~edged.npu.firmware.FirmwareKind`, and each holds a firmware file. To change one: write
    ``REGION`` and ``LENGTH``, command ERASE, send the file by ``WRITE_FLASH`` from offset 0 on,
    command VERIFY, and for a role BOOT_ROLE. What runs goes on running until then. Whatever
    interrupts this leaves a region that VERIFY would refuse, and a role that it would refuse is not
    booted: the golden image is, and the state is GOLDEN.
    """

    STATUS = 0x00
    """A :class:`FlashStatus`."""
    COMMAND = 0x04
    """Write a :class:`FlashCommand`; reads as zero. Only who manages the device may."""
    REGION = 0x08
    """The region that ERASE, WRITE_FLASH and VERIFY are about."""
    LENGTH = 0x0C
    """Bytes of the firmware to come: ERASE clears as many, and no more may be written."""
    PROGRESS = 0x10
    """Bytes that the command under way is done with. Read only, as are those below."""
    REGION_SIZE = 0x18
    """Bytes that fit into each region."""
    BOOTED = 0x1C
    """The region that runs."""
    SHELL_ID = 0x20
    """64 bits: the part of the FPGA that stays; a firmware is for one shell."""
    UNLOCK = 0x28
    """Write :data:`FLASH_KEY` before the ERASE of the golden region; that takes it back."""
    ROLE_DIGEST = 0x40
    """32 bytes: digest of the role that is flashed, as its header has it; zero without a sound
    one."""
    GOLDEN_DIGEST = 0x60
    """Likewise of the golden image."""


FLASH_KEY = 0x474F_4C44
"""Opens the golden region for one ERASE: so no stray write does."""


class FlashStatus(enum.IntEnum):
    """``Flash.STATUS``: what the last command, or the write after it, came to."""

    IDLE = 0
    """It went well."""
    BUSY = 1
    """A command is under way; ``PROGRESS`` grows."""
    LOCKED = 2
    """ERASE of the golden region without ``UNLOCK``."""
    BAD_LENGTH = 3
    """LENGTH is 0 or more than fits, or REGION is none."""
    BAD_IMAGE = 4
    """VERIFY: a header, length or digest is wrong, or it is for another region."""
    INCOMPATIBLE = 5
    """VERIFY: it is for another shell."""
    FAILED = 6
    """The flash itself does not take it."""


class FlashCommand(enum.IntEnum):
    """Written to ``Flash.COMMAND``."""

    ERASE = 1
    """From its first byte on, so that what is interrupted is never taken for sound."""
    VERIFY = 2
    """Check the region as booting it would."""
    BOOT_ROLE = 3
    """Load the role, or the golden image if that is not sound. Ends whatever runs, as power-on
    does; the PCI function stays. The state is RESETTING meanwhile."""
    BOOT_GOLDEN = 4
    """Load the golden image."""


class Inject(enum.IntEnum):
    """Offsets within the block at ``Reg.FAULT_INJECTION``: to rehearse what hardware may do.

    Any opening may write it, the one of a model's container as well; so no device that serves in
    earnest has the capability. What ``VALUE`` and ``MILLISECONDS`` mean is said at
    :class:`Injection`.
    """

    VALUE = 0x00
    MILLISECONDS = 0x04
    AFTER = 0x08
    """Events that pass unharmed before."""
    TIMES = 0x0C
    """Events that are struck; 0 is all of them."""
    CHANCE = 0x10
    """That an event is struck, in units of 2^-32; 0 is always."""
    ARM = 0x14
    """Write an :class:`Injection`: it is armed with the five above. 0 disarms all."""
    STRUCK = 0x18
    """How often any has struck. Read only."""


class Injection(enum.IntEnum):
    """``Inject.ARM``. A fault strikes at events of its own; where none is named, these are runs,
    and without ``AFTER`` and ``CHANCE`` it strikes at once."""

    HANG = 1
    """A RUN does not end. What ends it, by ``VALUE``: 0 the watchdog or anything below, 1 the abort
    of its queue, 2 a soft reset, 3 a function-level reset, 4 the boot of a firmware."""
    LOST_INTERRUPT = 2
    """A completion's interrupt is not signalled."""
    ECC_CORRECTED = 3
    """``ECC_CORRECTED`` grows by ``VALUE``, at least by 1."""
    ECC_UNCORRECTED = 4
    """A RUN reads what cannot be corrected: it fails, and the device is FAULTED with DRAM."""
    DMA_CRC = 5
    """A transfer, DMA_IN, DMA_OUT or LOAD_IMAGE, fails with BAD_CRC."""
    TEMPERATURE = 6
    """The temperature goes to ``VALUE`` degrees Celsius within ``MILLISECONDS`` and stays there; 0
    lets it be."""
    LINK_DOWN = 7
    """For ``MILLISECONDS`` all reads give ones and writes are lost; then the function is reset."""
    REMOVAL = 8
    """The device is gone for ``MILLISECONDS``, and then as it is after power-on."""
    SLOW_LOAD = 9
    """A LOAD_IMAGE takes ``MILLISECONDS`` longer."""
    CORRUPT_BANK = 10
    """A bit of the active bank flips, of the other one if ``VALUE`` is 1. The scrubber finds it:
    ``SEU_COUNT`` grows, the bank is CORRUPT, and it is not run."""
    LINK_WIDTH = 11
    """The link comes up with ``VALUE`` lanes; 0 is all of them."""
    LINK_SPEED = 12
    """The link comes up at the speed that PCI Express numbers ``VALUE``; 0 is its best."""
    AER_CORRECTABLE = 13
    """Bit ``VALUE`` of the correctable errors' status is set: 0 receiver error, 6 bad TLP, 7 bad
    DLLP, 8 replay rollover, 12 replay timeout."""
    AER_UNCORRECTABLE = 14
    """Bit ``VALUE`` of the uncorrectable errors' status is set: 4 data link protocol, 12 poisoned
    TLP, 14 completion timeout, 18 malformed TLP, 20 unsupported request; 0 is 14."""
    DRAM_CALIBRATION = 15
    """The DRAM's interface loses its calibration, until a function-level reset."""


class Operation(enum.IntEnum):
    """``Descriptor.op``."""

    DMA_IN = 1
    """Copy ``length`` bytes from host to device address."""
    DMA_OUT = 2
    """Copy ``length`` bytes from device to host address."""
    LOAD_IMAGE = 3
    """Read a program image of ``length`` bytes at the host address, check it, and put it into bank
    number ``device_address``, which must not be the active one."""
    ACTIVATE_BANK = 4
    """Make bank number ``device_address`` the active one. It must be VALID."""
    RUN = 5
    """Execute the active bank's layers once."""
    FENCE = 6
    """Complete when every earlier descriptor of the queue has."""
    FLUSH = 7
    """A fence, and device DRAM is written back."""
    WRITE_FLASH = 8
    """Copy ``length`` bytes from host to offset ``device_address`` of the flash's region that was
    erased last; the offsets follow each other. On the management queue only."""


class DescriptorFlag(enum.IntFlag):
    """``Descriptor.flags``."""

    INTERRUPT = 1
    """Signal the queue's interrupt once the completion is written."""
    CRC = 2
    """``crc`` is the CRC32C of the data: checked by DMA_IN, LOAD_IMAGE and WRITE_FLASH."""


class Status(enum.IntEnum):
    """``Completion.status``."""

    OK = 0
    BAD_OPERATION = 1
    """Unknown, or not allowed on this queue."""
    BAD_ADDRESS = 2
    """A host or device range that is not mapped, or outside the bank."""
    BAD_LENGTH = 3
    """Of 0 bytes, or more than fit."""
    BAD_CRC = 4
    """The data are not those of the descriptor's CRC; the host tries once more."""
    BAD_IMAGE = 5
    """The image is malformed."""
    INCOMPATIBLE = 6
    """The image's ABI, array or DRAM need does not fit this device."""
    BANK_BUSY = 7
    """LOAD_IMAGE into the active bank."""
    NO_IMAGE = 8
    """RUN without an active bank, ACTIVATE_BANK of a bank that is not VALID."""
    FAULT = 9
    """See ``Reg.FAULT_CODE``."""
    ABORTED = 10
    """The queue was disabled, or the device reset, before it was done."""
    TIMEOUT = 11
    """A RUN that the watchdog ended."""
    NO_ROLE = 12
    """The golden image runs, which does not compute."""


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
    """One entry of a descriptor ring: 32 bytes, the last 4 of them zero."""

    op: int
    flags: int = 0
    tag: int = 0
    length: int = 0
    host_address: int = 0
    device_address: int = 0
    crc: int = 0

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<BBHIQQI4x")
    SIZE: ClassVar[int] = 32

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
    """One entry of a completion ring: 16 bytes.

    The ``n``-th completion since the queue was enabled, counted from 1, has sequence ``n`` modulo
    2^32 and stands at index ``(n - 1) mod ring size``. The device writes the sequence last, so that
    a host that finds the sequence it waits for finds the rest as well. Interrupts are hints.
    """

    tag: int
    status: int
    cycles: int
    sequence: int

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<HHQI")
    SIZE: ClassVar[int] = 16
    SEQUENCE_OFFSET: ClassVar[int] = 12

    def pack(self) -> bytes:
        return self.STRUCT.pack(self.tag, self.status, self.cycles, self.sequence)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        return cls(*cls.STRUCT.unpack(data))


def queue_offset(queue: int, register: Queue) -> int:
    """Offset in BAR0 of a register of queue number *queue*."""
    return Reg.QUEUE + queue * QUEUE_STRIDE + register


def bank_offset(bank: int, register: Bank) -> int:
    """Offset in BAR0 of a register of bank number *bank*."""
    return Reg.BANK + bank * BANK_STRIDE + register


def interrupt_of_queue(queue: int) -> int:
    """Number of the interrupt vector, and of the bit in ``INTERRUPT_*``, of a queue."""
    return 1 + queue
