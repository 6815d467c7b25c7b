"""What the owner of the bus can do for a card: reset it, or take the card off and look anew.

After Documentation/ABI/testing/sysfs-bus-pci of Linux: ``reset_method``, ``reset``, ``remove`` and
``rescan``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edged.device._ladder import Step
from edged.errors import DeadlineError, DeviceError

__all__ = ["PciBus"]

_LOG = logging.getLogger(__name__)
_RESET_SECONDS: Final = 10.0
_BUS: Final = "bus"


class PciBus:
    """The bus, as seen from one function on it.

    Args:
        function: its folder in sysfs, ``/sys/bus/pci/devices/ADDRESS``.
        bus: the folder of the bus itself.
    """

    def __init__(self, function: Path, bus: Path = Path("/sys/bus/pci")) -> None:
        self._function = function
        self._bus = bus

    @property
    def offers(self) -> frozenset[Step]:
        """What this process may do."""
        offered = set()
        if _writable(self._function / "reset_method") and _writable(self._function / "reset"):
            offered.add(Step.BUS_RESET)
        if _writable(self._function / "remove") and _writable(self._bus / "rescan"):
            offered.add(Step.REMOVE_AND_RESCAN)
        return frozenset(offered)

    def take(self, step: Step) -> None:
        """Take a step. Removing ends in the background: the kernel waits for who has the card.

        Raises:
            DeviceError: the kernel refuses, because other cards are on that bus for instance.
            DeadlineError: it does not come back.
        """
        match step:
            case Step.BUS_RESET:
                self._bounded(self._reset_bus, step)
            case Step.REMOVE_AND_RESCAN:
                threading.Thread(target=self._remove_and_rescan, name="rescan", daemon=True).start()
            case _:
                raise DeviceError(f"cannot do a {step.value}: that is no matter of the bus")

    def _reset_bus(self) -> None:
        method = self._function / "reset_method"
        before = method.read_text().strip()
        method.write_text(_BUS)
        try:
            (self._function / "reset").write_text("1")
        finally:
            method.write_text(before)

    def _remove_and_rescan(self) -> None:
        try:
            (self._function / "remove").write_text("1")
            (self._bus / "rescan").write_text("1")
        except OSError as error:
            _LOG.error("cannot remove and rescan %s: %s", self._function.name, error.strerror)
        else:
            _LOG.warning("%s was removed from its bus, which was scanned anew", self._function.name)

    def _bounded(self, act: Callable[[], None], step: Step) -> None:
        """A write to sysfs cannot be broken off: whoever waits for it can be."""
        failed: list[OSError] = []

        def run() -> None:
            try:
                act()
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=run, name=step.value, daemon=True)
        thread.start()
        thread.join(_RESET_SECONDS)
        what = f"cannot do a {step.value} of {self._function.name}"
        if thread.is_alive():
            raise DeadlineError(f"{what}: not done within {_RESET_SECONDS:g} s")
        if failed:
            raise DeviceError(f"{what}: {failed[0].strerror}") from failed[0]


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK)
