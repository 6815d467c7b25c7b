"""Images carry code for a device that has buffers, and do without where there can be none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edged.compiler import CompiledModel, compile_model
from edged.npu import EMULATED, Array, Target, numerics, parse_image
from edged.npu.simulator import run
from edged.remarks import Code

KEYWORDS = Path(__file__).parents[1] / "data/models/kws_dscnn.onnx"


def compiled(target: Target) -> CompiledModel:
    return compile_model(KEYWORDS.read_bytes(), target=target)


def test_a_program_has_code_that_does_the_same_as_its_layers() -> None:
    made = compiled(EMULATED)
    image = parse_image(made.program)
    assert image.digest == made.image.digest
    assert image.schedule.activation_buffer == EMULATED.activation_buffer
    (source,) = image.input_tensors
    x = np.random.default_rng(0).integers(0, 128, source.shape).astype(source.dtype.numpy)
    (found,), (wanted,) = run(image, [x]), numerics.run(image, [x])
    np.testing.assert_array_equal(found, wanted)
    report = made.report
    assert report.code_bytes == len(image.code) + len(image.packed)
    assert report.cycles == sum(row.cycles or 0 for row in report.layers)
    # A layer that goes on with what is on chip takes its cycles within the one before it.
    assert all(bool(row.bound) == bool(row.cycles) for row in report.layers)


def test_a_device_without_buffers_gets_no_code() -> None:
    made = compiled(Target())
    assert made.image.code == made.image.packed == b""
    assert made.report.cycles is None and made.report.code_bytes == 0
    assert Code.NO_CODE not in {remark.code for remark in made.report.remarks}


@pytest.mark.parametrize(
    "target", [Target(Array(), 256, 1024), Target(Array(4, 4, 4), 1 << 20, 1 << 20)]
)
def test_what_does_not_fit_is_compiled_without_code_and_says_so(target: Target) -> None:
    made = compiled(target)
    assert made.image.code == b""
    (remark,) = (each for each in made.report.remarks if each.code == Code.NO_CODE)
    assert remark.warning and "gateware cannot run it: cannot schedule" in remark.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("16x32", "is no MAC array"),
        ("16x32x0", "is no MAC array"),
        ("16x32x4,5", "is no target"),
        ("16x32x4,-1,2", "is no target"),
        ("16x32x4,0,1", "is no target"),
    ],
)
def test_a_target_that_is_none(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Target.parse(text)


@pytest.mark.parametrize("target", [Target(), EMULATED, Target(Array(8, 8, 1), 1 << 14, 1 << 13)])
def test_a_target_is_printed_as_it_is_read(target: Target) -> None:
    assert Target.parse(str(target)) == target
