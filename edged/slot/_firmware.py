"""Changing the firmware of the slot's device, for which the slot lets go of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edged.device import Booted, Device
from edged.errors import DeviceError, InputError
from edged.notices import Notice, about
from edged.npu import Firmware, FirmwareKind, parse_firmware
from edged.slot._link import DeviceLink
from edged.slot._slot import Slot
from edged.slot._standby import Tell
from edged.slot._states import State

__all__ = ["FirmwareUpdate"]

_log = logging.getLogger(__name__)


class FirmwareUpdate:
    """Flashes the device of *slot*.

    Args:
        open_device: opens it, whatever its state and ABI are; blocking.
    """

    def __init__(self, slot: Slot, link: DeviceLink, open_device: Callable[[], Device]) -> None:
        self._slot = slot
        self._link = link
        self._open_device = open_device

    async def flash(self, image: bytes, golden: bool, force: bool, tell: Tell) -> Firmware:
        """Put a firmware file into the flash; a role runs afterwards.

        Args:
            golden: it may be a golden image, and has to be.
            force: whether a model that serves may be interrupted. Calls are refused with
                UNAVAILABLE meanwhile, and it serves again afterwards.

        Returns:
            what was flashed.

        Raises:
            ImageError: the file is damaged, or none.
            InputError: a model serves; or it is a golden image and that was not said.
            IncompatibleError: it is not for this card, or for this edged.
            DeviceError, DeadlineError: the flash is not sound now; flash again.
        """
        firmware = await asyncio.to_thread(parse_firmware, image)
        header = firmware.header
        if golden != (header.kind is FirmwareKind.GOLDEN):
            raise InputError(
                "cannot flash: this is a golden image; --golden says that it is meant to be"
                if not golden
                else "cannot flash: this is no golden image; leave --golden out"
            )
        self._check_idle(force)
        tell("waiting for the device")
        async with self._link.lent("its firmware is being flashed"):
            booted = await asyncio.to_thread(self._flash, firmware, tell)
        if booted is not None and booted.gateware != header.gateware_id:
            raise _not_booted(booted)
        _log.warning("flashed %s", header, extra=about(Notice.FLASHED))
        return firmware

    def _check_idle(self, force: bool) -> None:
        status = self._slot.status
        if force or status.state in (State.ABSENT, State.EMPTY):
            return
        what = f"{status.model} is {status.state.value}" if status.model else status.state.value
        raise InputError(
            f"cannot flash: {what}; --force interrupts it, and it serves again afterwards"
        )

    def _flash(self, firmware: Firmware, tell: Tell) -> Booted | None:
        device = self._open_device()
        try:
            return device.flash(firmware, tell)
        finally:
            device.close()


def _not_booted(booted: Booted) -> DeviceError:
    return DeviceError(
        f"cannot boot the role that was flashed: the card runs gateware {booted.gateware.hex()} of"
        f" its {booted.region.name.lower()} region; flash again, or another image"
    )
