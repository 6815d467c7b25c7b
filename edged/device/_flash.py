"""Changing what the card boots: the host's side of the block ``Flash``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import google_crc32c

from edged.device._memory import DmaBuffer
from edged.device._ring import refusal
from edged.device._transport import Transport
from edged.errors import DeadlineError, DeviceError, IncompatibleError, LimitError
from edged.npu import ABI, Firmware, FirmwareKind
from edged.npu.registers import (
    FLASH_KEY,
    Capability,
    Descriptor,
    DescriptorFlag,
    Flash,
    FlashCommand,
    FlashStatus,
    Operation,
    Reg,
    State,
    Status,
    Timing,
)

__all__ = ["Booted", "FlashState", "boot", "flash_state", "write_firmware"]

Tell = Callable[[str, float], None]
"""Told what is being done, and which part of that is done, 0 … 1."""

_IOVA: Final = 1 << 36
_CHUNK: Final = 256 << 10
_STALL_SECONDS: Final = Timing.FLASH_PROGRESS.seconds
"""Longest time without progress: a sector that takes longer is worn out."""
_BOOT_SECONDS: Final = Timing.BOOT.seconds
_WRITE_SECONDS: Final = Timing.WRITE_FLASH.seconds
_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class FlashState:
    """What the flash holds.

    Attributes:
        shell: 8 bytes; a firmware has to be for it.
        booted: the region that runs.
        role, golden: digest of the sound firmware in the region, 32 bytes; zeros without one.
        region_bytes: what fits into each.
    """

    shell: bytes
    booted: FirmwareKind
    role: bytes
    golden: bytes
    region_bytes: int

    def __str__(self) -> str:
        role, golden = (
            digest.hex()[:16] if any(digest) else "none" for digest in (self.role, self.golden)
        )
        return f"shell {self.shell.hex()}, role {role}, golden image {golden}"


@dataclass(frozen=True, slots=True)
class Booted:
    """What runs after a boot.

    Attributes:
        gateware: its id, 8 bytes.
    """

    region: FirmwareKind
    gateware: bytes


def flash_state(transport: Transport) -> FlashState | None:
    """What the flash holds; None where the firmware cannot be changed by the host."""
    if not transport.region_read(Reg.CAPABILITIES) & Capability.FLASH:
        return None
    booted = _read(transport, Flash.BOOTED)
    if booted not in FirmwareKind.__members__.values():
        raise DeviceError(f"cannot read the flash: region {booted} is said to run")
    return FlashState(
        _bytes(transport, Flash.SHELL_ID),
        FirmwareKind(booted),
        _bytes(transport, Flash.ROLE_DIGEST),
        _bytes(transport, Flash.GOLDEN_DIGEST),
        _read(transport, Flash.REGION_SIZE),
    )


def write_firmware(
    transport: Transport,
    execute: Callable[[Descriptor, str, float], int],
    firmware: Firmware,
    tell: Tell,
) -> None:
    """Put a firmware into its region of the flash; what runs goes on running.

    Args:
        execute: has the management queue carry out a descriptor, and gives its status.

    Raises:
        IncompatibleError: it is for another shell or ABI; nothing was changed.
        LimitError: it does not fit; likewise.
        DeviceError, DeadlineError: the flash is not sound now. Flash again.
    """
    header = firmware.header
    _check_fit(flash_state(transport), firmware)
    if header.kind is FirmwareKind.GOLDEN:
        _write(transport, Flash.UNLOCK, FLASH_KEY)
    _write(transport, Flash.REGION, header.kind)
    _write(transport, Flash.LENGTH, len(firmware.data))
    _command(transport, FlashCommand.ERASE, len(firmware.data), lambda f: tell("erasing", f))
    with DmaBuffer(transport, _IOVA, _CHUNK) as buffer:
        for at in range(0, len(firmware.data), _CHUNK):
            tell("writing", at / len(firmware.data))
            chunk = firmware.data[at : at + _CHUNK]
            buffer.array(0, (len(chunk),)).data[:] = chunk
            _write_chunk(execute, at, chunk)
    _command(transport, FlashCommand.VERIFY, len(firmware.data), lambda f: tell("verifying", f))
    register = Flash.ROLE_DIGEST if header.kind is FirmwareKind.ROLE else Flash.GOLDEN_DIGEST
    if (found := _bytes(transport, register)) != header.digest:
        raise DeviceError(
            f"cannot flash: the card says digest {found.hex()[:16]}…, wanted"
            f" {header.digest.hex()[:16]}…; flash again"
        )


def boot(transport: Transport, command: FlashCommand) -> Booted:
    """Have the card load a firmware, and wait for it. Whatever ran is gone, and so are queues.

    Raises:
        DeadlineError: it does not come up.
    """
    _write(transport, Flash.COMMAND, command)
    deadline = time.monotonic() + _BOOT_SECONDS
    while transport.region_read(Reg.STATE) == State.RESETTING:
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"cannot boot the firmware: not up within {_BOOT_SECONDS:g} s; power-cycle the card"
            )
        time.sleep(_POLL_SECONDS)
    region = FirmwareKind(_read(transport, Flash.BOOTED) & 1)
    return Booted(region, transport.region_read(Reg.GATEWARE_ID, 8).to_bytes(8, "little"))


def _check_fit(state: FlashState | None, firmware: Firmware) -> None:
    header = firmware.header
    if state is None:
        raise IncompatibleError(
            "cannot flash: this card's firmware is not changed by its host; see its vendor's manual"
        )
    if header.shell != state.shell:
        raise IncompatibleError(
            f"cannot flash: the image is for shell {header.shell.hex()}, the card has"
            f" {state.shell.hex()}; get the image for this card"
        )
    if header.abi != ABI:
        raise IncompatibleError(
            f"cannot flash: the image has ABI {header.abi}, this edged speaks ABI {ABI}; get the"
            " image of this release"
        )
    if len(firmware.data) > state.region_bytes:
        raise LimitError(
            f"cannot flash: the image has {len(firmware.data)} bytes, {state.region_bytes} fit"
        )


def _write_chunk(
    execute: Callable[[Descriptor, str, float], int], offset: int, chunk: bytes
) -> None:
    descriptor = Descriptor(
        Operation.WRITE_FLASH,
        DescriptorFlag.CRC | DescriptorFlag.INTERRUPT,
        length=len(chunk),
        host_address=_IOVA,
        device_address=offset,
        crc=google_crc32c.value(chunk),
    )
    status = execute(descriptor, "flash", _WRITE_SECONDS)
    if status == Status.BAD_CRC:  # an error on the link, which the next time may not have
        status = execute(descriptor, "flash", _WRITE_SECONDS)
    if status != Status.OK:
        raise refusal("flash", Operation.WRITE_FLASH, status, f" at {offset:#x}; flash again")


def _command(
    transport: Transport, command: FlashCommand, total: int, tell: Callable[[float], None]
) -> None:
    """Give a command and wait for its end, as long as it gets on."""
    tell(0.0)
    _write(transport, Flash.COMMAND, command)
    before, since = 0, time.monotonic()
    while (status := _read(transport, Flash.STATUS)) == FlashStatus.BUSY:
        progress = _read(transport, Flash.PROGRESS)
        if progress != before:
            before, since = progress, time.monotonic()
            tell(min(1.0, progress / total))
        elif time.monotonic() - since > _STALL_SECONDS:
            raise DeadlineError(
                f"cannot flash: {command.name} has not got on for {_STALL_SECONDS:g} s;"
                " power-cycle the card, and flash again"
            )
        time.sleep(_POLL_SECONDS)
    if status != FlashStatus.IDLE:
        known = status in FlashStatus.__members__.values()
        name = FlashStatus(status).name if known else f"status {status}"
        raise DeviceError(f"cannot flash: the card answered {command.name} with {name}")


def _read(transport: Transport, register: Flash) -> int:
    return transport.region_read(register.address())


def _write(transport: Transport, register: Flash, value: int) -> None:
    transport.region_write(register.address(), value)


def _bytes(transport: Transport, register: Flash) -> bytes:
    first = register.address()
    return b"".join(
        transport.region_read(first + at, 8).to_bytes(8, "little")
        for at in range(0, register.nbytes, 8)
    )
