"""Sockets that systemd listens on and hands over: sd_listen_fds_with_names(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from edged.errors import ConfigError

__all__ = ["sockets_given"]

_FIRST: Final = 3


def sockets_given(
    *names: str, environment: MutableMapping[str, str] = os.environ
) -> dict[str, list[socket.socket]]:
    """Take the sockets over; once, as *environment* is silent about them afterwards.

    Args:
        names: those that there is a use for, ``FileDescriptorName=`` in their units.

    Returns:
        for each of them its sockets, mostly none.

    Raises:
        ConfigError: there is one of another name or kind.
    """
    given: dict[str, list[socket.socket]] = {name: [] for name in names}
    whose = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    called = environment.pop("LISTEN_FDNAMES", "").split(":")
    if whose != str(os.getpid()) or not count.isdecimal():
        return given
    for number in range(int(count)):
        name = called[number] if number < len(called) else "unknown"
        os.set_inheritable(_FIRST + number, False)
        found = socket.socket(fileno=_FIRST + number)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if name not in given or found.type != socket.SOCK_STREAM or not listens:
            raise ConfigError(
                f"cannot use the socket {name!r} that systemd hands over: wanted ListenStream= and"
                f" FileDescriptorName={' or '.join(names)} in its unit"
            )
        found.setblocking(False)
        given[name].append(found)
    return given
