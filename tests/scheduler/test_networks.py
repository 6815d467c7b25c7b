"""Whole networks, as the compiler makes them: code against layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scheduler.programs import MACHINES, noise

from edged.compiler import compile_model
from edged.npu import Array, numerics, parse_image, serialize_image
from edged.npu.simulator import run
from edged.scheduler import schedule

MODELS = Path(__file__).parents[1] / "data/models"


@pytest.mark.parametrize("machine", ["8x8x1", "16x32x4", "16x32x4 tiny"])
def test_a_keyword_spotter_runs_whole(machine: str) -> None:
    array, activations, weights = MACHINES[machine]
    _same(MODELS / "kws_dscnn.onnx", array, activations, weights)


@pytest.mark.slow
def test_an_image_classifier_runs_whole() -> None:
    _same(MODELS / "mobilenet_v2_imagenet.onnx", *MACHINES["16x32x4"])


def _same(model: Path, array: Array, activations: int, weights: int) -> None:
    image = compile_model(model.read_bytes(), array=array).image
    made = parse_image(serialize_image(schedule(image, activations, weights)))
    inputs = noise(image, np.random.default_rng(1))
    for found, wanted in zip(run(made, inputs), numerics.run(image, inputs), strict=True):
        np.testing.assert_array_equal(found, wanted)
