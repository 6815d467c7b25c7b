"""grpc.health.v1 and reflection, asked by the clients that others wrote."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from integration.appliance import Appliance, eventually
from patience import PATIENCE

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
PREDICTION = "tensorflow.serving.PredictionService"


def health(appliance: Appliance, service: str = "") -> int | None:
    """None where the service is not known."""
    stub = health_pb2_grpc.HealthStub(appliance.channel)
    try:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = stub.Check(request, timeout=PATIENCE, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return int(answer.status)


@pytest.fixture
def watched(appliance: Appliance) -> Iterator[list[int]]:
    """What somebody who watches the whole server was told so far."""
    stub = health_pb2_grpc.HealthStub(appliance.channel)
    told: list[int] = []
    watch = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)

    def listen() -> None:
        try:
            told.extend(answer.status for answer in watch)
        except grpc.RpcError:
            return

    thread = threading.Thread(target=listen)
    thread.start()
    yield told
    watch.cancel()
    thread.join()


def test_health_is_that_of_the_model(
    appliance: Appliance, kws: Path, mobilenet: Path, watched: list[int]
) -> None:
    assert health(appliance) == health(appliance, PREDICTION) == NOT_SERVING
    assert health(appliance, "kws") is None
    appliance.put(kws)
    eventually(lambda: health(appliance) == SERVING, "health")
    assert health(appliance, PREDICTION) == health(appliance, "kws") == SERVING
    appliance.put(mobilenet)
    eventually(lambda: health(appliance, "mobilenet-v2") == SERVING, "the second model's health")
    assert health(appliance, "kws") == NOT_SERVING
    assert health(appliance) == SERVING

    appliance.kill(appliance.emulator)
    eventually(lambda: health(appliance) == NOT_SERVING, "the loss")
    assert health(appliance, "mobilenet-v2") == NOT_SERVING
    appliance.start_emulator()
    eventually(lambda: health(appliance) == SERVING, "the return")
    # A swap is no outage: calls are held, and none fails.
    eventually(lambda: watched == [NOT_SERVING, SERVING, NOT_SERVING, SERVING], f"{watched}")


def test_a_server_that_stops_says_so_to_who_watches(
    appliance: Appliance, kws: Path, watched: list[int]
) -> None:
    appliance.put(kws)
    eventually(lambda: watched[-1:] == [SERVING], "health")
    assert appliance.daemon is not None
    appliance.daemon.terminate()
    assert appliance.daemon.wait(PATIENCE) == 0
    eventually(lambda: watched[-1:] == [NOT_SERVING], "the last word")


def test_reflection_describes_every_service(appliance: Appliance) -> None:
    eventually(lambda: health(appliance) is not None, "the server")
    database = ProtoReflectionDescriptorDatabase(appliance.channel)
    services = set(database.get_services())
    assert services == {
        PREDICTION,
        "tensorflow.serving.ModelService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    predict = pool.FindServiceByName(PREDICTION).methods_by_name["Predict"]
    assert predict.input_type.fields_by_name["inputs"].number == 2
    infer = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelInfer"]
    assert infer.input_type.fields_by_name["raw_input_contents"].number == 7
    for service in services:
        assert pool.FindServiceByName(service).methods
    with pytest.raises(KeyError):
        pool.FindServiceByName("tensorflow.serving.SessionService")
