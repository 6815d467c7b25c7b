"""Workers that hang, flood or lie are ended with the reason, and the front never slows down."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE, until

from edged import wire
from edged.container import CalledBack, Container, ContainerLimits, ProcessLauncher
from edged.container._launcher import _channel
from edged.container._process import Child
from edged.device import vfio_user
from edged.errors import ContainerError, DeadlineError, LimitError, UnavailableError


def request(count: int = 1) -> bytes:
    message = wire.PredictRequest()
    value = np.zeros((count, 16, 16, 3), np.uint8)
    message.inputs["input"].CopyFrom(wire.from_array(value, content=True))
    return message.SerializeToString()


def worker_of(container: Container) -> int:
    """The process that holds the model, which bubblewrap may have started two levels down."""
    pid = container.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


@asynccontextmanager
async def serving(sample: Any, emulator: Any, **options: Any) -> AsyncIterator[Container]:
    """A container with the device."""
    container = await ProcessLauncher(ContainerLimits(**options)).start(sample.folder)
    try:
        await container.attach(vfio_user.connect(emulator.socket))
        yield container
    finally:
        await container.stop()


@asynccontextmanager
async def hostile(code: str, call_seconds: float = 60.0) -> AsyncIterator[Container]:
    """A worker of a test's own making: *code* finds the socket of its channel in ``sock``."""
    preamble = "import socket, sys\nfrom edged.container._messages import *\n"
    preamble += "sock = socket.socket(fileno=int(sys.argv[1]))\n"
    with _channel(1 << 20) as ends:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", preamble + code, str(ends.worker.fileno())),
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(ends.worker.fileno(),),
        )
        container = Container(
            Child(process), ends.front, ends.requests, ends.responses, call_seconds
        )
    try:
        yield container
    finally:
        await container.stop()


class Pulse:
    """Longest work between two turns of the loop, in seconds of the processor.

    Other processes may take the processor away for any time; that is no work of the loop's.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def beat(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0.005)
            now = time.thread_time()
            self.longest, last = max(self.longest, now - last), now


@asynccontextmanager
async def pulse() -> AsyncIterator[Pulse]:
    pulse = Pulse()
    task = asyncio.create_task(pulse.beat())
    try:
        yield pulse
    finally:
        task.cancel()


async def test_a_worker_that_hangs_is_ended_although_every_caller_gave_up(
    sample: Any, emulator: Any, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    async with serving(sample, emulator, call_seconds=0.5) as container:
        os.kill(worker_of(container), signal.SIGSTOP)
        calls = [container.call(wire.PREDICT, request(), 0.05) for _ in range(3)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, DeadlineError)
        patient = asyncio.create_task(container.call(wire.PREDICT, request(), 60))
        with pytest.raises(ContainerError, match=r"worked for more than 0\.5 s on one call.*again"):
            await asyncio.wait_for(patient, PATIENCE)
        reason = str(await asyncio.wait_for(container.closed, PATIENCE))
        assert "container.call_seconds" in reason
    await until(lambda: open_descriptors() <= before)


async def test_one_hanging_call_is_noticed_although_others_are_answered() -> None:
    """The worker answers every call but the first, for ever."""
    code = """
import msgspec
sock.send(encode(Ready({}, "")))
while packet := sock.recv(1 << 16):
    message = msgspec.msgpack.decode(packet)
    if message[0] == "Call" and message[1] != 1:
        sock.send(encode(Answer(message[1], b"")))
"""
    async with hostile(code, call_seconds=0.3) as container:
        await container.ready()
        first = asyncio.create_task(container.call("x", b"", 60))
        await until(lambda: container._channel.calls == 1)
        while not first.done():
            try:
                await container.call("x", b"", PATIENCE)
            except ContainerError:
                break
        with pytest.raises(ContainerError, match="on one call"):
            await first


async def test_a_long_line_of_short_calls_is_no_hang(sample: Any, emulator: Any) -> None:
    async with serving(sample, emulator, call_seconds=1) as container:
        # The line is never empty for longer than one call may take, and somebody is always first.
        ends = time.monotonic() + 2.5

        async def calls() -> None:
            while time.monotonic() < ends:
                await container.call(wire.PREDICT, request(), 60)

        await asyncio.gather(*(calls() for _ in range(20)))
        assert not container.lost


async def test_a_batch_that_takes_too_long_is_cut_short_and_nothing_is_lost(
    sample: Any, emulator: Any
) -> None:
    async with serving(sample, emulator, call_seconds=0.005) as container:
        with pytest.raises(DeadlineError, match=r"after .* of 256 samples"):
            await container.call(wire.PREDICT, request(256), 60)
        assert not container.lost
        assert await container.call(wire.PREDICT, request(), 60)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_a_worker_that_dies_of_a_signal_says_which(
    sample: Any, emulator: Any, number: signal.Signals
) -> None:
    async with serving(sample, emulator) as container:
        call = asyncio.create_task(container.call(wire.PREDICT, request(200), 60))
        await container.call(wire.GET_MODEL_METADATA, b"", PATIENCE)
        os.kill(worker_of(container), number)
        with pytest.raises(ContainerError, match="try again"):
            await asyncio.wait_for(call, PATIENCE)
        assert number.name in str(await asyncio.wait_for(container.closed, PATIENCE))


async def test_memory_beyond_the_limit_costs_the_call_alone(sample: Any, emulator: Any) -> None:
    async with serving(sample, emulator, memory_bytes=192 << 20) as container:
        message = wire.PredictRequest()
        message.inputs["input"].dtype = wire.DataType.DT_UINT8
        message.inputs["input"].tensor_content = bytes(120 << 20)
        large = message.SerializeToString()
        calls = [container.call(wire.PREDICT, large, 60), container.call(wire.PREDICT, large, 60)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, LimitError), outcome
        assert await container.call(wire.PREDICT, request(), PATIENCE)


@pytest.mark.parametrize("line", [5000 * b"x" + b"\n", b"\n", b"x"])
async def test_a_flood_on_standard_error_ends_the_worker_and_slows_nobody(line: bytes) -> None:
    code = "import os\nsock.send(encode(Ready({}, '')))\n"
    code += f"data = ({line!r} * 65536)[:65536]\n"
    async with hostile(code + "while True: os.write(2, data)") as container, pulse() as heart:
        await container.ready()
        reason = str(await asyncio.wait_for(container.closed, PATIENCE))
        assert "more than 16 MiB to standard error" in reason
        with pytest.raises(ContainerError):
            await container.call("x", b"", PATIENCE)
    assert heart.longest < 0.25


@pytest.mark.parametrize(
    "message", ["DeviceLost('gone')", "Ready({}, '')", "Answer(1, b'')", "Failure(3, 'E', 'e')"]
)
async def test_a_flood_on_the_channel_ends_the_worker_and_slows_nobody(message: str) -> None:
    code = f"packet = encode({message})\nwhile True: sock.send(packet)"
    async with hostile(code) as container, pulse() as heart:
        reason = str(await asyncio.wait_for(container.closed, PATIENCE))
        assert reason.startswith("it broke the protocol"), reason
    assert heart.longest < 0.25


async def test_a_worker_that_answers_junk_is_ended() -> None:
    code = "sock.send(encode(Ready({}, '')))\nsock.recv(1 << 16)\nsock.send(b'junk')\nsock.recv(9)"
    async with hostile(code) as container:
        await container.ready()
        with pytest.raises(ContainerError, match="it broke the protocol"):
            await asyncio.wait_for(container.call("x", b"", PATIENCE), PATIENCE)
        assert str(await container.closed).startswith("it broke the protocol")


async def test_a_worker_that_does_not_let_go_of_the_device_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edged.container._container._ATTACH_SECONDS", 0.2)
    async with hostile(
        "sock.send(encode(Ready({}, '')))\nwhile sock.recv(1 << 16): pass"
    ) as worker:
        await worker.ready()
        with pytest.raises(ContainerError, match=r"did not answer Detach within 0\.2 s"):
            await worker.detach()
        assert "did not answer Detach" in str(await asyncio.wait_for(worker.closed, PATIENCE))


async def test_what_the_device_has_not_got_to_is_called_back(sample: Any, emulator: Any) -> None:
    async with serving(sample, emulator) as container:
        calls = [
            asyncio.create_task(container.call(wire.PREDICT, request(60), 60)) for _ in range(12)
        ]
        await until(lambda: container._channel.calls == 12)
        container.call_back()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        back = [type(outcome) is CalledBack for outcome in outcomes]
        # Those that were begun, too: 60 samples are not waited for.
        assert sum(back) >= 10
        assert back == sorted(back), "what came first is answered first"
        assert all(isinstance(outcome, bytes) or back[i] for i, outcome in enumerate(outcomes))
        assert container._channel.bytes_in_use == 0
        # What comes after is answered.
        assert await container.call(wire.PREDICT, request(60), PATIENCE)


async def test_nobody_but_the_front_calls_back() -> None:
    code = """
sock.send(encode(Ready({}, "")))
sock.recv(1 << 16)
sock.send(encode(Failure(1, CANCELLED, "")))
sock.recv(1 << 16)
sock.send(encode(Failure(2, "CalledBack", "mine")))
sock.recv(1 << 16)
"""
    async with hostile(code) as container:
        await container.ready()
        for _ in range(2):
            with pytest.raises(Exception, match=r"called off|mine") as caught:
                await container.call("x", b"", PATIENCE)
            assert type(caught.value) is not CalledBack


async def test_a_device_that_was_never_prepared_cannot_be_attached(sample: Any) -> None:
    container = await ProcessLauncher().start(sample.folder)
    try:
        with pytest.raises(UnavailableError, match="none was prepared"):
            await container.attach()
    finally:
        await container.stop()


async def test_a_standby_is_prepared_while_another_serves(sample: Any, emulator: Any) -> None:
    async with serving(sample, emulator) as old:
        new = await ProcessLauncher().start(sample.folder)
        try:
            await new.prepare(vfio_user.connect(emulator.socket))
            await old.self_test()
            with pytest.raises(UnavailableError, match="no device"):
                await new.call(wire.PREDICT, request(), PATIENCE)
            await old.detach()
            await new.attach()
            await new.self_test(0.0)
            assert await new.call(wire.PREDICT, request(), PATIENCE)
        finally:
            await new.stop()
