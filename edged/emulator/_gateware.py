"""The device as a host sees it: BAR0, openings, resets."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edged._vfio_user_server import Busy
from edged.emulator._core import Core, Counters, Pace, Push
from edged.emulator._encoding import WeightEncodings
from edged.emulator._faults import Armed, Faults
from edged.emulator._flash import REGION_BYTES, FlashChip
from edged.emulator._interrupts import Interrupts
from edged.emulator._memory import HostMemory
from edged.emulator._pci import CONFIG_SIZE, MSI_VECTORS, ConfigSpace
from edged.emulator._queue import Opening, QueueEngine
from edged.emulator._timing import CLOCK_KHZ
from edged.npu import EMULATOR_SHELL, FirmwareKind
from edged.npu.access import AccessPolicy, read_words, words
from edged.npu.registers import (
    ABI,
    BAR0_SIZE,
    EMULATED,
    MAGIC,
    NO_BANK,
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
from edged.npu.regmap import Access, Register, Word, address_map

__all__ = ["Gateware"]

_IDLE_POWER_MW: Final = 21_500
_RUN_POWER_MW: Final = 43_000
_RESET_SECONDS: Final = 10.0
_COMPLETION_TIMEOUT: Final = 14
"""Its bit in the status of uncorrectable errors."""
_LOW: Final = 0xFFFF_FFFF
_ENABLE: Final = int(QueueControl.ENABLE)


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
        self._capabilities = Capability.FLASH | Capability.MODELLED_READINGS
        if pace is Pace.MODELLED:
            self._capabilities |= Capability.MODELLED_PACE
        self._injection: dict[int, int] = dict.fromkeys(_INJECT_ARGUMENTS, 0)
        if injectable:
            self._capabilities |= Capability.FAULT_INJECTION
        assigned = address_map(self._capabilities)
        self._readers = {at: self._reader(word) for at, word in assigned.items()}
        self._writers = {
            at: (word, _WRITERS[type(word.register)][word.register])
            for at, word in assigned.items()
            if word.register.writable
        }
        self._link_is_up = True
        self._openings: tuple[Opening, ...] = ()
        self._scratch: int = 0
        self._cause: ResetCause = ResetCause.POWER_ON
        self._idle = threading.Condition()
        self._resetting = False
        self._booting: FirmwareKind | None = None
        self._queues: tuple[QueueEngine, ...] = tuple(
            QueueEngine(number, self._core, self._queue_idle) for number in range(QUEUES)
        )
        self._policy: AccessPolicy[Opening] = AccessPolicy(
            lambda queue: self._queues[queue].owner, lambda opening: opening in self._openings
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
        for number in self._policy.unlock(opening):
            self._core.banks[number].owner = 0
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
        if why := self._policy.reset_refusal(opening):
            raise Busy(why)
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
        readers = self._readers
        return read_words(
            lambda at: readers[at](opening) & _LOW if at in readers else 0, offset, size
        )

    def write(self, opening: Opening, offset: int, data: bytes) -> None:
        """Write one or two aligned words of BAR0; anything else is ignored.

        Raises:
            Busy: another opening holds that register.
        """
        if self._link_is_up:
            for at, value in words(offset, data):
                if at in self._writers:
                    self._write_word(opening, at, value)

    def _write_word(self, opening: Opening, offset: int, value: int) -> None:
        word, writer = self._writers[offset]
        value &= word.mask
        if why := self._policy.refusal(opening, word, value):
            raise Busy(why)
        writer(self, opening, word, value)

    def _reader(self, word: Word) -> Callable[[Opening], int]:
        """What reads one word of BAR0."""
        register, index, shift = word.register, word.index, 32 * word.part
        if register.access in (Access.COMMAND, Access.W1C):
            return lambda _: 0
        if register.private:
            return _PRIVATE[register]
        whole = _READERS[type(register)][register]
        if shift:
            return lambda _: whole(self, index) >> shift
        return lambda _: whole(self, index)

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

    # What a write does, once the policy has let it pass.

    def _write_command(self, opening: Opening, word: Word, value: int) -> None:
        if value == Command.SOFT_RESET:
            self._begin_reset(ResetCause.SOFT)
        elif value == Command.CLEAR_FAULT:
            self._core.fault, self._core.fault_address = Fault.NONE, 0

    def _write_scratch(self, opening: Opening, word: Word, value: int) -> None:
        self._scratch = value

    def _write_watchdog(self, opening: Opening, word: Word, value: int) -> None:
        self._core.watchdog_ms = value

    def _write_interrupt_enable(self, opening: Opening, word: Word, value: int) -> None:
        opening.interrupts.enable(value)

    def _write_interrupt_ack(self, opening: Opening, word: Word, value: int) -> None:
        opening.interrupts.acknowledge(value)

    def _set_up_queue(self, opening: Opening, word: Word, value: int) -> None:
        queue = self._queues[word.index]
        if queue.owner is None:
            queue.owner = opening
        if queue.enabled:
            return
        match word.register:
            case Queue.RING_BASE:
                queue.ring_base = _with_word(queue.ring_base, word.part, value)
            case Queue.LOG2_SIZE:
                queue.log2_size = value
            case Queue.COMPLETION_BASE:
                queue.completion_base = _with_word(queue.completion_base, word.part, value)

    def _ring_doorbell(self, opening: Opening, word: Word, value: int) -> None:
        self._queues[word.index].ring(value)

    def _control_queue(self, opening: Opening, word: Word, value: int) -> None:
        queue = self._queues[word.index]
        if not value:
            queue.abort()
        elif not self._resetting:
            queue.enable()

    def _write_lock(self, opening: Opening, word: Word, value: int) -> None:
        if self._policy.lock(opening, word.index, value):
            self._core.banks[word.index].owner = value

    def _command_flash(self, opening: Opening, word: Word, value: int) -> None:
        if value in _BOOTS:
            self._boot(_BOOTS[value])
        elif value in (FlashCommand.ERASE, FlashCommand.VERIFY):
            self._flash.command(FlashCommand(value))

    def _write_flash_region(self, opening: Opening, word: Word, value: int) -> None:
        self._flash.region = value

    def _write_flash_length(self, opening: Opening, word: Word, value: int) -> None:
        self._flash.length = value

    def _unlock_flash(self, opening: Opening, word: Word, value: int) -> None:
        self._flash.unlock(value)

    def _write_injection(self, opening: Opening, word: Word, value: int) -> None:
        self._injection[word.register] = value

    def _arm_injection(self, opening: Opening, word: Word, value: int) -> None:
        if not value:
            self._faults.disarm()
        elif value in Injection.__members__.values():
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
                if self._cause is not ResetCause.SOFT:
                    self._clear_registers()
                if self._booting is not None:
                    self._flash.boot(self._booting)
                    self._booting = None
                    if self._flash.header is not None:
                        self._core.array = self._flash.header.array
                self._resetting = False
                self._idle.notify_all()

    def _clear_registers(self) -> None:
        """Those that a soft reset keeps, and whose opening does not lose them otherwise."""
        self._core.watchdog_ms = 0
        for queue in self._queues:
            queue.clear()
        self._policy.unlock_all()
        for bank in self._core.banks:
            bank.owner = 0

    def _signal_event(self) -> None:
        for opening in self._openings:
            opening.interrupts.trigger(0)


def _with_word(whole: int, part: int, value: int) -> int:
    """*whole* with another value of its word number *part*."""
    return whole & ~(_LOW << 32 * part) | value << 32 * part


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
_Reader = Callable[[Gateware, int], int]
"""Gives a whole register of block number *index*."""
_Writer = Callable[[Gateware, Opening, Word, int], None]
_READERS: Final[dict[type[Register], dict[int, _Reader]]] = {
    Reg: {
        Reg.MAGIC: lambda device, _: MAGIC,
        Reg.ABI: lambda device, _: device._flash.header.abi if device._flash.header else ABI,
        Reg.GATEWARE_ID: lambda device, _: (
            int.from_bytes(device._flash.header.gateware_id, "little")
            if device._flash.header
            else 0
        ),
        Reg.ARRAY_TI: lambda device, _: device._core.array.ti,
        Reg.ARRAY_TO: lambda device, _: device._core.array.to,
        Reg.ARRAY_TP: lambda device, _: device._core.array.tp,
        Reg.CAPABILITIES: lambda device, _: device._capabilities,
        Reg.ACTIVATION_BUFFER: lambda device, _: EMULATED.activation_buffer,
        Reg.WEIGHT_BUFFER: lambda device, _: EMULATED.weight_buffer,
        Reg.DRAM_SIZE: lambda device, _: device._core.dram.size,
        Reg.SCRATCH: lambda device, _: device._scratch,
        Reg.CLOCK_KHZ: lambda device, _: CLOCK_KHZ,
        Reg.STATE: lambda device, _: device._state(),
        Reg.RESET_CAUSE: lambda device, _: device._cause,
        Reg.WATCHDOG_MS: lambda device, _: device._core.watchdog_ms,
        Reg.TEMPERATURE_MC: lambda device, _: int(
            device._core.thermal.celsius(running=device._core.running) * 1000
        ),
        Reg.POWER_MW: lambda device, _: _RUN_POWER_MW if device._core.running else _IDLE_POWER_MW,
        Reg.ECC_CORRECTED: lambda device, _: device._core.counters.ecc_corrected,
        Reg.ECC_UNCORRECTED: lambda device, _: device._core.counters.ecc_uncorrected,
        Reg.SEU_COUNT: lambda device, _: device._core.counters.seu,
        Reg.DRAM_CALIBRATED: lambda device, _: int(device._core.counters.calibrated),
        Reg.FAULT_CODE: lambda device, _: device._core.fault,
        Reg.FAULT_ADDRESS: lambda device, _: device._core.fault_address,
        Reg.TIMEOUTS: lambda device, _: device._core.counters.timeouts,
        Reg.CYCLES: lambda device, _: device._core.counters.cycles,
        Reg.BUSY_CYCLES: lambda device, _: device._core.counters.busy,
        Reg.STALL_CYCLES: lambda device, _: device._core.counters.stalls,
        Reg.BYTES_READ: lambda device, _: device._core.counters.read,
        Reg.BYTES_WRITTEN: lambda device, _: device._core.counters.written,
        Reg.ACTIVE_BANK: lambda device, _: (
            NO_BANK if device._core.active is None else device._core.active
        ),
    },
    Queue: {
        Queue.RING_BASE: lambda device, index: device._queues[index].ring_base,
        Queue.LOG2_SIZE: lambda device, index: device._queues[index].log2_size,
        Queue.HEAD: lambda device, index: device._queues[index].head,
        Queue.TAIL: lambda device, index: device._queues[index].tail,
        Queue.COMPLETION_BASE: lambda device, index: device._queues[index].completion_base,
        Queue.ERROR: lambda device, index: device._queues[index].error,
        Queue.CONTROL: lambda device, index: device._queues[index].enabled * _ENABLE,
    },
    BankReg: {
        BankReg.DIGEST: lambda device, index: int.from_bytes(
            device._core.banks[index].digest, "little"
        ),
        BankReg.BASE: lambda device, index: device._core.banks[index].base,
        BankReg.SIZE: lambda device, index: device._core.banks[index].size,
        BankReg.STATUS: lambda device, index: device._core.banks[index].status,
        BankReg.GENERATION: lambda device, index: device._core.banks[index].generation,
        BankReg.OWNER: lambda device, index: device._core.banks[index].owner,
    },
    Flash: {
        Flash.STATUS: lambda device, _: device._flash.status,
        Flash.REGION: lambda device, _: device._flash.region,
        Flash.LENGTH: lambda device, _: device._flash.length,
        Flash.PROGRESS: lambda device, _: device._flash.progress,
        Flash.REGION_SIZE: lambda device, _: REGION_BYTES,
        Flash.BOOTED: lambda device, _: device._flash.booted,
        Flash.SHELL_ID: lambda device, _: int.from_bytes(EMULATOR_SHELL, "little"),
        Flash.ROLE_DIGEST: lambda device, _: int.from_bytes(
            device._flash.digest(FirmwareKind.ROLE), "little"
        ),
        Flash.GOLDEN_DIGEST: lambda device, _: int.from_bytes(
            device._flash.digest(FirmwareKind.GOLDEN), "little"
        ),
    },
    Inject: {
        Inject.VALUE: lambda device, _: device._injection[Inject.VALUE],
        Inject.MILLISECONDS: lambda device, _: device._injection[Inject.MILLISECONDS],
        Inject.AFTER: lambda device, _: device._injection[Inject.AFTER],
        Inject.TIMES: lambda device, _: device._injection[Inject.TIMES],
        Inject.CHANCE: lambda device, _: device._injection[Inject.CHANCE],
        Inject.STRUCK: lambda device, _: device._faults.struck,
    },
}
_PRIVATE: Final[dict[int, Callable[[Opening], int]]] = {
    Reg.INTERRUPT_ENABLE: lambda opening: opening.interrupts.enabled,
    Reg.INTERRUPT_PENDING: lambda opening: opening.interrupts.pending,
}
_WRITERS: Final[dict[type[Register], dict[int, _Writer]]] = {
    Reg: {
        Reg.COMMAND: Gateware._write_command,
        Reg.SCRATCH: Gateware._write_scratch,
        Reg.WATCHDOG_MS: Gateware._write_watchdog,
        Reg.INTERRUPT_ENABLE: Gateware._write_interrupt_enable,
        Reg.INTERRUPT_ACK: Gateware._write_interrupt_ack,
    },
    Queue: {
        Queue.RING_BASE: Gateware._set_up_queue,
        Queue.LOG2_SIZE: Gateware._set_up_queue,
        Queue.COMPLETION_BASE: Gateware._set_up_queue,
        Queue.TAIL: Gateware._ring_doorbell,
        Queue.CONTROL: Gateware._control_queue,
    },
    BankReg: {BankReg.OWNER: Gateware._write_lock},
    Flash: {
        Flash.COMMAND: Gateware._command_flash,
        Flash.REGION: Gateware._write_flash_region,
        Flash.LENGTH: Gateware._write_flash_length,
        Flash.UNLOCK: Gateware._unlock_flash,
    },
    Inject: {
        **dict.fromkeys(_INJECT_ARGUMENTS, Gateware._write_injection),
        Inject.ARM: Gateware._arm_injection,
    },
}
