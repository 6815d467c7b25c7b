"""Starting containers: as children of ours, or by systemd, each in a unit of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec import json

from edged import sandbox
from edged.container._arena import Memory
from edged.container._container import Container, Launcher
from edged.container._files import NAMES
from edged.container._process import Child, InUnit, Process, Refused, Started, said
from edged.errors import ContainerError, KilledError, StoreError
from edged.faults import fault_point

__all__ = ["ContainerLimits", "ProcessLauncher", "SystemdLauncher"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ContainerLimits:
    """Bounds of each container.

    Attributes:
        memory_bytes: on its memory, shared memory aside; a unit of systemd's has another.
        start_seconds: how long it may take to load its model.
        call_seconds: how long it may work on one call; one that takes longer is ended.
        arena_bytes: shared memory for requests, and as much for responses; bounds each of them.
            It takes memory only while it is in use.
    """

    memory_bytes: int = 2 << 30
    start_seconds: float = 30.0
    call_seconds: float = 60.0
    arena_bytes: int = 128 << 20


_LIMITS: Final = ContainerLimits()


class _Starting(ABC):
    """What launchers have in common: the channel, and the wait until the model is loaded."""

    def __init__(self, limits: ContainerLimits) -> None:
        self._limits = limits

    async def start(self, folder: Path) -> Container:
        """Start a process that holds the model in *folder*, and wait until it is loaded.

        Args:
            folder: stays as it is until the container is stopped.

        Raises:
            SandboxError: this host cannot confine it, or not in the way asked for.
            ContainerError: it ended before it was ready, with its last words; or took too long.
            KilledError: someone, or want of memory, ended it; or it could not be started at all.
            EdgedError: why the model cannot be loaded, in the words of the process.
        """
        began = time.monotonic()
        container = await self._spawn(folder)
        try:
            fault_point("container.spawned")
            async with asyncio.timeout(self._limits.start_seconds):
                ready = await container.ready()
        except TimeoutError as error:
            await container.stop()
            raise self._too_late() from error
        except ContainerError as error:
            await container.stop()
            raise (await container.closed).error("cannot start the container") from error
        except BaseException:
            await container.stop()
            raise
        _log.info(
            "container %d is ready after %.0f ms (%s), confined by %s",
            container.pid,
            (time.monotonic() - began) * 1e3,
            ", ".join(f"{step} {taken:.0f}" for step, taken in ready.milliseconds.items()),
            ", ".join(filter(None, (container.unit, ready.confinement))),
        )
        return container

    async def _spawn(self, folder: Path) -> Container:
        with _channel(self._limits.arena_bytes) as channel:
            process = await self._process(
                folder, (channel.worker.fileno(), channel.requests.fd, channel.responses.fd)
            )
            return Container(
                process,
                channel.front,
                channel.requests,
                channel.responses,
                self._limits.call_seconds,
            )

    def _too_late(self) -> ContainerError:
        return ContainerError(
            f"cannot start the container: not ready after {self._limits.start_seconds:g} s, the"
            " limit of container.start_seconds"
        )

    @abstractmethod
    async def _process(self, folder: Path, theirs: tuple[int, int, int]) -> Process:
        """Start a worker with the descriptors of its channel and of both memories."""


class ProcessLauncher(_Starting):
    """Starts confined processes, each in bubblewrap where that works.

    Args:
        bubblewrap: as `edged.sandbox.command` takes it.
    """

    def __init__(self, limits: ContainerLimits = _LIMITS, bubblewrap: str = "auto") -> None:
        super().__init__(limits)
        self._bubblewrap = bubblewrap

    async def _process(self, folder: Path, theirs: tuple[int, int, int]) -> Process:
        words = await asyncio.to_thread(self._words, folder, theirs)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=theirs,
                start_new_session=True,
            )
        except OSError as error:
            raise KilledError(f"cannot start the container: {error}") from error
        return Child(process, wrapped=Path(words[0]).name == "bwrap")

    def _words(self, folder: Path, descriptors: tuple[int, ...]) -> list[str]:
        folder = folder.absolute()
        argv = [sys.executable, "-P", "-m", "edged.container.worker", str(folder)]
        argv += [str(self._limits.memory_bytes), str(self._limits.call_seconds)]
        argv += [str(fd) for fd in descriptors]
        confinement = sandbox.Confinement(read_only=(folder,))
        return sandbox.command(argv, confinement, descriptors, bubblewrap=self._bubblewrap)


class SystemdLauncher(_Starting):
    """Has systemd start them: ``edged-container@.service``, an instance for each connection.

    The process is another user than we are and sees none of our files: it is given the model's by
    descriptors. See :mod:`edged.container.supervisor` for what is said.

    Args:
        socket: of ``edged-container.socket``.
        otherwise: starts them where nobody listens there, or where systemd cannot set up the unit;
            None if that is an error.
    """

    def __init__(
        self,
        socket: Path,
        otherwise: Launcher | None = None,
        limits: ContainerLimits = _LIMITS,
    ) -> None:
        super().__init__(limits)
        self._socket = socket
        self._otherwise = otherwise

    async def start(self, folder: Path) -> Container:
        """As `ProcessLauncher.start`, which see."""
        try:
            return await super().start(folder)
        except _NoUnitError as error:
            if self._otherwise is None:
                raise
            _log.warning("%s; starting it without", error)
            return await self._otherwise.start(folder)

    async def _process(self, folder: Path, theirs: tuple[int, int, int]) -> Process:
        loop = asyncio.get_running_loop()
        environment = await asyncio.to_thread(sandbox.worker_environment)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as sent:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(connection.close)
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, str(self._socket))
            except OSError as error:
                raise _NoUnitError(
                    f"cannot start a container by systemd: {self._socket}:"
                    f" {error.strerror or error}; see `systemctl status edged-container.socket`,"
                    ' or set container.launcher = "process"'
                ) from error
            reading, writing = os.pipe()
            pipe = ours.enter_context(os.fdopen(reading, "rb", 0))
            sent.callback(os.close, writing)
            stderr = asyncio.StreamReader()
            transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(stderr), pipe
            )
            ours.callback(transport.close)
            files = {name: fd for name in NAMES if (fd := _opened(folder / name)) is not None}
            for fd in files.values():
                sent.callback(os.close, fd)
            message = json.encode(
                {
                    "environment": environment,
                    "memory_bytes": self._limits.memory_bytes,
                    "call_seconds": self._limits.call_seconds,
                    "files": list(files),
                }
            )
            # It fits into an empty buffer. If systemd has hung up, there is no answer either.
            with contextlib.suppress(ConnectionError):
                socket.send_fds(connection, [message], [writing, *theirs, *files.values()])
            sent.close()
            try:
                async with asyncio.timeout(self._limits.start_seconds):
                    answer = await said(connection)
            except TimeoutError as error:
                raise self._too_late() from error
            match answer:
                case Started() as started:
                    ours.pop_all()
                    return InUnit(started, connection, stderr)
                case Refused(reason):
                    raise KilledError(reason)
            raise _NoUnitError(
                "cannot start a container by systemd: its unit ended at once; see"
                " `journalctl -u 'edged-container@*'`"
            )


class _NoUnitError(KilledError):
    """Nobody listens at the socket, or the unit cannot be set up on this host."""


def _opened(path: Path) -> int | None:
    """To be read. None if it is not there: the worker says so, if it wants it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot start the container: {path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Ends:
    """Both ends of a channel, and what they share."""

    front: socket.socket
    worker: socket.socket
    requests: Memory
    responses: Memory


@contextlib.contextmanager
def _channel(arena_bytes: int) -> Iterator[_Ends]:
    """The worker's end is closed with the context; the rest only if an error leaves it."""
    with contextlib.ExitStack() as ours:
        front, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.callback(front.close)
        with worker:
            front.setblocking(False)
            requests = Memory.create("edged-requests", arena_bytes)
            ours.callback(requests.close)
            responses = Memory.create("edged-responses", arena_bytes)
            ours.callback(responses.close)
            yield _Ends(front, worker, requests, responses)
            ours.pop_all()
