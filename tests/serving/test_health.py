"""What grpc.health.v1 tells those who watch, over a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from patience import PATIENCE

from edged.calls import Call
from edged.errors import UnavailableError
from edged.serving import Admission, GrpcFront, Listener

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def refuse(call: Call) -> bytes:
    raise UnavailableError("cannot answer: nothing is loaded")


async def test_a_front_that_stops_while_it_tells_ends_every_watch(tmp_path: Path) -> None:
    front = GrpcFront(refuse, [Listener("here", f"unix:{tmp_path}/front", Admission("here"))])
    await front.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/front") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(20)]
        told: list[list[int]] = [[] for _ in watches]

        async def listen(watch: Any, heard: list[int]) -> None:
            async for answer in watch:
                heard.append(answer.status)

        listening = asyncio.gather(*map(listen, watches, told))
        async with asyncio.timeout(PATIENCE):
            while not all(told):
                await asyncio.sleep(0.01)
        front.serves("kws")
        # So that they are being told when it stops.
        await asyncio.sleep(0)
        await asyncio.wait_for(front.stop(2 * PATIENCE), PATIENCE)
        await listening
    for heard in told:
        assert heard in ([NOT_SERVING, SERVING, NOT_SERVING], [NOT_SERVING]), heard
