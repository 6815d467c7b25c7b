"""The messages against hand-computed bytes and TensorFlow's published field numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2

import edged.wire
from edged import wire
from edged.wire.generate import generate

PUBLISHED = {
    "TensorProto": {
        "dtype": 1,
        "tensor_shape": 2,
        "version_number": 3,
        "tensor_content": 4,
        "float_val": 5,
        "double_val": 6,
        "int_val": 7,
        "string_val": 8,
        "scomplex_val": 9,
        "int64_val": 10,
        "bool_val": 11,
        "dcomplex_val": 12,
        "half_val": 13,
        "uint32_val": 16,
        "uint64_val": 17,
    },
    "TensorShapeProto": {"dim": 2, "unknown_rank": 3},
    "TensorInfo": {"name": 1, "dtype": 2, "tensor_shape": 3},
    "SignatureDef": {"inputs": 1, "outputs": 2, "method_name": 3},
    "ModelSpec": {"name": 1, "version": 2, "signature_name": 3, "version_label": 4},
    "PredictRequest": {"model_spec": 1, "inputs": 2, "output_filter": 3},
    "PredictResponse": {"outputs": 1, "model_spec": 2},
    "ClassificationRequest": {"model_spec": 1, "input": 2},
    "ClassificationResponse": {"result": 1, "model_spec": 2},
    "RegressionRequest": {"model_spec": 1, "input": 2},
    "RegressionResponse": {"result": 1, "model_spec": 2},
    "Example": {"features": 1},
    "Feature": {"bytes_list": 1, "float_list": 2, "int64_list": 3},
    "ReloadConfigResponse": {"status": 1},
    "SignatureDefMap": {"signature_def": 1},
    "GetModelMetadataRequest": {"model_spec": 1, "metadata_field": 2},
    "GetModelMetadataResponse": {"model_spec": 1, "metadata": 2},
    "GetModelStatusRequest": {"model_spec": 1},
    "GetModelStatusResponse": {"model_version_status": 1},
    "ModelVersionStatus": {"version": 1, "state": 2, "status": 3},
    "StatusProto": {"error_code": 1, "error_message": 2},
    "GraphDef": {"node": 1},
    "NodeDef": {"name": 1, "op": 2, "input": 3, "device": 4, "attr": 5},
    "AttrValue": {
        "list": 1,
        "s": 2,
        "i": 3,
        "f": 4,
        "b": 5,
        "type": 6,
        "shape": 7,
        "tensor": 8,
        "placeholder": 9,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_field_numbers_are_the_published_ones(name: str) -> None:
    fields = getattr(wire, name).DESCRIPTOR.fields
    assert {field.name: field.number for field in fields} == PUBLISHED[name]


def test_enum_numbers_are_the_published_ones() -> None:
    names = "INVALID FLOAT DOUBLE INT32 UINT8 INT16 INT8 STRING COMPLEX64 INT64 BOOL QINT8 QUINT8"
    names += " QINT32 BFLOAT16 QINT16 QUINT16 UINT16 COMPLEX128 HALF RESOURCE VARIANT UINT32 UINT64"
    assert wire.DataType.items() == [(f"DT_{n}", i) for i, n in enumerate(names.split())]
    states = dict(wire.ModelVersionStatus.State.items())
    assert states == {
        "UNKNOWN": 0,
        "START": 10,
        "LOADING": 20,
        "AVAILABLE": 30,
        "UNLOADING": 40,
        "END": 50,
    }


def test_predict_request_has_the_bytes_that_tensorflow_serving_reads() -> None:
    request = wire.PredictRequest(output_filter=["y"])
    request.model_spec.name = "m"
    request.model_spec.version.value = 3
    request.inputs["x"].CopyFrom(wire.TensorProto(dtype=wire.DataType.DT_FLOAT, float_val=[1.0]))
    request.inputs["x"].tensor_shape.dim.add(size=1)
    tensor = bytes.fromhex("08011204120208012a040000803f")
    entry = bytes.fromhex("0a017812") + bytes([len(tensor)]) + tensor
    wanted = bytes.fromhex("0a070a016d12020803") + b"\x12" + bytes([len(entry)]) + entry
    wanted += bytes.fromhex("1a0179")
    assert request.SerializeToString() == wanted


def test_metadata_travels_in_an_any_of_the_published_name() -> None:
    response = wire.GetModelMetadataResponse()
    signatures = wire.SignatureDefMap()
    signatures.signature_def["serving_default"].inputs["x"].name = "x:0"
    response.metadata["signature_def"].Pack(signatures)
    read = wire.GetModelMetadataResponse.FromString(response.SerializeToString())
    packed = read.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    unpacked = wire.SignatureDefMap()
    assert packed.Unpack(unpacked) and unpacked == signatures


def test_the_default_pool_is_left_to_tensorflow() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tensorflow.TensorProto")


def test_another_owner_of_the_names_can_live_in_the_same_process() -> None:
    """As TensorFlow does it: the same full names in the default pool, before and after."""
    clash = """
from google.protobuf import descriptor_pb2, descriptor_pool
import edged.wire
file = descriptor_pb2.FileDescriptorProto(
    name="tensorflow/core/framework/tensor.proto", package="tensorflow", syntax="proto3"
)
file.message_type.add(name="TensorProto")
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
print(edged.wire.TensorProto(dtype=1).SerializeToString().hex())
"""
    done = subprocess.run(
        [sys.executable, "-c", clash], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "0801\n"


def test_generated_code_is_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools, in the test extra")
    generate(tmp_path)
    current = Path(edged.wire.__file__).parent / "_pb"
    for module in tmp_path.glob("*.py"):
        assert module.read_text() == (current / module.name).read_text(), (
            "the .proto files have changed: run python -m edged.wire.generate"
        )
    made = {module.name for module in tmp_path.glob("*.py")}
    assert made == {module.name for module in current.glob("*_pb2.py")}


def test_inference_messages_are_those_of_tritons_client() -> None:
    """Every field of ours is there under its number and type, and every method."""
    known = dict(service_pb2.DESCRIPTOR.message_types_by_name)
    known |= dict(model_config_pb2.DESCRIPTOR.message_types_by_name)
    ours = wire.POOL.FindFileByName("edged/wire/_pb/inference.proto")
    for name, message in ours.message_types_by_name.items():
        _check_fields(message, known[name])
    (types,) = ours.enum_types_by_name.values()
    published = model_config_pb2.DESCRIPTOR.enum_types_by_name[types.name]
    numbers = [(value.name, value.number) for value in published.values]
    assert [(value.name, value.number) for value in types.values] == numbers
    (service,) = ours.services_by_name.values()
    described = service_pb2.DESCRIPTOR.services_by_name[service.name]
    assert service.full_name == described.full_name
    for method in service.methods:
        other = described.methods_by_name[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name


def _check_fields(ours: Descriptor, theirs: Descriptor) -> None:
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (
            *(other.number, other.type, other.is_repeated),
        ), field.full_name
    for name, nested in ours.nested_types_by_name.items():
        _check_fields(nested, theirs.nested_types_by_name[name])
