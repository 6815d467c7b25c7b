"""NaN and infinity in what clients send, by every protocol that can bring them."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from integration.appliance import Appliance
from integration.sample import SIDE
from patience import PATIENCE
from tritonclient.utils import InferenceServerException

from edged import wire

SHAPE = (2, SIDE, SIDE, 3)
VALUES = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])


def pixels(value: float) -> np.ndarray:
    """Two samples, with *value* in the second."""
    found = np.ones(SHAPE, np.float32)
    found[1, 2, 3, 0] = value
    return found


def names_it(said: str | None, value: float) -> bool:
    """Whether an error names the input and the element, and says what is in it."""
    where = r"element \[1, 2, 3, 0\] of input '(images|Placeholder:0)'"
    return re.search(f"{where} is {value}, wanted a finite number", said or "") is not None


def refusal(serving: Appliance, path: str, body: bytes, **headers: str) -> str:
    """What is said to a POST that is refused as a bad request."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    request = urllib.request.Request(f"http://{serving.http}{path}", body, named)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=PATIENCE)
    with caught.value as error:
        assert error.code == 400
        return str(json.load(error)["error"])


@VALUES
def test_rest(serving: Appliance, value: float) -> None:
    listed = pixels(value).tolist()
    for body in ({"instances": listed}, {"inputs": {"images": listed}}):
        said = refusal(serving, "/v1/models/sample:predict", json.dumps(body).encode())
        assert names_it(said, value), said
    given = {"name": "images", "datatype": "FP32", "shape": SHAPE, "data": listed}
    said = refusal(serving, "/v2/models/sample/infer", json.dumps({"inputs": [given]}).encode())
    assert names_it(said, value), said


@VALUES
def test_rest_with_the_tensor_behind_the_json(serving: Appliance, value: float) -> None:
    data = pixels(value).tobytes()
    given = {"name": "images", "datatype": "FP32", "shape": SHAPE}
    given["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [given]}).encode()
    length = {"Inference_Header_Content_Length": str(len(head))}
    said = refusal(serving, "/v2/models/sample/infer", head + data, **length)
    assert names_it(said, value), said


@VALUES
def test_rest_of_examples(serving: Appliance, value: float) -> None:
    examples = [{"images": sample.ravel().tolist()} for sample in pixels(value)]
    body = json.dumps({"examples": examples}).encode()
    said = refusal(serving, "/v1/models/sample:classify", body)
    assert names_it(said, value), said


@VALUES
def test_tensorflow_serving(serving: Appliance, value: float) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        serving.predict({"Placeholder:0": wire.from_array(pixels(value))})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert names_it(caught.value.details(), value), caught.value.details()


@VALUES
@pytest.mark.parametrize("raw", [True, False])
def test_open_inference(serving: Appliance, value: float, raw: bool) -> None:
    with triton.InferenceServerClient(f"unix:{serving.socket}") as client:
        given = triton.InferInput("images", SHAPE, "FP32")
        if raw:
            given.set_data_from_numpy(pixels(value))
        else:
            given._get_tensor().contents.fp32_contents.extend(pixels(value).ravel().tolist())
        with pytest.raises(InferenceServerException) as caught:
            client.infer("sample", [given])
    assert names_it(caught.value.message(), value), caught.value.message()


def test_the_largest_finite_numbers_are_taken(serving: Appliance) -> None:
    largest = float(np.finfo(np.float32).max)
    serving.predict({"Placeholder:0": wire.from_array(pixels(-largest))})
