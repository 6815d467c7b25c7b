"""The contract with the device, as data: every register, code, record and bound there is.

Nothing in it does anything, and it imports nothing of edged, so that whatever speaks to the device,
is one, or describes one can be made from it: the driver, the emulator, the card's access policy
(:mod:`edged.npu.access`), the vendors' page, the C header, and a gateware's register file.

To walk it::

    for block in BLOCKS:                    # Reg, Queue, Bank, Flash, Inject
        for index in range(block.count):
            for register in block:          # its value is its offset in the block
                register.address(index), register.bits, register.access, register.fields

    for record in RECORDS:                  # descriptors, completions, file headers
        for item in record.items:
            record.offset(item.name), item.kind, item.count

All values are little endian. A register of 64 bits may be written as two halves of 32 bits, the low
one first; reading its halves is not atomic. Unassigned offsets read as zero and ignore writes, and
so do the registers of a block whose capability the device does not have.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Final, Self

__all__ = [
    "ABI",
    "BANKS",
    "BAR0_SIZE",
    "BLOCKS",
    "FIRMWARE_MAGIC",
    "FIRMWARE_VERSION",
    "FLASH_KEY",
    "IMAGE_MAGIC",
    "MAGIC",
    "MAX_ARRAY_SIZE",
    "MAX_ENTRIES",
    "MAX_FIRMWARE_BYTES",
    "MAX_FLASH_WRITE",
    "MAX_IMAGE_BYTES",
    "MAX_LOG2_SIZE",
    "NO_BANK",
    "PCI_CLASS",
    "QUEUES",
    "QUEUE_DATA",
    "QUEUE_MANAGEMENT",
    "RECORDS",
    "RING_ALIGN",
    "Access",
    "Bank",
    "BankStatus",
    "Bits",
    "Capability",
    "Code",
    "Command",
    "DescriptorFlag",
    "ElementType",
    "Fault",
    "Field",
    "FirmwareKind",
    "Flash",
    "FlashCommand",
    "FlashStatus",
    "Guard",
    "Inject",
    "Injection",
    "Interrupt",
    "Item",
    "LayerOp",
    "Operation",
    "Queue",
    "QueueControl",
    "Record",
    "Reg",
    "Register",
    "ResetCause",
    "Section",
    "State",
    "Status",
    "Timing",
    "Word",
    "address_map",
]

MAGIC: Final = 0x4547_4445
"""First register of BAR0, the bytes ``EDGE``: probed before a device is claimed."""
ABI: Final = 2
"""Version of this contract: registers, descriptors and program image together."""
PCI_CLASS: Final = 0x120000
"""Processing accelerator (PCI Code and ID Assignment Specification, class 12h)."""
BAR0_SIZE: Final = 0x1_0000
MAX_ARRAY_SIZE: Final = 1024
"""Upper bound of each of the three sizes of the array."""
BANKS: Final = 2
NO_BANK: Final = 0xFFFF_FFFF
"""``ACTIVE_BANK`` when no bank is active."""
QUEUES: Final = 2
QUEUE_MANAGEMENT: Final = 0
"""The daemon's queue: loads and activates images, and writes the flash."""
QUEUE_DATA: Final = 1
"""The container's queue: moves tensors and runs. It refuses LOAD_IMAGE, ACTIVATE_BANK and
WRITE_FLASH with BAD_OPERATION."""
MAX_LOG2_SIZE: Final = 12
"""Largest ``LOG2_SIZE`` of a ring; the smallest is 1."""
RING_ALIGN: Final = 64
"""Alignment in bytes of both rings of a queue."""
FLASH_KEY: Final = 0x474F_4C44
"""Opens the golden region for one ERASE, so that no stray write does."""
MAX_IMAGE_BYTES: Final = 1 << 30
MAX_ENTRIES: Final = 64
"""Most entry points of a program image."""
IMAGE_MAGIC: Final = b"EDGEIMG\0"
MAX_FIRMWARE_BYTES: Final = 64 << 20
"""Header and payload."""
MAX_FLASH_WRITE: Final = 1 << 20
"""Most bytes of one WRITE_FLASH."""
FIRMWARE_MAGIC: Final = b"EDGEFW\0\0"
FIRMWARE_VERSION: Final = 1


# Codes: what a register, a descriptor or a record may say.


class Code(enum.IntEnum):
    """A number with a meaning.

    Attributes:
        text: the meaning, as Markdown; empty where the name says it all.
    """

    text: str

    def __new__(cls, value: int, text: str = "") -> Self:
        code = int.__new__(cls, value)
        code._value_ = value
        code.text = text
        return code


class Bits(enum.IntFlag):
    """Bits with a meaning each. Loops that are hot bind them as plain ints."""

    text: str

    def __new__(cls, value: int, text: str = "") -> Self:
        bits = int.__new__(cls, value)
        bits._value_ = value
        bits.text = text
        return bits


class Capability(Bits):
    FAULT_INJECTION = 1, "The block `Inject` is there; an emulator's."
    MODELLED_PACE = 2, "An emulator that takes the time that hardware would."
    FLASH = 4, "The firmware can be changed through the block `Flash`."
    MODELLED_READINGS = 8, "Temperature, power and clock are modelled, not measured: an emulator's."


class Command(Code):
    SOFT_RESET = (
        1,
        "Abort the queues and disable them, deactivate and empty both banks. Ends in CLEARED.",
    )
    CLEAR_FAULT = 2, "Let a FAULTED device run again; the banks stay."


class State(Code):
    GOLDEN = (
        0,
        "The golden image is running: no role is loaded, nothing runs until one is flashed.",
    )
    CLEARED = 1, "The role is up and no bank is active."
    LOADING = 2, "No bank is active and one is being loaded."
    READY = 3, "A bank is active and nothing runs."
    RUNNING = 4, "A run is under way."
    FAULTED = 5, "`FAULT_CODE` says why; nothing runs until it is cleared or reset."
    RESETTING = 6, "A reset or a boot is under way."
    INCOMPATIBLE = 7, "The role does not fit the card; flash another."


class ResetCause(Code):
    POWER_ON = 0
    SOFT = 1, "By command."
    FUNCTION_LEVEL = 2, "By PCI Express."
    WATCHDOG = 3, "By the device itself."


class Interrupt(Bits):
    EVENT = 1, "The device as a whole: a fault, or a queue that stopped."
    MANAGEMENT = 2, "Queue 0."
    DATA = 4, "Queue 1."


class Fault(Code):
    NONE = 0
    WATCHDOG = 1, "A run took longer than `WATCHDOG_MS`."
    DMA = 2, "The link or the host's memory failed."
    DRAM = 3, "A memory error that could not be corrected."
    IMAGE = 4, "The active bank is corrupt."
    OVER_TEMPERATURE = 5, "The device protects itself."
    INSTRUCTION = (
        6,
        "The program has an instruction that there is not, or one that leaves the bank.",
    )


class QueueControl(Bits):
    ENABLE = (
        1,
        "0→1 starts at head = tail = 0, sequence 1. 1→0 aborts: what is queued completes ABORTED,"
        " and the bit reads 1 until the device has let go of the host's memory.",
    )


class Operation(Code):
    DMA_IN = 1, "Copy `length` bytes from host to device address."
    DMA_OUT = 2, "Copy `length` bytes from device to host address."
    LOAD_IMAGE = (
        3,
        "Wipe bank number `device_address`, which must not be the active one: all its DRAM reads"
        " as zero then, whatever was in it. Read a program image of `length` bytes at the host"
        " address, check it, and put it into the bank.",
    )
    ACTIVATE_BANK = 4, "Make bank number `device_address` the active one. It must be VALID."
    RUN = (
        5,
        "Execute the layers of the active bank's entry point number `device_address` once, on the"
        " inputs of that entry, which stand in DRAM. Afterwards its outputs do, and nothing else is"
        " kept: entries may use the same DRAM.",
    )
    FENCE = 6, "Complete when every earlier descriptor of the queue has."
    FLUSH = 7, "A fence, and device DRAM is written back."
    WRITE_FLASH = (
        8,
        "Copy `length` bytes from host to offset `device_address` of the flash's region that was"
        " erased last; the offsets follow each other. On the management queue only.",
    )


class DescriptorFlag(Bits):
    INTERRUPT = 1, "Signal the queue's interrupt once the completion is written."
    CRC = 2, "`crc` is the CRC32C of the data: checked by DMA_IN, LOAD_IMAGE and WRITE_FLASH."


class Status(Code):
    OK = 0
    BAD_OPERATION = 1, "Unknown, or not allowed on this queue."
    BAD_ADDRESS = 2, "A host or device range that is not mapped, or outside the bank."
    BAD_LENGTH = 3, "Of 0 bytes, or more than fit."
    BAD_CRC = 4, "The data are not those of the descriptor's CRC; the host tries once more."
    BAD_IMAGE = 5, "The image is malformed."
    INCOMPATIBLE = (
        6,
        "The image's ABI, array, buffers or DRAM need does not fit this device; or it has no CODE,"
        " and that is what the device executes.",
    )
    BANK_BUSY = 7, "LOAD_IMAGE into the active bank."
    NO_IMAGE = 8, "RUN without an active bank, ACTIVATE_BANK of a bank that is not VALID."
    FAULT = 9, "See `FAULT_CODE`."
    ABORTED = 10, "The queue was disabled, or the device reset, before it was done."
    TIMEOUT = 11, "A RUN that the watchdog ended."
    NO_ROLE = 12, "The golden image runs, which does not compute."
    BAD_ENTRY = 13, "RUN of an entry point that the active bank's program does not have."


class BankStatus(Code):
    EMPTY = 0, "Nothing was loaded, or a reset has emptied it."
    LOADING = 1, "A LOAD_IMAGE is under way."
    VALID = (
        2,
        "Section CRCs were checked by the device. The digest that the header has need not be: who"
        " loads an image compares `DIGEST` with what it computes.",
    )
    CORRUPT = 3, "A load failed, or a bit flipped since. It is not run."


class FlashStatus(Code):
    """What the last command, or the write after it, came to."""

    IDLE = 0, "It went well."
    BUSY = 1, "A command is under way; `PROGRESS` grows."
    LOCKED = 2, "ERASE of the golden region without `UNLOCK`."
    BAD_LENGTH = 3, "LENGTH is 0 or more than fits, or REGION is none."
    BAD_IMAGE = 4, "VERIFY: a header, length or digest is wrong, or it is for another region."
    INCOMPATIBLE = 5, "VERIFY: it is for another shell."
    FAILED = 6, "The flash itself does not take it."


class FlashCommand(Code):
    ERASE = 1, "From its first byte on, so that what is interrupted is never taken for sound."
    VERIFY = 2, "Check the region as booting it would."
    BOOT_ROLE = (
        3,
        "Load the role, or the golden image if that is not sound. Ends whatever runs, as power-on"
        " does; the PCI function stays. The state is RESETTING meanwhile.",
    )
    BOOT_GOLDEN = 4, "Load the golden image."


class FirmwareKind(Code):
    """Which region of the flash a firmware is for; the value is the region's number."""

    ROLE = 0, "What computes."
    GOLDEN = (
        1,
        "What boots when there is no sound role: it can be flashed, and nothing else.",
    )


class Injection(Code):
    """A fault to rehearse. Each strikes at events of its own; where none is named, these are runs,
    and without ``AFTER`` and ``CHANCE`` it strikes at once."""

    HANG = (
        1,
        "A RUN does not end. What ends it, by `VALUE`: 0 the watchdog or anything below, 1 the"
        " abort of its queue, 2 a soft reset, 3 a function-level reset, 4 the boot of a firmware.",
    )
    LOST_INTERRUPT = 2, "A completion's interrupt is not signalled."
    ECC_CORRECTED = 3, "`ECC_CORRECTED` grows by `VALUE`, at least by 1."
    ECC_UNCORRECTED = (
        4,
        "A RUN reads what cannot be corrected: it fails, and the device is FAULTED with DRAM.",
    )
    DMA_CRC = 5, "A transfer, DMA_IN, DMA_OUT or LOAD_IMAGE, fails with BAD_CRC."
    TEMPERATURE = (
        6,
        "The temperature goes to `VALUE` degrees Celsius within `MILLISECONDS` and stays there; 0"
        " lets it be.",
    )
    LINK_DOWN = (
        7,
        "For `MILLISECONDS` all reads give ones and writes are lost; then the function is reset.",
    )
    REMOVAL = 8, "The device is gone for `MILLISECONDS`, and then as it is after power-on."
    SLOW_LOAD = 9, "A LOAD_IMAGE takes `MILLISECONDS` longer."
    CORRUPT_BANK = (
        10,
        "A bit of the active bank flips, of the other one if `VALUE` is 1. The scrubber finds it:"
        " `SEU_COUNT` grows, the bank is CORRUPT, and it is not run.",
    )
    LINK_WIDTH = 11, "The link comes up with `VALUE` lanes; 0 is all of them."
    LINK_SPEED = (
        12,
        "The link comes up at the speed that PCI Express numbers `VALUE`; 0 is its best.",
    )
    AER_CORRECTABLE = (
        13,
        "Bit `VALUE` of the correctable errors' status is set: 0 receiver error, 6 bad TLP, 7 bad"
        " DLLP, 8 replay rollover, 12 replay timeout.",
    )
    AER_UNCORRECTABLE = (
        14,
        "Bit `VALUE` of the uncorrectable errors' status is set: 4 data link protocol, 12 poisoned"
        " TLP, 14 completion timeout, 18 malformed TLP, 20 unsupported request; 0 is 14.",
    )
    DRAM_CALIBRATION = (
        15,
        "The DRAM's interface loses its calibration, until a function-level reset.",
    )


class Section(Code):
    """A section of a program image."""

    ENTRIES = (
        1,
        "The entry points that RUN names, at most 64: their number as u32, and the entries one"
        " after the other.",
    )
    LAYERS = 2, "Every tensor, then every layer in the order of execution."
    WEIGHTS = (
        3,
        "s8 weights, s32 biases, u8 shifts and tables, to which the layers point; each 64-byte"
        " aligned.",
    )
    CODE = (
        4,
        "Instructions of 32 bytes, which do what LAYERS says, for a device that executes these;"
        " each entry point says where its own begin."
        " May be missing.",
    )
    PACKED = (
        5,
        "Weights, biases, shifts and tables as the instructions load them; 64-byte aligned."
        " There if CODE is.",
    )


class ElementType(Code):
    """Element type of an activation tensor; the zero point is 0 in each."""

    U8 = 1
    S8 = 2
    S16 = 3, "Little endian, at an even address. What reads it in 8 bits reads it in two passes."


class LayerOp(Code):
    """What a layer computes; :mod:`edged.npu.numerics` defines each."""

    CONV = (
        1,
        "Convolution, grouped or depthwise too. Gemm is one of 1×1 or of the whole plane.",
    )
    ADD = 2, "Sum of two tensors."
    MAXPOOL = 3, "Maximum of a window."
    AVGPOOL = 4, "Mean of a window. Global average pooling is one over the whole plane."
    CONCAT = 5, "Along channels."
    RESCALE = 6, "Another exponent, dtype or other bounds for the same values."
    TABLE = (
        7,
        "Look each element up in 256 entries: one table, or one for each channel. The index is"
        " the byte that carries the element.",
    )
    MUL = 8, "Product of two tensors; the second may be [1, 1, C] or [H, W, 1]."
    COPY = 9, "Copy elements in up to five nested loops, and rescale them."
    MATMUL = (
        10,
        "Product of two tensors as matrices, in groups: [N, K] · [K, M], where N are the pixels"
        " of the first, K those of the second, and M the channels of the second.",
    )


# Registers.


class _Rule(enum.Enum):
    """A name for a rule.

    Attributes:
        text: the rule, as Markdown.
    """

    text: str

    def __new__(cls, name: str, text: str) -> Self:
        rule = object.__new__(cls)
        rule._value_ = name
        rule.text = text
        return rule


class Access(_Rule):
    """What reading and writing a register does."""

    RO = "RO", "Writes are ignored."
    RW = "RW", "Reads back what was written."
    W1C = "W1C", "A one that is written clears a bit; reads as zero."
    DOORBELL = "doorbell", "A write is an event; reads back the last one."
    COMMAND = "command", "A write is an event; reads as zero."
    LOCK = (
        "lock",
        "Writing a value other than 0 to a free lock takes it, and reading it back tells whether"
        " it did; writing 0 frees it. Any other write is ignored.",
    )


class Guard(_Rule):
    """Which opening of the device may write to a register. Others are refused (EBUSY)."""

    ANYONE = "anyone", "Any opening."
    OWNER = (
        "owner",
        "The owner of the queue. Writing to a register that takes the queue makes an opening the"
        " owner of a free one; it is free again when it is disabled.",
    )
    OWNER_OR_MANAGER = (
        "owner or manager",
        "The owner of the queue, or the manager. While nobody owns it, anyone, without effect.",
    )
    MANAGER = "manager", "The owner of the management queue; anyone while nobody owns it."
    SOLE_MANAGER = (
        "sole manager",
        "The owner of the management queue; nobody while nobody owns it.",
    )


@dataclass(frozen=True, slots=True)
class Field:
    """Some bits of a register."""

    name: str
    lsb: int
    bits: int
    text: str


@dataclass(frozen=True, slots=True)
class _Spec:
    """What :class:`Register` says of each of its members."""

    offset: int
    text: str
    bits: int = 32
    access: Access = Access.RO
    guard: Guard = Guard.ANYONE
    reset: int | None = None
    soft: bool = False
    codes: type[Code] | type[Bits] | None = None
    signed: bool = False
    takes: bool = False
    private: bool = False
    guard_of: tuple[tuple[int, Guard], ...] = ()


class Register(enum.IntEnum):
    """A register. Its value is its offset in its block, in bytes.

    Attributes:
        text: what it holds or does, as Markdown.
        bits: its width; it takes a multiple of 4 bytes, and bits beyond are zero.
        access: what reads and writes do.
        guard: who may write to it; ``guard_of`` has other guards for single values.
        reset: its value after power-on, a function-level reset, and the boot of a firmware; None
            where that depends on the card, or where the value is kept.
        soft: whether a soft reset gives it that value as well.
        codes: what its values, or its bits, mean.
        signed: whether it is in two's complement.
        takes: whether writing to it takes a free queue. Such a register is ignored while the queue
            is enabled.
        private: whether each opening has one of its own.

    A block is a subclass.

    Attributes:
        base: offset of the block in BAR0.
        stride: bytes from one such block to the next; ``count`` is how many there are.
        needs: the capability without which the block is not there.
    """

    base: ClassVar[int]
    stride: ClassVar[int]
    count: ClassVar[int]
    needs: ClassVar[Capability | None]

    text: str
    bits: int
    access: Access
    guard: Guard
    reset: int | None
    soft: bool
    codes: type[Code] | type[Bits] | None
    signed: bool
    takes: bool
    private: bool
    guard_of: dict[int, Guard]

    def __new__(cls, spec: _Spec) -> Self:
        register = int.__new__(cls, spec.offset)
        register._value_ = spec.offset
        register.text = spec.text
        register.bits = spec.bits
        register.access = spec.access
        register.guard = spec.guard
        register.reset = spec.reset
        register.soft = spec.soft
        register.codes = spec.codes
        register.signed = spec.signed
        register.takes = spec.takes
        register.private = spec.private
        register.guard_of = dict(spec.guard_of)
        return register

    def __init_subclass__(
        cls, *, base: int, stride: int = 0, count: int = 1, needs: Capability | None = None
    ) -> None:
        cls.base, cls.stride, cls.count, cls.needs = base, stride, count, needs

    def address(self, index: int = 0) -> int:
        """Offset in BAR0, in block number *index*."""
        return int(self) + self.base + index * self.stride

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in its block."""
        return -(-self.bits // 32) * 4

    @property
    def writable(self) -> bool:
        return self.access is not Access.RO

    @property
    def fields(self) -> tuple[Field, ...]:
        """Its bits, where they have a meaning each; otherwise one field that is all of it."""
        if self.codes is not None and issubclass(self.codes, Bits):
            return tuple(
                Field(bit.name or "", bit.bit_length() - 1, 1, bit.text) for bit in self.codes
            )
        return (Field("VALUE", 0, self.bits, self.text),)


_RO, _RW, _ONES = Access.RO, Access.RW, 0xFFFF_FFFF
_OWNER, _SOLE = Guard.OWNER, Guard.SOLE_MANAGER


class Reg(Register, base=0):
    """Registers that are there once."""

    MAGIC = _Spec(0x0000, "The bytes `EDGE`.", reset=MAGIC, soft=True)
    ABI = _Spec(0x0004, "Version of this contract.", reset=ABI, soft=True)
    GATEWARE_ID = _Spec(0x0008, "First 8 bytes of blake2s over the role image.", bits=64)
    ARRAY_TI = _Spec(0x0010, "Input channels that the array takes per cycle.")
    ARRAY_TO = _Spec(0x0014, "Output channels that it makes.")
    ARRAY_TP = _Spec(0x0018, "Pixels that it makes.")
    CAPABILITIES = _Spec(0x001C, "Bits of `Capability`.", codes=Capability)
    ACTIVATION_BUFFER = _Spec(0x0020, "On-chip bytes for activations.")
    WEIGHT_BUFFER = _Spec(0x0024, "On-chip bytes for weights.")
    DRAM_SIZE = _Spec(0x0028, "Bytes.", bits=64)
    SCRATCH = _Spec(
        0x0030, "Holds what was written; for a driver to test the path.", access=_RW, reset=0
    )
    CLOCK_KHZ = _Spec(0x0034, "Clock of the array, of which `CYCLES` counts periods.")

    COMMAND = _Spec(
        0x0100,
        "Write a `Command`; reads as zero.",
        access=Access.COMMAND,
        guard=Guard.MANAGER,
        reset=0,
        soft=True,
        codes=Command,
    )
    STATE = _Spec(0x0104, "A `State`.", reset=State.CLEARED, soft=True, codes=State)
    RESET_CAUSE = _Spec(0x0108, "A `ResetCause`: of the last one.", codes=ResetCause)
    WATCHDOG_MS = _Spec(
        0x010C,
        "Longest time a RUN may take before the device faults it; 0 is off.",
        access=_RW,
        guard=Guard.MANAGER,
        reset=0,
    )

    INTERRUPT_ENABLE = _Spec(
        0x0200,
        "Bits as in `INTERRUPT_ACK`: which are signalled. Each opening has its own three.",
        bits=1 + QUEUES,
        access=_RW,
        reset=0,
        codes=Interrupt,
        private=True,
    )
    INTERRUPT_PENDING = _Spec(
        0x0204,
        "Bits that were raised and not acknowledged.",
        bits=1 + QUEUES,
        reset=0,
        codes=Interrupt,
        private=True,
    )
    INTERRUPT_ACK = _Spec(
        0x0208,
        "Write one to clear. Bit 0: device event; bit 1 + q: queue q.",
        bits=1 + QUEUES,
        access=Access.W1C,
        reset=0,
        codes=Interrupt,
        private=True,
    )

    TEMPERATURE_MC = _Spec(0x0300, "Thousandths of a degree Celsius, signed.", signed=True)
    POWER_MW = _Spec(0x0304, "Thousandths of a watt.")
    ECC_CORRECTED = _Spec(
        0x0308, "Memory errors made good, since power-on or the last function-level reset.", reset=0
    )
    ECC_UNCORRECTED = _Spec(0x030C, "Those that could not be.", reset=0)
    SEU_COUNT = _Spec(0x0310, "Bits of the configuration that were found flipped.", reset=0)
    DRAM_CALIBRATED = _Spec(0x0314, "1 if the interface of the DRAM is.", bits=1, reset=1)
    FAULT_CODE = _Spec(0x0318, "A `Fault`.", reset=Fault.NONE, soft=True, codes=Fault)
    FAULT_ADDRESS = _Spec(
        0x0320, "Device address at which it happened.", bits=64, reset=0, soft=True
    )
    TIMEOUTS = _Spec(0x0328, "Runs that the watchdog ended.", reset=0)

    CYCLES = _Spec(0x0400, "Periods of the array's clock, since the counters began.", bits=64)
    BUSY_CYCLES = _Spec(0x0408, "In which the array computed.", bits=64, reset=0)
    STALL_CYCLES = _Spec(0x0410, "In which it waited for DRAM.", bits=64, reset=0)
    BYTES_READ = _Spec(0x0418, "From DRAM, by runs.", bits=64, reset=0)
    BYTES_WRITTEN = _Spec(0x0420, "Likewise.", bits=64, reset=0)

    ACTIVE_BANK = _Spec(
        0x2400,
        "Number of the active bank, `0xFFFFFFFF` with none.",
        reset=NO_BANK,
        soft=True,
    )


class Queue(Register, base=0x1000, stride=0x100, count=QUEUES):
    """A queue: its rings in the host's memory, and its doorbell."""

    RING_BASE = _Spec(
        0x00,
        "Host (IO virtual) address of the descriptors; 64-byte aligned.",
        bits=64,
        access=_RW,
        guard=_OWNER,
        reset=0,
        takes=True,
    )
    LOG2_SIZE = _Spec(
        0x08,
        "Descriptors in the ring, and completions, as a power of two: 1 … 12.",
        access=_RW,
        guard=_OWNER,
        reset=0,
        takes=True,
    )
    HEAD = _Spec(0x0C, "Descriptors fetched since the queue was enabled, modulo 2^32.", reset=0)
    TAIL = _Spec(
        0x10,
        "The doorbell: descriptors produced since the queue was enabled, modulo 2^32.",
        access=Access.DOORBELL,
        guard=_OWNER,
        reset=0,
    )
    COMPLETION_BASE = _Spec(
        0x18,
        "Host address of the completions; 64-byte aligned.",
        bits=64,
        access=_RW,
        guard=_OWNER,
        reset=0,
        takes=True,
    )
    ERROR = _Spec(
        0x20,
        "The first `Status` other than OK that stopped the queue, else 0.",
        reset=Status.OK,
        codes=Status,
    )
    CONTROL = _Spec(
        0x24,
        "A `QueueControl`. Reads back what is in force.",
        bits=1,
        access=_RW,
        guard=_OWNER,
        reset=0,
        soft=True,
        codes=QueueControl,
        guard_of=((0, Guard.OWNER_OR_MANAGER),),
    )


class Bank(Register, base=0x2000, stride=0x80, count=BANKS):
    """A bank: one of the two places for a program image, with DRAM of its own."""

    DIGEST = _Spec(
        0x00,
        "blake2s of the image, as its header has it; zero when the bank is empty.",
        bits=256,
        reset=0,
        soft=True,
    )
    BASE = _Spec(
        0x20,
        "Device address at which the bank's DRAM starts. Tensor addresses of the image are relative"
        " to it.",
        bits=64,
    )
    SIZE = _Spec(0x28, "Bytes of DRAM the bank may use.", bits=64)
    STATUS = _Spec(0x30, "A `BankStatus`.", reset=BankStatus.EMPTY, soft=True, codes=BankStatus)
    GENERATION = _Spec(0x34, "Grows by one at each load into this bank.")
    OWNER = _Spec(
        0x38,
        "Lock: 0 is free; writing a non-zero value to a free lock takes it; writing 0 frees it.",
        access=Access.LOCK,
        reset=0,
    )


class Flash(Register, base=0x3000, needs=Capability.FLASH):
    """What the card boots, and changing it. It is the same in every ABI, as are the magic, the
    state, the management queue and ``WRITE_FLASH``: a card is always flashed by whichever edged
    there is.

    The flash has a region for the role and one for the golden image, numbered as
    :class:`FirmwareKind`, and each holds a firmware file. To change one: write ``REGION`` and
    ``LENGTH``, command ERASE, send the file by ``WRITE_FLASH`` from offset 0 on, command VERIFY,
    and for a role BOOT_ROLE. What runs goes on running until then. Whatever interrupts this leaves
    a region that VERIFY would refuse, and a role that it would refuse is not booted: the golden
    image is, and the state is GOLDEN.
    """

    STATUS = _Spec(0x00, "A `FlashStatus`.", codes=FlashStatus)
    COMMAND = _Spec(
        0x04,
        "Write a `FlashCommand`; reads as zero. Only who manages the device may.",
        access=Access.COMMAND,
        guard=_SOLE,
        reset=0,
        codes=FlashCommand,
        guard_of=(
            (FlashCommand.BOOT_ROLE, Guard.MANAGER),
            (FlashCommand.BOOT_GOLDEN, Guard.MANAGER),
        ),
    )
    REGION = _Spec(
        0x08,
        "The region that ERASE, WRITE_FLASH and VERIFY are about.",
        access=_RW,
        guard=_SOLE,
        codes=FirmwareKind,
    )
    LENGTH = _Spec(
        0x0C,
        "Bytes of the firmware to come: ERASE clears as many, and no more may be written.",
        access=_RW,
        guard=_SOLE,
    )
    PROGRESS = _Spec(0x10, "Bytes that the command under way is done with.")
    REGION_SIZE = _Spec(0x18, "Bytes that fit into each region.")
    BOOTED = _Spec(0x1C, "The region that runs.", codes=FirmwareKind)
    SHELL_ID = _Spec(0x20, "The part of the FPGA that stays; a firmware is for one shell.", bits=64)
    UNLOCK = _Spec(
        0x28,
        "Write `FLASH_KEY` before the ERASE of the golden region; that takes it back.",
        access=Access.COMMAND,
        guard=_SOLE,
        reset=0,
    )
    ROLE_DIGEST = _Spec(
        0x40,
        "Digest of the role that is flashed, as its header has it; zero without a sound one.",
        bits=256,
    )
    GOLDEN_DIGEST = _Spec(0x60, "Likewise of the golden image.", bits=256)


class Inject(Register, base=0x8000, needs=Capability.FAULT_INJECTION):
    """Rehearses what hardware may do.

    Any opening may write it, the one of a model's container as well; so no device that serves in
    earnest has the capability. What ``VALUE`` and ``MILLISECONDS`` mean is said at
    :class:`Injection`.
    """

    VALUE = _Spec(0x00, "See `Injection`.", access=_RW)
    MILLISECONDS = _Spec(0x04, "See `Injection`.", access=_RW)
    AFTER = _Spec(0x08, "Events that pass unharmed before.", access=_RW)
    TIMES = _Spec(0x0C, "Events that are struck; 0 is all of them.", access=_RW)
    CHANCE = _Spec(0x10, "That an event is struck, in units of 2^-32; 0 is always.", access=_RW)
    ARM = _Spec(
        0x14,
        "Write an `Injection`: it is armed with the five above. 0 disarms all.",
        access=Access.COMMAND,
        reset=0,
        codes=Injection,
    )
    STRUCK = _Spec(0x18, "How often any has struck.")


BLOCKS: Final[tuple[type[Register], ...]] = (Reg, Queue, Bank, Flash, Inject)


@dataclass(frozen=True, slots=True)
class Word:
    """32 bits of BAR0 that are assigned.

    Attributes:
        index: of the block.
        part: which word of the register, from the low one on.
        mask: the bits of the word that the register has.
    """

    register: Register
    index: int
    part: int
    mask: int


def address_map(capabilities: int) -> dict[int, Word]:
    """Every word of BAR0 that a device with these *capabilities* has, by its offset."""
    return {
        register.address(index) + 4 * part: Word(
            register, index, part, (1 << min(32, register.bits - 32 * part)) - 1
        )
        for block in BLOCKS
        if block.needs is None or capabilities & block.needs
        for index in range(block.count)
        for register in block
        for part in range(register.nbytes // 4)
    }


# Records: what stands in memory and in files.

_CODES: Final = {"u8": "B", "s8": "b", "u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q"}
_SIZES: Final = {"u8": 1, "s8": 1, "u16": 2, "s16": 2, "u32": 4, "s32": 4, "u64": 8}


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a record.

    Attributes:
        kind: u8, s8, u16, s16, u32, s32, u64; or ``bytes``, of which there are ``count``.
        count: of such items in a row.
    """

    name: str
    kind: str
    text: str = ""
    count: int = 1

    @property
    def nbytes(self) -> int:
        return self.count * _SIZES.get(self.kind, 1)


@dataclass(frozen=True, slots=True)
class Record:
    """A structure without gaps, little endian.

    Attributes:
        size: bytes of all; what is beyond the last item is zero.
    """

    name: str
    size: int
    text: str
    items: tuple[Item, ...]

    def offset(self, name: str) -> int:
        """Where an item begins, in bytes.

        Raises:
            KeyError: there is no such item.
        """
        at = 0
        for item in self.items:
            if item.name == name:
                return at
            at += item.nbytes
        raise KeyError(name)

    @property
    def format(self) -> str:
        """The same for :class:`struct.Struct`."""
        codes = "".join(
            f"{item.count}s" if item.kind == "bytes" else _CODES[item.kind] * item.count
            for item in self.items
        )
        padding = self.size - sum(item.nbytes for item in self.items)
        assert padding >= 0, self.name
        return f"<{codes}{padding}x" if padding else f"<{codes}"


DESCRIPTOR: Final = Record(
    "descriptor",
    32,
    "One entry of a queue's ring.",
    (
        Item("op", "u8", "An `Operation`."),
        Item("flags", "u8", "Bits of `DescriptorFlag`."),
        Item("tag", "u16", "Given back in the completion."),
        Item("length", "u32", "Bytes."),
        Item("host_address", "u64"),
        Item("device_address", "u64", "Or a bank's number, an entry's, or an offset in the flash."),
        Item("crc", "u32", "CRC32C of the data, with the flag CRC."),
    ),
)

COMPLETION: Final = Record(
    "completion",
    16,
    "One entry of a queue's completions. The n-th since the queue was enabled, counted from 1, has"
    " sequence n modulo 2^32 and stands at index (n - 1) mod ring size. The device writes the"
    " sequence last.",
    (
        Item("tag", "u16", "The descriptor's."),
        Item("status", "u16", "A `Status`."),
        Item("cycles", "u64", "Periods of the array's clock that it took."),
        Item("sequence", "u32"),
    ),
)

IMAGE_HEADER: Final = Record(
    "image_header",
    88,
    "What a program image begins with.",
    (
        Item("magic", "bytes", "`EDGEIMG\\0`.", 8),
        Item("abi", "u16", "The contract that it is for."),
        Item("ti", "u16", "Array that it was compiled for: input channels."),
        Item("to", "u16", "Output channels."),
        Item("tp", "u16", "Pixels."),
        Item("sections", "u32", "Entries of the table that follows."),
        Item("reserved", "u32", "Zero."),
        Item("dram_bytes", "u64", "DRAM that a bank needs: activations, then weights."),
        Item("file_bytes", "u64", "Length of the file."),
        Item("activation_buffer", "u32", "On-chip bytes that CODE is made for; 0 without CODE."),
        Item("weight_buffer", "u32", "Likewise."),
        Item("accumulators", "u32", "Accumulators a lane that CODE is made for; 0 without."),
        Item("reserved2", "u32", "Zero."),
        Item("digest", "bytes", "blake2s of the file with this field zero.", 32),
    ),
)

IMAGE_SECTION: Final = Record(
    "image_section",
    24,
    "One entry of a program image's table of sections.",
    (
        Item("kind", "u32", "A `Section`."),
        Item("crc", "u32", "CRC32C of the section."),
        Item("offset", "u64", "In the file; a multiple of 64."),
        Item("length", "u64", "Bytes."),
    ),
)

IMAGE_ENTRY: Final = Record(
    "image_entry",
    16,
    "An entry point, followed by the indices, u32 each, of the tensors that the host writes before"
    " its RUN and of those that it reads afterwards. Every layer belongs to one entry: the first"
    " entry begins with layer 0, and each where the one before it ends.",
    (
        Item("first", "u32", "Its first layer."),
        Item("last", "u32", "The layer behind its last."),
        Item("inputs", "u16", "How many indices of inputs follow."),
        Item("outputs", "u16", "How many indices of outputs follow these."),
        Item("instruction", "u32", "Its first instruction in CODE; 0 without CODE."),
    ),
)

IMAGE_TENSOR: Final = Record(
    "image_tensor",
    24,
    "An activation tensor, followed by its name.",
    (
        Item("dtype", "u8", "An `ElementType`."),
        Item(
            "exponent",
            "s8",
            "The real value is q · 2^exponent; of exponents per channel, the largest. To be read by"
            " people: the device has no use for it.",
        ),
        Item("name_length", "u16", "Bytes of the name, UTF-8."),
        Item("height", "u32"),
        Item("width", "u32"),
        Item("channels", "u32"),
        Item("address", "u64", "From the bank's base."),
    ),
)

IMAGE_LAYER: Final = Record(
    "image_layer",
    96,
    "A layer, followed by an operand for each input, its loops, and its name.",
    (
        Item("op", "u8", "A `LayerOp`."),
        Item("per_channel", "u8", "Shifts: 0, one for all channels of the output; 1, one each."),
        Item("inputs", "u16", "How many operands follow."),
        Item("output", "u32", "Index of the tensor that it writes."),
        Item("name_length", "u16", "Bytes of the name, UTF-8."),
        Item("reserved", "u16", "Zero."),
        Item("kernel", "u16", "Vertical, horizontal.", 2),
        Item("stride", "u16", "Likewise.", 2),
        Item("dilation", "u16", "Likewise.", 2),
        Item("pad", "u16", "Top, left, bottom, right.", 4),
        Item("groups", "u32"),
        Item("lo", "s32", "Lower bound of the result."),
        Item("hi", "s32", "Upper bound."),
        Item("multiplier", "u32", "AVGPOOL: round(2^24 / (kernel height · width))."),
        Item("weights", "u64", "Where in the section they are."),
        Item("biases", "u64", "Likewise."),
        Item(
            "shifts",
            "u64",
            "Likewise: u8, the right shifts of the result, then ADD: the left shifts of one input"
            " and those of the other; CONCAT, RESCALE, COPY: the left shifts. MAXPOOL and TABLE"
            " have none.",
        ),
        Item("rows", "u32", "CONV: output channels of the weights. TABLE: tables."),
        Item("grid", "u16", "CONV writes every how many-th pixel: first row, column; strides.", 4),
        Item("loops", "u16", "COPY: how many loops follow, outermost first; at most 5."),
        Item("reserved2", "u16", "Zero."),
        Item("copy_source", "u32", "COPY: element of the input at which it starts."),
        Item("copy_target", "u32", "COPY: element of the output at which it starts."),
    ),
)

IMAGE_OPERAND: Final = Record(
    "image_operand",
    4,
    "One input of a layer.",
    (Item("tensor", "u32", "Index."),),
)

IMAGE_LOOP: Final = Record(
    "image_loop",
    12,
    "A loop of a COPY. Elements are counted in the order [H, W, C].",
    (
        Item("count", "u32"),
        Item("source", "u32", "Elements of the input from one turn to the next; 0 repeats."),
        Item("target", "u32", "Elements of the output."),
    ),
)

FIRMWARE_HEADER: Final = Record(
    "firmware_header",
    128,
    "What a firmware file begins with; the payload follows.",
    (
        Item("magic", "bytes", "`EDGEFW\\0\\0`.", 8),
        Item("version", "u16", "Of this format, 1."),
        Item("kind", "u16", "A `FirmwareKind`."),
        Item("abi", "u16", "ABI that the gateware implements."),
        Item("ti", "u16", "Its array: input channels."),
        Item("to", "u16", "Output channels."),
        Item("tp", "u16", "Pixels."),
        Item("length", "u32", "Of the payload, bytes."),
        Item("shell", "bytes", "Shell that it was built for: the part of the FPGA that stays.", 8),
        Item("digest", "bytes", "blake2s of the payload; its first 8 bytes are GATEWARE_ID.", 32),
        Item("name", "bytes", "UTF-8, padded with zeros.", 32),
        Item("reserved", "bytes", "Zeros.", 28),
        Item("crc", "u32", "CRC32C of the 124 bytes before."),
    ),
)

RECORDS: Final = (
    DESCRIPTOR,
    COMPLETION,
    IMAGE_HEADER,
    IMAGE_SECTION,
    IMAGE_ENTRY,
    IMAGE_TENSOR,
    IMAGE_LAYER,
    IMAGE_OPERAND,
    IMAGE_LOOP,
    FIRMWARE_HEADER,
)


class Timing(enum.Enum):
    """How long the driver waits before it takes something for a fault.

    Attributes:
        seconds: that long.
        text: for what.
    """

    seconds: float
    text: str

    def __init__(self, seconds: float, text: str) -> None:
        self.seconds = seconds
        self.text = text

    QUEUE_ABORT = 2.0, "a queue aborts and lets go of the host's memory"
    QUEUE_HANDOVER = 15.0, "likewise when a container takes its queue"
    SOFT_RESET = 2.0, "soft reset"
    FUNCTION_LEVEL_RESET = 15.0, "function-level reset, which PCI Express wants within 0.1 s"
    FENCE = 2.0, "a FENCE on the management queue, whatever runs"
    LOAD_IMAGE = 120.0, "LOAD_IMAGE"
    ACTIVATE_BANK = 30.0, "ACTIVATE_BANK, with the end of the run under way"
    LOST_INTERRUPT = 0.02, "a completion is looked for without an interrupt, every"
    WRITE_FLASH = 10.0, "WRITE_FLASH"
    FLASH_PROGRESS = 10.0, "ERASE and VERIFY show PROGRESS, every"
    BOOT = 30.0, "BOOT_ROLE, BOOT_GOLDEN, until STATE is not RESETTING"
