"""The emulator as a process has it: the device over vfio-user, and its faults carried out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edged import _vfio_user_server as vfio_user
from edged.emulator._faults import Armed, Faults, Scheduled
from edged.emulator._gateware import Gateware
from edged.npu.registers import Injection

__all__ = ["Server"]

_LOG = logging.getLogger(__name__)


class Server:
    """Listens on *path* (mode 0600) and serves *device* until stopped.

    Args:
        faults: those that strike are carried out here, in the loop.
        schedule: armed when they are due, counted from the call of :meth:`serve`.

    Raises:
        ConfigError: the path cannot be listened on, or another emulator does.
    """

    def __init__(
        self, path: Path, device: Gateware, faults: Faults, schedule: Sequence[Scheduled] = ()
    ) -> None:
        self._device = device
        self._faults = faults
        self._schedule = schedule
        self._away = 0
        self._server = vfio_user.Server(path, device)
        faults.on_strike = lambda fault: self._server.call(partial(self._strike, fault))

    def serve(self) -> None:
        """Until :meth:`stop`; then every connection is closed and the socket file is gone."""
        for fault in self._schedule:
            self._server.after(fault.at_seconds, partial(self._faults.arm, fault.armed()))
        self._server.serve()

    def stop(self) -> None:
        """End :meth:`serve`. May be called from any thread."""
        self._server.stop()

    def _strike(self, fault: Armed) -> None:
        _LOG.warning("fault: %s", fault.kind.name)
        if fault.kind is Injection.REMOVAL:
            self._remove(fault.milliseconds / 1000)
            return
        self._device.strike(fault)
        if fault.kind is Injection.LINK_DOWN:
            self._server.after(fault.milliseconds / 1000, self._device.link_up)

    def _remove(self, seconds: float) -> None:
        self._server.disappear()
        self._away += 1
        self._server.after(seconds, self._return)

    def _return(self) -> None:
        self._away -= 1
        if not self._away:
            self._device.power_on()
            self._server.appear()
