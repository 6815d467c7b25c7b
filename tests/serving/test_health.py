"""What grpc.health.v1 tells those who watch, over a real socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
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


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[GrpcFront]:
    """One that listens at *front* in the test's folder."""
    listener = Listener("here", f"unix:{tmp_path}/front", Admission("here"))
    front = GrpcFront(refuse, [listener], channelz=True)
    await front.start()
    yield front
    await front.stop(5)


@pytest.fixture
async def channel(front: GrpcFront, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/front") as channel:
        yield channel


async def listed(channel: grpc.aio.Channel) -> dict[str, int]:
    answer = await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
    return {name: each.status for name, each in answer.statuses.items()}


@pytest.mark.skipif(
    not hasattr(health_pb2, "HealthListRequest"), reason="grpcio-health-checking has no List"
)
async def test_the_list_has_services_and_models(
    front: GrpcFront, channel: grpc.aio.Channel
) -> None:
    services = {
        "",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "inference.GRPCInferenceService",
    }
    assert await listed(channel) == dict.fromkeys(services, NOT_SERVING)
    front.serves("kws")
    assert await listed(channel) == dict.fromkeys({*services, "kws"}, SERVING)
    front.serves("other")
    found = await listed(channel)
    assert (found["kws"], found["other"], found[""]) == (NOT_SERVING, SERVING, SERVING)


@pytest.mark.skipif(
    not hasattr(health_pb2, "HealthListRequest"), reason="grpcio-health-checking has no List"
)
async def test_the_list_is_for_those_who_may_call(tmp_path: Path) -> None:
    """It has the names of models. A check of one that is known by its name is for everybody."""
    admission = Admission("here", needs_token=True)
    front = GrpcFront(refuse, [Listener("here", f"unix:{tmp_path}/front", admission)])
    await front.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/front") as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(channel)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await front.stop(5)


@pytest.mark.parametrize(
    "method",
    [
        "tensorflow.serving.PredictionService/MultiInference",
        "tensorflow.serving.SessionService/SessionRun",
        "inference.GRPCInferenceService/ModelStreamInfer",
        "grpc.health.v1.Health/Later",
        "grpc.reflection.v1alpha.ServerReflection/Later",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.channelz.v1.Channelz/Later",
        "no.Service/Method",
    ],
)
async def test_what_is_not_implemented_is_said_and_not_logged(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(f"/{method}")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
