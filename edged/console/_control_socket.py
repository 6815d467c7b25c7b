"""The control socket: made with its permissions, and who is at the other end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from pathlib import Path
from typing import Final

from edged.errors import ConfigError

__all__ = ["listen", "peer_uid"]

_BACKLOG: Final = 16
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid; unix(7)


def listen(path: Path, mode: int) -> socket.socket:
    """Listen on *path*, which has *mode* before anyone can connect.

    Raises:
        ConfigError: somebody listens there, or the folder cannot be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        # Born closed, opened once it is bound; and until listen() nobody gets in at all.
        os.fchmod(listener.fileno(), 0)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {path}: {error.strerror or error}; see console.socket in the"
            " configuration"
        ) from error
    return listener


def _clear(path: Path) -> None:
    """Remove what a daemon that is gone left there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(str(path))
            raise OSError(errno.EADDRINUSE, "another edged is listening there")
    if path.is_socket():
        path.unlink()


def peer_uid(connection: socket.socket) -> int:
    """The user that opened the other end, as the kernel noted it then."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(credentials)
    return int(uid)
