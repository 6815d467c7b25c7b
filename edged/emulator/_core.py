"""What the device does with a descriptor: DRAM, the two banks, and the program that runs."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt

from edged._onnxruntime import RunOptions
from edged.emulator._encoding import WeightEncodings
from edged.emulator._faults import Faults
from edged.emulator._flash import FlashChip, FlashRefusal
from edged.emulator._memory import DmaFault, Dram, HostMemory
from edged.emulator._program import Program, Runnable
from edged.emulator._thermal import TRIP, Thermal
from edged.emulator._timing import CLOCK_KHZ
from edged.emulator._watchdog import Watchdog
from edged.errors import DeviceError, ImageError
from edged.faults import fault_point
from edged.npu import (
    ABI,
    MAX_IMAGE_BYTES,
    Array,
    FirmwareKind,
    ProgramImage,
    Tensor,
    parse_image,
)
from edged.npu.registers import (
    BANKS,
    MAX_FLASH_WRITE,
    QUEUE_MANAGEMENT,
    BankStatus,
    Descriptor,
    DescriptorFlag,
    Fault,
    Injection,
    Operation,
    Status,
)
from edged.npu.regmap import IMAGE_MAGIC

__all__ = ["Bank", "Cancellation", "Core", "Counters", "Pace", "Push"]

_LOG = logging.getLogger(__name__)
_PAGE: Final = 4096
_HOST_BYTES_PER_CYCLE: Final = 28
"""PCI Express 3.0 ×8 after its overheads, 7 GB/s, by the array's clock."""
_CRC: Final = int(DescriptorFlag.CRC)
_FLASH_CYCLES_PER_BYTE: Final = 16
"""16 MB/s, as fast as quad SPI is written."""
_WITHOUT_ROLE: Final = (Operation.FENCE, Operation.FLUSH, Operation.WRITE_FLASH)
"""What the golden image can do."""


class Pace(enum.Enum):
    """How long operations take."""

    FAST = "fast"
    """As fast as they can be computed here."""
    MODELLED = "modelled"
    """At least as long as the gateware would take."""


class Push(enum.IntEnum):
    """What is done to end a run, the harder the higher; a hang says which one it obeys."""

    WATCHDOG = 0
    ABORT = 1
    SOFT_RESET = 2
    FUNCTION_LEVEL_RESET = 3
    POWER_OFF = 4


@dataclass(slots=True)
class Bank:
    """One of the two places for a program.

    Attributes:
        owner: the lock's value.
    """

    base: int
    size: int
    digest: bytes = bytes(32)
    status: BankStatus = BankStatus.EMPTY
    generation: int = 0
    owner: int = 0
    program: Program | None = None

    def clear(self) -> None:
        self.digest, self.status, self.program = bytes(32), BankStatus.EMPTY, None


@dataclass(slots=True)
class Counters:
    """Since power-on or the last function-level reset.

    Attributes:
        calibrated: whether the DRAM's interface is, as it then was.
    """

    started: float = field(default_factory=time.monotonic)
    busy: int = 0
    stalls: int = 0
    read: int = 0
    written: int = 0
    timeouts: int = 0
    ecc_corrected: int = 0
    ecc_uncorrected: int = 0
    seu: int = 0
    calibrated: bool = True

    @property
    def cycles(self) -> int:
        return int((time.monotonic() - self.started) * CLOCK_KHZ * 1000)


class Cancellation:
    """Ends operations from another thread: the one under way and every later one."""

    def __init__(self) -> None:
        self.options = RunOptions()
        self.cancelled = False
        self._ended = threading.Event()
        self._push = threading.Condition()
        self._hardest = -1

    def cancel(self) -> None:
        self.cancelled = True
        self.end_run()
        self.push(Push.ABORT)

    def push(self, push: Push) -> None:
        """End the run under way if it hangs and obeys *push*."""
        with self._push:
            self._hardest = max(self._hardest, push)
            self._push.notify_all()

    def hang(self, obeys: int) -> None:
        """Until pushed as hard.

        Raises:
            DeviceError: always.
        """
        with self._push:
            self._push.wait_for(lambda: self._hardest >= obeys)
        raise DeviceError("cannot finish the operation: it hung")

    def end_run(self) -> None:
        """End the run under way, and nothing else."""
        self.options.terminate = True
        self._ended.set()

    def expire(self) -> None:
        """End the run under way because it takes too long."""
        self.end_run()
        self.push(Push.WATCHDOG)

    def rearm(self) -> None:
        """After a run, which may have been ended."""
        self.options.terminate = False
        self._hardest = -1
        self._ended.clear()
        if self.cancelled:
            self.end_run()

    def sleep(self, seconds: float) -> None:
        """For that long, unless ended.

        Raises:
            DeviceError: ended.
        """
        if seconds > 0 and self._ended.wait(seconds):
            raise DeviceError("cannot finish the operation: it was ended early")


class _Refused(Exception):  # noqa: N818  (a status, not an error of the emulator)
    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Core:
    """Banks, DRAM and execution; knows nothing of registers or rings.

    One thread per queue calls :meth:`execute`. Runs and activations exclude each other; a load
    excludes neither.

    Args:
        faults: what is to go wrong.
        flash: what is booted, and may be changed.
        on_fault: called when a fault has been recorded.
    """

    def __init__(
        self,
        *,
        array: Array,
        dram_bytes: int,
        weights: WeightEncodings,
        threads: int,
        pace: Pace,
        faults: Faults,
        flash: FlashChip,
        on_fault: Callable[[], None],
    ) -> None:
        self.array = array
        self.faults = faults
        self.flash = flash
        self.thermal = Thermal()
        self.dram = Dram(dram_bytes)
        size = dram_bytes // BANKS // _PAGE * _PAGE
        self.banks = tuple(Bank(base=i * size, size=size) for i in range(BANKS))
        self.active: int | None = None
        self.running = False
        self.fault = Fault.NONE
        self.fault_address = 0
        self.watchdog_ms = 0
        self.counters = Counters()
        self._weights = weights
        self._threads = threads
        self._pace = pace
        self._on_fault = on_fault
        self._run_lock = threading.Lock()
        self._watchdog = Watchdog()

    @property
    def loading(self) -> bool:
        return any(bank.status is BankStatus.LOADING for bank in self.banks)

    def reset(self) -> None:
        """Deactivate and empty both banks, clear the fault. No operation may be under way."""
        self.active = None
        for bank in self.banks:
            bank.clear()
        self.fault, self.fault_address = Fault.NONE, 0

    def execute(
        self, descriptor: Descriptor, queue: int, memory: HostMemory, cancellation: Cancellation
    ) -> tuple[Status, int]:
        """Carry out one descriptor.

        Returns:
            The status and the cycles it took, by the model.
        """
        begun = time.monotonic()
        try:
            cycles = self._dispatch(descriptor, queue, memory, cancellation)
            if self._pace is Pace.MODELLED:
                cancellation.sleep(cycles / (CLOCK_KHZ * 1e3) - (time.monotonic() - begun))
        except _Refused as refusal:
            _LOG.info("queue %d: %s: %s", queue, refusal.status.name, refusal)
            return refusal.status, 0
        except DmaFault as fault:
            _LOG.info("queue %d: BAD_ADDRESS: %s", queue, fault)
            return Status.BAD_ADDRESS, 0
        except DeviceError:
            return Status.ABORTED, 0
        return (Status.ABORTED if cancellation.cancelled else Status.OK), cycles

    def _dispatch(
        self, descriptor: Descriptor, queue: int, memory: HostMemory, cancellation: Cancellation
    ) -> int:
        if self.flash.booted is FirmwareKind.GOLDEN and descriptor.op not in _WITHOUT_ROLE:
            raise _Refused(Status.NO_ROLE, "the golden image runs")
        match descriptor.op:
            case Operation.DMA_IN:
                data = self._device_range(descriptor, queue)
                self._transfer()
                memory.read(descriptor.host_address, data)
                _check_crc(descriptor, data)
                return len(data) // _HOST_BYTES_PER_CYCLE
            case Operation.DMA_OUT:
                data = self._device_range(descriptor, queue)
                self._transfer()
                memory.write(descriptor.host_address, data)
                return len(data) // _HOST_BYTES_PER_CYCLE
            case Operation.RUN:
                return self._run(descriptor.device_address, cancellation)
            case Operation.FENCE | Operation.FLUSH:
                return 0  # each queue works in order, and its DRAM is memory
            case Operation.LOAD_IMAGE if queue == QUEUE_MANAGEMENT:
                return self._load(descriptor, memory, cancellation)
            case Operation.ACTIVATE_BANK if queue == QUEUE_MANAGEMENT:
                return self._activate(descriptor.device_address)
            case Operation.WRITE_FLASH if queue == QUEUE_MANAGEMENT:
                return self._write_flash(descriptor, memory)
        raise _Refused(Status.BAD_OPERATION, f"operation {descriptor.op}")

    def _transfer(self) -> None:
        """Between host and device; its CRC is the link's, and found to be wrong by either end."""
        if self.faults.strike(Injection.DMA_CRC):
            raise _Refused(Status.BAD_CRC, "an injected error on the link")

    def _device_range(self, descriptor: Descriptor, queue: int) -> memoryview:
        """What a DMA may touch: the data queue, nothing but the active program's DRAM."""
        start, length = descriptor.device_address, descriptor.length
        if not length:
            raise _Refused(Status.BAD_LENGTH, "DMA of 0 bytes")
        if queue != QUEUE_MANAGEMENT:
            bank, program = self._active_program()
            if not bank.base <= start <= start + length <= bank.base + program.dram_bytes:
                raise DmaFault(f"device range {start:#x} + {length:#x} is outside the program")
        return self.dram.slice(start, length)

    def _active_program(self) -> tuple[Bank, Program]:
        if self.active is not None:
            bank = self.banks[self.active]
            if bank.program is not None:
                return bank, bank.program
        raise _Refused(Status.NO_IMAGE, "no bank is active")

    def _bank(self, number: int) -> Bank:
        if number >= BANKS:
            raise _Refused(Status.BAD_ADDRESS, f"bank {number}")
        return self.banks[number]

    def _load(self, descriptor: Descriptor, memory: HostMemory, cancellation: Cancellation) -> int:
        bank = self._bank(descriptor.device_address)
        if descriptor.device_address == self.active:
            raise _Refused(Status.BANK_BUSY, f"bank {self.active} is active")
        if not 0 < descriptor.length <= min(MAX_IMAGE_BYTES, bank.size):
            raise _Refused(Status.BAD_LENGTH, f"image of {descriptor.length} bytes")
        bank.clear()
        bank.generation = (bank.generation + 1) & 0xFFFF_FFFF
        bank.status = BankStatus.LOADING
        self.dram.scrub(bank.base, bank.size)  # of what the model before computed
        try:
            fault_point("emulator.loading")
            self._transfer()
            if slow := self.faults.strike(Injection.SLOW_LOAD):
                cancellation.sleep(slow.milliseconds / 1000)
            digest, program = self._read_image(descriptor, bank, memory, cancellation)
            fault_point("emulator.loaded")
        except BaseException:
            bank.status = BankStatus.CORRUPT
            raise
        bank.digest, bank.program = digest, program
        bank.status = BankStatus.VALID
        return descriptor.length // _HOST_BYTES_PER_CYCLE

    def _read_image(
        self,
        descriptor: Descriptor,
        bank: Bank,
        memory: HostMemory,
        cancellation: Cancellation,
    ) -> tuple[bytes, Program]:
        """Copy the image to the end of the bank's DRAM and build the program from that copy."""
        room = bank.size - -(-descriptor.length // _PAGE) * _PAGE
        data = self.dram.slice(bank.base + room, descriptor.length)
        memory.read(descriptor.host_address, data)
        _check_crc(descriptor, data)
        abi = int.from_bytes(data[8:10], "little")  # follows the magic, in every version
        if bytes(data[:8]) == IMAGE_MAGIC and abi != ABI:
            raise _Refused(Status.INCOMPATIBLE, f"ABI {abi}, the device has {ABI}")
        try:
            image = parse_image(data)
            self._check_fit(image, room)
            program = Program.of(image, self._weights, self._threads, cancellation.options)
        except (ImageError, DeviceError) as error:
            if cancellation.cancelled:
                raise
            raise _Refused(Status.BAD_IMAGE, str(error)) from error
        except (MemoryError, ValueError) as error:
            # The limit of main(), and that of protobuf: an image may ask for more than it brings.
            reason = "its working memory is beyond the emulator's --memory"
            raise _Refused(Status.BAD_IMAGE, reason) from error
        return image.digest, program

    def _write_flash(self, descriptor: Descriptor, memory: HostMemory) -> int:
        if not 0 < descriptor.length <= MAX_FLASH_WRITE:
            raise _Refused(Status.BAD_LENGTH, f"a write of {descriptor.length} bytes")
        self._transfer()
        data = bytearray(descriptor.length)
        memory.read(descriptor.host_address, memoryview(data))
        _check_crc(descriptor, memoryview(data))
        try:
            self.flash.write(descriptor.device_address, data)
        except FlashRefusal as refusal:
            raise _Refused(Status.BAD_ADDRESS, str(refusal)) from refusal
        return descriptor.length * _FLASH_CYCLES_PER_BYTE

    def _check_fit(self, image: ProgramImage, room: int) -> None:
        if image.array != self.array:
            raise _Refused(Status.INCOMPATIBLE, f"array {image.array}, the device has {self.array}")
        if image.dram_bytes > room:
            raise _Refused(Status.INCOMPATIBLE, f"{image.dram_bytes} bytes, {room} are there")

    def _activate(self, number: int) -> int:
        bank = self._bank(number)
        with self._run_lock:
            if bank.status is not BankStatus.VALID:
                raise _Refused(Status.NO_IMAGE, f"bank {number} is {bank.status.name}")
            fault_point("emulator.activating")
            self.active = number
            fault_point("emulator.activated")
        return 1

    def _run(self, entry: int, cancellation: Cancellation) -> int:
        with self._run_lock:
            if self.fault is not Fault.NONE:
                raise _Refused(Status.FAULT, self.fault.name)
            bank, program = self._active_program()
            if entry >= len(program.entries):
                raise _Refused(
                    Status.BAD_ENTRY, f"entry {entry}, the program has {len(program.entries)}"
                )
            runnable = program.entries[entry]
            self.faults.run_begins()
            self._check_sound(bank)
            self.running = True
            watching = self._watchdog.watching(self.watchdog_ms / 1000, cancellation.expire)
            try:
                with watching as watched:
                    self._run_entry(bank, runnable, cancellation)
            except DeviceError as error:
                if watched.expired:
                    self.counters.timeouts += 1
                    self._record_fault(Fault.WATCHDOG, bank.base)
                    raise _Refused(Status.TIMEOUT, f"over {self.watchdog_ms} ms") from error
                if cancellation.cancelled:
                    raise _Refused(Status.ABORTED, "run was aborted") from error
                self._record_fault(Fault.DRAM, bank.base)
                raise _Refused(Status.FAULT, str(error)) from error
            finally:
                self.running = False
                cancellation.rearm()
            cost = runnable.cost
            self.counters.busy += cost.cycles
            self.counters.stalls += cost.stalls
            self.counters.read += cost.read
            self.counters.written += cost.written
            return cost.cycles

    def _run_entry(self, bank: Bank, entry: Runnable, cancellation: Cancellation) -> None:
        fault_point("emulator.running")
        if hang := self.faults.strike(Injection.HANG):
            cancellation.hang(hang.value)
        begun = time.monotonic()
        inputs = [self._tensor(bank, tensor) for tensor in entry.inputs]
        outputs = entry.executor.run(inputs, cancellation.options)
        if self._pace is Pace.MODELLED:
            cancellation.sleep(entry.cost.seconds - (time.monotonic() - begun))
        for tensor, value in zip(entry.outputs, outputs, strict=True):
            np.copyto(self._tensor(bank, tensor), value)

    def _check_sound(self, bank: Bank) -> None:
        """What stands against a run; recorded, so that the device is FAULTED."""
        fault = Fault.NONE
        if self.thermal.celsius(running=False) >= TRIP:
            fault = Fault.OVER_TEMPERATURE
        elif bank.status is BankStatus.CORRUPT:
            fault = Fault.IMAGE
        elif self.faults.strike(Injection.ECC_UNCORRECTED):
            self.counters.ecc_uncorrected += 1
            fault = Fault.DRAM
        if fault is not Fault.NONE:
            self._record_fault(fault, bank.base)
            raise _Refused(Status.FAULT, fault.name)

    def corrupt(self, which: int) -> None:
        """Flip a bit of the active bank (0) or the other one, and have the scrubber find it."""
        number = self.active or 0
        bank = self.banks[number if which == 0 else 1 - number]
        if bank.status is BankStatus.VALID:
            self.counters.seu += 1
            bank.status = BankStatus.CORRUPT

    def _tensor(self, bank: Bank, tensor: Tensor) -> npt.NDArray[Any]:
        data = self.dram.slice(bank.base + tensor.address, tensor.nbytes)
        return np.frombuffer(data, tensor.dtype.numpy).reshape(tensor.shape)

    def _record_fault(self, fault: Fault, address: int) -> None:
        self.fault, self.fault_address = fault, address
        self._on_fault()


def _check_crc(descriptor: Descriptor, data: memoryview) -> None:
    if descriptor.flags & _CRC:
        found = google_crc32c.value(bytes(data))
        if found != descriptor.crc:
            raise _Refused(Status.BAD_CRC, f"CRC {found:#x}, wanted {descriptor.crc:#x}")
