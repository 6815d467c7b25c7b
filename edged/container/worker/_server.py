"""The worker's end of the channel: calls to a few threads, control to one more."""

from __future__ import annotations

import array
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from edged.container._arena import Arena, Memory
from edged.container._messages import (
    CALLS_AT_ONCE,
    CANCELLED,
    INLINE_BYTES,
    MAX_PACKET,
    Answer,
    Attach,
    Body,
    Call,
    CallBack,
    Cancel,
    Detach,
    Failure,
    Forget,
    Free,
    FromFront,
    Prepare,
    SelfTest,
    Share,
    Span,
    Stage,
    Stop,
    Unshare,
    encode,
    front_decoder,
)
from edged.container.worker._order import Order
from edged.container.worker._recall import GivenBack, Recall
from edged.container.worker._regions import Regions
from edged.container.worker._shortage import is_short_of_memory
from edged.container.worker._stages import Stages
from edged.errors import DeadlineError, EdgedError, LimitError

__all__ = ["Attachable", "Server", "Service"]

_log = logging.getLogger(__name__)

_MAX_MESSAGE: Final = 4000
_STACK_BYTES: Final = 1 << 20


class Service(Protocol):
    """What answers calls, in several threads."""

    def answer(
        self, method: str, request: bytes, deadline: float, extras: Mapping[str, str]
    ) -> bytes: ...

    def self_test(self, seconds: float) -> None: ...

    def forget(self) -> None: ...


class Attachable(Protocol):
    """What a device is attached to, by a descriptor that is then its own."""

    def prepare(self, fd: int) -> None: ...

    def attach(self) -> None: ...

    def detach(self) -> None: ...


class Server:
    """Answers what comes over *sock* until it ends.

    Args:
        requests, responses: shared with the front.
        service: answers the calls.
        device: what it computes on.
        stages: times the calls.
        recall: is told which calls are wanted back.
        call_seconds: how long one call may be worked on.
        regions: is told of the shared memory of clients.
        order: is told in which order calls come.
    """

    def __init__(
        self,
        sock: socket.socket,
        requests: Memory,
        responses: Memory,
        service: Service,
        device: Attachable,
        stages: Stages,
        recall: Recall,
        call_seconds: float = math.inf,
        regions: Regions | None = None,
        order: Order | None = None,
    ) -> None:
        self._sock = sock
        self._requests = requests
        self._responses = Arena(responses)
        self._room = threading.Condition()
        self._service = service
        self._device = device
        self._stages = stages
        self._recall = recall
        self._newest = 0
        self._call_seconds = call_seconds
        self._regions = regions or Regions()
        self._order = order or Order()
        self._control = ThreadPoolExecutor(1, "control")
        self._ended = threading.Event()
        self._receiving = threading.Lock()
        self._turn = threading.Lock()
        self._running = 0
        # With when they came, by time.monotonic().
        self._queued: dict[int, tuple[Call, float]] = {}

    def start(self) -> None:
        """Begin to serve.

        Whoever receives a call also computes it: handing it to another thread would cost 0.1 ms.
        There is one thread more than calls at once, to hear the rest.

        Raises:
            MemoryError: there is none for the threads.
        """
        # Their stacks count as memory of the process, whether they are used or not.
        threading.stack_size(_STACK_BYTES)
        try:
            self._control.submit(int).result()
            for number in range(CALLS_AT_ONCE + 1):
                threading.Thread(target=self._serve, name=f"serve-{number}", daemon=True).start()
        except RuntimeError as error:
            raise MemoryError from error

    def wait(self) -> None:
        """Until the front hangs up or says stop. Calls that run then go on in threads."""
        self._ended.wait()

    def _serve(self) -> None:
        try:
            self._receive_all()
        except Exception:
            _log.exception("cannot go on")
        finally:
            self._ended.set()

    def _receive_all(self) -> None:
        decoder = front_decoder()
        while True:
            # What came first is begun first, and nothing overtakes the call that it cancels.
            with self._receiving:
                packet, descriptors = _receive(self._sock)
                if not packet:
                    return
                message = decoder.decode(packet)
                if isinstance(message, Stop):
                    return
                call = self._taken(message, descriptors)
            if call is not None:
                self._work(call)

    def _taken(self, message: FromFront, descriptors: list[int]) -> Call | None:
        """Act on *message*; the call that it is, if that is to be answered now."""
        match message:
            case Call() as call:
                self._newest = call.id
                with self._turn:
                    if self._running < CALLS_AT_ONCE:
                        self._running += 1
                        self._order.begin(call.id)
                        return call
                    self._queued[call.id] = call, time.monotonic()
            case Cancel(number):
                # One that has begun is answered in its time.
                with self._turn:
                    called_off = self._queued.pop(number, None)
                if called_off is not None:
                    self._say(Failure(number, CANCELLED, ""))
            case CallBack():
                # Those that have begun come back, too, as far as the device has not got to them.
                self._recall.recall(self._newest)
                with self._turn:
                    given_back = list(self._queued)
                    self._queued.clear()
                for number in given_back:
                    self._say(Failure(number, CANCELLED, ""))
            case Free(offset):
                with self._room:
                    self._responses.release(offset)
                    self._room.notify_all()
            case Prepare(number):
                self._control.submit(self._do, number, partial(self._device.prepare, *descriptors))
            case Attach(number):
                self._control.submit(self._do, number, self._device.attach)
            case Detach(number):
                self._control.submit(self._do, number, self._device.detach)
            case SelfTest(number, seconds):
                self._control.submit(self._do, number, partial(self._service.self_test, seconds))
            case Forget(number):
                self._control.submit(self._do, number, self._service.forget)
            case Share(number, name, offset, length):
                add = partial(self._regions.add, name, offset, length, *descriptors)
                self._control.submit(self._do, number, add)
            case Unshare(number, name):
                self._control.submit(self._do, number, partial(self._regions.remove, name))
        return None

    def _work(self, call: Call) -> None:
        """Answer *call*, then those that queued up meanwhile."""
        waited = 0.0
        while True:
            self._answer(call, waited)
            with self._turn:
                if not self._queued:
                    self._running -= 1
                    return
                call, came = self._queued.pop(next(iter(self._queued)))
                self._order.begin(call.id)
            waited = time.monotonic() - came

    def _answer(self, call: Call, waited: float) -> None:
        self._stages.begin()
        self._recall.begin(call.id)
        self._order.work_on(call.id)
        try:
            if time.monotonic() > call.deadline:
                raise DeadlineError("cannot answer: the caller's time was over before its turn")
            body = call.body
            if isinstance(body, Span):
                body = self._requests.read(body.offset, body.length)
            deadline = min(call.deadline, time.monotonic() + self._call_seconds)
            response = self._service.answer(call.method, body, deadline, call.extras)
            body = self._place(response, deadline)
            self._stages.lap(Stage.ENCODE)
            self._say(Answer(call.id, body, self._stages.end(waited)))
        except GivenBack:
            self._say(Failure(call.id, CANCELLED, ""))
        except Exception as error:
            self._say(_failure(call.id, error))
        finally:
            self._order.passed()

    def _do(self, number: int, what: Callable[[], None]) -> None:
        try:
            what()
            self._say(Answer(number, b""))
        except Exception as error:
            self._say(_failure(number, error))

    def _place(self, response: bytes, deadline: float) -> Body:
        if len(response) <= INLINE_BYTES:
            return response
        if len(response) > self._responses.size:
            raise LimitError(
                f"cannot answer: the response has {len(response)} bytes, at most"
                f" {self._responses.size} can be passed on; ask for fewer outputs or samples"
            )
        with self._room:
            while (offset := self._responses.put(response)) is None:
                if not self._room.wait(deadline - time.monotonic()):
                    raise DeadlineError("cannot answer: no room for the response in time")
        return Span(offset, len(response))

    def _say(self, message: Answer | Failure) -> None:
        try:
            self._sock.send(encode(message))
        except OSError as error:
            # The front is gone, and the reading thread is about to see it.
            _log.debug("cannot send: %s", error)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """A packet, empty at the end, and the descriptors that came with it."""
    packet, ancillary, _, _ = sock.recvmsg(
        MAX_PACKET, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for _, kind, data in ancillary:
        if kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) // 4 * 4])
    return packet, list(descriptors)


def _failure(number: int, error: Exception) -> Failure:
    if isinstance(error, EdgedError):
        return Failure(number, type(error).__name__, str(error)[:_MAX_MESSAGE])
    if is_short_of_memory(error):
        return Failure(
            number,
            LimitError.__name__,
            "cannot answer: the request needs more memory than the model's container may take;"
            " send a smaller batch",
        )
    _log.error("cannot answer", exc_info=error)
    return Failure(
        number, EdgedError.__name__, f"cannot answer: {type(error).__name__} in the container"
    )
