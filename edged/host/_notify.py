"""Telling systemd how the service fares: sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

__all__ = ["Notifier"]


class Notifier:
    """Tells the service manager; does nothing where there is none.

    The protocol is one datagram of ``KEY=value`` lines, which systemd promises to keep.

    Args:
        environment: where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_seconds = _watchdog_seconds(environment)

    def ready(self) -> None:
        """The service has started."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """A line that ``systemctl status`` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def reloading(self) -> None:
        """The service reads its configuration again, until it is :meth:`ready`."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The service is on its way out."""
        self._send("STOPPING=1")

    async def feed_watchdog(self, refresh: Callable[[], None] = lambda: None) -> None:
        """Say that the loop which serves is alive, twice in the time that systemd allows.

        Run it on that loop and no other. Ends at once where no watchdog waits.

        Args:
            refresh: is called as often, to renew what :meth:`status` said.
        """
        if self._watchdog_seconds is None:
            return
        while True:
            self._send("WATCHDOG=1")
            refresh()
            await asyncio.sleep(self._watchdog_seconds / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # "@" stands for the zero byte of an abstract address.
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        # A service manager that does not listen is no reason to fail, nor to wait.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(message.encode(errors="replace"), address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """What sd_watchdog_enabled(3) answers."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
