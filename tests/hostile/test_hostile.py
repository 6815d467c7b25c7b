"""Hostile clients, a few of each kind: others are served, and nothing is left behind.

`make test-hostile` makes many more, against the whole of edged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import grpc.aio
import pytest
from hostile import attacks

from edged.calls import Call
from edged.serving import (
    Admission,
    GrpcFront,
    InFlight,
    Listener,
    Models,
    RestFront,
    ServingLimits,
)

LIMITS = ServingLimits(message_bytes=1 << 20, concurrent_calls=20, call_seconds=0.5)


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
    async with asyncio.timeout(10):
        await front.stop(5)


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
    async with asyncio.timeout(10):
        while in_flight.calls:
            await asyncio.sleep(0.01)
    assert not caplog.records


@pytest.mark.usefixtures("target")
async def test_guesses_are_refused_without_a_place(tmp_path: Path, in_flight: InFlight) -> None:
    assert await attacks.guess(f"unix:{tmp_path}/closed", 100) == "100 UNAUTHENTICATED"
    assert not in_flight.calls


# Keys of a request's own type came with a later aiohttp than is needed.
@pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")
async def test_a_body_that_never_comes_is_not_waited_for(
    tmp_path: Path, in_flight: InFlight
) -> None:
    listener = Listener("rest", f"unix:{tmp_path}/rest", Admission("rest"))
    # It is asked about models only, and this is not about them.
    models = cast(Models, None)
    front = RestFront(answer, models, [listener], LIMITS, lambda _: True, in_flight)
    await front.start()
    async with attacks.raw(f"unix:{tmp_path}/rest") as (reader, writer):
        writer.write(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        async with asyncio.timeout(10):
            assert b" 504 " in await reader.readline()
    await front.stop(1)
