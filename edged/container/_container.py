"""A running container, as the front holds it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from edged.calls import Stopwatch
from edged.container._arena import Memory
from edged.container._channel import HUNG_UP, Channel
from edged.container._messages import NO_EXTRAS, Ready, Stop
from edged.container._process import Ending, Process
from edged.errors import ContainerError

__all__ = ["Container", "Launcher"]

_log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 2.0
_ATTACH_SECONDS: Final = 30.0
_SELF_TEST_SECONDS: Final = 120.0
_LAST_LINES: Final = 10
_LINE_BYTES: Final = 1000
_WORDS_KEPT: Final = 1500
_LINES_LOGGED: Final = 200
_FLOOD_BYTES: Final = 16 << 20
_FLOOD_SECONDS: Final = 60.0


class Launcher(Protocol):
    """Starts containers."""

    async def start(self, folder: Path) -> Container:
        """Start one that holds the model in *folder*, and wait until it is loaded.

        Args:
            folder: the files of the bundle and of the compiled model; stays until `stop`.

        Raises:
            EdgedError: why the model cannot be held.
        """
        ...


class Container:
    """One process with one model. Made by a launcher; `stop` ends it.

    Args:
        process: holds the model.
        sock, requests, responses: the channel to it; the container closes them.
        call_seconds: how long it may work on one call.
    """

    def __init__(
        self,
        process: Process,
        sock: socket.socket,
        requests: Memory,
        responses: Memory,
        call_seconds: float = 60.0,
    ) -> None:
        self._process = process
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._why: Ending | None = None
        self._channel = Channel(sock, requests, responses, self._channel_lost, call_seconds)
        self._stderr = _Stderr(process.pid, self._channel.lose)
        self._watch = asyncio.create_task(self._watched(), name=f"container-{process.pid}")

    @property
    def pid(self) -> int:
        """Of the process that was started: the model's own, or bubblewrap around it."""
        return self._process.pid

    @property
    def unit(self) -> str:
        """Of systemd that the process runs in, empty for a child of ours."""
        return self._process.unit

    @property
    def closed(self) -> asyncio.Future[Ending]:
        """Resolved with the reason when the process has ended. Cancelling a wait harms nobody."""
        return asyncio.shield(self._closed)

    @property
    def gone(self) -> asyncio.Future[None]:
        """Resolved when the process has ended or is about to: calls fail from now on."""
        return asyncio.shield(self._gone)

    @property
    def lost(self) -> bool:
        """Whether the process has ended, or is of no more use and about to."""
        return not self._channel.is_open

    async def ready(self) -> Ready:
        """Wait until the model is loaded.

        Raises:
            EdgedError: it cannot be, in the words of the process.
            ContainerError: the process ended.
        """
        return await self._channel.ready

    async def prepare(self, device: socket.socket) -> None:
        """Have the process make everything ready to use the device, but for taking its queue.

        Another container may serve meanwhile. Lets go of a device that was attached before.

        Args:
            device: a connection on which nothing was said yet. It is closed on our side.

        Raises:
            DeviceLostError, DeviceError: what the process found.
            ContainerError: the process is gone, or does not answer and is ended.
        """
        with device:
            await self._done(self._channel.prepare(device.fileno(), _ATTACH_SECONDS))

    async def attach(self, device: socket.socket | None = None) -> None:
        """Have the process take the data queue of the device.

        The queue has to be free: whoever had it before is proven to be gone from it.

        Args:
            device: as for :meth:`prepare`, if that was not called before.

        Raises:
            UnavailableError: none was prepared.
            DeviceLostError, DeviceError: what the process found.
            ContainerError: the process is gone, or does not answer and is ended.
        """
        if device is not None:
            await self.prepare(device)
        await self._done(self._channel.attach(_ATTACH_SECONDS))

    async def detach(self) -> None:
        """Have the process let go of the device. Calls are then answered UNAVAILABLE.

        Raises:
            ContainerError: the process is gone, or does not answer and is ended.
        """
        await self._done(self._channel.detach(_ATTACH_SECONDS))

    async def forget(self) -> None:
        """Have the process drop the states of sequences: another model has served meanwhile.

        Raises:
            ContainerError: the process is gone, or does not answer and is ended.
        """
        await self._done(self._channel.forget(_ATTACH_SECONDS))

    async def call(
        self,
        method: str,
        payload: bytes,
        timeout: float,  # noqa: ASYNC109 (handed on)
        extras: Mapping[str, str] = NO_EXTRAS,
        watch: Stopwatch | None = None,
    ) -> bytes:
        """Answer one call.

        Args:
            method: full name of the gRPC method, such as ``edged.wire.PREDICT``.
            payload: the request's bytes.
            timeout: seconds that the caller waits. The process is told when it has passed, and
                the call's memory is free again once it has let go of it.
            extras: what the method wants beside the payload; see :class:`edged.calls.Call`.
            watch: is told what the stages took, once it is answered: those of the process, as far
                as they can be true, and *channel* for the rest.

        Returns:
            the response's bytes.

        Raises:
            UnavailableError: no device is attached, or it went away.
            CalledBack: by :meth:`call_back`; it can be sent again, to whichever container.
            ContainerError: the process is gone, or goes before it has answered.
            DeadlineError: *timeout* passed.
            LimitError: a bound on size or number.
            EdgedError: whatever else the process answers.
        """
        return await self._channel.call(method, payload, timeout, extras, watch)

    def call_back(self) -> None:
        """Have the calls that the device has not got to end with `CalledBack`."""
        self._channel.call_back()

    async def self_test(self, at_most: float = math.inf) -> None:
        """Run the bundle's vectors through all parts of host and device.

        Args:
            at_most: seconds after which no further vector is begun. One is run in any case.

        Raises:
            DeviceError: an output is further off than its tolerance: which, where, by how much.
            ContainerError: the process is gone, or does not answer and is ended.
            EdgedError: the vectors cannot be run.
        """
        await self._done(self._channel.self_test(at_most, _SELF_TEST_SECONDS))

    async def share(self, name: str, offset: int, size: int, fd: int) -> None:
        """Have the process know a piece of a file, for requests that name it.

        Args:
            fd: the file; stays the caller's to close.

        Raises:
            ContainerError: the process is gone, or does not answer and is ended.
        """
        await self._done(self._channel.share(name, offset, size, fd, _ATTACH_SECONDS))

    async def unshare(self, name: str) -> None:
        """Have it forgotten; raises as :meth:`share`."""
        await self._done(self._channel.unshare(name, _ATTACH_SECONDS))

    async def stop(self) -> None:
        """End the process: politely, then not. Calls under way fail with `ContainerError`."""
        if not self.lost:  # else it says by itself why it ended
            self._why = Ending("it was stopped", by_model=False)
        self._channel.say(Stop())
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.closed
        except TimeoutError:
            self._process.kill()
        await self._watch
        self._channel.close()

    async def _done(self, what: Awaitable[None]) -> None:
        """Wait for *what* the process was asked to do; if it goes instead, tell why."""
        try:
            await what
        except ContainerError as error:
            raise (await self.closed).error("cannot use the container") from error

    def _channel_lost(self, reason: str) -> None:
        """Without its channel the process is of no use. That it hung up: it is about to end."""
        self._gone.set_result(None)
        if reason == HUNG_UP:
            asyncio.get_running_loop().call_later(_STOP_SECONDS, self._end, f"{reason} and stayed")
        else:
            self._end(reason)

    def _end(self, reason: str) -> None:
        """Kill the process, by the model's fault, unless it was told to stop or is gone."""
        self._why = self._why or Ending(reason)
        self._process.kill()

    async def _watched(self) -> None:
        await self._stderr.forward(self._process.stderr)
        ending = await self._process.ended()
        self._channel.close()
        if not self._gone.done():
            self._gone.set_result(None)
        words = self._stderr.last_words()
        if self._why is None:
            # What bubblewrap says it could not do, this machine does not let it.
            by_model = ending.by_model and not words.startswith("bwrap: ")
            self._why = Ending(f"{ending}{': ' + words if words else ''}", by_model)
        self._closed.set_result(self._why)


class _Stderr:
    """What the process says on standard error: logged within bounds, its last lines kept.

    Args:
        on_flood: told when it says so much that to read it would slow down everything else.
    """

    def __init__(self, pid: int, on_flood: Callable[[str], None]) -> None:
        self._pid = pid
        self._on_flood = on_flood
        self._read = 0
        self._window = time.monotonic()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._logged = 0

    async def forward(self, stream: asyncio.StreamReader) -> None:
        """Until its end. All of it is read, or the process would block; little of it is kept."""
        rest = b""
        while chunk := await stream.read(65536):
            self._meter(len(chunk))
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[:_LINE_BYTES]
            room = max(_LINES_LOGGED - self._logged, 0)
            for line in (*lines[:room], *lines[room:][-_LAST_LINES:]):
                self._line(line)
        if rest:
            self._line(rest)

    def _meter(self, size: int) -> None:
        now = time.monotonic()
        if now - self._window > _FLOOD_SECONDS:
            self._window, self._read = now, 0
        self._read += size
        if self._read > _FLOOD_BYTES:
            self._on_flood(
                f"it wrote more than {_FLOOD_BYTES >> 20} MiB to standard error within"
                f" {_FLOOD_SECONDS:g} s"
            )

    def last_words(self) -> str:
        words = " / ".join(self._lines)
        return words if len(words) <= _WORDS_KEPT else f"…{words[-_WORDS_KEPT:]}"

    def _line(self, line: bytes) -> None:
        text = line[:_LINE_BYTES].decode(errors="replace").strip()
        if not text:
            return
        self._lines.append(text)
        self._logged += 1
        if self._logged <= _LINES_LOGGED:
            _log.info("container %d: %s", self._pid, text)
        if self._logged == _LINES_LOGGED:
            _log.warning("container %d says too much; the rest is not logged", self._pid)
