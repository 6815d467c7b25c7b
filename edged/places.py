"""Where edged's folders are unless told otherwise, for the daemon and the emulator beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["DEVICE_SOCKET", "runtime_place", "state_place"]

DEVICE_SOCKET = "device.sock"
"""In the folder of sockets: where the emulator listens, and the daemon looks for it."""


def state_place(environment: Mapping[str, str]) -> Path:
    """The folder of what is kept: systemd's ``StateDirectory=``, or by the XDG specification."""
    if systemd := environment.get("STATE_DIRECTORY"):
        # Several are separated by colons; the unit has one.
        return Path(systemd.split(":")[0])
    home = Path(environment.get("HOME") or "~").expanduser()
    return (_absolute(environment.get("XDG_STATE_HOME")) or home / ".local" / "state") / "edged"


def runtime_place(environment: Mapping[str, str], state: Path) -> Path:
    """The folder of sockets: ``RuntimeDirectory=``, by the XDG specification, or in *state*."""
    if systemd := environment.get("RUNTIME_DIRECTORY"):
        return Path(systemd.split(":")[0])
    base = _absolute(environment.get("XDG_RUNTIME_DIR"))
    return base / "edged" if base else state / "run"


def _absolute(path: str | None) -> Path | None:
    # The XDG specification: relative paths in these variables are to be ignored.
    return Path(path) if path and Path(path).is_absolute() else None
