"""Whole networks, as the compiler makes them: code against layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scheduler.programs import MACHINES, in_any_order

from edged.compiler import compile_model
from edged.npu import Target, numerics
from edged.npu.simulator import run

DATA = Path(__file__).parents[1] / "data"
KEYWORDS = DATA / "models/kws_dscnn.onnx"
SLOW = (
    "models/mobilenet_v2_imagenet",
    *(
        f"networks/{name}"
        for name in (
            "face_landmark",
            "fastestdet",
            "picodet_s",
            "ppocr_det",
            "selfie_seg",
            "super_resolution",
            "yolox_nano",
            "yunet",
        )
    ),
)


@pytest.mark.parametrize("machine", ["8x8x1", "16x32x4", "16x32x4 tiny"])
def test_a_keyword_spotter_runs_whole(machine: str) -> None:
    same(KEYWORDS, machine)


@pytest.mark.parametrize("name", ["silero_vad_16k", "oww_embedding", "blazeface", "ppocr_cls"])
def test_small_networks_run_whole(name: str) -> None:
    same(DATA / f"networks/{name}.onnx", "16x32x4")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_larger_networks_run_whole(name: str) -> None:
    same(DATA / f"{name}.onnx", "16x32x4")


def same(model: Path, machine: str) -> None:
    """Assert that each entry of *model*'s image gives the same by its code as by its layers."""
    array, activations, weights = MACHINES[machine]
    made = compile_model(model.read_bytes(), target=Target(array, activations, weights)).image
    assert made.code
    for number, entry in enumerate(made.entries):
        rng = np.random.default_rng(number)
        inputs = [
            rng.integers(t.dtype.lowest, t.dtype.highest + 1, t.shape).astype(t.dtype.numpy)
            for t in made.chosen(entry.inputs)
        ]
        found = run(made, inputs, number, in_any_order(number))
        for a, b in zip(found, numerics.run(made, inputs, number), strict=True):
            np.testing.assert_array_equal(a, b)
