"""The control plane: what a device is, what is in its banks, and the management queue."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self, TypeVar

import google_crc32c
import numpy as np

from edged.device._flash import Booted, FlashState, boot, flash_state, write_firmware
from edged.device._ladder import Resets, Step
from edged.device._memory import DmaBuffer
from edged.device._pci import Link, LinkErrors, LinkState
from edged.device._ring import ALL_ONES, Ring, disable_queue, link_down, refusal
from edged.device._transport import BusOwner, Transport
from edged.errors import (
    DeadlineError,
    DeviceError,
    DeviceLostError,
    EdgedError,
    ImageError,
    IncompatibleError,
    LimitError,
)
from edged.notices import Notice, about
from edged.npu import (
    ABI,
    MAX_IMAGE_BYTES,
    Array,
    Firmware,
    FirmwareKind,
    Target,
    image_digest,
    parse_image,
)
from edged.npu.registers import (
    BANKS,
    MAGIC,
    MAX_ARRAY_SIZE,
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    Bank,
    BankStatus,
    Capability,
    Command,
    Descriptor,
    DescriptorFlag,
    Fault,
    FlashCommand,
    Operation,
    Queue,
    QueueControl,
    Reg,
    ResetCause,
    State,
    Status,
    Timing,
    bank_offset,
    queue_offset,
)
from edged.npu.regmap import Register

__all__ = ["BankState", "Device", "Identity", "Readings"]

_LOG = logging.getLogger(__name__)

_RING_IOVA: Final = 1 << 32
_IMAGE_IOVA: Final = 1 << 36
_LOG2_SIZE: Final = 4
_EVENT: Final = 0
"""Number of the interrupt vector of the device as a whole."""
_ABORT_SECONDS: Final = Timing.QUEUE_ABORT.seconds
_RESET_SECONDS: Final = Timing.SOFT_RESET.seconds
_PROBE_SECONDS: Final = Timing.FENCE.seconds


@dataclass(frozen=True, slots=True)
class Identity:
    """What the device says of itself; constant while it is there.

    Attributes:
        gateware: first 8 bytes of blake2s over the role image.
        target: what programs for it are compiled for.
        clock_khz: of the array.
    """

    abi: int
    gateware: bytes
    target: Target
    dram_bytes: int
    clock_khz: int
    capabilities: Capability

    def __str__(self) -> str:
        return (
            f"gateware {self.gateware.hex()}, array {self.target.array} at"
            f" {self.clock_khz // 1000} MHz, {self.dram_bytes >> 20} MiB"
        )


@dataclass(frozen=True, slots=True)
class BankState:
    """One bank, as its registers stand.

    Attributes:
        digest: of the program image in it, 32 bytes; zeros when empty.
        base, size: of its DRAM, device address and bytes.
        generation: grows with each load.
        active: whether RUN executes this bank.
    """

    number: int
    digest: bytes
    base: int
    size: int
    status: BankStatus
    generation: int
    active: bool


@dataclass(frozen=True, slots=True)
class Readings:
    """Health and counters, at one moment.

    Attributes:
        temperature: degrees Celsius.
        power: watts.
        calibrated: whether the DRAM's interface is.
        cycles, busy_cycles, stall_cycles: periods of the array's clock.
    """

    temperature: float
    power: float
    ecc_corrected: int
    ecc_uncorrected: int
    seu_count: int
    calibrated: bool
    fault: Fault
    fault_address: int
    timeouts: int
    reset_cause: ResetCause
    cycles: int
    busy_cycles: int
    stall_cycles: int
    bytes_read: int
    bytes_written: int


class Device:
    """The one who manages a device: holds its management queue. Thread-safe, blocking.

    While it is open, no other opening can load, activate or reset. Every method raises
    DeviceLostError once the device is gone.
    """

    def __init__(self, transport: Transport, identity: Identity) -> None:
        self.identity = identity
        self._transport = transport
        self._link = Link(transport)
        self._lock = threading.Lock()
        self._memory = DmaBuffer(transport, _RING_IOVA, Ring.bytes_for(_LOG2_SIZE))
        self._ring = Ring(transport, QUEUE_MANAGEMENT, self._memory, _LOG2_SIZE, start=False)
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @classmethod
    def open(
        cls,
        transport: Transport,
        resets: Resets | None = None,
        *,
        suspect: bool = False,
        any_abi: bool = False,
    ) -> Self:
        """Probe the device, then take its management queue.

        Args:
            transport: owned from here on, and closed if this fails.
            resets: if given, whatever runs is aborted, and the reset ladder is climbed as far as
                the device needs to be of use again; counted there.
            suspect: whether something is known to hang, so that aborting it counts as a step.
            any_abi: take one of another ABI as well: its firmware can be changed.

        One in state GOLDEN is opened as it is: it can do nothing but be flashed.

        Raises:
            IncompatibleError: it is no such device, or of another ABI.
            DeviceError: someone else manages it; or no reset helps.
            DeviceLostError: it is gone.
        """
        device = None
        try:
            device = cls(transport, _identify(transport, any_abi))
            if resets is None:
                device._start()
            else:
                device._make_fit(resets, suspect)
            return device
        except BaseException:
            transport.close()
            if device is not None:
                device._close_descriptors()
            raise

    @property
    def event_fd(self) -> int:
        """An eventfd that hints that something happened to the device as a whole."""
        return self._event

    def fileno(self) -> int:
        """A descriptor that polls as POLLRDHUP or POLLHUP when the device is gone."""
        return self._transport.fileno()

    def close(self) -> None:
        """Close the connection; the device keeps its banks. What is under way elsewhere fails."""
        self._ring.release()
        self._transport.close()
        with self._lock:
            self._close_descriptors()

    def state(self) -> State:
        """What the device does now.

        Raises:
            DeviceError: a state that this ABI does not have.
        """
        return _known(State, self._transport.region_read(Reg.STATE))

    def banks(self) -> tuple[BankState, ...]:
        """Every bank, in order."""
        active = self._transport.region_read(Reg.ACTIVE_BANK)
        return tuple(self._bank(number, number == active) for number in range(BANKS))

    def idle_bank(self) -> int:
        """Number of a bank that is not active: the one to load next."""
        active = self._transport.region_read(Reg.ACTIVE_BANK)
        return next(number for number in range(BANKS) if number != active)

    def readings(self) -> Readings:
        """Health and counters.

        Raises:
            DeviceLostError: the link is down.
        """
        self._check_link()
        health = _Registers(self._transport, Reg.TEMPERATURE_MC, Reg.TIMEOUTS)
        counters = _Registers(self._transport, Reg.CYCLES, Reg.BYTES_WRITTEN)
        return Readings(
            temperature=health[Reg.TEMPERATURE_MC] / 1000,
            power=health[Reg.POWER_MW] / 1000,
            ecc_corrected=health[Reg.ECC_CORRECTED],
            ecc_uncorrected=health[Reg.ECC_UNCORRECTED],
            seu_count=health[Reg.SEU_COUNT],
            calibrated=bool(health[Reg.DRAM_CALIBRATED]),
            fault=_known(Fault, health[Reg.FAULT_CODE]),
            fault_address=health[Reg.FAULT_ADDRESS],
            timeouts=health[Reg.TIMEOUTS],
            reset_cause=_known(ResetCause, self._transport.region_read(Reg.RESET_CAUSE)),
            cycles=counters[Reg.CYCLES],
            busy_cycles=counters[Reg.BUSY_CYCLES],
            stall_cycles=counters[Reg.STALL_CYCLES],
            bytes_read=counters[Reg.BYTES_READ],
            bytes_written=counters[Reg.BYTES_WRITTEN],
        )

    def link(self) -> LinkState:
        """Speed and width of the link, now and at best.

        Raises:
            DeviceLostError: it is down.
        """
        self._check_link()
        return self._link.state()

    def link_errors(self) -> LinkErrors:
        """Errors on the link since this was last asked; each is told once.

        Raises:
            DeviceLostError: it is down.
        """
        self._check_link()
        return self._link.take_errors()

    def progress(self) -> tuple[int, int] | None:
        """Descriptors of the data queue that were fetched, and that were produced.

        None while the queue is disabled: then nobody holds it, and what they last were stands.
        """
        control = self._transport.region_read(queue_offset(QUEUE_DATA, Queue.CONTROL))
        if not control & QueueControl.ENABLE:
            return None
        head = self._transport.region_read(queue_offset(QUEUE_DATA, Queue.HEAD))
        return head, self._transport.region_read(queue_offset(QUEUE_DATA, Queue.TAIL))

    def probe(self, timeout: float = _PROBE_SECONDS) -> float | None:
        """Have the management queue pass a fence: rings, DMA and completions work.

        It has priority over the data queue: a run, however long, does not delay it.

        Returns:
            the seconds that it took; None without asking, while a load or activation is under way.

        Raises:
            DeadlineError: not within *timeout* seconds.
            DeviceError: the queue or the device refused.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._fence(timeout)
        finally:
            self._lock.release()

    def load(self, image: bytes, bank: int, timeout: float = Timing.LOAD_IMAGE.seconds) -> None:
        """Put a program image into a bank that is not active; the active one goes on running.

        Args:
            timeout: seconds for the device to check it and make it ready.

        Raises:
            IncompatibleError: ABI, array or DRAM need do not fit this device.
            DeviceError: any other status, a locked bank, or a digest that is not the image's.
            DeadlineError: not done in time.
        """
        what = f"load image into bank {bank}"
        if not 0 < len(image) <= MAX_IMAGE_BYTES:
            raise LimitError(f"cannot {what}: {len(image)} bytes, at most {MAX_IMAGE_BYTES} fit")
        with self._lock, self._locked(bank), self._image_buffer(image):
            descriptor = Descriptor(
                Operation.LOAD_IMAGE,
                DescriptorFlag.CRC | DescriptorFlag.INTERRUPT,
                length=len(image),
                host_address=_IMAGE_IOVA,
                device_address=bank,
                crc=google_crc32c.value(image),
            )
            status = self._execute(descriptor, what, timeout)
            if status == Status.BAD_CRC:  # an error on the link, which the next time may not have
                status = self._execute(descriptor, what, timeout)
        if status != Status.OK:
            raise refusal(what, Operation.LOAD_IMAGE, status, self._why(image, bank, status))
        found, wanted = self._bank(bank, False).digest, image_digest(image)
        if found != wanted:
            raise DeviceError(
                f"cannot {what}: the bank has digest {found.hex()}, wanted {wanted.hex()}"
            )

    def activate(self, bank: int, timeout: float = Timing.ACTIVATE_BANK.seconds) -> None:
        """Make *bank* the one that RUN executes.

        Raises:
            DeviceError: it holds no valid image.
            DeadlineError: a run did not end in time.
        """
        what = f"activate bank {bank}"
        descriptor = Descriptor(
            Operation.ACTIVATE_BANK, DescriptorFlag.INTERRUPT, device_address=bank
        )
        with self._lock:
            status = self._execute(descriptor, what, timeout)
        if status != Status.OK:
            raise refusal(what, Operation.ACTIVATE_BANK, status)

    def disable_queue(self, queue: int) -> None:
        """Abort a queue, whoever owns it; afterwards the device does not touch its memory.

        Raises:
            DeadlineError: the device does not let go.
        """
        disable_queue(self._transport, queue)

    def flash_state(self) -> FlashState | None:
        """What the flash holds; None where the firmware cannot be changed from here."""
        return flash_state(self._transport)

    def flash(
        self, firmware: Firmware, tell: Callable[[str, float], None] = lambda _text, _part: None
    ) -> Booted | None:
        """Put a firmware into the flash, and have a role run. Takes seconds to minutes.

        Afterwards a device that was given a role is to be closed and opened anew.

        Args:
            tell: told what is being done and how much of it is, 0 … 1.

        Returns:
            what runs after a role was flashed; None after a golden image.

        Raises:
            IncompatibleError: it is for another shell or ABI; nothing was changed.
            LimitError: it does not fit; likewise.
            DeviceError, DeadlineError: the flash is not sound now, and the golden image what boots.
        """
        with self._lock:
            write_firmware(self._transport, self._execute, firmware, tell)
            if firmware.header.kind is FirmwareKind.GOLDEN:
                return None
            tell("booting", 0.0)
            return boot(self._transport, FlashCommand.BOOT_ROLE)

    def set_watchdog(self, milliseconds: int) -> None:
        """Have the device fault a run that takes longer; 0 lets it take any time."""
        self._transport.region_write(Reg.WATCHDOG_MS, milliseconds)

    def clear_fault(self) -> None:
        """Let a device in state FAULTED run again."""
        self._transport.region_write(Reg.COMMAND, Command.CLEAR_FAULT)

    def soft_reset(self, timeout: float = 15.0) -> None:
        """Abort every queue and empty both banks. A load in another thread fails.

        Raises:
            DeadlineError: the device does not come back.
        """
        # Not under the lock: whoever has it may wait for just this.
        self._transport.region_write(Reg.COMMAND, Command.SOFT_RESET)
        deadline = time.monotonic() + timeout
        while (state := self.state()) is not State.CLEARED:
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"cannot reset device: it is still {state.name} after {timeout:g} s"
                )
            time.sleep(0.0005)
        with self._lock:
            self._start()

    def function_level_reset(self) -> None:
        """Reset the whole function: as :meth:`soft_reset`, and counters and faults as well."""
        self._transport.reset()
        with self._lock:
            self._start()

    def _start(self, seconds: float = 15.0) -> None:
        """Take the management queue, and the interrupt of the device as a whole."""
        self._ring.start(seconds)
        self._transport.set_interrupt(_EVENT, self._event)
        enabled = self._transport.region_read(Reg.INTERRUPT_ENABLE)
        self._transport.region_write(Reg.INTERRUPT_ENABLE, enabled | 1 << _EVENT)

    def _close_descriptors(self) -> None:
        self._ring.close()
        if self._event >= 0:
            os.close(self._event)
            self._event = -1

    def _check_link(self) -> None:
        if self._transport.region_read(Reg.MAGIC) == ALL_ONES:
            raise link_down()

    # The reset ladder.

    def _make_fit(self, resets: Resets, suspect: bool) -> None:
        """Abort what runs, and climb only as far as needed."""
        if self.state() is State.GOLDEN:
            self._start(_ABORT_SECONDS)
            return
        if self.state() is State.FAULTED:
            suspect = True
            fault = _known(Fault, self._transport.region_read(Reg.FAULT_CODE))
            _LOG.warning("the device is FAULTED (%s)", fault.name)
        for step in self._steps(resets):
            if step is Step.REMOVE_AND_RESCAN:
                resets.rescanned = True
                resets.count(step, "")
            why = self._taken(step)
            if suspect or why or step is not Step.QUEUE_ABORT:
                resets.count(step, why)
                _LOG.warning(
                    "reset: %s: %s",
                    step.value,
                    why or "the device is fit again",
                    extra=about(Notice.DEVICE_RESET, device=self.identity),
                )
            if not why:
                resets.rescanned = False
                return
        raise DeviceError(
            f"cannot use device: {why} after all resets that there are; power-cycle it"
        )

    def _steps(self, resets: Resets) -> list[Step]:
        """Those that can be taken here, in order."""
        offered = self._transport.bus_steps if isinstance(self._transport, BusOwner) else ()
        of_the_bus = {Step.BUS_RESET, Step.REMOVE_AND_RESCAN} - set(offered)
        if resets.rescanned:
            of_the_bus.add(Step.REMOVE_AND_RESCAN)
        return [step for step in Step if step not in of_the_bus]

    def _reset_bus(self, step: Step) -> None:
        assert isinstance(self._transport, BusOwner)
        self._transport.reset_bus(step)
        if step is Step.REMOVE_AND_RESCAN:
            raise DeviceLostError(
                "cannot use device: it is being removed from its bus, to be found again"
            )
        with self._lock:
            self._start()

    def _taken(self, step: Step) -> str:
        """Why the device is not fit after *step*; empty if it is."""
        try:
            match step:
                case Step.QUEUE_ABORT:
                    disable_queue(self._transport, QUEUE_DATA, _ABORT_SECONDS)
                    self.clear_fault()
                    self._start(_ABORT_SECONDS)
                case Step.SOFT_RESET:
                    self.soft_reset(_RESET_SECONDS)
                case Step.FUNCTION_LEVEL_RESET:
                    self.function_level_reset()
                case Step.BUS_RESET | Step.REMOVE_AND_RESCAN:
                    self._reset_bus(step)
                case Step.GOLDEN_IMAGE:
                    return self._taken_to_golden()
            state = self.state()
            if state not in (State.CLEARED, State.LOADING, State.READY):
                return f"it is {state.name}"
            if not self._transport.region_read(Reg.DRAM_CALIBRATED):
                return "its DRAM is not calibrated"
            self._fence(_PROBE_SECONDS)
        except DeviceLostError:
            raise
        except (DeadlineError, DeviceError) as error:
            return str(error)
        return ""

    def _taken_to_golden(self) -> str:
        """Boot the golden image, which can be flashed; nothing that hangs survives it."""
        if self.flash_state() is None:
            return "there is no golden image"
        booted = boot(self._transport, FlashCommand.BOOT_GOLDEN)
        self._start(_ABORT_SECONDS)
        return "" if booted.region is FirmwareKind.GOLDEN else "it did not boot the golden image"

    def _fence(self, timeout: float) -> float:
        begun = time.monotonic()
        descriptor = Descriptor(Operation.FENCE, DescriptorFlag.INTERRUPT)
        status = self._execute(descriptor, "probe device", timeout)
        if status != Status.OK:
            raise refusal("probe device", Operation.FENCE, status)
        return time.monotonic() - begun

    def _execute(self, descriptor: Descriptor, what: str, timeout: float) -> int:
        """Run one descriptor on the management queue; its status."""
        try:
            self._ring.submit([descriptor.pack()])
            (completion,) = self._ring.wait(time.monotonic() + timeout)
        except DeadlineError as error:
            self._start(_ABORT_SECONDS)
            raise DeadlineError(f"cannot {what}: not done within {timeout:g} s") from error
        return completion.status

    def _bank(self, number: int, active: bool) -> BankState:
        block = _Registers(self._transport, Bank.DIGEST, Bank.GENERATION, number)
        return BankState(
            number,
            digest=block[Bank.DIGEST].to_bytes(Bank.DIGEST.nbytes, "little"),
            base=block[Bank.BASE],
            size=block[Bank.SIZE],
            status=_known(BankStatus, block[Bank.STATUS]),
            generation=block[Bank.GENERATION],
            active=active,
        )

    @contextlib.contextmanager
    def _locked(self, bank: int) -> Iterator[None]:
        """Hold the bank's lock."""
        register = bank_offset(bank, Bank.OWNER)
        token = secrets.randbelow(0xFFFF_FFFF) + 1
        self._transport.region_write(register, token)
        owner = self._transport.region_read(register)
        if owner != token:
            raise DeviceError(f"cannot load image into bank {bank}: {owner:#010x} holds its lock")
        try:
            yield
        finally:
            with contextlib.suppress(EdgedError):  # it is gone, and the lock with it
                self._transport.region_write(register, 0)

    @contextlib.contextmanager
    def _image_buffer(self, image: bytes) -> Iterator[None]:
        buffer = DmaBuffer(self._transport, _IMAGE_IOVA, len(image))
        buffer.array(0, (len(image),))[:] = np.frombuffer(image, np.uint8)
        try:
            yield
        finally:
            with contextlib.suppress(DeviceLostError):
                buffer.close()

    def _why(self, image: bytes, bank: int, status: int) -> str:
        """What is known here about a refused image."""
        try:
            parsed = parse_image(image)
        except ImageError as error:
            return f" ({error})"
        if status != Status.INCOMPATIBLE:
            return ""
        size, made = self._bank(bank, False).size, parsed.schedule
        target = Target(parsed.array, made.activation_buffer, made.weight_buffer)
        own = self.identity.target
        return (
            f" (image: ABI {parsed.abi}, array {target.array}, {_code(target)},"
            f" {parsed.dram_bytes} bytes of DRAM; device: ABI {self.identity.abi}, array"
            f" {own.array}, {_code(own)}, {size} bytes a bank); compile the model for this device,"
            f" target {own}"
        )


def _code(target: Target) -> str:
    """For which buffers code is made."""
    if not target.activation_buffer:
        return "no code"
    return f"code for {target.activation_buffer} + {target.weight_buffer} bytes on chip"


_Known = TypeVar("_Known", State, Fault, ResetCause, BankStatus)


class _Registers:
    """Those from *first* to *last*, read at once: each access is a message to another process."""

    def __init__(
        self, transport: Transport, first: Register, last: Register, index: int = 0
    ) -> None:
        self._first = first
        size = last + last.nbytes - first
        self._data = transport.region_read(first.address(index), size).to_bytes(size, "little")

    def __getitem__(self, register: Register) -> int:
        at = register - self._first
        data = self._data[at : at + register.nbytes]
        return int.from_bytes(data, "little", signed=register.signed)


def _known(kind: type[_Known], value: int) -> _Known:
    """*value* as *kind*, if this ABI has it."""
    if value == ALL_ONES:
        raise link_down()
    try:
        return kind(value)
    except ValueError as error:
        raise DeviceError(f"cannot tell the device's {kind.__name__}: it says {value}") from error


def _identify(transport: Transport, any_abi: bool) -> Identity:
    """Probe the magic before anything else: PCI ids are shared."""
    magic = transport.region_read(Reg.MAGIC)
    if magic == ALL_ONES:
        raise link_down()
    if magic != MAGIC:
        raise IncompatibleError(
            f"cannot open device: its first register is {magic:#010x}, wanted {MAGIC:#010x}"
        )
    abi = transport.region_read(Reg.ABI)
    if abi != ABI and not any_abi:
        raise IncompatibleError(
            f"cannot open device: its gateware has ABI {abi}, this edged speaks ABI {ABI}; flash"
            f" the gateware of this release (edgectl device flash IMAGE), or install the edged that"
            f" speaks ABI {abi}"
        )
    sizes = [transport.region_read(each) for each in (Reg.ARRAY_TI, Reg.ARRAY_TO, Reg.ARRAY_TP)]
    array = Array(*sizes)
    if not all(0 < size <= MAX_ARRAY_SIZE for size in sizes):
        raise IncompatibleError(
            f"cannot open device: it says that it has array {array}; sizes are 1 … {MAX_ARRAY_SIZE}"
        )
    return Identity(
        abi,
        transport.region_read(Reg.GATEWARE_ID, 8).to_bytes(8, "little"),
        Target(
            array,
            transport.region_read(Reg.ACTIVATION_BUFFER),
            transport.region_read(Reg.WEIGHT_BUFFER),
        ),
        transport.region_read(Reg.DRAM_SIZE, 8),
        transport.region_read(Reg.CLOCK_KHZ),
        Capability(transport.region_read(Reg.CAPABILITIES)),
    )
