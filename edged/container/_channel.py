"""The front's end of the channel to a worker, which it does not trust."""

from __future__ import annotations

import array
import asyncio
import itertools
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from edged.calls import Stopwatch
from edged.container._arena import Arena, Memory
from edged.container._messages import (
    CALLS_AT_ONCE,
    CANCELLED,
    INLINE_BYTES,
    MAX_PACKET,
    NO_EXTRAS,
    STAGES,
    START,
    Answer,
    Attach,
    Body,
    Call,
    CallBack,
    Cancel,
    Detach,
    DeviceLost,
    Failure,
    Forget,
    Free,
    FromFront,
    Prepare,
    Ready,
    SelfTest,
    Share,
    Span,
    Unshare,
    encode,
    worker_decoder,
)
from edged.errors import (
    ContainerError,
    DeadlineError,
    EdgedError,
    LimitError,
    UnavailableError,
    by_name,
)

__all__ = ["HUNG_UP", "CalledBack", "Channel"]

_log = logging.getLogger(__name__)

HUNG_UP: Final = "it hung up"

_MAX_CALLS: Final = 1024
_PACKETS_AT_ONCE: Final = 64
_GRACE_SECONDS: Final = 5.0
"""An honest worker ends a call by itself when its time is up, but only between two samples. One
sample of a large network takes seconds on a small machine that has other work as well."""


class CalledBack(UnavailableError):  # noqa: N818 (nothing is wrong)
    """A call was called back before the device was at it: whoever called back sends it again.

    Not in `edged.errors`, where a worker could choose it for its answer.
    """


@dataclass(slots=True, eq=False)
class _Pending:
    """A call under way.

    Attributes:
        answer: done early when nobody waits for it any more.
        placed: where the request lies in the arena, until the worker has answered.
        begun: when the worker can have begun it, by time.monotonic(): once no more than it works
            on at a time were before it.
        called_back: whether the worker was told to give it back.
        stages: seconds by stage, as the worker says.
    """

    answer: asyncio.Future[bytes]
    placed: int | None
    begun: float | None = None
    called_back: bool = False
    stages: dict[str, float] = field(default_factory=dict)


class Channel:
    """Calls to one worker, by their bytes.

    Args:
        sock: SOCK_SEQPACKET, non-blocking; the channel closes it.
        requests, responses: shared with the worker; the channel closes them.
        on_lost: told once, why the channel is of no more use: the worker hung up, said what an
            honest one never says, or hangs.
        call_seconds: how long the worker may take for one call, whoever still waits for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        requests: Memory,
        responses: Memory,
        on_lost: Callable[[str], None],
        call_seconds: float = 60.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._requests = requests
        self._responses = responses
        self._on_lost = on_lost
        self._call_seconds = call_seconds
        self._arena = Arena(requests)
        self._decoder = worker_decoder()
        self._numbers = itertools.count(START + 1)
        self._pending: dict[int, _Pending] = {}
        # Of those, the calls, in the order in which the worker begins them.
        self._line: dict[int, _Pending] = {}
        self._watchdog: asyncio.TimerHandle | None = None
        self._has_device = False
        self._room: deque[asyncio.Future[None]] = deque()
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self._open = True
        self.ready: asyncio.Future[Ready] = self._loop.create_future()
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        """Whether it is of any use still."""
        return self._open

    @property
    def calls(self) -> int:
        """Calls that the worker has not answered, abandoned ones among them."""
        return len(self._pending)

    @property
    def bytes_in_use(self) -> int:
        """How much of the request arena is taken."""
        return self._arena.in_use

    async def call(
        self,
        method: str,
        payload: bytes,
        timeout: float,  # noqa: ASYNC109 (part of what the worker is told)
        extras: Mapping[str, str] = NO_EXTRAS,
        watch: Stopwatch | None = None,
    ) -> bytes:
        """The worker's answer to *payload*; *watch* is told what the stages of it took.

        Raises:
            ContainerError: the worker is gone, or goes before it has answered.
            DeadlineError: not answered within *timeout* seconds.
            LimitError: too many calls under way, or too large for the shared memory.
            EdgedError: what the worker answered.
        """
        deadline = time.monotonic() + timeout
        placed = None
        body: Body = payload
        if len(payload) > INLINE_BYTES:
            placed = await self._place(payload, deadline)
            body = Span(placed, len(payload))
        number, pending = self._begin(placed)
        self._line[number] = pending
        self._advance()
        self._send(Call(number, method, body, deadline, extras))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                answer = await pending.answer
            if watch is not None:
                watch.split(pending.stages, rest="channel")
            return answer
        except TimeoutError as error:
            raise DeadlineError(
                f"cannot answer: not done within the {max(timeout, 0):.3g} s that the caller waits"
            ) from error
        finally:
            if number in self._pending and self._open:
                # Nobody waits any more. The span stays taken until the worker is done with it.
                self._send(Cancel(number))

    def call_back(self) -> None:
        """Have the calls that the device has not got to end with `CalledBack`."""
        if not self._open:
            return
        for pending in self._line.values():
            pending.called_back = True
        for waiter in self._room:
            if not waiter.done():
                waiter.set_exception(_called_back())
        self._send(CallBack())

    async def prepare(self, device: int, seconds: float) -> None:
        """Hand over the descriptor *device*, which stays the caller's to close."""
        await self._do(Prepare, seconds, device)

    async def attach(self, seconds: float) -> None:
        self._has_device = True
        await self._do(Attach, seconds)

    async def detach(self, seconds: float) -> None:
        await self._do(Detach, seconds)

    async def self_test(self, at_most: float, seconds: float) -> None:
        await self._do(lambda number: SelfTest(number, at_most), seconds)

    async def share(self, name: str, offset: int, size: int, fd: int, seconds: float) -> None:
        """Hand over the descriptor *fd*, which stays the caller's to close."""
        await self._do(lambda number: Share(number, name, offset, size), seconds, fd)

    async def unshare(self, name: str, seconds: float) -> None:
        await self._do(lambda number: Unshare(number, name), seconds)

    async def forget(self, seconds: float) -> None:
        await self._do(Forget, seconds)

    def say(self, message: FromFront) -> None:
        """Send what has no answer; nothing if the worker is gone."""
        if self._open:
            self._send(message)

    def lose(self, reason: str) -> None:
        """Close, and tell why, unless it is closed already."""
        if self._open:
            self.close("" if reason == HUNG_UP else f" ({reason})")
            self._on_lost(reason)

    def close(self, why: str = "") -> None:
        """Fail every pending call and let go of socket and memory. Nothing happens twice."""
        if not self._open:
            return
        self._open = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._requests.close()
        self._responses.close()
        for pending in self._pending.values():
            _fail(pending.answer, _gone(why))
        self._pending.clear()
        self._line.clear()
        for waiter in self._room:
            if not waiter.done():
                waiter.set_exception(_gone(why))
        self._room.clear()
        for _, descriptor in self._unsent:
            if descriptor is not None:
                os.close(descriptor)
        self._unsent.clear()
        if not self.ready.done():
            self.ready.set_exception(_gone(why))

    # Sending.

    async def _place(self, payload: bytes, deadline: float) -> int:
        """Copy into the arena, waiting in line for room."""
        if len(payload) > self._arena.size:
            raise LimitError(
                f"cannot pass the request on: it has {len(payload)} bytes, at most"
                f" {self._arena.size} are accepted"
            )
        self._check_open()
        if not self._room and (placed := self._arena.put(payload)) is not None:
            return placed
        if len(self._room) >= _MAX_CALLS:
            raise _too_many()
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._room.append(waiter)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while True:
                    await waiter
                    self._check_open()
                    if (placed := self._arena.put(payload)) is not None:
                        return placed
                    # Not enough came free; this one stays the first in line.
                    index = self._room.index(waiter)
                    waiter = self._loop.create_future()
                    self._room[index] = waiter
        except TimeoutError as error:
            raise LimitError(
                "cannot pass the request on: the memory for requests under way was full for as"
                f" long as the caller waited ({self._arena.size} bytes); send fewer at once"
            ) from error
        finally:
            if waiter in self._room:
                self._room.remove(waiter)
            self._wake()

    def _wake(self) -> None:
        if self._room and not self._room[0].done():
            self._room[0].set_result(None)

    def _begin(self, placed: int | None) -> tuple[int, _Pending]:
        try:
            self._check_open()
            if len(self._pending) >= _MAX_CALLS:
                raise _too_many()
        except EdgedError:
            if placed is not None and self._open:
                self._release(placed)
            raise
        number = next(self._numbers)
        pending = self._pending[number] = _Pending(self._loop.create_future(), placed)
        return number, pending

    def _check_open(self) -> None:
        if not self._open:
            raise _gone()

    async def _do(
        self, message: Callable[[int], FromFront], seconds: float, descriptor: int | None = None
    ) -> None:
        """Have the worker do what is no call. One that cannot in time is of no more use."""
        number, pending = self._begin(None)
        self._send(message(number), descriptor)
        try:
            async with asyncio.timeout(seconds):
                await pending.answer
        except TimeoutError as error:
            what = type(message(number)).__name__
            self.lose(f"it did not answer {what} within {seconds:g} s")
            raise ContainerError(
                f"cannot use the container: it did not answer {what} within {seconds:g} s"
            ) from error

    def _send(self, message: FromFront, descriptor: int | None = None) -> None:
        packet = encode(message)
        if self._unsent or not self._sent(packet, descriptor):
            if not self._unsent:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            # The caller may close its own before there is room to send it.
            kept = None if descriptor is None else os.dup(descriptor)
            self._unsent.append((packet, kept))

    def _sent(self, packet: bytes, descriptor: int | None) -> bool:
        """False when the socket is full. What cannot be sent at all is lost with the worker."""
        try:
            if descriptor is None:
                self._sock.send(packet)
            else:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
                self._sock.sendmsg([packet], [rights])
        except BlockingIOError:
            return False
        except OSError as error:
            _log.debug("cannot send to the container: %s", error)  # reading tells of its end
        return True

    def _writable(self) -> None:
        while self._unsent and self._sent(*self._unsent[0]):
            _, descriptor = self._unsent.popleft()
            if descriptor is not None:
                os.close(descriptor)
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _advance(self) -> None:
        """Note which calls the worker can have begun, and watch over them."""
        for pending in itertools.islice(self._line.values(), CALLS_AT_ONCE):
            if pending.begun is None:
                pending.begun = time.monotonic()
        if self._line and self._watchdog is None:
            patience = self._call_seconds + _GRACE_SECONDS
            self._watchdog = self._loop.call_later(patience, self._watch)

    def _watch(self) -> None:
        """Give up on a worker that does not come back from a call; look again when that may be."""
        self._watchdog = None
        first = next(iter(self._line.values()), None)
        if first is None or first.begun is None:
            return
        left = first.begun + self._call_seconds + _GRACE_SECONDS - time.monotonic()
        if left > 0:
            self._watchdog = self._loop.call_later(left, self._watch)
        else:
            self.lose(
                f"it worked for more than {self._call_seconds:g} s on one call, the limit of"
                " container.call_seconds"
            )

    # Receiving.

    def _readable(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            if not self._open:
                return
            try:
                packet = self._sock.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                # A reset, when it ended without having read all that we sent.
                _log.debug("cannot read from the container: %s", error)
                packet = b""
            if not packet:
                self.lose(HUNG_UP)
                return
            try:
                self._take(packet)
            except (msgspec.DecodeError, ValueError, KeyError) as error:
                self.lose(f"it broke the protocol: {type(error).__name__} {error}"[:300])

    def _take(self, packet: bytes) -> None:
        """Act on a packet; what is not in order raises."""
        message = self._decoder.decode(packet)
        match message:
            case Answer(number, body, microseconds):
                pending = self._pending[number]
                pending.stages = {
                    stage: taken / 1e6 for stage, taken in zip(STAGES, microseconds, strict=False)
                }
                data = body
                if isinstance(body, Span):
                    data = self._responses.read(body.offset, body.length)
                    self._send(Free(body.offset))
                self._end(number)
                if not pending.answer.done():
                    assert isinstance(data, bytes)
                    pending.answer.set_result(data)
            case Failure(number, kind, text) if number == START:
                if self.ready.done():
                    raise ValueError("it failed to start after it had started")
                self.ready.set_exception(_error(kind, text))
            case Failure(number, kind, text):
                pending = self._pending[number]
                self._end(number)
                given_back = kind == CANCELLED and pending.called_back
                _fail(pending.answer, _called_back() if given_back else _error(kind, text))
            case Ready():
                if self.ready.done():
                    raise ValueError("it was ready twice")
                self.ready.set_result(message)
            case DeviceLost(text):
                if not self._has_device:
                    raise ValueError("it lost a device that it did not have")
                self._has_device = False
                _log.warning("the container lost the device: %s", text)

    def _end(self, number: int) -> None:
        placed = self._pending.pop(number).placed
        if self._line.pop(number, None) is not None:
            self._advance()
        if placed is not None:
            self._release(placed)

    def _release(self, placed: int) -> None:
        self._arena.release(placed)
        self._wake()


def _error(kind: str, text: str) -> EdgedError:
    if kind == CANCELLED:
        return DeadlineError("cannot answer: the call was called off")
    return by_name(kind)(text)


def _fail(answer: asyncio.Future[bytes], error: EdgedError) -> None:
    if not answer.done():
        answer.set_exception(error)


def _gone(why: str = "") -> ContainerError:
    return ContainerError(
        f"cannot answer: the model's container is gone{why}; a new one is on its way, try again"
    )


def _called_back() -> CalledBack:
    return CalledBack("cannot answer: the call was called back before it ran; try again")


def _too_many() -> LimitError:
    return LimitError(
        f"cannot pass the request on: {_MAX_CALLS} are under way already, the most there may be"
    )
