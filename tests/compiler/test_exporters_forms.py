"""What exporters write around the operators that matter is no reason to leave the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Pipeline, make_model, node, run_float
from compiler.test_operators import check, exact

from edged.compiler import compile_model

_RNG = np.random.default_rng(21)


def weights(*shape: int) -> npt.NDArray[np.float32]:
    return _RNG.normal(0, 0.4, shape).astype(np.float32)


CONSTANTS: Mapping[str, npt.NDArray[Any]] = {
    "w": weights(8, 4, 3, 3),
    "v": weights(8, 8, 3, 3),
    "dw": weights(8, 1, 3, 3),
    "bias": weights(8),
    "gamma": np.abs(weights(8)) + 0.5,
    "half": np.float32(0.5),
    "fc": weights(8, 5),
    "fc16": weights(16, 5),
    "fc392": weights(8 * 7 * 7, 5),
    "minus1": np.array([-1]),
    "zero": np.array(0),
    "one": np.array([1]),
    "two_three": np.array([2, 3]),
    "pads_last": np.array([0, 1, 1, 0, 0, 1, 1, 0]),
    "pads_channels": np.array([0, 0, 0, 0, 0, 0, 0, 8]),
    "row8": np.array([-1, 8]),
    "row16": np.array([-1, 16]),
    "pixels": np.array([1, 49, 8]),
    "kept_row": np.array([0, -1]),
    "nchw": np.array([-1, 8, 1, 1]),
    "eight": np.array([8]),
}
LAST, FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
PADS = {"pads": [1, 1, 1, 1]}

FORMS: dict[str, tuple[list[onnx.NodeProto], Sequence[int | str]]] = {
    "Keras on torch: every convolution between transposes": (
        [
            node("Transpose", "x", "x1", **FIRST),
            node("Conv", "x1 w", "c1", **PADS),
            node("Transpose", "c1", "t1", **LAST),
            node("Add", "t1 bias", "b1"),
            node("Relu", "b1", "r1"),
            node("Transpose", "r1", "x2", **FIRST),
            node("Conv", "x2 v", "c2", **PADS),
            node("Transpose", "c2", "t2", **LAST),
            node("Add", "t2 r1", "a2"),
            node("Relu", "a2", "r2"),
            node("Transpose", "r2", "x3", **FIRST),
            node("Conv", "x3 dw", "c3", group=8, **PADS),
            node("Transpose", "c3", "t3", **LAST),
            node("Mul", "t3 gamma", "m3"),
            node("Add", "m3 bias", "b3"),
            node("ReduceMean", "b3", "p", axes=[1, 2], keepdims=0),
            node("MatMul", "p fc", "y"),
        ],
        ("N", 7, 7, 4),
    ),
    "tf2onnx: pads, joins and means of images with channels last": (
        [
            node("Transpose", "x", "x1", **FIRST),
            node("Conv", "x1 w", "c1", **PADS),
            node("Relu", "c1", "r1"),
            node("Transpose", "r1", "t1", **LAST),
            node("Pad", "t1 pads_last", "p1"),
            node("Transpose", "p1", "x2", **FIRST),
            node("Conv", "x2 v", "c2"),
            node("Transpose", "c2", "t2", **LAST),
            node("Pad", "t2 pads_channels", "w2"),
            node("Concat", "t1 t2", "j2", axis=3),
            node("Add", "w2 j2", "s2"),
            node("Sigmoid", "s2", "g2"),
            node("Mul", "s2 g2", "m2"),
            node("ReduceMean", "m2", "p2", axes=[1, 2], keepdims=1),
            node("Reshape", "p2 row16", "f2"),
            node("MatMul", "f2 fc16", "y"),
        ],
        ("N", 7, 7, 4),
    ),
    "squeeze and excite with channels last": (
        [
            node("Transpose", "x", "x1", **FIRST),
            node("Conv", "x1 w", "c1", **PADS),
            node("Relu", "c1", "r1"),
            node("Transpose", "r1", "t1", **LAST),
            node("ReduceMean", "t1", "p1", axes=[1, 2], keepdims=1),
            node("Transpose", "p1", "q1", **FIRST),
            node("Conv", "q1 e", "e1"),
            node("Transpose", "e1", "u1", **LAST),
            node("Sigmoid", "u1", "s1"),
            node("Mul", "t1 s1", "m1"),
            node("Transpose", "m1", "x2", **FIRST),
            node("Conv", "x2 v", "y"),
        ],
        ("N", 7, 7, 4),
    ),
    "a classifier of one pixel, channels last": (
        [
            node("Conv", "x w", "c", **PADS),
            node("Transpose", "c", "t", **LAST),
            node("Reshape", "t pixels", "r"),
            node("Gather", "r zero", "g", axis=1),
            node("Reshape", "g row8", "f"),
            node("MatMul", "f fc", "m"),
            node("Add", "m five", "y"),
        ],
        ("N", 4, 7, 7),
    ),
    "PyTorch 2.13: a batch that is left free": (
        [
            node("Conv", "x w", "c", **PADS),
            node("Relu", "c", "r"),
            node("Shape", "r", "n", start=0, end=1),
            node("Concat", "n minus1", "s", axis=0),
            node("Reshape", "r s", "f", allowzero=1),
            node("Gemm", "f fc392", "y"),
        ],
        ("N", 4, 7, 7),
    ),
    "PyTorch 2.13: a mean, and the size of it": (
        [
            node("Conv", "x w", "c", **PADS),
            node("ReduceMean", "c two_three", "p", keepdims=1),
            node("Shape", "p", "n", start=0, end=1),
            node("Concat", "n eight", "s", axis=0),
            node("Reshape", "p s", "f"),
            node("Gemm", "f fc", "y"),
        ],
        ("N", 4, 7, 7),
    ),
    "squeezes": (
        [
            node("Conv", "x w", "c", **PADS),
            node("GlobalAveragePool", "c", "p"),
            node("Squeeze", "p two_three", "q"),
            node("Unsqueeze", "q two_three", "u"),
            node("Conv", "u e", "d"),
            node("Flatten", "d", "f"),
            node("Gemm", "f fc", "y"),
        ],
        ("N", 4, 7, 7),
    ),
    "an average that does not count its padding": (
        [
            node("Conv", "x w", "c", **PADS),
            node("Relu", "c", "r"),
            node("AveragePool", "r", "a", kernel_shape=[3, 3], **PADS),
            node("Conv", "a v", "y"),
        ],
        ("N", 4, 7, 7),
    ),
    "a dense layer on every pixel": (
        [
            node("Conv", "x w", "c", **PADS),
            node("Transpose", "c", "t", **LAST),
            node("MatMul", "t square", "m"),
            node("Add", "m bias", "a"),
            node("Relu", "a", "r"),
            node("Transpose", "r", "u", **FIRST),
            node("Conv", "u v", "y"),
        ],
        ("N", 4, 7, 7),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_of_it_runs_on_the_device(form: str) -> None:
    nodes, shape = FORMS[form]
    more = {"e": weights(8, 8, 1, 1), "five": weights(5), "square": weights(8, 8)}
    read = {name for each in nodes for name in each.input}
    constants = {k: v for k, v in {**CONSTANTS, **more}.items() if k in read}
    model = make_model(
        nodes, {"x": shape}, ["y"], constants, opset=18 if "two_three" in read else 17
    )
    samples = {"x": _RNG.normal(0, 1, (6, *shape[1:])).astype(np.float32)}
    compiled = compile_model(model, calibration=samples)
    assert compiled.report.host_macs == 0
    left = {row.op for row in compiled.report.host} - {"Reshape", "Transpose", "Squeeze"}
    assert not left, [(row.op, row.reason) for row in compiled.report.host]
    found, wanted = [], []
    for index in range(4):
        one = {"x": samples["x"][index : index + 1]}
        found.append(Pipeline(compiled)(one)["y"])
        wanted.append(run_float(model, one)["y"])
    error = np.linalg.norm(np.array(found) - wanted) / np.linalg.norm(wanted)
    assert error < 0.06


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 1]},
        {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]},
    ],
)
def test_averages_of_what_is_there(attributes: dict[str, Any]) -> None:
    """The window is smaller at the edges: those are pools of their own."""
    rng = np.random.default_rng(31)
    eye = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    model = make_model(
        [
            node("Relu", "x", "r"),
            node("AveragePool", "r", "a", **attributes),
            node("Conv", "a eye", "y"),
        ],
        {"x": ["N", 4, 9, 8]},
        ["y"],
        {"eye": eye},
    )
    compiled = check(model, {"x": exact(rng, (2, 4, 9, 8))}, steps=2)
    assert compiled.report.host == ()
