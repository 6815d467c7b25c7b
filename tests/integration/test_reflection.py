"""A client that knows nothing but the address: messages and methods by reflection alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from integration.appliance import DATA, Appliance
from integration.sample import CLASSES, SCORES, SIDE
from patience import PATIENCE

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()


class Reflected:
    """Calls methods by the names that the server says it has."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self._pool = DescriptorPool(self.database)

    def call(self, service: str, method: str, **fields: Any) -> Any:
        found = self._pool.FindServiceByName(service).methods_by_name[method]
        asked = message_factory.GetMessageClass(found.input_type)(**fields)
        assert isinstance(asked, Message)
        answer = self.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(asked).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(found.output_type).FromString,
        )
        return answer(asked, timeout=PATIENCE)


@pytest.fixture(scope="module")
def reflected(serving: Appliance) -> Iterator[Reflected]:
    client = Reflected(f"unix:{serving.socket}")
    yield client
    client.channel.close()


def test_predict_and_infer_by_reflection_alone(reflected: Reflected) -> None:
    image = {"dtype": 7, "tensor_shape": {"dim": [{"size": 1}]}, "string_val": [PHOTO]}
    predicted = reflected.call(
        "tensorflow.serving.PredictionService", "Predict", inputs={"images": image}
    )
    given = {"name": "images", "datatype": "BYTES", "shape": [1]}
    given["contents"] = {"bytes_contents": [PHOTO]}
    inferred = reflected.call(
        "inference.GRPCInferenceService", "ModelInfer", model_name="sample", inputs=[given]
    )
    scores = list(predicted.outputs[SCORES].float_val)
    (found,) = [output for output in inferred.outputs if output.name == SCORES]
    assert len(scores) == CLASSES and list(found.contents.fp32_contents) == scores


def test_status_and_metadata_by_reflection_alone(reflected: Reflected) -> None:
    status = reflected.call(
        "tensorflow.serving.ModelService", "GetModelStatus", model_spec={"name": "sample"}
    )
    assert [version.state for version in status.model_version_status] == [30]
    told = reflected.call("inference.GRPCInferenceService", "ModelMetadata", name="sample")
    assert [list(tensor.shape) for tensor in told.inputs] == [[-1, SIDE, SIDE, 3]]


def test_every_method_that_is_described_is_there(reflected: Reflected) -> None:
    """What has nothing to say to an empty request says so, and never that it is unknown."""
    for service in reflected.database.get_services():
        if service.startswith("grpc."):
            continue
        for method in reflected._pool.FindServiceByName(service).methods:
            said = ""
            try:
                reflected.call(service, method.name)
            except grpc.RpcError as error:
                said = error.details()
            assert not said or said.startswith("cannot "), method.full_name


def test_raw_contents_by_reflection_alone(reflected: Reflected) -> None:
    x = np.zeros((2, SIDE, SIDE, 3), np.float32)
    given = {"name": "Placeholder:0", "datatype": "FP32", "shape": x.shape}
    answer = reflected.call(
        "inference.GRPCInferenceService",
        "ModelInfer",
        inputs=[given],
        raw_input_contents=[x.tobytes()],
        outputs=[{"name": SCORES}],
    )
    (raw,) = answer.raw_output_contents
    assert np.frombuffer(raw, np.float32).shape == (2 * CLASSES,)
