"""A bundle into the folder, answers over gRPC: the results are those of the float model."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
from integration.appliance import DATA, Appliance, eventually, keywords
from patience import PATIENCE
from PIL import Image

from edged import wire
from edged._onnxruntime import InferenceSession


def float_scores(photo: Path) -> np.ndarray:
    session = InferenceSession(str(DATA / "models" / "mobilenet_v2_imagenet.onnx"))
    image = Image.open(photo).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(session.run(None, {"input": np.asarray(image)[None]})[0])[0]


def test_nine_photographs_score_as_in_float(appliance: Appliance, mobilenet: Path) -> None:
    status = appliance.put(mobilenet)
    assert status.startswith("serving since")
    photos = sorted((DATA / "images").glob("*.jpg"))
    assert len(photos) == 9
    labels = (DATA / "imagenet_labels_1001.txt").read_text().splitlines()
    answers = appliance.score_images(*(photo.read_bytes() for photo in photos))
    assert answers.shape == (9, 1001)
    for photo, scores in zip(photos, answers, strict=True):
        wanted = float_scores(photo)
        assert labels[scores.argmax()] == labels[wanted.argmax()], photo.name
        assert abs(scores.max() - wanted.max()) <= 0.12, photo.name
    snow_leopard = answers[[photo.name for photo in photos].index("snowleopardgaze.jpg")]
    assert labels[snow_leopard.argmax()].startswith("snow leopard")


def test_keywords_are_spotted_through_the_device(appliance: Appliance, kws: Path) -> None:
    assert appliance.put(kws).startswith("serving since")
    x, y = keywords()
    scores = np.concatenate(
        [
            np.asarray(wire.to_array(answer.outputs["Identity"]))
            for batch in np.split(x, 5)
            for answer in [appliance.predict({"input_1": wire.from_array(batch)})]
        ]
    )
    assert scores.shape == (1000, 12)
    assert (scores.argmax(axis=1) == y).mean() >= 0.900


def test_a_second_bundle_takes_the_place_of_the_first(
    appliance: Appliance, kws: Path, mobilenet: Path
) -> None:
    assert appliance.put(kws).startswith("serving since")
    assert appliance.put(mobilenet).startswith("serving since")
    photo = (DATA / "images" / "schoolbus.jpg").read_bytes()
    assert appliance.score_images(photo).shape == (1, 1001)


def test_a_bare_onnx_file_is_packed_on_the_spot(appliance: Appliance) -> None:
    assert appliance.put(DATA / "models" / "kws_dscnn.onnx").startswith("serving since")
    x, _ = keywords()
    answer = appliance.predict({"input_1": wire.from_array(x[:1])})
    assert np.asarray(wire.to_array(answer.outputs["Identity"])).shape == (1, 12)


def test_what_served_before_a_stop_serves_after_it(appliance: Appliance, kws: Path) -> None:
    appliance.put(kws)
    assert appliance.daemon is not None
    appliance.daemon.terminate()
    assert appliance.daemon.wait(PATIENCE) == 0
    appliance.start_daemon()
    eventually(appliance.answers, "the model after the restart")


def test_what_served_before_a_power_cut_serves_after_it(appliance: Appliance, kws: Path) -> None:
    appliance.put(kws)
    appliance.kill(appliance.daemon)
    appliance.kill(appliance.emulator)
    appliance.socket.unlink()
    appliance.start_emulator()
    appliance.start_daemon()
    eventually(appliance.answers, "the model after the power cut")
    x, _ = keywords()
    answer = appliance.predict({"input_1": wire.from_array(x[:1])})
    assert answer.outputs["Identity"].tensor_shape.dim[1].size == 12


def test_nothing_loaded_is_said_at_once(appliance: Appliance) -> None:
    def refused() -> bool:
        try:
            appliance.predict({}, timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND and "drop" in error.details()
        return False

    eventually(refused, "the answer that no model is loaded")
