"""The process of a container as the front holds it: a child of ours, or in a unit of systemd's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import DecodeError, Struct, json

from edged.errors import ContainerError, KilledError

__all__ = ["Child", "Ended", "Ending", "InUnit", "Process", "Refused", "Started", "said"]

MAX_WORDS: Final = 16 << 10


_FROM_OUTSIDE: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that nothing which a model does is answered with: someone sent them, or the kernel, for
want of memory. What a container is killed for by us is not known by its signal."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a container ended.

    Attributes:
        why: in words that go on from "because".
        by_model: whether the model, or what it was asked, brought it about: it crashed, hung, or
            wanted more than it may. Not so when someone killed it, or the machine lacks memory.
    """

    why: str
    by_model: bool = True

    def __str__(self) -> str:
        return self.why

    def error(self, doing: str) -> ContainerError:
        """The error for what was under way: *doing*, such as ``cannot start the container``."""
        kind = ContainerError if self.by_model else KilledError
        return kind(f"{doing}: {self.why}")


class Process(Protocol):
    """What a container needs of the process that holds its model.

    Attributes:
        pid: of the process that was started: the model's own, or bubblewrap around it.
        unit: of systemd that it runs in, empty for a child of ours.
        stderr: what it says; at its end when nothing of it is left.
    """

    @property
    def pid(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def stderr(self) -> asyncio.StreamReader: ...

    def kill(self) -> None:
        """End it at once, whatever it is at."""
        ...

    async def ended(self) -> Ending:
        """Wait until it is gone; returns how it ended. To be called once."""
        ...


class Child:
    """A child of this process.

    Args:
        process: with its standard error piped to us.
        wrapped: whether it runs inside bubblewrap, which tells of a signal by its exit status.
    """

    unit = ""

    def __init__(self, process: asyncio.subprocess.Process, wrapped: bool = False) -> None:
        assert process.stderr is not None
        self._process = process
        self.pid = process.pid
        self.stderr = process.stderr
        self._wrapped = wrapped
        self._pidfd: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it may have ended already
            self._pidfd = os.pidfd_open(process.pid)

    def kill(self) -> None:
        # Not by Popen, which would reap the process behind asyncio's back.
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def ended(self) -> Ending:
        status = await self._process.wait()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        # bubblewrap makes 128 + N of signal N, as shells do.
        number = -status if status < 0 else status - 128 if self._wrapped and status > 128 else 0
        return _ending(status, number)


class Started(Struct, frozen=True, tag="started"):
    """The supervisor has started the worker."""

    pid: int
    unit: str


class Refused(Struct, frozen=True, tag="refused"):
    """The supervisor has not; why."""

    reason: str


class Ended(Struct, frozen=True, tag="ended"):
    """The worker is gone: its exit status, or the signal that it died of.

    Attributes:
        oom: whether the kernel killed it for the unit's bound on memory.
    """

    status: int
    signal: int
    oom: bool


_decoder = json.Decoder(Started | Refused | Ended)


async def said(connection: socket.socket) -> Started | Refused | Ended | None:
    """The next word of the supervisor, None if it is gone without one."""
    try:
        data = await asyncio.get_running_loop().sock_recv(connection, MAX_WORDS)
        return _decoder.decode(data) if data else None
    except (DecodeError, ConnectionError):
        return None


class InUnit:
    """A process that systemd has, with a supervisor (:mod:`edged.container.supervisor`) beside it.

    We have no right to signal it, being another user. The supervisor does when our end of the
    connection is shut, and systemd does when the supervisor is gone.

    Args:
        connection: to the supervisor, which told of the start. Closed at the end.
    """

    def __init__(
        self, started: Started, connection: socket.socket, stderr: asyncio.StreamReader
    ) -> None:
        self.pid = started.pid
        self.unit = started.unit
        self.stderr = stderr
        self._connection = connection

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # it may be gone, and the connection closed
            self._connection.shutdown(socket.SHUT_WR)

    async def ended(self) -> Ending:
        with self._connection:
            match await said(self._connection):
                case Ended(oom=True):
                    return Ending(
                        "it was killed (SIGKILL) for want of memory: MemoryMax of"
                        " edged-container@.service"
                    )
                case Ended(status=status, signal=number):
                    return _ending(status, number)
        if not self.unit:
            return Ending("its unit was stopped or killed", by_model=False)
        said_by = f"`journalctl -u {self.unit}` says by whom"
        return Ending(f"{self.unit} was stopped or killed; {said_by}", by_model=False)


def _ending(status: int, number: int) -> Ending:
    """What an exit status means, or the signal of that number if there is one."""
    if number == signal.SIGKILL:
        return Ending("it was killed (SIGKILL), by someone or for want of memory", by_model=False)
    if number == signal.SIGSYS:
        return Ending("it was killed (SIGSYS) for a system call that no honest model makes")
    if number:
        with contextlib.suppress(ValueError):
            name = signal.Signals(number).name
            return Ending(f"it died of {name}", by_model=number not in _FROM_OUTSIDE)
    return Ending(f"it ended with status {status}" if status != os.EX_OK else "it ended")
