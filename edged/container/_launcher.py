"""Starting containers as child processes, where no service manager does it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged import sandbox
from edged.container._arena import Memory
from edged.container._container import Container
from edged.errors import ContainerError, DeadlineError
from edged.faults import fault_point

__all__ = ["ProcessLauncher"]

_log = logging.getLogger(__name__)

ARENA_BYTES: Final = 128 << 20


class ProcessLauncher:
    """Starts confined processes, each in bubblewrap where that works.

    Args:
        memory_bytes: bound on the memory of a process, shared memory aside.
        start_seconds: how long it may take to load its model.
        call_seconds: how long it may work on one call; one that takes longer is ended.
        bubblewrap: as `edged.sandbox.command` takes it.
        arena_bytes: shared memory for requests, and as much for responses; bounds each of them.
            It takes memory only while it is in use.
    """

    def __init__(
        self,
        memory_bytes: int = 2 << 30,
        start_seconds: float = 30.0,
        call_seconds: float = 60.0,
        bubblewrap: str = "auto",
        arena_bytes: int = ARENA_BYTES,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._start_seconds = start_seconds
        self._call_seconds = call_seconds
        self._bubblewrap = bubblewrap
        self._arena_bytes = arena_bytes

    async def start(self, folder: Path) -> Container:
        """Start a process that holds the model in *folder*, and wait until it is loaded.

        Args:
            folder: stays as it is until the container is stopped.

        Raises:
            SandboxError: this host cannot confine it, or not in the way asked for.
            DeadlineError: it took longer than it may.
            ContainerError: it ended before it was ready; with its last words.
            EdgedError: why the model cannot be loaded, in the words of the process.
        """
        began = time.monotonic()
        container = await self._spawn(folder)
        try:
            fault_point("container.spawned")
            async with asyncio.timeout(self._start_seconds):
                ready = await container.ready()
        except TimeoutError as error:
            await container.stop()
            raise DeadlineError(
                f"cannot start the container: not ready after {self._start_seconds:g} s, the limit"
                " of container.start_seconds"
            ) from error
        except ContainerError as error:
            await container.stop()
            raise ContainerError(f"cannot start the container: {await container.closed}") from error
        except BaseException:
            await container.stop()
            raise
        _log.info(
            "container %d is ready after %.0f ms (%s), confined by %s",
            container.pid,
            (time.monotonic() - began) * 1e3,
            ", ".join(f"{step} {taken:.0f}" for step, taken in ready.milliseconds.items()),
            ready.confinement,
        )
        return container

    async def _spawn(self, folder: Path) -> Container:
        with _channel(self._arena_bytes) as channel:
            theirs = (channel.worker.fileno(), channel.requests.fd, channel.responses.fd)
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
                raise ContainerError(f"cannot start the container: {error}") from error
            return Container(
                process,
                Path(words[0]).name == "bwrap",
                channel.front,
                channel.requests,
                channel.responses,
                self._call_seconds,
            )

    def _words(self, folder: Path, descriptors: tuple[int, ...]) -> list[str]:
        folder = folder.absolute()
        argv = [sys.executable, "-P", "-m", "edged.container.worker", str(folder)]
        argv += [str(self._memory_bytes), str(self._call_seconds)]
        argv += [str(fd) for fd in descriptors]
        confinement = sandbox.Confinement(read_only=(folder,))
        return sandbox.command(argv, confinement, descriptors, bubblewrap=self._bubblewrap)


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
