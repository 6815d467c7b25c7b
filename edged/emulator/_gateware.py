"""The device as a host sees it: BAR0, openings, resets."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edged._vfio_user_server import Busy
from edged.emulator._core import Bank, Core, Counters, Pace, Push
from edged.emulator._executor import WeightEncodings
from edged.emulator._faults import Armed, Faults
from edged.emulator._flash import REGION_BYTES, FlashChip
from edged.emulator._interrupts import Interrupts
from edged.emulator._memory import HostMemory
from edged.emulator._pci import CONFIG_SIZE, MSI_VECTORS, ConfigSpace
from edged.emulator._queue import Opening, QueueEngine
from edged.emulator._timing import CLOCK_KHZ
from edged.npu import EMULATOR_SHELL, FirmwareKind
from edged.npu.registers import (
    ABI,
    BANK_STRIDE,
    BANKS,
    BAR0_SIZE,
    MAGIC,
    QUEUE_MANAGEMENT,
    QUEUE_STRIDE,
    QUEUES,
    Array,
    Capability,
    Command,
    Fault,
    Flash,
    FlashCommand,
    Inject,
    Injection,
    Queue,
    QueueControl,
    Reg,
    ResetCause,
    State,
)
from edged.npu.registers import Bank as BankReg

__all__ = ["Gateware"]

_ACTIVATION_BUFFER: Final = 2 << 20
_WEIGHT_BUFFER: Final = 1 << 20
_IDLE_POWER_MW: Final = 21_500
_RUN_POWER_MW: Final = 43_000
_NO_BANK: Final = 0xFFFF_FFFF
_RESET_SECONDS: Final = 10.0
_COMPLETION_TIMEOUT: Final = 14
"""Its bit in the status of uncorrectable errors."""
_LOW: Final = 0xFFFF_FFFF
_FLASH_BYTES: Final = Flash.GOLDEN_DIGEST + 32


class Gateware:
    """One device with several openings, as ADR 2 has it.

    The message loop calls everything here; the queues' threads work behind it.
    """

    bar0_size = BAR0_SIZE
    config_size = CONFIG_SIZE
    msi_vectors = MSI_VECTORS
    gives_memory = False
    bus_steps: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        array: Array,
        dram_bytes: int,
        weights: WeightEncodings,
        threads: int,
        pace: Pace,
        faults: Faults,
        injectable: bool = False,
        flash: Path | None = None,
    ) -> None:
        self.config = ConfigSpace()
        self._flash = FlashChip(flash, array, slow=pace is Pace.MODELLED)
        self._core = Core(
            array=self._flash.header.array if self._flash.header else array,
            flash=self._flash,
            dram_bytes=dram_bytes,
            weights=weights,
            threads=threads,
            pace=pace,
            faults=faults,
            on_fault=self._signal_event,
        )
        self._faults = faults
        self._capabilities = Capability.FLASH
        if pace is Pace.MODELLED:
            self._capabilities |= Capability.MODELLED_PACE
        self._injection: dict[int, int] = dict.fromkeys(_INJECT_ARGUMENTS, 0)
        if injectable:
            self._capabilities |= Capability.FAULT_INJECTION
        self._link_is_up = True
        self._openings: tuple[Opening, ...] = ()
        self._scratch: int = 0
        self._cause: ResetCause = ResetCause.POWER_ON
        self._idle = threading.Condition()
        self._resetting = False
        self._booting: FirmwareKind | None = None
        self._queues = tuple(
            QueueEngine(number, self._core, self._queue_idle) for number in range(QUEUES)
        )

    def strike(self, fault: Armed) -> None:
        """Carry out what is no matter of one operation, nor of the connections."""
        match fault.kind:
            case Injection.ECC_CORRECTED:
                self._core.counters.ecc_corrected += max(1, fault.value)
            case Injection.TEMPERATURE:
                self._core.thermal.ramp(fault.value, fault.milliseconds / 1000)
            case Injection.CORRUPT_BANK:
                self._core.corrupt(fault.value)
            case Injection.LINK_WIDTH:
                self.config.train(width=fault.value)
            case Injection.LINK_SPEED:
                self.config.train(speed=fault.value)
            case Injection.AER_CORRECTABLE:
                self.config.note_error(fault.value, correctable=True)
            case Injection.AER_UNCORRECTABLE:
                self.config.note_error(fault.value or _COMPLETION_TIMEOUT, correctable=False)
            case Injection.DRAM_CALIBRATION:
                self._core.counters.calibrated = False
            case Injection.LINK_DOWN:
                self._link_is_up = False
                for each in self._queues:
                    each.abort()

    def link_up(self) -> None:
        """After the link was down. The loss of it has reset the function."""
        self._link_is_up = True
        self.power_on()

    def power_on(self) -> None:
        """As new: nothing of what was loaded, counted or switched on is left."""
        self._booting = FirmwareKind.ROLE
        self._begin_reset(ResetCause.POWER_ON)
        self._forget()

    def read_config(self, offset: int, size: int) -> bytes:
        """*size* bytes of the configuration space."""
        if not self._link_is_up:
            return b"\xff" * size
        line = any(opening.interrupts.raises_line for opening in self._openings)
        return self.config.read(offset, size, line=line)

    def write_config(self, opening: Opening, offset: int, data: bytes) -> None:
        """Change what can be changed of the configuration space; that can start a reset."""
        if self.config.write(offset, data) and not self.function_level_reset(opening):
            raise OSError(errno.ETIMEDOUT, "an operation does not end")

    def open(self) -> Opening:
        """A new opening, with nothing mapped and no interrupts."""
        opening = Opening(HostMemory(), Interrupts())
        self._openings += (opening,)
        return opening

    def close(self, opening: Opening) -> None:
        """Let go of all that an opening held: its memory, its queues, its locks."""
        self._openings = tuple(other for other in self._openings if other is not opening)
        opening.memory.close()
        for queue in self._queues:
            if queue.owner is opening:
                queue.abort()
        for bank in self._core.banks:
            if bank.holder is opening:
                bank.owner, bank.holder = 0, None
        opening.interrupts.close()

    def stop(self) -> None:
        """Power off."""
        for queue in self._queues:
            queue.stop()
        self._flash.close()

    def function_level_reset(self, opening: Opening) -> bool:
        """Reset everything, as a PCI function-level reset does.

        Returns:
            Whether the device was done within its time.

        Raises:
            Busy: another opening manages the device.
        """
        self._require_manager(opening)
        self._begin_reset(ResetCause.FUNCTION_LEVEL)
        with self._idle:
            done = self._idle.wait_for(lambda: not self._resetting, _RESET_SECONDS)
        self._forget()
        return done

    def reset_bus(self, opening: Opening, step: str) -> None:
        """There is no bus, and nobody is told that there were.

        Raises:
            OSError: always.
        """
        raise OSError(errno.EINVAL, f"no bus for a {step}")

    def read(self, opening: Opening, offset: int, size: int) -> bytes:
        """*size* bytes of BAR0; the range is inside of it."""
        if not self._link_is_up:
            return b"\xff" * size
        first = offset & ~3
        last = -(-(offset + size) // 4) * 4
        words = b"".join(
            (self._read_word(opening, at) & _LOW).to_bytes(4, "little")
            for at in range(first, last, 4)
        )
        return words[offset - first : offset - first + size]

    def write(self, opening: Opening, offset: int, data: bytes) -> None:
        """Write one or two aligned words of BAR0; anything else is ignored.

        Raises:
            Busy: another opening holds that register.
        """
        if self._link_is_up and offset % 4 == 0 and len(data) in (4, 8):
            for at in range(0, len(data), 4):
                value = int.from_bytes(data[at : at + 4], "little")
                self._write_word(opening, offset + at, value)

    # Reading

    def _read_word(self, opening: Opening, offset: int) -> int:
        if Reg.QUEUE <= offset < Reg.QUEUE + QUEUES * QUEUE_STRIDE:
            number, register = divmod(offset - Reg.QUEUE, QUEUE_STRIDE)
            return self._read_queue(self._queues[number], register)
        if Reg.BANK <= offset < Reg.BANK + BANKS * BANK_STRIDE:
            number, register = divmod(offset - Reg.BANK, BANK_STRIDE)
            return self._read_bank(self._core.banks[number], register)
        if offset == Reg.INTERRUPT_ENABLE:
            return opening.interrupts.enabled
        if offset == Reg.INTERRUPT_PENDING:
            return opening.interrupts.pending
        if Reg.FLASH <= offset < Reg.FLASH + _FLASH_BYTES:
            return self._read_flash(offset - Reg.FLASH)
        if self._is_injection(offset):
            register = offset - Reg.FAULT_INJECTION
            if register == Inject.STRUCK:
                return self._faults.struck
            return self._injection.get(register, 0)
        if offset - 4 in _WIDE:
            return _READERS[offset - 4](self) >> 32
        return _READERS[offset](self) if offset in _READERS else 0

    def _read_queue(self, queue: QueueEngine, register: int) -> int:
        match register:
            case Queue.RING_BASE:
                return queue.ring_base
            case 0x04:
                return queue.ring_base >> 32
            case Queue.LOG2_SIZE:
                return queue.log2_size
            case Queue.HEAD:
                return queue.head
            case Queue.TAIL:
                return queue.tail
            case Queue.COMPLETION_BASE:
                return queue.completion_base
            case 0x1C:
                return queue.completion_base >> 32
            case Queue.ERROR:
                return queue.error
            case Queue.CONTROL:
                return QueueControl.ENABLE if queue.enabled else 0
        return 0

    def _read_bank(self, bank: Bank, register: int) -> int:
        match register:
            case _ if register < 32:
                return int.from_bytes(bank.digest[register : register + 4], "little")
            case BankReg.BASE:
                return bank.base
            case 0x24:
                return bank.base >> 32
            case BankReg.SIZE:
                return bank.size
            case 0x2C:
                return bank.size >> 32
            case BankReg.STATUS:
                return bank.status
            case BankReg.GENERATION:
                return bank.generation
            case BankReg.OWNER:
                return bank.owner
        return 0

    def _read_flash(self, register: int) -> int:
        flash = self._flash
        match register:
            case Flash.STATUS:
                return flash.status
            case Flash.REGION:
                return flash.region
            case Flash.LENGTH:
                return flash.length
            case Flash.PROGRESS:
                return flash.progress
            case Flash.REGION_SIZE:
                return REGION_BYTES
            case Flash.BOOTED:
                return flash.booted
            case Flash.SHELL_ID | 0x24:
                at = register - Flash.SHELL_ID
                return int.from_bytes(EMULATOR_SHELL[at : at + 4], "little")
            case _ if Flash.ROLE_DIGEST <= register < _FLASH_BYTES:
                number, at = divmod(register - Flash.ROLE_DIGEST, 32)
                return int.from_bytes(flash.digest(FirmwareKind(number))[at : at + 4], "little")
        return 0

    def _state(self) -> State:
        core = self._core
        if self._resetting:
            return State.RESETTING
        if self._flash.booted is FirmwareKind.GOLDEN:
            return State.GOLDEN
        if core.fault is not Fault.NONE:
            return State.FAULTED
        if core.running:
            return State.RUNNING
        if core.active is not None:
            return State.READY
        return State.LOADING if core.loading else State.CLEARED

    # Writing

    def _write_word(self, opening: Opening, offset: int, value: int) -> None:
        if Reg.QUEUE <= offset < Reg.QUEUE + QUEUES * QUEUE_STRIDE:
            number, register = divmod(offset - Reg.QUEUE, QUEUE_STRIDE)
            self._write_queue(opening, self._queues[number], register, value)
            return
        if Reg.BANK <= offset < Reg.BANK + BANKS * BANK_STRIDE:
            number, register = divmod(offset - Reg.BANK, BANK_STRIDE)
            if register == BankReg.OWNER:
                self._write_lock(opening, self._core.banks[number], value)
            return
        if Reg.FLASH <= offset < Reg.FLASH + _FLASH_BYTES:
            self._write_flash(opening, offset - Reg.FLASH, value)
            return
        if self._is_injection(offset):
            self._write_injection(Inject(offset - Reg.FAULT_INJECTION), value)
            return
        match offset:
            case Reg.INTERRUPT_ENABLE:
                opening.interrupts.enable(value)
            case Reg.INTERRUPT_ACK:
                opening.interrupts.acknowledge(value)
            case Reg.SCRATCH:
                self._scratch = value
            case Reg.WATCHDOG_MS:
                self._require_manager(opening)
                self._core.watchdog_ms = value
            case Reg.COMMAND:
                self._require_manager(opening)
                if value == Command.SOFT_RESET:
                    self._begin_reset(ResetCause.SOFT)
                elif value == Command.CLEAR_FAULT:
                    self._core.fault, self._core.fault_address = Fault.NONE, 0

    def _write_flash(self, opening: Opening, register: int, value: int) -> None:
        if register == Flash.COMMAND and value in _BOOTS:
            self._require_manager(opening)
            self._boot(_BOOTS[value])
            return
        # Not just nobody else: the opening of a model's container never may.
        if self._queues[QUEUE_MANAGEMENT].owner is not opening:
            raise Busy("only who has the management queue changes the flash")
        match register:
            case Flash.REGION:
                self._flash.region = value
            case Flash.LENGTH:
                self._flash.length = value
            case Flash.UNLOCK:
                self._flash.unlock(value)
            case Flash.COMMAND if value in (FlashCommand.ERASE, FlashCommand.VERIFY):
                self._flash.command(FlashCommand(value))

    def _write_queue(self, opening: Opening, queue: QueueEngine, register: int, value: int) -> None:
        if register == Queue.CONTROL and not value & QueueControl.ENABLE:
            # Whoever manages the device may take a queue from its owner.
            if self._owner(queue) not in (None, opening):
                self._require_manager(opening)
            queue.abort()
            return
        if queue.owner is None and register in _QUEUE_SETUP:
            queue.owner = opening
        if queue.owner is not opening:
            raise Busy(f"queue {queue.number} belongs to another opening")
        if register == Queue.TAIL:
            queue.ring(value)
        elif register == Queue.CONTROL:
            if not self._resetting:
                queue.enable()
        elif not queue.enabled:
            _set_up(queue, register, value)

    def _is_injection(self, offset: int) -> bool:
        known = offset - Reg.FAULT_INJECTION in Inject.__members__.values()
        return known and Capability.FAULT_INJECTION in self._capabilities

    def _write_injection(self, register: Inject, value: int) -> None:
        if register in _INJECT_ARGUMENTS:
            self._injection[register] = value
        elif register is Inject.ARM and not value:
            self._faults.disarm()
        elif register is Inject.ARM and value in Injection.__members__.values():
            values = self._injection
            chance = values[Inject.CHANCE] / (1 << 32) or 1.0
            self._faults.arm(
                Armed(
                    Injection(value),
                    values[Inject.VALUE],
                    values[Inject.MILLISECONDS],
                    values[Inject.AFTER],
                    values[Inject.TIMES],
                    chance,
                )
            )

    def _write_lock(self, opening: Opening, bank: Bank, value: int) -> None:
        if value == 0 and bank.holder in (None, opening):
            bank.owner, bank.holder = 0, None
        elif value and not bank.owner:
            bank.owner, bank.holder = value, opening

    def _require_manager(self, opening: Opening) -> None:
        """While someone owns the management queue, the device as a whole is theirs."""
        if self._owner(self._queues[QUEUE_MANAGEMENT]) not in (None, opening):
            raise Busy("another opening manages the device")

    def _owner(self, queue: QueueEngine) -> Opening | None:
        """Unless it is gone: what hangs may keep its queue longer than that."""
        return queue.owner if queue.owner in self._openings else None

    # Resets

    def _boot(self, kind: FirmwareKind) -> None:
        """Load a firmware from the flash. The shell, and with it the PCI function, stays."""
        self._booting = kind
        self._forget_role()
        self._begin_reset(ResetCause.POWER_ON)

    def _begin_reset(self, cause: ResetCause) -> None:
        self._resetting = True
        self._cause = cause
        for queue in self._queues:
            queue.abort()
            queue.push(_PUSHES[cause])
        self._queue_idle()

    def _forget(self) -> None:
        """What a soft reset keeps."""
        self._forget_role()
        self.config.reset()

    def _forget_role(self) -> None:
        self._scratch = 0
        self._core.counters = Counters()
        for other in self._openings:
            other.interrupts.disable()

    def _queue_idle(self) -> None:
        """Finish a reset once no queue works any more."""
        with self._idle:
            if self._resetting and not any(queue.enabled for queue in self._queues):
                self._core.reset()
                if self._booting is not None:
                    self._flash.boot(self._booting)
                    self._booting = None
                    if self._flash.header is not None:
                        self._core.array = self._flash.header.array
                self._resetting = False
                self._idle.notify_all()

    def _signal_event(self) -> None:
        for opening in self._openings:
            opening.interrupts.trigger(0)


def _set_up(queue: QueueEngine, register: int, value: int) -> None:
    match register:
        case Queue.RING_BASE:
            queue.ring_base = queue.ring_base & ~_LOW | value
        case 0x04:
            queue.ring_base = queue.ring_base & _LOW | value << 32
        case Queue.LOG2_SIZE:
            queue.log2_size = value
        case Queue.COMPLETION_BASE:
            queue.completion_base = queue.completion_base & ~_LOW | value
        case 0x1C:
            queue.completion_base = queue.completion_base & _LOW | value << 32


_INJECT_ARGUMENTS: Final = (
    Inject.VALUE,
    Inject.MILLISECONDS,
    Inject.AFTER,
    Inject.TIMES,
    Inject.CHANCE,
)
_PUSHES: Final = {
    ResetCause.SOFT: Push.SOFT_RESET,
    ResetCause.FUNCTION_LEVEL: Push.FUNCTION_LEVEL_RESET,
    ResetCause.POWER_ON: Push.POWER_OFF,
}
_BOOTS: Final[dict[int, FirmwareKind]] = {
    FlashCommand.BOOT_ROLE: FirmwareKind.ROLE,
    FlashCommand.BOOT_GOLDEN: FirmwareKind.GOLDEN,
}
_QUEUE_SETUP: Final = {Queue.RING_BASE, 0x04, Queue.LOG2_SIZE, Queue.COMPLETION_BASE, 0x1C}
_WIDE: Final = {
    Reg.GATEWARE_ID,
    Reg.DRAM_SIZE,
    Reg.FAULT_ADDRESS,
    Reg.CYCLES,
    Reg.BUSY_CYCLES,
    Reg.STALL_CYCLES,
    Reg.BYTES_READ,
    Reg.BYTES_WRITTEN,
}
_READERS: Final[dict[int, Callable[[Gateware], int]]] = {
    Reg.MAGIC: lambda _: MAGIC,
    Reg.ABI: lambda device: device._flash.header.abi if device._flash.header else ABI,
    Reg.GATEWARE_ID: lambda device: (
        int.from_bytes(device._flash.header.gateware_id, "little") if device._flash.header else 0
    ),
    Reg.ARRAY_TI: lambda device: device._core.array.ti,
    Reg.ARRAY_TO: lambda device: device._core.array.to,
    Reg.ARRAY_TP: lambda device: device._core.array.tp,
    Reg.CAPABILITIES: lambda device: device._capabilities,
    Reg.ACTIVATION_BUFFER: lambda _: _ACTIVATION_BUFFER,
    Reg.WEIGHT_BUFFER: lambda _: _WEIGHT_BUFFER,
    Reg.DRAM_SIZE: lambda device: device._core.dram.size,
    Reg.SCRATCH: lambda device: device._scratch,
    Reg.CLOCK_KHZ: lambda _: CLOCK_KHZ,
    Reg.STATE: lambda device: device._state(),
    Reg.RESET_CAUSE: lambda device: device._cause,
    Reg.WATCHDOG_MS: lambda device: device._core.watchdog_ms,
    Reg.TEMPERATURE_MC: lambda device: int(
        device._core.thermal.celsius(running=device._core.running) * 1000
    ),
    Reg.POWER_MW: lambda device: _RUN_POWER_MW if device._core.running else _IDLE_POWER_MW,
    Reg.ECC_CORRECTED: lambda device: device._core.counters.ecc_corrected,
    Reg.ECC_UNCORRECTED: lambda device: device._core.counters.ecc_uncorrected,
    Reg.SEU_COUNT: lambda device: device._core.counters.seu,
    Reg.DRAM_CALIBRATED: lambda device: int(device._core.counters.calibrated),
    Reg.FAULT_CODE: lambda device: device._core.fault,
    Reg.FAULT_ADDRESS: lambda device: device._core.fault_address,
    Reg.TIMEOUTS: lambda device: device._core.counters.timeouts,
    Reg.CYCLES: lambda device: device._core.counters.cycles,
    Reg.BUSY_CYCLES: lambda device: device._core.counters.busy,
    Reg.STALL_CYCLES: lambda device: device._core.counters.stalls,
    Reg.BYTES_READ: lambda device: device._core.counters.read,
    Reg.BYTES_WRITTEN: lambda device: device._core.counters.written,
    Reg.ACTIVE_BANK: lambda device: (
        _NO_BANK if device._core.active is None else device._core.active
    ),
}
assert max(_READERS) < BAR0_SIZE
