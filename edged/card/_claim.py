"""Taking a card from the kernel for a driver that hands it out, and giving it back as it was.

By ``driver_override`` of sysfs (Documentation/ABI/testing/sysfs-bus-pci of Linux), which binds this
one function and no other with the same ids. What was there before is written down first, so that it
is put back also by a later run, should this one be killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edged.discovery import UIO_DRIVER, VFIO_DRIVER, Card, read_card
from edged.errors import DeviceError, DeviceLostError
from edged.nesting import check_nesting

__all__ = ["Claim"]

_LOG = logging.getLogger(__name__)
_MAX_RECORD: Final = 4096
_NO_OVERRIDE: Final = ("", "(null)")
_OURS: Final = frozenset((VFIO_DRIVER, UIO_DRIVER))


@dataclass(frozen=True, slots=True)
class _Before:
    """How a function was.

    Attributes:
        folder: of it in sysfs.
        ids: vendor and device: another card may stand there by now.
        driver: empty with none.
        override: of ``driver_override``, empty with none.
    """

    folder: str
    ids: str
    driver: str
    override: str


class Claim:
    """Whatever card is bound to vfio-pci, or to uio_pci_generic, because of us.

    Args:
        record: file that outlives this process, and not this boot.
        drivers: folder of the PCI drivers in sysfs.
    """

    def __init__(self, record: Path, drivers: Path = Path("/sys/bus/pci/drivers")) -> None:
        self._record = record
        self._drivers = drivers

    def take(self, card: Card, driver: str = VFIO_DRIVER) -> None:
        """Bind *card* to *driver*, away from the one that has it.

        Raises:
            DeviceError: the kernel refuses, or that driver is not there.
            DeviceLostError: the card is gone.
        """
        before = self._read()
        if before is not None and (
            before.folder != str(card.folder) or card.driver in _OURS - {driver}
        ):
            self.give_back()
            card = read_card(card.folder) or card
        if card.driver == driver:
            return  # Handed to processes by someone else, or by us, who were killed.
        self._load(driver)
        try:
            override = (card.folder / "driver_override").read_text().strip()
            self._write(
                _Before(
                    str(card.folder),
                    f"{card.vendor:04x}:{card.device:04x}",
                    card.driver or "",
                    "" if override in _NO_OVERRIDE else override,
                )
            )
            _set(card.folder / "driver_override", driver)
            if card.driver is not None:
                _LOG.warning("taking %s away from %s", card, card.driver)
                _set(card.folder / "driver/unbind", card.folder.name)
            _set(self._drivers.parent / "drivers_probe", card.folder.name)
        except OSError as error:
            self.give_back()
            if not card.folder.exists():
                raise DeviceLostError(f"cannot take card {card}: it is gone") from error
            raise DeviceError(
                f"cannot take card {card}: {error.filename}: {error.strerror}; edged-card has to"
                " run as root"
            ) from error
        bound = read_card(card.folder)
        if bound is None or bound.driver != driver:
            self.give_back()
            raise DeviceError(
                f"cannot take card {card}: the kernel did not bind it to {driver};"
                " its log (dmesg) says why"
            )

    def give_back(self) -> None:
        """Have the card as it was before :meth:`take`, of this run or an earlier one."""
        before = self._read()
        if before is None:
            return
        folder = Path(before.folder)
        card = read_card(folder)
        # Gone, or another one stands there: nothing of what was done is left.
        if card is not None and f"{card.vendor:04x}:{card.device:04x}" == before.ids:
            try:
                if card.driver in _OURS:
                    _set(folder / "driver/unbind", folder.name)
                # A lone newline takes the override back.
                _set(folder / "driver_override", before.override or "\n")
                if before.driver:
                    _set(self._drivers.parent / "drivers_probe", folder.name)
                _LOG.info("gave %s back to %s", card, before.driver or "no driver")
            except OSError as error:
                _LOG.warning("cannot give %s back: %s: %s", card, error.filename, error.strerror)
        self._record.unlink(missing_ok=True)

    def _load(self, driver: str) -> None:
        if (self._drivers / driver).exists():
            return
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(  # noqa: S603  (fixed words)
                ["/sbin/modprobe", driver], timeout=30, check=True, capture_output=True
            )
        if not (self._drivers / driver).exists():
            raise DeviceError(
                f"cannot take a card: the kernel's driver {driver} is not loaded; modprobe {driver}"
            )

    def _read(self) -> _Before | None:
        try:
            with self._record.open("rb") as file:
                text = file.read(_MAX_RECORD)
            check_nesting(text)
            return _Before(**json.loads(text))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _LOG.warning("cannot read %s, which is set aside: %s", self._record, error)
            with contextlib.suppress(OSError):
                self._record.rename(self._record.with_suffix(".unreadable"))
            return None

    def _write(self, before: _Before) -> None:
        draft = self._record.with_suffix(".draft")
        with draft.open("w") as file:
            json.dump(asdict(before), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._record)


def _set(file: Path, value: str) -> None:
    """Write to a file of sysfs: in one call, and without making it."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        error.filename = str(file)
        raise
    finally:
        os.close(fd)
