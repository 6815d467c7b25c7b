"""A recurrent model, its state kept by the container: voice activity detection, chunk by chunk."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from integration.appliance import DATA, Appliance, pack
from patience import PATIENCE
from tritonclient.utils import InferenceServerException

from edged._onnxruntime import session

MODEL = DATA / "recurrent" / "silero_vad_16k.onnx"
CHUNKS_FILE = DATA / "recurrent" / "vad_chunks.npz"
# How exact eight bits are for this model is not what is tested here, but that states are handed on.
STATE = (
    *("--state", "h=hn", "--state", "c=cn"),
    *("--calibration", str(CHUNKS_FILE), "--tolerance", "50"),
)
CHUNKS: np.ndarray = np.load(CHUNKS_FILE)["input"]
FEW = CHUNKS[14:26]  # from noise into speech


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    folder = tmp_path_factory.mktemp("sequences")
    bundle = pack(folder / "vad-1.0.0.edgemodel", str(MODEL), "vad", *STATE)
    appliance = Appliance(folder)
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        assert appliance.put(bundle).startswith("serving since")
        yield appliance
    finally:
        appliance.close()


@pytest.fixture(scope="module")
def client(serving: Appliance) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"unix:{serving.socket}") as client:
        yield client


def tensor(name: str, value: np.ndarray) -> triton.InferInput:
    given = triton.InferInput(name, list(value.shape), "FP32")
    given.set_data_from_numpy(value)
    return given


def ask(client: triton.InferenceServerClient, chunk: np.ndarray, **sequence: Any) -> float:
    """The probability of speech of a chunk, the next of a sequence."""
    answer = client.infer("vad", [tensor("input", chunk.reshape(1, -1))], **sequence)
    assert answer.get_output("hn") is None and answer.get_output("cn") is None
    return float(answer.as_numpy("speech_probs")[0])


def in_turn(
    client: triton.InferenceServerClient, chunks: np.ndarray, name: int | str
) -> list[float]:
    last = len(chunks) - 1
    return [
        ask(client, chunk, sequence_id=name, sequence_start=i == 0, sequence_end=i == last)
        for i, chunk in enumerate(chunks)
    ]


@pytest.fixture(scope="module")
def by_hand(client: triton.InferenceServerClient) -> list[float]:
    """What is answered to a client that keeps the state and sends it each time."""
    h = c = np.zeros((1, 1, 128), np.float32)
    found = []
    for chunk in FEW:
        inputs = [tensor("input", chunk[None]), tensor("h", h), tensor("c", c)]
        answer = client.infer("vad", inputs)
        found.append(float(answer.as_numpy("speech_probs")[0]))
        h, c = answer.as_numpy("hn"), answer.as_numpy("cn")
    return found


def test_a_sequence_is_answered_as_if_the_client_kept_the_state(
    client: triton.InferenceServerClient, by_hand: list[float]
) -> None:
    assert in_turn(client, FEW, 7) == by_hand
    assert in_turn(client, FEW, "by a name") == by_hand
    assert by_hand[0] < 0.2 and by_hand[-1] > 0.8


def test_the_samples_of_a_call_are_steps_that_follow_each_other(
    client: triton.InferenceServerClient, by_hand: list[float]
) -> None:
    def whole(chunks: np.ndarray) -> np.ndarray:
        given = [tensor("input", chunks)]
        answer = client.infer("vad", given, sequence_id=8, sequence_start=True, sequence_end=True)
        return answer.as_numpy("speech_probs")

    assert whole(FEW).tolist() == by_hand
    run = session(MODEL.read_bytes())
    h = c = np.zeros((1, 1, 128), np.float32)
    wanted = []
    for chunk in CHUNKS:
        probability, h, c = run.run(None, {"input": chunk[None], "h": h, "c": c})
        wanted.append(float(probability[0]))
    found = whole(CHUNKS)
    assert found.shape == (205,)
    agree = (found > 0.5) == (np.array(wanted) > 0.5)
    assert agree.mean() > 0.8


def test_sequences_do_not_disturb_each_other(
    client: triton.InferenceServerClient, by_hand: list[float]
) -> None:
    found: dict[int, list[float]] = {21: [], 22: []}
    for i, chunk in enumerate(FEW):
        for name in found:
            # The second hears silence in between.
            if name == 22:
                ask(client, CHUNKS[0], sequence_id=23, sequence_start=True, sequence_end=True)
            found[name].append(ask(client, chunk, sequence_id=name, sequence_start=i == 0))
    assert found == {21: by_hand, 22: by_hand}
    # A start begins anew, whatever was before.
    assert in_turn(client, FEW[:2], 21) == by_hand[:2]


def test_calls_of_a_sequence_that_overlap_run_one_after_the_other(
    client: triton.InferenceServerClient,
) -> None:
    """All bring the same chunk: gRPC promises no order among calls."""
    same = np.repeat(FEW[-1:], 12, axis=0)
    wanted = in_turn(client, same, 30)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    found = [ask(client, same[0], sequence_id=31, sequence_start=True)]
    for chunk in same[1:]:
        client.async_infer(
            "vad",
            [tensor("input", chunk[None])],
            lambda result, error: answers.put((result, error)),
            sequence_id=31,
        )
    for _ in same[1:]:
        result, error = answers.get(timeout=PATIENCE)
        assert error is None, error
        found.append(float(result.as_numpy("speech_probs")[0]))
    assert len(set(wanted)) == len(wanted), "each step changes the answer"
    assert sorted(found) == sorted(wanted)


def test_the_state_is_no_input_for_who_asks_what_there_is(
    client: triton.InferenceServerClient,
) -> None:
    told = client.get_model_metadata("vad")
    assert [(each.name, list(each.shape)) for each in told.inputs] == [("input", [-1, 576])]
    config = client.get_model_config("vad").config
    assert [each.name for each in config.input] == ["input"]
    kept = config.sequence_batching
    assert kept.max_sequence_idle_microseconds == 60_000_000
    states = [(each.input_name, each.output_name, list(each.dims)) for each in kept.state]
    assert states == [("h", "hn", [1, 128]), ("c", "cn", [1, 128])]
    assert {"sequence", "sequence(string_id)"} <= set(client.get_server_metadata().extensions)
    answer = client.infer(
        "vad",
        [tensor("input", FEW[:1])],
        outputs=[triton.InferRequestedOutput("hn")],
        sequence_id=41,
        sequence_start=True,
        sequence_end=True,
    )
    assert answer.as_numpy("hn").shape == (1, 1, 128) and answer.as_numpy("speech_probs") is None


def rest(serving: Appliance, chunk: np.ndarray, **parameters: Any) -> tuple[int, Any]:
    data = {"name": "input", "datatype": "FP32", "shape": [1, 576], "data": chunk.tolist()}
    body = json.dumps({"inputs": [data], "parameters": parameters}).encode()
    request = urllib.request.Request(f"http://{serving.http}/v2/models/vad/infer", body)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_rest_does_the_same(serving: Appliance, by_hand: list[float]) -> None:
    found = []
    for i, chunk in enumerate(FEW[:4]):
        status, said = rest(serving, chunk, sequence_id="kitchen", sequence_start=i == 0)
        (output,) = said["outputs"]
        assert (status, output["name"]) == (200, "speech_probs")
        found.append(output["data"][0])
    assert found == pytest.approx(by_hand[:4], abs=1e-6)


def test_what_is_refused_says_what_to_do(
    serving: Appliance, client: triton.InferenceServerClient
) -> None:
    chunk = FEW[0]
    assert rest(serving, chunk, sequence_id=51, sequence_start=True, sequence_end=True)[0] == 200
    for parameters, status, problem in (
        ({"sequence_id": 51}, 404, "it was ended; begin it with sequence_start"),
        ({"sequence_id": "never"}, 404, "it was not begun, or the model was loaded anew since"),
        ({"sequence_start": True}, 400, "sequence_start is given and no sequence_id"),
        ({"sequence_id": 0, "sequence_end": True}, 400, "sequence_end is given and no sequence_id"),
        ({"sequence_id": [1]}, 400, "wanted a number or a text"),
        ({"sequence_id": 52, "sequence_start": 1}, 400, "wanted true or false"),
        ({"sequence_id": "x" * 300, "sequence_start": True}, 400, "at most 256"),
        ({}, 400, "it is a state: give the calls of a sequence a sequence_id"),
    ):
        found, said = rest(serving, chunk, **parameters)
        assert (found, problem in said["error"]) == (status, True), (parameters, said)
    inputs = [tensor("input", chunk[None]), tensor("h", np.zeros((1, 1, 128), np.float32))]
    with pytest.raises(InferenceServerException, match="kept for the sequence") as refused:
        client.infer("vad", inputs, sequence_id=53, sequence_start=True)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="begin it with sequence_start") as refused:
        client.infer("vad", inputs[:1], sequence_id=54)
    assert refused.value.status() == "StatusCode.NOT_FOUND"


def test_a_model_that_never_answers_changes_nothing_about_states(
    serving: Appliance,
    client: triton.InferenceServerClient,
    by_hand: list[float],
    tmp_path: Path,
) -> None:
    """It is on the device for its self-test, between two calls of a sequence."""
    found = [ask(client, FEW[0], sequence_id=55, sequence_start=True)]
    exact = tmp_path / "exact-1.0.0.edgemodel"
    pack(exact, str(MODEL), "exact", *STATE[:-1], "1e-9")
    assert "cannot trust the device" in serving.put(exact)
    found += [ask(client, chunk, sequence_id=55) for chunk in FEW[1:]]
    assert found == by_hand


def test_states_end_with_a_swap_and_their_number_is_bounded(
    serving: Appliance, client: triton.InferenceServerClient, tmp_path: Path
) -> None:
    """Last: it changes what serves."""
    ask(client, FEW[0], sequence_id=61, sequence_start=True)
    following = tmp_path / "vad-1.0.1.edgemodel"
    options = (*STATE, "--version", "1.0.1", "--sequences", "1", "--sequence-idle", "3600")
    assert serving.put(pack(following, str(MODEL), "vad", *options)).startswith("serving since")
    with pytest.raises(InferenceServerException, match="the model was loaded anew since"):
        ask(client, FEW[1], sequence_id=61)
    ask(client, FEW[0], sequence_id=62, sequence_start=True)
    with pytest.raises(InferenceServerException, match="there are 1, and more are not") as refused:
        ask(client, FEW[0], sequence_id=63, sequence_start=True)
    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    ask(client, FEW[1], sequence_id=62, sequence_end=True)
    ask(client, FEW[0], sequence_id=63, sequence_start=True)
