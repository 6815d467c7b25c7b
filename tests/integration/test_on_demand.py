"""A call that names a stored model has it loaded, and two callers do not thrash the device."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from integration.appliance import DATA, Appliance, keywords
from patience import PATIENCE

from edged import wire
from edged.wire import inference

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()
RESIDENCE = 1.0


def ask(appliance: Appliance, name: str, seconds: float = PATIENCE) -> wire.PredictResponse:
    request = wire.PredictRequest(model_spec=wire.ModelSpec(name=name))
    if name == "kws":
        request.inputs["input_1"].CopyFrom(wire.from_array(keywords()[0][:1]))
    else:
        request.inputs["images"].CopyFrom(wire.from_array([PHOTO]))
    call = appliance.channel.unary_unary(
        f"/{wire.PREDICT}",
        request_serializer=wire.PredictRequest.SerializeToString,
        response_deserializer=wire.PredictResponse.FromString,
    )
    answer = call(request, timeout=seconds)
    assert isinstance(answer, wire.PredictResponse)
    return answer


@pytest.fixture(scope="module")
def on_demand(
    tmp_path_factory: pytest.TempPathFactory, kws: Path, mobilenet: Path
) -> Iterator[Appliance]:
    """Both models stored, on-demand loading on."""
    appliance = Appliance(tmp_path_factory.mktemp("d"))
    with appliance.config.open("a") as config:
        config.write(f'[slot]\nactivation = "on-demand"\nresidence_seconds = {RESIDENCE}\n')
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        appliance.put(kws)
        appliance.put(mobilenet)
        yield appliance
    finally:
        appliance.close()


@pytest.fixture
def both(on_demand: Appliance) -> Appliance:
    """The same, with mobilenet loaded."""
    ask(on_demand, "mobilenet-v2")
    return on_demand


def test_a_call_by_name_has_the_model_loaded(both: Appliance) -> None:
    assert ask(both, "mobilenet-v2").model_spec.name == "mobilenet-v2"
    assert ask(both, "kws").model_spec.name == "kws"
    # Whoever names no model gets the loaded one.
    x, _ = keywords()
    answer = both.predict({"input_1": wire.from_array(x[:1])})
    assert answer.model_spec.name == "kws"


def test_so_has_a_call_by_another_protocol(both: Appliance) -> None:
    x = keywords()[0][:1]
    request = inference.ModelInferRequest(model_name="kws", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="input_1", datatype="FP32", shape=x.shape)
    infer = both.channel.unary_unary(f"/{inference.MODEL_INFER}")
    answer = inference.ModelInferResponse.FromString(
        infer(request.SerializeToString(), timeout=PATIENCE)
    )
    assert answer.model_name == "kws"
    body = json.dumps({"instances": [{"b64": base64.b64encode(PHOTO).decode()}]}).encode()
    url = f"http://{both.http}/v1/models/mobilenet-v2/labels/1.0.0:predict"
    with urllib.request.urlopen(url, body, timeout=PATIENCE) as told:
        (scores,) = json.load(told)["predictions"]
    assert len(scores) == 1001


def test_a_name_that_is_not_stored_is_answered_with_what_is_loaded(both: Appliance) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(both, "resnet")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "mobilenet-v2" in caught.value.details()


def test_what_is_pinned_stays_whatever_calls_ask_for(both: Appliance) -> None:
    assert both.edgectl("pin").returncode == 0
    with pytest.raises(grpc.RpcError) as caught:
        ask(both, "kws")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "mobilenet-v2" in caught.value.details()
    assert both.edgectl("unpin").returncode == 0
    assert ask(both, "kws").model_spec.name == "kws"


def test_two_callers_take_turns_and_neither_starves(both: Appliance) -> None:
    began = time.monotonic()
    answers: list[tuple[float, str]] = []
    failures: list[grpc.RpcError] = []

    def turns() -> int:
        return sum(a != b for (_, a), (_, b) in itertools.pairwise(sorted(answers)))

    def caller(name: str) -> None:
        while turns() < 4 and not failures:
            try:
                answer = ask(both, name)
            except grpc.RpcError as error:
                failures.append(error)
            else:
                assert answer.model_spec.name == name
                answers.append((time.monotonic(), name))

    threads = [threading.Thread(target=caller, args=(name,)) for name in ("kws", "mobilenet-v2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    # A turn lasts a residence and a swap; answers at the turn itself may come in either order.
    assert turns() <= 3 * (2 + (time.monotonic() - began) / RESIDENCE)
    names = [name for _, name in answers]
    assert min(names.count("kws"), names.count("mobilenet-v2")) >= 2


def test_without_it_a_stored_model_is_not_loaded_by_name(
    appliance: Appliance, kws: Path, mobilenet: Path
) -> None:
    appliance.put(kws)
    appliance.put(mobilenet)
    with pytest.raises(grpc.RpcError) as caught:
        ask(appliance, "kws")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "mobilenet-v2" in caught.value.details()
