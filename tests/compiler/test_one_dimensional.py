"""One-dimensional networks run on the device as images of height 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.compiler import CompiledModel, compile_model

C, L = 6, 20


def signals(seed: int = 0, count: int = 6, shape: tuple[int, ...] = (C, L)) -> Arrays:
    values = np.random.default_rng(seed).standard_normal((count, *shape))
    return {"x": values.astype(np.float32)}


def weights(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    scale = np.sqrt(np.prod(shape[1:]))
    return (np.random.default_rng(seed).standard_normal(shape) / scale).astype(np.float32)


def agrees(model: bytes, samples: Arrays, limit: float = 0.05) -> CompiledModel:
    """Compile *model*; its outputs are ONNX Runtime's, to *limit* of their largest value."""
    compiled = compile_model(model, calibration=samples)
    run = Pipeline(compiled)
    for index in range(len(samples["x"])):
        feeds = {"x": samples["x"][index : index + 1]}
        found = run(feeds)
        for name, wanted in run_float(model, feeds).items():
            assert found[name].shape == wanted.shape
            assert np.abs(found[name] - wanted).max() <= limit * max(np.abs(wanted).max(), 1e-3)
    return compiled


def on_host(compiled: CompiledModel) -> set[str]:
    """Operators of the host that compute something."""
    views = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
    return {row.op for row in compiled.report.host} - views


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 2, 3, 6]))
    out = groups * draw(st.integers(1, 3))
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 3))
    reach = dilation * (kernel - 1)
    window: dict[str, Any] = {"strides": [stride], "dilations": [dilation], "group": groups}
    if draw(st.booleans()):
        window["pads"] = [draw(st.integers(0, reach)), draw(st.integers(0, reach))]
    elif dilation == 1:
        window["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    constants = {"w": weights(1, out, C // groups, kernel), "b": weights(2, out, 1).reshape(-1)}
    nodes = [node("Conv", "x w b", "y", **window)]
    model = make_model(nodes, {"x": ["N", C, L]}, ["y"], constants)
    compiled = agrees(model, signals(), limit=0.1)
    assert on_host(compiled) == set()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pools(data: st.DataObject) -> None:
    draw = data.draw
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    window: dict[str, Any] = {"kernel_shape": [kernel], "strides": [stride]}
    window["pads"] = [draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))]
    if op == "AveragePool":
        window["count_include_pad"] = 1
    else:
        window["ceil_mode"] = (
            0 if any(window["pads"]) or kernel < stride else draw(st.integers(0, 1))
        )
        window["dilations"] = [draw(st.integers(1, 2))]
    nodes = [node("Conv", "x w", "c"), node(op, "c", "y", **window)]
    model = make_model(nodes, {"x": ["N", C, L]}, ["y"], {"w": weights(3, 5, C, 3)})
    assert on_host(agrees(model, signals())) == set()


def norm(channels: int) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(4)
    return {
        name: rng.uniform(0.5, 1.5, channels).astype(np.float32) for name in ("g", "o", "m", "v")
    }


TAILS: dict[str, list[onnx.NodeProto]] = {
    "global average": [node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "y")],
    "global maximum": [node("GlobalMaxPool", "r", "p"), node("Flatten", "p", "y")],
    "mean": [node("ReduceMean", "r", "y", axes=[-1], keepdims=0)],
    "mean kept": [node("ReduceMean", "r", "y", axes=[2], keepdims=1)],
    "flat": [node("Flatten", "r", "f"), node("Gemm", "f k", "y")],
    "residual": [
        node("Conv", "r w2", "d", pads=[1, 1]),
        node("Add", "r d", "s"),
        node("Relu", "s", "y"),
    ],
    "joined": [node("Concat", "r c", "j", axis=1), node("Conv", "j w4", "y")],
    "scaled": [node("Mul", "r g3", "q"), node("Add", "q o3", "y")],
    "both": [node("MaxPool", "r", "p", kernel_shape=[2], strides=[2]), node("Conv", "p w2", "y")],
}


@pytest.mark.parametrize("tail", TAILS)
def test_networks_as_pytorch_writes_them(tail: str) -> None:
    constants = {
        **norm(8),
        "w": weights(5, 8, C, 5),
        "w2": weights(6, 8, 8, 3),
        "w4": weights(7, 4, 16, 3),
        "k": weights(8, 8 * L, 3),
        "g3": np.linspace(0.5, 2, 8, dtype=np.float32).reshape(8, 1),
        "o3": np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8, 1),
    }
    nodes = [
        node("Conv", "x w", "c", pads=[2, 2]),
        node("BatchNormalization", "c g o m v", "n"),
        node("Relu", "n", "r"),
        *TAILS[tail],
    ]
    model = make_model(nodes, {"x": ["N", C, L]}, ["y"], constants)
    assert on_host(agrees(model, signals())) == set()


@pytest.mark.parametrize("opset", [11, 17])
def test_networks_as_tf2onnx_writes_keras(opset: int) -> None:
    """[N, L, C]: a transpose and an unsqueeze before, and the reverse behind, each layer."""
    constants: dict[str, Any] = {"two": np.array([2])}
    nodes: list[onnx.NodeProto] = []

    def step(op: str, source: str, output: str) -> None:
        if opset < 13:
            nodes.append(node(op, source, output, axes=[2]))
        else:
            nodes.append(node(op, f"{source} two", output))

    last = "x"
    for index, (before, after) in enumerate(((C, 8), (8, 12))):
        name = f"l{index}"
        constants[f"{name}w"] = weights(index, after, before, 1, 3)
        constants[f"{name}b"] = weights(index + 9, after, 1).reshape(-1)
        constants[f"{name}g"] = np.linspace(0.5, 1.5, after, dtype=np.float32)
        nodes.append(node("Transpose", last, f"{name}t", perm=[0, 2, 1]))
        step("Unsqueeze", f"{name}t", f"{name}u")
        nodes.append(node("Conv", f"{name}u {name}w", f"{name}c", auto_pad="SAME_UPPER"))
        step("Squeeze", f"{name}c", f"{name}s")
        nodes.append(node("Transpose", f"{name}s", f"{name}h", perm=[0, 2, 1]))
        nodes.append(node("Add", f"{name}h {name}b", f"{name}a"))
        nodes.append(node("Relu", f"{name}a", f"{name}r"))
        nodes.append(node("Mul", f"{name}r {name}g", f"{name}y"))
        last = f"{name}y"
    nodes.append(node("ReduceMean", last, "m", axes=[1], keepdims=0))
    constants["k"] = weights(20, 12, 4)
    nodes.append(node("MatMul", "m k", "y"))
    model = make_model(nodes, {"x": ["N", L, C]}, ["y"], constants, opset=opset)
    compiled = agrees(model, signals(shape=(L, C)))
    assert on_host(compiled) == set()
    assert [row.op for row in compiled.report.layers].count("CONV") == 5  # Two for Mul behind Relu.


def test_what_moves_and_what_spreads_a_signal() -> None:
    """An encoder and decoder with a way around, as for denoising."""
    nodes = [
        node("Pad", "x pads", "p"),
        node("Conv", "p w", "c"),
        node("Relu", "c", "r"),
        node("Conv", "r d", "e", strides=[2], pads=[1, 1]),
        node("Relu", "e", "f"),
        node("ConvTranspose", "f t", "u", strides=[2], pads=[1, 0], output_padding=[1]),
        node("Slice", "u zero length axis", "s"),
        node("Slice", "r zero length axis", "a"),
        node("Concat", "s a", "j", axis=1),
        node("Concat", "j j", "k", axis=2),
        node("Split", "k", "k1 k2", axis=1),
        node("Add", "k1 k2", "l"),
        node("Conv", "l v", "y"),
    ]
    constants = {
        "pads": np.array([0, 0, 3, 0, 0, 0]),
        "w": weights(1, 8, C, 3),
        "d": weights(2, 12, 8, 4),
        "t": weights(3, 12, 8, 4),
        "v": weights(4, 4, 8, 3),
        "zero": np.array([0]),
        "length": np.array([L - 4]),
        "axis": np.array([2]),
    }
    model = make_model(nodes, {"x": ["N", C, L]}, ["y"], constants)
    assert on_host(agrees(model, signals())) <= {"Pad"}


def test_what_comes_out_in_the_middle_is_as_it_was() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Relu", "c", "r"),
        node("Conv", "r v", "d"),
        node("Transpose", "d", "t", perm=[0, 2, 1]),
        node("Add", "t o", "y"),
    ]
    constants = {
        "w": weights(1, 8, C, 3),
        "v": weights(2, 4, 8, 3),
        "o": np.linspace(-1, 1, 4, dtype=np.float32),
    }
    model = make_model(nodes, {"x": ["N", C, L]}, ["c", "r", "t", "y"], constants)
    agrees(model, signals())


def test_features_of_one_dimension_end_the_device_s_part() -> None:
    nodes = [node("Conv", "x w", "c"), node("Conv", "c v", "d"), node("Relu", "d", "y")]
    constants = {"w": weights(1, 8, C, 3), "v": weights(2, 4, 8, 3)}
    model = onnx.load_from_string(make_model(nodes, {"x": ["N", C, L]}, ["y"], constants))
    onnx.helper.set_model_props(model, {"edged.features": "c"})
    compiled = agrees(model.SerializeToString(), signals())
    assert [row.name for row in compiled.report.layers] == ["Conv_c"]


def test_a_mean_over_a_part_of_the_pixels_is_not_taken_for_one_over_all() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("ReduceMean", "c", "m", axes=[3], keepdims=0),
        node("ReduceMean", "m", "y", axes=[2], keepdims=0),
    ]
    model = make_model(nodes, {"x": ["N", C, 6, 6]}, ["y"], {"w": weights(1, 8, C, 3, 3)})
    compiled = agrees(model, signals(shape=(C, 6, 6)))
    assert on_host(compiled) == {"ReduceMean"}
