"""Hostile clients, a few of each kind: others are served, and nothing is left behind.

`make test-hostile` makes many more, against the whole of edged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import aiohttp
import grpc.aio
import pytest
from hostile import attacks
from patience import PATIENCE

from edged.calls import Answer, Call
from edged.serving import (
    Admission,
    GrpcFront,
    InFlight,
    Listener,
    Models,
    RestFront,
    ServingLimits,
)
from edged.wire.rest import frame

POST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
# Keys of a request's own type came with a later aiohttp than is needed.
WITHOUT_KEYS = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")
LIMITS = ServingLimits(message_bytes=1 << 20, concurrent_calls=20, call_seconds=2.0, connections=30)


async def answer(call: Call) -> bytes:
    return b"x" * 1000


@pytest.fixture
def in_flight() -> InFlight:
    return InFlight(LIMITS.concurrent_calls)


@pytest.fixture
async def target(tmp_path: Path, in_flight: InFlight) -> AsyncIterator[str]:
    """Where strangers call; those who are to be served do so at the socket ``open``."""
    listeners = (
        Listener("lan", "127.0.0.1:0", Admission("lan")),
        Listener("open", f"unix:{tmp_path}/open", Admission("open")),
        Listener("closed", f"unix:{tmp_path}/closed", Admission("closed", needs_token=True)),
    )
    front = GrpcFront(answer, listeners, LIMITS, in_flight=in_flight)
    port, *_ = await front.start()
    yield f"127.0.0.1:{port}"
    # Nobody who is still there holds it up.
    async with asyncio.timeout(PATIENCE):
        await front.stop(2 * PATIENCE)


@pytest.mark.parametrize(
    ("attack", "times", "result"),
    [
        (attacks.send_slowly, 20, "15 DEADLINE_EXCEEDED, 5 RESOURCE_EXHAUSTED"),
        (attacks.read_nothing, 20, "20 calls, 5 refused"),
        (attacks.call_off, 200, "200 cancelled"),
        (attacks.send_garbage, 30, "30 connections; 30 calls: 30 OK"),
        (attacks.send_metadata, 4, "4 RESOURCE_EXHAUSTED"),
        (attacks.send_too_much, 1, "2 RESOURCE_EXHAUSTED"),
    ],
)
async def test_others_are_served(
    target: str,
    attack: attacks.Attack,
    times: int,
    result: str,
    tmp_path: Path,
    in_flight: InFlight,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served: list[str] = []
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/open") as channel:
        with caplog.at_level(logging.INFO):
            attacking = asyncio.create_task(attack(target, times))
            while not attacking.done():
                served.append(await attacks.code_of(channel, b"mine"))
                await asyncio.sleep(0.02)
        assert await attacking == result
        assert await attacks.code_of(channel, b"mine") == "OK"
    assert set(served) == {"OK"}
    async with asyncio.timeout(PATIENCE):
        while in_flight.calls:
            await asyncio.sleep(0.01)
    assert not caplog.records


@pytest.mark.usefixtures("target")
async def test_guesses_are_refused_without_a_place(tmp_path: Path, in_flight: InFlight) -> None:
    assert await attacks.guess(f"unix:{tmp_path}/closed", 100) == "100 UNAUTHENTICATED"
    assert not in_flight.calls


@asynccontextmanager
async def rest(
    folder: Path, in_flight: InFlight, admission: Admission, answer: Answer = answer
) -> AsyncIterator[str]:
    """A REST listener, at the address that is given."""
    # It is asked about models only, and this is not about them.
    models = cast(Models, None)
    listener = Listener("rest", f"unix:{folder}/rest", admission)
    front = RestFront(answer, models, [listener], LIMITS, lambda _: True, in_flight)
    await front.start()
    yield f"unix:{folder}/rest"
    async with asyncio.timeout(PATIENCE):
        await front.stop(2 * PATIENCE)


@WITHOUT_KEYS
async def test_a_body_that_never_comes_is_not_waited_for(
    tmp_path: Path, in_flight: InFlight
) -> None:
    async with (
        rest(tmp_path, in_flight, Admission("rest")) as address,
        attacks.raw(address) as (reader, writer),
    ):
        writer.write(POST + b"9\r\n\r\n{")
        async with asyncio.timeout(PATIENCE):
            assert b" 504 " in await reader.readline()


@WITHOUT_KEYS
async def test_an_answer_that_is_not_read_takes_a_place_for_a_while(
    tmp_path: Path, in_flight: InFlight
) -> None:
    async def much(call: Call) -> bytes:
        return frame(b"", (bytes(1 << 20),))

    async with (
        rest(tmp_path, in_flight, Admission("rest"), much) as address,
        attacks.raw(address) as (reader, writer),
    ):
        writer.write(POST + b"0\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            while not in_flight.calls:
                await asyncio.sleep(0.01)
            # It is not read, and after call_seconds there is nobody to read it.
            while in_flight.calls:
                await asyncio.sleep(0.01)
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1 << 20)


@WITHOUT_KEYS
async def test_one_client_of_rest_leaves_places_for_others(
    tmp_path: Path, in_flight: InFlight
) -> None:
    tokens = {"a": "greedy", "b": "modest"}
    leave = asyncio.Event()

    async def slow(call: Call) -> bytes:
        await leave.wait()
        return frame(b"{}")

    async def status(token: str) -> tuple[int, str | None]:
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post("http://edge/v1/models/m:predict", headers=headers) as response:
            return response.status, response.headers.get("WWW-Authenticate")

    admission = Admission("rest", tokens.get, needs_token=True)
    async with (
        rest(tmp_path, in_flight, admission, slow),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{tmp_path}/rest")) as session,
    ):
        assert await status("c") == (401, "Bearer")
        greedy = [asyncio.create_task(status("a")) for _ in range(LIMITS.concurrent_calls)]
        async with asyncio.timeout(PATIENCE):
            while sum(task.done() for task in greedy) < LIMITS.concurrent_calls // 4:
                await asyncio.sleep(0.01)
        modest = asyncio.create_task(status("b"))
        async with asyncio.timeout(PATIENCE):
            while in_flight.calls <= LIMITS.concurrent_calls * 3 // 4:
                await asyncio.sleep(0.01)
        leave.set()
        assert await modest == (200, None)
        counted = Counter([code for code, _ in await asyncio.gather(*greedy)])
        assert counted == {200: 15, 429: 5}


async def test_connections_to_rest_have_a_bound(tmp_path: Path, in_flight: InFlight) -> None:
    async with rest(tmp_path, in_flight, Admission("rest")) as address, AsyncExitStack() as stack:

        async def alive() -> bool:
            reader, writer = await stack.enter_async_context(attacks.raw(address))
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionError):
                    return b" 200 " in await reader.readline()
            return False

        for _ in range(LIMITS.connections):
            assert await alive()
        assert not await alive()
