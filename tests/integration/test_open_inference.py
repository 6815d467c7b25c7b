"""Triton's own client, unmodified, over gRPC, and NVIDIA's perf_analyzer."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from integration.appliance import DATA, Appliance
from integration.sample import CLASSES, FEATURES, LABELS, SCORES, SIDE
from patience import PATIENCE
from tritonclient.utils import InferenceServerException

from edged import wire
from edged.client import AsyncPredictionClient, PredictionClient
from edged.wire import inference

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()
PERF_ANALYZER = os.environ.get("EDGED_PERF_ANALYZER", "")
SHARED = ("--shared-memory", "system", "--output-shared-memory-size", "65536")


@pytest.fixture(scope="module")
def client(serving: Appliance) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"unix:{serving.socket}") as client:
        yield client


def pixels(count: int = 1) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.float32)


def tensor(name: str, value: np.ndarray, datatype: str) -> triton.InferInput:
    given = triton.InferInput(name, list(value.shape), datatype)
    given.set_data_from_numpy(value)
    return given


def photo(*shape: int) -> triton.InferInput:
    return tensor("images", np.full(shape, PHOTO, np.object_), "BYTES")


def test_the_server_tells_of_itself(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    told = client.get_server_metadata()
    assert told.name == "edged" and "statistics" in told.extensions


@pytest.mark.parametrize("version", ["", "1.0.0", "1000000"])
def test_the_model_that_serves_is_ready(client: triton.InferenceServerClient, version: str) -> None:
    assert client.is_model_ready("sample", version)
    told = client.get_model_metadata("sample", version)
    assert list(told.versions) == ["1000000"]
    assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
        ("images", "FP32", [-1, SIDE, SIDE, 3])
    ]
    assert [(each.name, list(each.shape)) for each in told.outputs] == [
        (SCORES, [-1, CLASSES]),
        (FEATURES, [-1, 1, 1, 8]),
    ]


def test_the_configuration_is_the_metadata_in_tritons_words(
    client: triton.InferenceServerClient,
) -> None:
    told = client.get_model_config("sample").config
    assert (told.name, told.max_batch_size) == ("sample", 256)
    (given,) = told.input
    assert (given.name, list(given.dims)) == ("images", [SIDE, SIDE, 3])
    assert [list(output.dims) for output in told.output] == [[CLASSES], [1, 1, 8]]
    share = told.parameters["host-share"].string_value
    assert share == "all multiply-accumulates run on the device"
    assert told.parameters["labels"].string_value.split("\n") == list(LABELS)


async def test_our_own_clients_know_the_labels(serving: Appliance) -> None:
    with PredictionClient(f"unix:{serving.socket}") as client:
        assert client.labels() == list(LABELS)
    async with AsyncPredictionClient(f"unix:{serving.socket}") as client:
        assert await client.labels() == list(LABELS)


def test_others_are_not(client: triton.InferenceServerClient) -> None:
    assert not client.is_model_ready("other") and not client.is_model_ready("sample", "2.0.0")
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*'sample' 1.0.0"):
        client.get_model_metadata("other")


def test_predict_and_infer_give_the_same(
    serving: Appliance, client: triton.InferenceServerClient
) -> None:
    x = pixels(3)
    asked = [triton.InferRequestedOutput(SCORES)]
    answer = client.infer(
        "sample", [tensor("Placeholder:0", x, "FP32")], outputs=asked, request_id="seven"
    )
    told = answer.get_response()
    assert (told.id, told.model_name, told.model_version) == ("seven", "sample", "1000000")
    scores = answer.as_numpy(SCORES)
    assert scores.shape == (3, CLASSES) and answer.as_numpy(FEATURES) is None
    predicted = serving.predict({"Placeholder:0": wire.from_array(x)}).outputs[SCORES]
    np.testing.assert_array_equal(scores, wire.to_array(predicted))


@pytest.mark.parametrize("shape", [(1,), (2,), (2, 1)])
def test_bytes_carry_a_jpeg(
    serving: Appliance, client: triton.InferenceServerClient, shape: tuple[int, ...]
) -> None:
    scores = client.infer("sample", [photo(*shape)]).as_numpy(SCORES)
    strings = wire.from_array([PHOTO] * shape[0])
    predicted = serving.predict({"images": strings}).outputs[SCORES]
    np.testing.assert_array_equal(scores, wire.to_array(predicted))


def test_classes_come_with_their_labels(client: triton.InferenceServerClient) -> None:
    asked = [triton.InferRequestedOutput(SCORES, class_count=2)]
    scores = client.infer("sample", [photo(1)]).as_numpy(SCORES)[0]
    (first, second) = client.infer("sample", [photo(1)], outputs=asked).as_numpy(SCORES)[0]
    value, index, label = first.decode().split(":")
    assert int(index) == scores.argmax() and label == LABELS[int(index)]
    assert float(value) == pytest.approx(scores.max(), abs=1e-6)
    assert float(second.split(b":")[0]) <= float(value)


def test_typed_contents_are_answered_by_typed_contents(serving: Appliance) -> None:
    """As a client does that was made from the protocol's definition alone."""
    x = pixels(2)
    request = inference.ModelInferRequest(model_name="sample", id="typed")
    request.parameters["trace"].int64_param = 5
    request.outputs.add(name=SCORES)
    given = request.inputs.add(name="Placeholder:0", datatype="FP32", shape=x.shape)
    given.contents.fp32_contents.extend(x.ravel().tolist())
    call = serving.channel.unary_unary(f"/{inference.MODEL_INFER}")
    answer = inference.ModelInferResponse.FromString(
        call(request.SerializeToString(), timeout=PATIENCE)
    )
    (output,) = answer.outputs
    assert (answer.id, answer.parameters["trace"].int64_param) == ("typed", 5)
    assert not answer.raw_output_contents and list(output.shape) == [2, CLASSES]
    assert len(output.contents.fp32_contents) == 2 * CLASSES

    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(x.tobytes())
    raw = inference.ModelInferResponse.FromString(
        call(request.SerializeToString(), timeout=PATIENCE)
    )
    listed = np.float32(output.contents.fp32_contents)
    np.testing.assert_array_equal(listed, np.frombuffer(raw.raw_output_contents[0], np.float32))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (tensor("none", pixels(), "FP32"), "no input 'none'; it has 'Placeholder:0'"),
        (tensor("images", pixels().astype(np.float64), "FP64"), r"is float64 \[1, 16, 16, 3\]"),
        (tensor("images", np.zeros((1, 4), np.float32), "FP32"), r"is float32 \[1, 4\]"),
        (tensor("images", np.array([b"no image"], np.object_), "BYTES"), "cannot decode the image"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(
    client: triton.InferenceServerClient, given: triton.InferInput, said: str
) -> None:
    with pytest.raises(InferenceServerException, match=said) as caught:
        client.infer("sample", [given])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.raw_input_contents.append(b""), "has 2 tensors for 1 inputs"),
        (lambda r: r.ClearField("raw_input_contents"), "fp32_contents has 0 values"),
        (lambda r: r.inputs[0].shape.__setitem__(0, -1), "none below 0"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 1 << 62), "at most 256 are taken"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 2), "has 3072 bytes"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP128"), "is FP128"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(1), "raw_input_contents as well"),
        (lambda r: r.outputs.add(name="none"), "no output 'none'"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(
    serving: Appliance, change: object, said: str
) -> None:
    request = inference.ModelInferRequest(raw_input_contents=[pixels().tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=[1, SIDE, SIDE, 3])
    assert callable(change)
    change(request)
    call = serving.channel.unary_unary(f"/{inference.MODEL_INFER}")
    with pytest.raises(Exception, match=said):
        call(request.SerializeToString(), timeout=PATIENCE)


def test_classify_over_grpc(serving: Appliance, client: triton.InferenceServerClient) -> None:
    scores = client.infer("sample", [photo(1)]).as_numpy(SCORES)[0]
    request = wire.ClassificationRequest(model_spec={"name": "sample"})
    examples = request.input.example_list.examples
    examples.add().features.feature["images"].bytes_list.value.append(PHOTO)
    call = serving.channel.unary_unary(f"/{wire.CLASSIFY}")
    answer = call(request.SerializeToString(), timeout=PATIENCE)
    found = wire.ClassificationResponse.FromString(answer)
    (row,) = found.result.classifications
    assert found.model_spec.name == "sample" and len(row.classes) == CLASSES
    assert row.classes[0].label == LABELS[scores.argmax()]
    assert row.classes[0].score == scores.max()

    del examples[:]
    flat = examples.add().features.feature["Placeholder:0"].float_list.value
    flat.extend(pixels().ravel().tolist())
    answer = call(request.SerializeToString(), timeout=PATIENCE)
    (row,) = wire.ClassificationResponse.FromString(answer).result.classifications
    (wanted,) = client.infer("sample", [tensor("images", pixels(), "FP32")]).as_numpy(SCORES)
    assert row.classes[0].score == wanted.max()
    flat.append(0)
    with pytest.raises(grpc.RpcError, match="has 769 values"):
        call(request.SerializeToString(), timeout=PATIENCE)


def test_a_configuration_by_a_call_is_refused_with_what_to_do(serving: Appliance) -> None:
    call = serving.channel.unary_unary(f"/{wire.RELOAD_CONFIG}")
    with pytest.raises(grpc.RpcError, match="drop folder") as caught:
        call(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_channelz_tells_of_this_connection(serving: Appliance) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(serving.channel)
    servers = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=PATIENCE).server
    assert any(server.data.calls_started for server in servers)


def test_statistics_count_each_sample(client: triton.InferenceServerClient) -> None:
    before = client.get_inference_statistics("sample").model_stats[0]
    client.infer("sample", [photo(3)])
    with pytest.raises(InferenceServerException):
        client.infer("sample", [tensor("none", pixels(), "FP32")])
    (after,) = client.get_inference_statistics("sample").model_stats
    assert after.inference_count - before.inference_count == 3
    sums, before_sums = after.inference_stats, before.inference_stats
    assert sums.success.count - before_sums.success.count == 1
    assert sums.fail.count - before_sums.fail.count == 1
    assert sums.success.ns > before_sums.success.ns
    assert abs(after.last_inference / 1000 - time.time()) < 60


def test_the_repository_is_the_store(
    serving: Appliance, client: triton.InferenceServerClient, second: Path
) -> None:
    serving.put(second)
    index = {each.name: each for each in client.get_model_repository_index().models}
    assert index["second"].state == "READY" and index["sample"].state == "UNAVAILABLE"
    client.load_model("sample")
    (ready,) = client.get_model_repository_index().models[:1]
    assert (ready.name, ready.version, ready.state) == ("sample", "1000000", "READY")
    assert not client.is_model_ready("second")
    client.unload_model("second")
    with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED.*load another model"):
        client.unload_model("sample")
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*there are sample 1.0.0"):
        client.load_model("third")
    with pytest.raises(InferenceServerException, match="parameter 'config'"):
        client.load_model("sample", config="{}")
    assert client.is_model_ready("sample")


@pytest.mark.skipif(
    not PERF_ANALYZER, reason="EDGED_PERF_ANALYZER names no perf_analyzer; see docs/clients.md"
)
@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("grpc", ("--service-kind", "tfserving")),
        ("grpc", ()),
        ("http", ()),
        ("grpc", SHARED),
    ],
    ids=["tfserving", "triton", "triton-http", "triton-shared-memory"],
)
def test_perf_analyzer(serving: Appliance, protocol: str, words: tuple[str, ...]) -> None:
    address = serving.http if protocol == "http" else f"unix:{serving.socket}"
    command = [PERF_ANALYZER, "-m", "sample", "-i", protocol, "-u", address, *words]
    command += ["-b", "1", "--shape", "images:16,16,3", "--measurement-interval", "500"]
    # How steady this machine is does not matter.
    command += ["--concurrency-range", "1:1", "-s", "500", "-r", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Concurrency: 1, throughput: [1-9]", done.stdout), done.stdout
