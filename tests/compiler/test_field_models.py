"""MobileNetV2 and keyword spotting: real models on real inputs, against float."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from compiler.pipeline import DATA, Pipeline, run_float
from PIL import Image

from edged.compiler import CompiledModel, compile_model

MOBILENET = DATA / "models" / "mobilenet_v2_imagenet.onnx"
KEYWORDS = DATA / "models" / "kws_dscnn.onnx"


def photograph(name: str) -> npt.NDArray[np.uint8]:
    with Image.open(DATA / "images" / name) as image:
        small = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(small)[None]


@pytest.fixture(scope="module")
def mobilenet() -> CompiledModel:
    paths = sorted((DATA / "images").glob("*.jpg"))
    samples = np.concatenate([photograph(path.name) for path in paths])
    return compile_model(MOBILENET.read_bytes(), calibration={"input": samples})


@pytest.mark.parametrize("name", ["snowleopardgaze.jpg", "hot_dog.jpg"])
def test_mobilenet_agrees_with_float(mobilenet: CompiledModel, name: str) -> None:
    feeds: dict[str, npt.NDArray[Any]] = {"input": photograph(name)}
    (wanted,) = run_float(MOBILENET.read_bytes(), feeds).values()
    (found,) = Pipeline(mobilenet)(feeds).values()
    top = wanted.argmax()
    assert found.argmax() == top
    assert abs(found[0, top] - wanted[0, top]) < 0.25


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
    assert report.warnings == ()


def test_keyword_spotting_agrees_with_float() -> None:
    """29 of the 1000 inputs; the integration tests take them all, through the device."""
    with np.load(DATA / "kws01_accuracy_set.npz") as arrays:
        x = ((arrays["x"].astype(np.float32) - 83) * 0.5847029089927673).astype(np.float32)
        y = arrays["y"]
    model = KEYWORDS.read_bytes()
    run = Pipeline(compile_model(model, calibration={"input_1": x[::10]}))
    held_out = range(5, 1000, 35)
    found = [int(run({"input_1": x[i : i + 1]})["Identity"].argmax()) for i in held_out]
    wanted = [
        int(run_float(model, {"input_1": x[i : i + 1]})["Identity"].argmax()) for i in held_out
    ]
    labels = [int(y[i]) for i in held_out]
    assert np.mean(np.equal(found, wanted)) >= 0.95
    assert np.mean(np.equal(found, labels)) >= 0.85
