"""The front's end of the channel, against an honest peer in a thread and against hostile ones."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest
from patience import PATIENCE, until

from edged.calls import Stopwatch
from edged.container._arena import Memory
from edged.container._channel import Channel
from edged.container._messages import (
    CALLS_AT_ONCE,
    Answer,
    DeviceLost,
    Failure,
    Free,
    Ready,
    Span,
    encode,
)
from edged.container.worker._recall import Recall
from edged.container.worker._server import Server
from edged.container.worker._stages import Stages
from edged.errors import (
    ContainerError,
    DeadlineError,
    DeviceLostError,
    EdgedError,
    LimitError,
    ModelError,
    NotFoundError,
)

MiB = 1 << 20


@dataclass
class Peers:
    """A channel, the other end of its socket, and what the channel was closed for."""

    channel: Channel
    far: socket.socket
    requests: Memory
    responses: Memory
    lost: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def connected(arena_bytes: int = 4 * MiB) -> AsyncIterator[Peers]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    requests = Memory.create("requests", arena_bytes)
    responses = Memory.create("responses", arena_bytes)
    theirs = Memory(os.dup(requests.fd)), Memory(os.dup(responses.fd))
    lost: list[str] = []
    channel = Channel(near, requests, responses, lost.append)
    try:
        yield Peers(channel, far, *theirs, lost)
    finally:
        channel.close()
        channel.ready.exception() if channel.ready.done() else channel.ready.cancel()
        far.close()
        for memory in theirs:
            memory.close()


class Service:
    """Echoes, or waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.attached: list[str] = []

    def answer(
        self, method: str, request: bytes, deadline: float, extras: Mapping[str, str]
    ) -> bytes:
        if method == "wait":
            self.begun.release()
            assert self.go.wait(PATIENCE)
        if method == "refuse":
            raise NotFoundError("cannot find it")
        if method == "break":
            raise ZeroDivisionError
        if method == "hoard":
            raise MemoryError
        return request

    def self_test(self, seconds: float) -> None:
        raise DeviceLostError(f"cannot test for {seconds:g} s: no device")

    def forget(self) -> None:
        raise DeviceLostError("cannot forget")

    def prepare(self, fd: int) -> None:
        with socket.socket(fileno=fd) as device:
            self.attached.append(device.recv(16).decode())

    def attach(self) -> None:
        self.attached.append("attached")

    def detach(self) -> None:
        self.attached.append("detached")


@contextlib.contextmanager
def serving(peers: Peers) -> Iterator[Service]:
    service = Service()
    server = Server(
        peers.far, peers.requests, peers.responses, service, service, Stages(), Recall()
    )
    server.start()
    try:
        yield service
    finally:
        service.go.set()
        peers.channel.close()
        server.wait()
        server._control.shutdown()
        for worker in threading.enumerate():
            if worker.name.startswith("serve-"):
                worker.join(PATIENCE)


@pytest.mark.parametrize("size", [0, 1, 32 << 10, (32 << 10) + 1, 4 * MiB])
async def test_bytes_come_back_as_they_went(size: int) -> None:
    async with connected() as peers:
        with serving(peers):
            payload = os.urandom(size)
            assert await peers.channel.call("echo", payload, PATIENCE) == payload
            assert peers.channel.bytes_in_use == 0


async def test_many_calls_share_the_memory() -> None:
    async with connected(arena_bytes=MiB) as peers:
        with serving(peers):
            payloads = [os.urandom(300_000) for _ in range(40)]
            answers = await asyncio.gather(
                *(peers.channel.call("e", p, PATIENCE) for p in payloads)
            )
            assert answers == payloads
            assert peers.channel.bytes_in_use == peers.channel.calls == 0


@pytest.mark.parametrize(
    ("method", "kind", "said"),
    [
        ("refuse", NotFoundError, "cannot find it"),
        ("break", EdgedError, "ZeroDivisionError in the container"),
        ("hoard", LimitError, "more memory"),
    ],
)
async def test_an_error_crosses_by_its_status(
    method: str, kind: type[EdgedError], said: str
) -> None:
    async with connected() as peers:
        with serving(peers), pytest.raises(kind, match=said):
            await peers.channel.call(method, b"", PATIENCE)


@pytest.mark.parametrize("kind", ["SystemExit", "by_grpc_status", "annotations", ""])
async def test_an_error_of_another_kind_is_no_more_than_an_error(kind: str) -> None:
    async with connected() as peers:
        call = asyncio.create_task(peers.channel.call("x", b"", PATIENCE))
        await until(lambda: peers.channel.calls == 1)
        peers.far.send(encode(Failure(1, kind, "something")))
        with pytest.raises(EdgedError, match="something"):
            await call


async def test_a_request_larger_than_the_memory_is_refused() -> None:
    async with connected() as peers:
        with pytest.raises(LimitError, match="4194305 bytes, at most 4194304"):
            await peers.channel.call("echo", bytes(4 * MiB + 1), PATIENCE)


async def test_a_response_larger_than_the_memory_is_refused() -> None:
    async with connected() as peers:
        peers.responses.close()
        peers.responses = Memory.create("small", MiB)
        with serving(peers), pytest.raises(LimitError, match="response has 2097152 bytes"):
            await peers.channel.call("echo", bytes(2 * MiB), PATIENCE)


async def test_a_full_memory_makes_callers_wait_but_not_for_ever() -> None:
    async with connected(arena_bytes=MiB) as peers:
        with serving(peers) as service:
            first = asyncio.create_task(peers.channel.call("wait", bytes(900_000), PATIENCE))
            await asyncio.to_thread(service.begun.acquire)
            with pytest.raises(LimitError, match="memory for requests under way was full"):
                await peers.channel.call("echo", bytes(900_000), 0.05)
            second = asyncio.create_task(peers.channel.call("echo", bytes(900_000), PATIENCE))
            assert await peers.channel.call("echo", b"small ones pass", PATIENCE)
            service.go.set()
            assert await first == await second == bytes(900_000)


async def test_a_late_answer_is_dropped_and_its_memory_comes_back() -> None:
    async with connected() as peers:
        with serving(peers) as service:
            with pytest.raises(DeadlineError, match="not done within"):
                await peers.channel.call("wait", bytes(MiB), 0.05)
            assert peers.channel.bytes_in_use == MiB, "the worker may still read it"
            service.go.set()
            await until(lambda: peers.channel.bytes_in_use == 0)
            assert peers.channel.calls == 0
            assert await peers.channel.call("echo", b"on with it", PATIENCE) == b"on with it"


async def test_calls_that_have_not_begun_are_called_off() -> None:
    async with connected() as peers:
        with serving(peers) as service:
            running = [
                asyncio.create_task(peers.channel.call("wait", b"", PATIENCE))
                for _ in range(CALLS_AT_ONCE)
            ]
            for _ in running:
                await asyncio.to_thread(service.begun.acquire)
            waiting = [
                asyncio.create_task(peers.channel.call("wait", bytes(100_000), PATIENCE))
                for _ in range(5)
            ]
            await until(lambda: peers.channel.calls == CALLS_AT_ONCE + 5)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await until(lambda: peers.channel.calls == CALLS_AT_ONCE)
            assert peers.channel.bytes_in_use == 0
            service.go.set()
            assert await asyncio.gather(*running) == [b""] * CALLS_AT_ONCE
            assert not service.begun.acquire(blocking=False), "the others never began"


async def test_a_device_is_handed_over_by_descriptor() -> None:
    ours, theirs = socket.socketpair()
    async with connected() as peers:
        with serving(peers) as service, ours:
            ours.sendall(b"the device")
            with theirs:
                await peers.channel.prepare(theirs.fileno(), PATIENCE)
            await peers.channel.attach(PATIENCE)
            await peers.channel.detach(30)
            assert service.attached == ["the device", "attached", "detached"]
            with pytest.raises(DeviceLostError, match=r"cannot test for 0\.01 s: no device"):
                await peers.channel.self_test(0.01, 30)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ((1000, 2000, 3000, 4000, 5000), ["queue", "decode", "device", "epilogue", "encode"]),
        ((1 << 52, 1 << 52), ["queue", "decode"]),
        ((), []),
    ],
)
async def test_what_a_peer_says_of_its_stages_is_no_more_than_has_passed(
    said: tuple[int, ...], wanted: list[str]
) -> None:
    async with connected() as peers:
        watch = Stopwatch()
        task = asyncio.create_task(peers.channel.call("x", b"", 30, watch=watch))
        await asyncio.to_thread(peers.far.recv, 65536)
        await asyncio.sleep(0.02)
        peers.far.send(encode(Answer(1, b"", said)))
        await task
        assert list(watch.steps) == [*wanted, "channel"]
        assert sum(watch.steps.values()) == pytest.approx(watch.seconds)
        assert watch.seconds < 30


@pytest.mark.parametrize("said", [(-1,), (1.5,), (0,) * 6, (1 << 53,)])
async def test_stages_that_no_honest_peer_has_end_the_channel(said: tuple[int, ...]) -> None:
    async with connected() as peers:
        task = asyncio.create_task(peers.channel.call("x", b"", PATIENCE))
        await asyncio.to_thread(peers.far.recv, 65536)
        peers.far.send(encode(Answer(1, b"", said)))
        with pytest.raises(ContainerError):
            await task


async def test_when_the_peer_hangs_up_every_call_fails_at_once() -> None:
    async with connected() as peers:
        calls = [
            asyncio.create_task(peers.channel.call("x", bytes(n), PATIENCE)) for n in (1, 100_000)
        ]
        await until(lambda: peers.channel.calls == 2)
        peers.far.shutdown(socket.SHUT_RDWR)
        for call in calls:
            with pytest.raises(ContainerError, match="container is gone"):
                await asyncio.wait_for(call, PATIENCE)
        assert peers.lost == ["it hung up"]
        with pytest.raises(ContainerError):
            await peers.channel.call("x", b"", PATIENCE)


async def test_a_peer_that_does_not_read_does_not_block_the_loop() -> None:
    async with connected() as peers:
        calls = [
            asyncio.create_task(peers.channel.call("x", bytes(30_000), 0.3)) for _ in range(100)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {DeadlineError}


async def test_there_is_a_bound_on_calls_under_way() -> None:
    async with connected() as peers:
        calls = [asyncio.create_task(peers.channel.call("x", b"", PATIENCE)) for _ in range(1024)]
        await until(lambda: peers.channel.calls == 1024)
        with pytest.raises(LimitError, match="1024 are under way"):
            await peers.channel.call("x", b"", PATIENCE)
        with pytest.raises(LimitError, match="1024 are under way"):
            await peers.channel.call("x", bytes(100_000), PATIENCE)
        assert peers.channel.bytes_in_use == 0
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(
    "packet",
    [
        b"\xc1",
        b"junk" * 1000,
        msgspec.msgpack.encode({"id": 1}),
        msgspec.msgpack.encode(["Answer", 1]),
        msgspec.msgpack.encode(["Answer", -1, b""]),
        msgspec.msgpack.encode(["Answer", 1, [1 << 60, 1]]),
        msgspec.msgpack.encode(["Launch", 1, b""]),
        msgspec.msgpack.encode(["Failure", 1, "EdgedError", "x" * 9000]),
        msgspec.msgpack.encode([[[[[[]]]]]]),
        encode(Answer(77, b"for a call that nobody made")),
        encode(Failure(77, "EdgedError", "likewise")),
        encode(Answer(1, Span(4 * MiB - 1, 2))),
        encode(Answer(1, Span(0, 1 << 50))),
        encode(Free(0)),
    ],
)
async def test_a_hostile_peer_is_cut_off(packet: bytes) -> None:
    async with connected() as peers:
        call = asyncio.create_task(peers.channel.call("x", b"", PATIENCE))
        await until(lambda: peers.channel.calls == 1)
        peers.far.send(packet)
        with pytest.raises(ContainerError):
            await asyncio.wait_for(call, PATIENCE)
        assert len(peers.lost) == 1 and peers.lost[0].startswith("it broke the protocol")


async def test_descriptors_from_a_hostile_peer_are_not_taken(
    open_descriptors: Callable[[], int],
) -> None:
    async with connected() as peers:
        before = open_descriptors()
        for number in range(1, 21):
            attached = asyncio.create_task(peers.channel.attach(PATIENCE))
            await until(lambda: peers.channel.calls == 1)
            rights = array.array("i", [peers.far.fileno()] * 10)
            message = encode(DeviceLost("with a gift"))
            peers.far.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            peers.far.send(encode(Answer(number, b"")))
            await attached
        peers.far.send(encode(Ready({}, "after all of them")))
        await asyncio.wait_for(asyncio.shield(peers.channel.ready), PATIENCE)
        assert open_descriptors() == before


async def test_being_ready_twice_is_no_honest_thing() -> None:
    async with connected() as peers:
        for _ in range(2):
            peers.far.send(encode(Ready({}, "")))
        await until(lambda: bool(peers.lost))
        assert "ready twice" in peers.lost[0]


async def test_one_that_cannot_start_says_why() -> None:
    async with connected() as peers:
        peers.far.send(encode(Failure(0, "ModelError", "cannot load the model: it is bad")))
        with pytest.raises(ModelError, match="it is bad"):
            await peers.channel.ready


async def test_the_answer_of_a_span_is_given_back() -> None:
    async with connected() as peers:
        call = asyncio.create_task(peers.channel.call("x", b"", PATIENCE))
        await until(lambda: peers.channel.calls == 1)
        peers.responses.write(4096, b"answer")
        peers.far.send(encode(Answer(1, Span(4096, 6))))
        assert await call == b"answer"
        peers.far.recv(1 << 16)
        assert msgspec.msgpack.decode(peers.far.recv(1 << 16)) == ["Free", 4096]
