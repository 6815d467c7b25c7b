"""MobileNets and keyword spotting: real models on real inputs, against float."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from compiler.pipeline import DATA, Pipeline
from PIL import Image

from edged._onnxruntime import InferenceSession
from edged.compiler import CompiledModel, compile_model

MOBILENET = DATA / "models" / "mobilenet_v2_imagenet.onnx"
KEYWORDS = DATA / "models" / "kws_dscnn.onnx"
LINES = DATA / "networks" / "ppocr_cls.onnx"


def photograph(name: str) -> npt.NDArray[np.uint8]:
    with Image.open(DATA / "images" / name) as image:
        small = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(small)[None]


PHOTOGRAPHS = sorted(path.name for path in (DATA / "images").glob("*.jpg"))


def mobilenet_on(photographs: Sequence[str]) -> CompiledModel:
    samples = np.concatenate([photograph(name) for name in photographs])
    return compile_model(MOBILENET.read_bytes(), calibration={"input": samples})


@pytest.fixture(scope="module")
def mobilenet() -> CompiledModel:
    return mobilenet_on(PHOTOGRAPHS)


@pytest.fixture(scope="module")
def expected() -> dict[str, npt.NDArray[np.float32]]:
    """What the float model makes of each photograph."""
    session = InferenceSession(MOBILENET.read_bytes())
    return {name: session.run(None, {"input": photograph(name)})[0][0] for name in PHOTOGRAPHS}


def deviations(
    compiled: CompiledModel, expected: dict[str, npt.NDArray[np.float32]]
) -> dict[str, float]:
    """By how much the probability of the first answer differs; infinite where it is another."""
    run = Pipeline(compiled, fast=True)
    found = {}
    for name, wanted in expected.items():
        (scores,) = run({"input": photograph(name)}).values()
        top = wanted.argmax()
        found[name] = abs(float(scores[0, top] - wanted[top])) if scores.argmax() == top else np.inf
    return found


def test_mobilenet_agrees_with_float(
    mobilenet: CompiledModel, expected: dict[str, npt.NDArray[np.float32]]
) -> None:
    found = deviations(mobilenet, expected)
    assert len(found) == 9
    assert np.mean(list(found.values())) < 0.05, found
    assert max(found.values()) <= 0.12, found


def test_mobilenet_agrees_with_float_on_photographs_that_it_was_not_calibrated_with(
    expected: dict[str, npt.NDArray[np.float32]],
) -> None:
    used = ("cat_720p.jpg", "parrot.jpg", "hot_dog.jpg")
    others = {name: wanted for name, wanted in expected.items() if name not in used}
    found = deviations(mobilenet_on(used), others)
    assert np.mean(list(found.values())) < 0.05, found
    assert max(found.values()) <= 0.12, found


def test_one_photograph_is_enough_to_calibrate_with(
    expected: dict[str, npt.NDArray[np.float32]],
) -> None:
    """By itself it does not show channels their ranges: another class came first for others."""
    compiled = mobilenet_on(["parrot.jpg"])
    assert (compiled.report.calibration, compiled.report.samples) == ("samples", 1)
    assert max(deviations(compiled, expected).values()) <= 0.12


def test_mobilenet_without_calibration_agrees_as_well(
    expected: dict[str, npt.NDArray[np.float32]],
) -> None:
    found = deviations(compile_model(MOBILENET.read_bytes()), expected)
    assert np.mean(list(found.values())) < 0.05, found
    assert max(found.values()) <= 0.12, found


def test_mobilenet_runs_on_the_device_from_the_first_convolution_to_the_last(
    mobilenet: CompiledModel,
) -> None:
    report = mobilenet.report
    assert [(row.op, row.where) for row in report.host] == [
        ("Cast", "prologue"),
        ("Sub", "prologue"),
        ("Mul", "prologue"),
        ("Transpose", "prologue"),
        ("Reshape", "epilogue"),
        ("Softmax", "epilogue"),
    ]
    kinds = [row.op for row in report.layers]
    assert {op: kinds.count(op) for op in kinds} == {"CONV": 53, "ADD": 10, "AVGPOOL": 1}
    assert [str(each) for each in report.remarks] == ["all multiply-accumulates run on the device"]


@pytest.mark.parametrize("samples", [100, 4, 0])
def test_keyword_spotting_is_right_as_often_as_float(samples: int) -> None:
    """On the 1000 inputs of the benchmark, where the float model is right on 90.1 %.

    The samples are among the 1000; without them nothing is known of the range of the inputs.
    """
    with np.load(DATA / "kws01_accuracy_set.npz") as arrays:
        x = ((arrays["x"].astype(np.float32) - 83) * 0.5847029089927673).astype(np.float32)
        labels = arrays["y"]
    given = {"input_1": x[:: len(x) // samples]} if samples else None
    run = Pipeline(compile_model(KEYWORDS.read_bytes(), calibration=given), fast=True)
    found = [int(run({"input_1": one[None]})["Identity"].argmax()) for one in x]
    assert np.mean(np.equal(found, labels)) >= (0.903 if samples else 0.89)


def line_of_text(name: str) -> npt.NDArray[np.float32]:
    """A picture as the model has it: BGR from -1 to 1, 48 pixels high, zeros to the right."""
    with Image.open(DATA / "networks" / name) as image:
        width = min(192, 48 * image.width // image.height)
        small = image.convert("RGB").resize((width, 48), Image.Resampling.BILINEAR)
    result = np.zeros((1, 3, 48, 192), np.float32)
    result[0, :, :, :width] = (np.asarray(small)[..., ::-1] / 127.5 - 1).transpose(2, 0, 1)
    return result


def test_hard_swish_and_squeezes_tell_which_way_up_a_line_is() -> None:
    """A MobileNetV3 whose hard-swishes are Add, Clip, Mul and Div, and whose gates HardSigmoid."""
    lines = {
        f"text_line_{number}{turned}.png": int(bool(turned))
        for number in range(4)
        for turned in ("", "_rot180")
    }
    seen = np.concatenate([line_of_text(name) for name in list(lines)[:4]])
    compiled = compile_model(LINES.read_bytes(), calibration={"x": seen})
    assert compiled.report.host_macs == 0
    kinds = [row.op for row in compiled.report.layers]
    assert {op: kinds.count(op) for op in kinds} == {
        "CONV": 54, "TABLE": 27, "AVGPOOL": 10, "MUL": 9, "ADD": 7, "MAXPOOL": 1,
    }  # fmt: skip
    run = Pipeline(compiled, fast=True)
    for name, way in lines.items():
        (probabilities,) = run({"x": line_of_text(name)}).values()
        assert probabilities[0, way] > 0.9, name
