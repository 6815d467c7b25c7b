"""What the clients of the original service do on the wire, against a real daemon.

Python: ``azureml.accel.PredictionClient`` and its predecessor in ``azureml.contrib.brainwave``.
C#: ``ScoringClient`` of Azure-Samples/aml-hardware-accelerated-models.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from integration import foreign
from integration.appliance import DATA, Appliance
from integration.sample import CLASSES, FEATURES, SCORES, SIDE, packed
from patience import PATIENCE

from edged.client import AsyncPredictionClient, PredictionClient
from edged.errors import RequestError

PHOTO_FILE = DATA / "images" / "schoolbus.jpg"
PHOTO = PHOTO_FILE.read_bytes()
# Interpreter with tensorflow and tensorflow-serving-api: docs/clients.md.
TENSORFLOW = os.environ.get("EDGED_TENSORFLOW_PYTHON", "")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory):
    """An appliance with a network of one output, as the original's classifiers are."""
    appliance = Appliance(tmp_path_factory.mktemp("a"))
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        photographs = ("--preprocess", f"stretch={SIDE}x{SIDE}")
        photographs += ("--calibration", str(DATA / "images"))
        bundle = packed(tmp_path_factory.mktemp("b"), (SCORES,), *photographs)
        assert appliance.put(bundle).startswith("serving since")
        yield appliance
    finally:
        appliance.close()


@pytest.fixture(scope="module")
def address(serving: Appliance) -> str:
    return f"unix:{serving.socket}"


def call(
    serving: Appliance, request: bytes, metadata: tuple[tuple[str, str], ...] = ()
) -> dict[str, foreign.Floats]:
    """Raw bytes over a channel with gRPC's own limits, as the originals open it."""
    with grpc.insecure_channel(f"unix:{serving.socket}") as channel:
        answer = channel.unary_unary(foreign.PREDICT)(request, timeout=PATIENCE, metadata=metadata)
    return foreign.outputs(answer)


def pixels(count: int = 1) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, SIDE, SIDE, 3)).astype("<f4")


def test_the_csharp_client_with_images(serving: Appliance) -> None:
    """Empty ModelSpec, lowercase bearer, `images`; reads float_val of output_alias, exact rank."""
    request = foreign.request({"images": foreign.images(PHOTO)}, empty_spec=True)
    metadata = (
        ("authorization", "bearer key"),
        ("x-ms-aml-grpc-service-route", "/api/v1/service/sample"),
    )
    found = call(serving, request, metadata)
    scores = found["output_alias"].of_rank(2)
    assert len(scores) == CLASSES and sum(scores) == pytest.approx(1, abs=0.02)


def test_the_csharp_client_with_floats(serving: Appliance) -> None:
    """FloatRequest: float_val in, float_val out; several samples in one call."""
    x = pixels(3)
    request = foreign.request(
        {"Placeholder:0": foreign.floats(x.shape, x.ravel().tolist())}, empty_spec=True
    )
    found = call(serving, request)[SCORES]
    assert found.shape == (3, CLASSES) and len(found.of_rank(2)) == 3 * CLASSES


@pytest.mark.parametrize(
    ("input_name", "output_name"), [("images", "output_alias"), ("Placeholder:0", SCORES)]
)
def test_an_alias_is_answered_by_alias_and_a_tensor_name_by_name(
    serving: Appliance, input_name: str, output_name: str
) -> None:
    """One key per output: some read the first, others by the name they know."""
    by_image = call(serving, foreign.request({input_name: foreign.images(PHOTO)}))
    x = pixels()
    sent = foreign.content(foreign.DT_FLOAT, x.shape, x.tobytes())
    by_tensor = call(serving, foreign.request({input_name: sent}))
    assert list(by_image) == list(by_tensor) == [output_name]


def test_both_encodings_of_a_tensor_give_the_same(serving: Appliance) -> None:
    x = pixels()
    listed = foreign.floats(x.shape, x.ravel().tolist())
    content = foreign.content(foreign.DT_FLOAT, x.shape, x.tobytes())
    answers = [call(serving, foreign.request({"images": sent})) for sent in (listed, content)]
    assert answers[0] == answers[1]


def test_a_batch_of_images_is_one_string_tensor(serving: Appliance) -> None:
    request = foreign.request({"images": foreign.images(PHOTO, PHOTO, PHOTO)})
    found = call(serving, request)["output_alias"]
    assert found.shape == (3, CLASSES)
    assert found.float_val[:CLASSES] == found.float_val[CLASSES : 2 * CLASSES]


@pytest.mark.parametrize("value", ["Bearer key", "Bearer ", "bearer key", "key"])
@pytest.mark.parametrize("route", ["/api/v1/service/sample", "/api/v1/service/", ""])
def test_what_the_originals_say_of_themselves_is_no_obstacle(
    serving: Appliance, value: str, route: str
) -> None:
    metadata = (("authorization", value), ("x-ms-aml-grpc-service-route", route))
    assert call(serving, foreign.request({"images": foreign.images(PHOTO)}), metadata)


def test_a_permanent_error_is_the_one_that_the_original_does_not_repeat(
    serving: Appliance,
) -> None:
    """Five attempts with 15 s of sleep on everything but INVALID_ARGUMENT."""
    for inputs in ({"imagse": foreign.images(PHOTO)}, {"images": foreign.images(b"no image")}):
        with pytest.raises(grpc.RpcError) as caught:
            call(serving, foreign.request(inputs))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        call(serving, foreign.request({"wrong": foreign.images(PHOTO)}))
    assert "'Placeholder:0'" in caught.value.details()


def test_more_than_grpcs_own_four_mebibytes_are_taken(serving: Appliance) -> None:
    """The originals send with no options, and gRPC bounds only what is received."""
    photo = PHOTO + bytes(5 << 20)  # a JPEG ends where it says it does
    assert call(serving, foreign.request({"images": foreign.images(photo)}))


def test_our_client_has_the_same_answers(serving: Appliance, address: str) -> None:
    (wanted,) = call(serving, foreign.request({"images": foreign.images(PHOTO)})).values()
    with PredictionClient(address, access_token="key", service_name="sample") as client:
        by_default = client.score_file(PHOTO_FILE)
        np.testing.assert_array_equal(by_default, np.float32(wanted.float_val))
        # The original fails here: it asks by alias, and looks for a name.
        by_name = client.score_file(PHOTO_FILE, "images", SCORES)
        np.testing.assert_array_equal(by_name, by_default)
        (listed,) = client.score_file(PHOTO_FILE, "Placeholder:0", [SCORES])
        np.testing.assert_array_equal(listed, by_default)
        x = pixels(2)
        batch = client.score_numpy_arrays({"Placeholder:0": x}, SCORES)
        raw = client.score_tensors({"Placeholder:0": (x.tobytes(), x.shape, np.float32)}, SCORES)
        np.testing.assert_array_equal(batch, raw)
        with pytest.raises(RequestError, match=f"no output 'none'; it has '{SCORES}'"):
            client.score_numpy_arrays({"Placeholder:0": x}, ["none"])
        with pytest.raises(RequestError, match="no input 'none'; it has 'Placeholder:0'"):
            client.score_numpy_arrays({"none": x})


async def test_its_twin_too(address: str) -> None:
    async with AsyncPredictionClient(address) as client:
        answers = await asyncio.gather(*(client.score_file(PHOTO_FILE) for _ in range(8)))
        for answer in answers:
            np.testing.assert_array_equal(answer, answers[0])
        with pytest.raises(RequestError, match="no output 'none'"):
            await client.score_file(PHOTO_FILE, outputs="none")


def test_edgectl_score(address: str) -> None:
    command = [sys.executable, "-m", "edged.cli", "score", str(PHOTO_FILE), str(PHOTO_FILE)]
    command += ["--address", address, "--top", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = json.loads(done.stdout)
    assert len(first["top"]) == 2 and first["top"] == second["top"]


@pytest.mark.skipif(
    not TENSORFLOW,
    reason="EDGED_TENSORFLOW_PYTHON names no interpreter with tensorflow-serving-api",
)
def test_tensorflow_serving_api(address: str) -> None:
    """The published stubs and the body of the original client, as docs/clients.md says."""
    script = Path(__file__).parent / "tensorflow_stubs.py"
    done = subprocess.run(
        [TENSORFLOW, str(script), address, str(PHOTO_FILE), SCORES],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    by_stub = json.loads(done.stdout)
    with PredictionClient(address) as client:
        np.testing.assert_array_equal(np.float32(by_stub), client.score_file(PHOTO_FILE))


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory: pytest.TempPathFactory):
    """An appliance with a network of two outputs, which takes tensors and no images."""
    appliance = Appliance(tmp_path_factory.mktemp("a"))
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        alias = f"{SCORES}=output_alias"
        bundle = packed(tmp_path_factory.mktemp("b"), (SCORES, FEATURES), "--alias", alias)
        assert appliance.put(bundle).startswith("serving since")
        yield appliance
    finally:
        appliance.close()


def test_several_outputs_have_a_key_each_and_their_whole_rank(two_outputs: Appliance) -> None:
    x = pixels()
    sent = foreign.content(foreign.DT_FLOAT, x.shape, x.tobytes())
    found = call(two_outputs, foreign.request({"Placeholder:0": sent}))
    assert set(found) == {SCORES, FEATURES}
    assert found[SCORES].shape == (1, CLASSES)
    assert len(found[FEATURES].of_rank(4)) == 8
    with PredictionClient(f"unix:{two_outputs.socket}") as client:
        inputs = {"Placeholder:0": x}
        features, scores = client.score_numpy_arrays(inputs, [FEATURES, SCORES])
        assert (features.shape, scores.shape) == ((1, 1, 1, 8), (1, CLASSES))


def test_the_oldest_python_client_asks_for_images_and_reads_the_alias(
    two_outputs: Appliance,
) -> None:
    """score_numpy_array: `images`, whatever the input's name, and `output_alias`."""
    x = pixels()
    sent = foreign.content(foreign.DT_FLOAT, x.shape, x.tobytes())
    found = call(two_outputs, foreign.request({"images": sent}))
    assert set(found) == {"output_alias", FEATURES}
