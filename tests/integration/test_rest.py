"""REST as plain HTTP clients, curl and Triton's own client use it."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from integration.appliance import DATA, Appliance, eventually
from integration.sample import CLASSES, FEATURES, LABELS, SCORES, SIDE
from patience import PATIENCE
from tritonclient.utils import InferenceServerException

from edged import wire

PHOTO_FILE = DATA / "images" / "schoolbus.jpg"
PHOTO = PHOTO_FILE.read_bytes()
B64 = {"b64": base64.b64encode(PHOTO).decode()}


def ask(
    serving: Appliance,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Status and JSON of a GET, or of a POST where there is a body."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{serving.http}{path}", data, dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def pixels(count: int = 1) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def by_tensor(serving: Appliance) -> np.ndarray:
    """What Predict answers for the pixels."""
    predicted = serving.predict({"Placeholder:0": wire.from_array(pixels(3))}).outputs[SCORES]
    return np.asarray(wire.to_array(predicted))


@pytest.fixture(scope="module")
def by_image(serving: Appliance) -> np.ndarray:
    predicted = serving.predict({"images": wire.from_array([PHOTO])}).outputs[SCORES]
    return np.asarray(wire.to_array(predicted))


# TensorFlow Serving.


@pytest.mark.parametrize("path", ["", "/versions/1000000", "/labels/1.0.0"])
def test_status_and_metadata(serving: Appliance, path: str) -> None:
    status, told = ask(serving, f"/v1/models/sample{path}")
    (version,) = told["model_version_status"]
    assert status == 200 and (version["version"], version["state"]) == ("1000000", "AVAILABLE")
    status, told = ask(serving, f"/v1/models/sample{path}/metadata")
    assert status == 200 and told["model_spec"]["name"] == "sample"
    known = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert known["inputs"]["images"]["name"] == "Placeholder:0"
    sizes = [dim["size"] for dim in known["inputs"]["images"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "16", "16", "3"]


def test_the_status_follows_a_swap(
    serving: Appliance, second: Path, client: triton.InferenceServerClient
) -> None:
    serving.put(second, "for-status.edgemodel")
    seen: dict[str, list[str]] = {"sample": [], "second": []}
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for name, states in seen.items():
                (version,) = ask(serving, f"/v1/models/{name}")[1]["model_version_status"]
                if states[-1:] != [version["state"]]:
                    states.append(version["state"])

    looking = threading.Thread(target=look)
    looking.start()
    eventually(lambda: all(seen.values()), "a first look")
    client.load_model("sample")
    eventually(lambda: seen["sample"][-1] == "AVAILABLE" and seen["second"][-1] == "END", "a last")
    done.set()
    looking.join()
    # UNLOADING lasts for as long as calls are held, which is easily missed.
    assert [state for state in seen["second"] if state != "UNLOADING"] == ["AVAILABLE", "END"]
    assert seen["sample"] == ["END", "LOADING", "AVAILABLE"]


def test_rows(serving: Appliance, by_tensor: np.ndarray, by_image: np.ndarray) -> None:
    path = "/v1/models/sample:predict"
    status, told = ask(serving, path, {"instances": pixels(3).tolist()})
    assert status == 200 and len(told["predictions"]) == 3
    assert set(told["predictions"][0]) == {SCORES, FEATURES}
    found = np.float32([row[SCORES] for row in told["predictions"]])
    np.testing.assert_array_equal(found, by_tensor)
    for instance in (B64, {"images": B64}):
        status, told = ask(serving, path, {"instances": [instance, instance]})
        assert status == 200
        for row in told["predictions"]:
            np.testing.assert_array_equal(np.float32(row[SCORES]), by_image[0])


def test_columns(serving: Appliance, by_tensor: np.ndarray, by_image: np.ndarray) -> None:
    path = "/v1/models/sample/versions/1000000:predict"
    for inputs in (pixels(3).tolist(), {"Placeholder:0": pixels(3).tolist()}):
        status, told = ask(serving, path, {"signature_name": "serving_default", "inputs": inputs})
        assert status == 200 and np.shape(told["outputs"][FEATURES]) == (3, 1, 1, 8)
        np.testing.assert_array_equal(np.float32(told["outputs"][SCORES]), by_tensor)
    status, told = ask(serving, path, {"inputs": {"images": [B64]}})
    np.testing.assert_array_equal(np.float32(told["outputs"][SCORES]), by_image)


def test_classes_by_their_labels(
    serving: Appliance, by_image: np.ndarray, by_tensor: np.ndarray
) -> None:
    path = "/v1/models/sample:classify"
    examples = [{"images": B64}, {"images": B64}]
    status, told = ask(serving, path, {"examples": examples})
    assert status == 200, told
    first, second = told["result"]
    assert first == second and {label for label, _ in first} == set(LABELS)
    assert first[0][0] == LABELS[by_image.argmax()]
    scores = [score for _, score in first]
    assert scores == sorted(scores, reverse=True)
    flat = [{"images": sample.ravel().tolist()} for sample in pixels(3)]
    status, told = ask(serving, path, {"examples": flat})
    assert [row[0][0] for row in told["result"]] == [LABELS[k] for k in by_tensor.argmax(axis=1)]
    status, told = ask(serving, path, {"examples": [], "context": {"images": B64}})
    assert status == 400 and "no examples" in told["error"]
    status, told = ask(serving, path, {"examples": [{}], "context": {"images": B64}})
    assert told["result"] == [first]
    status, told = ask(serving, "/v1/models/sample:regress", {"examples": examples})
    assert status == 400 and "no output of 'sample' is a single number" in told["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no JSON", "it is no JSON"),
        (b'{"instances": ' + b"[" * 64, "nested too deeply: more than 64"),
        (b'{"instances": [NaN, ' + b"[" * 63, "nested too deeply: more than 64"),
        ([1, 2], "wanted a JSON object"),
        ({"instances": [1], "inputs": [1]}, "either 'instances' or 'inputs'"),
        ({"instance": [1]}, "wanted either 'instances' or 'inputs', found 'instance'"),
        ({"instances": None}, "wanted either 'instances' or 'inputs'"),
        ({"instances": []}, "no list with something in"),
        ({"instances": [[1], [2, 3]]}, "lists differ in length"),
        ({"instances": [["a", 1]]}, "element [0, 0] is a text, wanted a number"),
        ({"instances": [[1, None]]}, "element [0, 1] is null, wanted a number"),
        ({"instances": [[1, 1 << 70]]}, "element [0, 1] is a number of more than 64 bits"),
        ({"instances": [[1, 1e39]]}, "element [0, 1] is 1e+39, which is no float32"),
        (b'{"instances": ["\\ud800"]}', "it is no JSON"),
        (b'{"instances": ["\\ud800"], "x": NaN}', "half of a surrogate pair"),
        ({"instances": [{"b64": "?"}]}, "no base64"),
        ({"instances": [{"b64": 7}]}, "'b64' is no text"),
        ({"instances": [{"b64": f"data:image/jpeg;base64,{B64['b64']}"}]}, "it is a data URL"),
        ({"instances": [{"b64": "_-8="}]}, "URL-safe alphabet; wanted '+' for '-'"),
        ({"instances": [B64], "signature_name": 1}, "'signature_name' is no text"),
        ({"instances": [{"none": 1}]}, "no input 'none'; it has 'Placeholder:0'"),
        ({"instances": [1.5]}, "is float32 [1], wanted float32 [N, 16, 16, 3], or images"),
        ({"instances": [B64], "signature_name": "x"}, "no signature 'x'"),
        ({"inputs": {"images": ["bm8gaW1hZ2U="]}}, "cannot decode the image"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(serving: Appliance, body: Any, said: str) -> None:
    status, told = ask(serving, "/v1/models/sample:predict", body)
    assert status in (400, 404) and told.keys() == {"error"}
    assert told["error"].startswith("cannot ") and said in told["error"]


def test_what_is_no_number_is_read_as_tensorflow_serving_does(serving: Appliance) -> None:
    body = b'{"instances": [[NaN, Infinity, -Infinity]]}'
    status, told = ask(serving, "/v1/models/sample:predict", body)
    assert status == 400 and "is float32 [1, 3], wanted" in told["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"signature_name": None},
        {"signature_name": ""},
        {"parameters": {"temperature": 1}},
        {"inputs": None},
        {"anything": [[{"else": 1}]]},
    ],
)
def test_members_that_say_nothing_are_passed_over(
    serving: Appliance, by_image: np.ndarray, change: dict[str, Any]
) -> None:
    status, told = ask(serving, "/v1/models/sample:predict", {"instances": [B64], **change})
    assert status == 200, told
    np.testing.assert_array_equal(np.float32(told["predictions"][0][SCORES]), by_image[0])


def test_examples_beside_members_that_say_nothing(serving: Appliance) -> None:
    body = {"examples": [{"images": B64}], "context": None, "signature_name": None, "parameters": 1}
    status, told = ask(serving, "/v1/models/sample:classify", body)
    assert status == 200 and len(told["result"][0]) == CLASSES


def test_base64_in_lines_and_without_padding(serving: Appliance, by_image: np.ndarray) -> None:
    """The rule itself has a test of its own, beside the container."""
    for text in (base64.encodebytes(PHOTO).decode(), B64["b64"].rstrip("=") + "\r\n"):
        status, told = ask(
            serving, "/v1/models/sample:predict", {"inputs": {"images": [[{"b64": text}]]}}
        )
        assert status == 200, told
        np.testing.assert_array_equal(np.float32(told["outputs"][SCORES]), by_image)


def test_null_members_of_the_open_inference_protocol_are_passed_over(
    serving: Appliance, by_tensor: np.ndarray
) -> None:
    given = {"name": "images", "datatype": "FP32", "shape": [3, 16, 16, 3], "parameters": None}
    given |= {"data": pixels(3).ravel().tolist()}
    body = {"id": None, "parameters": None, "inputs": [given], "outputs": None}
    status, told = ask(serving, "/v2/models/sample/infer", body)
    assert status == 200 and "id" not in told, told
    found = next(output for output in told["outputs"] if output["name"] == SCORES)
    np.testing.assert_array_equal(np.float32(found["data"]), by_tensor.ravel())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/none", 404),
        ("/v1/models/sample/versions/7", 404),
        ("/v1/models/sample/versions/7/metadata", 404),
        ("/v1/nothing", 404),
        ("/v2/models/none", 404),
        ("/v2/models/none/ready", 404),
    ],
)
def test_what_is_not_there_is_said(serving: Appliance, path: str, status: int) -> None:
    found, told = ask(serving, path)
    assert found == status and told["error"].startswith("cannot ")


# Bodies and their bounds.


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_is_taken(
    serving: Appliance, by_tensor: np.ndarray, encoding: str
) -> None:
    plain = json.dumps({"inputs": pixels(3).tolist()}).encode()
    body = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    path, headers = "/v1/models/sample:predict", {"Content-Encoding": encoding}
    status, told = ask(serving, path, body, headers)
    assert status == 200
    np.testing.assert_array_equal(np.float32(told["outputs"][SCORES]), by_tensor)
    status, told = ask(serving, path, body[:-9], headers)
    assert status == 400 and "cut short" in told["error"]
    status, told = ask(serving, path, body, {"Content-Encoding": "br"})
    assert status == 400 and "wanted gzip or deflate" in told["error"]


def test_a_decompression_bomb_is_refused(serving: Appliance) -> None:
    bomb = zlib.compressobj(9)
    body = b"".join([bomb.compress(bytes(1 << 20)) for _ in range(65)]) + bomb.flush()
    assert len(body) < 100_000
    headers = {"Content-Encoding": "deflate"}
    status, told = ask(serving, "/v1/models/sample:predict", body, headers)
    assert status == 413 and "serving.max_message_bytes" in told["error"]


def test_a_body_that_is_too_large_is_refused(serving: Appliance) -> None:
    status, told = ask(serving, "/v1/models/sample:predict", bytes((64 << 20) + 1))
    assert status == 413 and "serving.max_message_bytes" in told["error"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(serving: Appliance, by_image: np.ndarray) -> None:
    """As in docs/clients.md."""
    body = json.dumps({"instances": [B64]})
    words = ["curl", "-sS", "-d", "@-", f"http://{serving.http}/v1/models/sample:predict"]
    done = subprocess.run(words, input=body, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)["predictions"]
    np.testing.assert_array_equal(np.float32(row[SCORES]), by_image[0])


# Open Inference Protocol.


@pytest.fixture(scope="module")
def client(serving: Appliance) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(serving.http) as client:
        yield client


def tensor(name: str, value: np.ndarray, datatype: str, binary: bool) -> triton.InferInput:
    given = triton.InferInput(name, list(value.shape), datatype)
    given.set_data_from_numpy(value, binary_data=binary)
    return given


def test_triton_is_told_of_server_and_model(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("sample") and client.is_model_ready("sample", "1.0.0")
    assert not client.is_model_ready("sample", "2.0.0") and not client.is_model_ready("none")
    assert client.get_server_metadata()["name"] == "edged"
    told = client.get_model_metadata("sample", "1.0.0")
    assert told["versions"] == ["1000000"]
    config = client.get_model_config("sample")
    assert config["input"][0]["dims"] == [SIDE, SIDE, 3]
    assert "run on the device" in config["parameters"]["host-share"]["string_value"]
    assert told["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, SIDE, SIDE, 3]}]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_sends_tensors(
    client: triton.InferenceServerClient,
    by_tensor: np.ndarray,
    binary_in: bool,
    binary_out: bool,
    compression: str | None,
) -> None:
    answer = client.infer(
        "sample",
        [tensor("Placeholder:0", pixels(3), "FP32", binary_in)],
        outputs=[triton.InferRequestedOutput(SCORES, binary_data=binary_out)],
        request_id="seven",
        request_compression_algorithm=compression,
    )
    told = answer.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "sample", "1000000")
    np.testing.assert_array_equal(answer.as_numpy(SCORES), by_tensor)
    assert answer.as_numpy(FEATURES) is None


def test_triton_sends_images(client: triton.InferenceServerClient, by_image: np.ndarray) -> None:
    photo = tensor("images", np.array([PHOTO], np.object_), "BYTES", True)
    answer = client.infer("sample", [photo])
    np.testing.assert_array_equal(answer.as_numpy(SCORES), by_image)
    classes = [triton.InferRequestedOutput(SCORES, class_count=2)]
    ((first, _),) = client.infer("sample", [photo], outputs=classes).as_numpy(SCORES)
    assert first.decode().endswith(f":{by_image.argmax()}:{LABELS[by_image.argmax()]}")


def test_tensors_as_json_may_be_nested_or_flat(serving: Appliance, by_tensor: np.ndarray) -> None:
    for data in (pixels(3).tolist(), pixels(3).ravel().tolist()):
        given = {"name": "images", "datatype": "FP32", "shape": [3, 16, 16, 3], "data": data}
        body = {"id": "1", "parameters": {"trace": 5}, "inputs": [given]}
        status, told = ask(serving, "/v2/models/sample/infer", body)
        assert (status, told["id"], told["parameters"]) == (200, "1", {"trace": 5})
        found = next(output for output in told["outputs"] if output["name"] == SCORES)
        assert (found["datatype"], found["shape"]) == ("FP32", [3, CLASSES])
        np.testing.assert_array_equal(np.float32(found["data"]), by_tensor.ravel())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"datatype": "FP128"}, "no datatype 'FP128'"),
        ({"datatype": "BYTES"}, "data is no list of texts"),
        ({"data": [1.0]}, "its data is float32 [1]"),
        ({"data": ["1.0"] * 768}, "data is text, FP32 wants numbers"),
        ({"data": [[1.0], [True, None]]}, "lists differ in length"),
        ({"shape": [-1]}, "Expected `int` >= 0"),
        ({"name": "none"}, "no input 'none'"),
        ({"parameters": {"binary_data_size": 9}}, "after the JSON there are 0 bytes more"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(
    serving: Appliance, change: dict[str, Any], said: str
) -> None:
    given = {"name": "images", "datatype": "FP32", "shape": [1, 16, 16, 3]}
    given |= {"data": pixels().ravel().tolist(), **change}
    status, told = ask(serving, "/v2/models/sample/infer", {"inputs": [given]})
    assert status == 400 and said in told["error"]


@pytest.mark.parametrize("length", ["-1", "x", "9999"])
def test_a_length_of_the_json_that_cannot_be_is_refused(serving: Appliance, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    status, told = ask(serving, "/v2/models/sample/infer", b"{}", headers)
    assert status == 400 and "Inference-Header-Content-Length is" in told["error"]


def test_triton_asks_for_statistics_and_the_repository(
    client: triton.InferenceServerClient,
) -> None:
    before = client.get_inference_statistics("sample")["model_stats"][0]
    client.infer("sample", [tensor("images", pixels(2), "FP32", True)])
    after = client.get_inference_statistics("sample")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    index = {each["name"]: each for each in client.get_model_repository_index()}
    assert (index["sample"]["version"], index["sample"]["state"]) == ("1000000", "READY")
    client.load_model("sample")
    with pytest.raises(InferenceServerException, match="load another model"):
        client.unload_model("sample")
    with pytest.raises(InferenceServerException, match="cannot find model 'third'"):
        client.load_model("third")
