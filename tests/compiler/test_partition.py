"""What goes to the device, what stays on the host, and what is refused with which words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float
from onnx import TensorProto

from edged.compiler import CompiledModel, compile_model
from edged.errors import ModelError

CONSTANTS = {
    name: np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    for seed, (name, shape) in enumerate(
        {
            "w": (4, 4, 1, 1),
            "v": (4, 4, 3, 3),
            "k": (64, 3),
            "scale": (4, 1, 1),
            "four": (1, 4, 4, 4),
        }.items()
    )
}
IMAGE = {"x": ["N", 4, 4, 4]}


def compiled_and_checked(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: list[str],
    limit: float = 0.1,
) -> CompiledModel:
    """Compile, and compare with the float model on one sample of the calibration data."""
    rng = np.random.default_rng(0)
    model = make_model(nodes, inputs, outputs, CONSTANTS)
    samples: Arrays = {
        name: rng.uniform(-1, 1, (8, *(int(n) for n in shape[1:]))).astype(np.float32)
        for name, shape in inputs.items()
    }
    compiled = compile_model(model, calibration=samples)
    feeds = {name: array[:1] for name, array in samples.items()}
    found = Pipeline(compiled)(feeds)
    for name, wanted in run_float(model, feeds).items():
        assert found[name].shape == wanted.shape
        assert np.abs(found[name] - wanted).max() <= limit * np.abs(wanted).max()
    return compiled


def host(compiled: CompiledModel) -> list[tuple[str, str]]:
    return [(row.op, row.where) for row in compiled.report.host]


def test_prologue_and_epilogue_are_what_the_device_lacks() -> None:
    compiled = compiled_and_checked(
        [
            node("Tanh", "x", "t"),
            node("Conv", "t w", "c"),
            node("Relu", "c", "r"),
            node("Softmax", "r", "y", axis=1),
        ],
        IMAGE,
        ["y"],
    )
    assert host(compiled) == [("Tanh", "prologue"), ("Softmax", "epilogue")]
    assert compiled.report.host[1].reason == "the device has no such operator"


def test_a_norm_on_the_host_keeps_its_scale_and_nothing_is_transposed_twice() -> None:
    """As conv4_3 in SSD: one of several outputs, and what is behind its norm stays on the host."""
    compiled = compiled_and_checked(
        [
            node("Conv", "x w", "a"),
            node("Relu", "a", "r"),
            node("Conv", "r v", "heavy"),
            node("Transpose", "heavy", "y", perm=[0, 2, 3, 1]),
            node("LpNormalization", "r", "n", axis=1, p=2),
            node("Mul", "n scale", "m"),
            node("Conv", "m w", "light"),
            node("Transpose", "light", "z", perm=[0, 2, 3, 1]),
        ],
        IMAGE,
        ["y", "z"],
        limit=0.15,
    )
    assert [(row.op, row.entry) for row in compiled.report.layers] == [
        ("CONV", 0),
        ("CONV", 0),
        ("CONV", 1),
    ]
    assert [len(entry.outputs) for entry in compiled.image.entries] == [2, 1]
    assert host(compiled) == [
        ("Transpose", "between 0 and 1"),
        ("LpNormalization", "between 0 and 1"),
        ("Mul", "between 0 and 1"),
        ("Transpose", "epilogue"),
    ]
    assert "the device has no such operator" in compiled.report.host[1].reason
    between, epilogue = (onnx.load_model_from_string(part) for part in compiled.host[1:])
    # conv4_3 comes into the host's order and back; what the heads give is as it is wanted.
    assert [n.op_type for n in between.graph.node].count("Transpose") == 2
    assert "Transpose" not in [n.op_type for n in epilogue.graph.node]


def test_an_operator_of_the_host_in_the_middle_costs_a_round_trip() -> None:
    compiled = compiled_and_checked(
        [
            node("Conv", "x w", "a"),
            node("Softmax", "a", "t", axis=1),
            node("Conv", "t v", "b"),
            node("Relu", "b", "y"),
        ],
        IMAGE,
        ["y"],
    )
    assert host(compiled) == [("Softmax", "between 0 and 1")]
    assert [len(entry.layers) for entry in compiled.image.entries] == [1, 1]
    assert compiled.report.host_macs == 0


def test_a_value_goes_from_entry_to_entry_as_the_device_gave_it() -> None:
    """Around the operator of the host, as in a residual block."""
    compiled = compiled_and_checked(
        [
            node("Conv", "x w", "a"),
            node("Softmax", "a", "t", axis=1),
            node("Conv", "t w", "b"),
            node("Softmax", "b", "u", axis=1),
            node("Conv", "u w", "c"),
            node("Add", "c a", "y"),
        ],
        IMAGE,
        ["y"],
        limit=0.2,
    )
    first, second, third = compiled.image.entries
    (shared,) = set(first.outputs) & set(third.inputs)
    assert shared not in second.inputs
    assert len(third.inputs) == 2
    name = compiled.image.tensors[shared].name
    last_part_before = onnx.load_model_from_string(compiled.host[2])
    assert name not in {value.name for value in last_part_before.graph.input}
    assert compiled.report.host_macs == 0


def test_a_bypass_around_the_device_is_handed_through() -> None:
    """The epilogue reads a value of the prologue, and an input of the model itself."""
    compiled = compiled_and_checked(
        [
            node("Tanh", "x", "t"),
            node("Conv", "t w", "c"),
            node("Mul", "c t", "m"),
            node("Mul", "m x", "y"),
        ],
        IMAGE,
        ["y", "t"],
    )
    assert host(compiled) == [("Tanh", "prologue"), ("Mul", "epilogue"), ("Mul", "epilogue")]


def test_several_inputs_and_outputs_with_a_value_inside_that_is_also_an_output() -> None:
    compiled = compiled_and_checked(
        [
            node("Conv", "a w", "p"),
            node("Conv", "b w", "q"),
            node("Add", "p q", "s"),
            node("Conv", "s w", "t"),
            node("Relu", "t", "y"),
            node("Sigmoid", "q", "z"),
        ],
        {"a": ["N", 4, 4, 4], "b": ["N", 4, 4, 4]},
        ["y", "s", "z"],
    )
    assert len(compiled.image.inputs) == 2
    assert len(compiled.image.outputs) == 3


def test_reshapes_between_device_and_host_are_done_by_the_host() -> None:
    compiled = compiled_and_checked(
        [
            node("Conv", "x w", "c"),
            node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
            node("Flatten", "t", "f"),
            node("MatMul", "f k", "m"),
            node("Softmax", "f", "y", axis=1),
            node("Softmax", "m", "z", axis=1),
        ],
        IMAGE,
        ["y", "z"],
    )
    assert [layer.name for layer in compiled.image.layers] == ["Conv_c", "MatMul_m"]


def test_bounds_on_a_transposed_image_reach_the_host_in_its_order() -> None:
    compiled = compiled_and_checked(
        [
            node("Conv", "x w", "c"),
            node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
            node("Relu", "t", "r"),
            node("Softmax", "r", "y", axis=1),
        ],
        {"x": ["N", 4, 3, 5]},
        ["y"],
    )
    assert [row.op for row in compiled.report.layers] == ["CONV"]


def test_constant_arithmetic_and_shapes_are_folded() -> None:
    """What exporters write for a flatten: Shape, Gather, Unsqueeze, Concat, Reshape."""
    model = make_model(
        [
            node("DequantizeLinear", "qw scale", "w"),
            node("Conv", "x w", "c"),
            node("Shape", "c", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n axis", "u"),
            node("Concat", "u rest", "shape", axis=0),
            node("Reshape", "c shape", "f"),
            node("Gemm", "f k", "y"),
        ],
        IMAGE,
        ["y"],
        {
            "qw": np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1),
            "scale": np.array(0.125, np.float32),
            "zero": np.array(0),
            "axis": np.array([0]),
            "rest": np.array([-1]),
            "k": CONSTANTS["k"],
        },
    )
    compiled = compile_model(model)
    assert [row.op for row in compiled.report.layers] == ["CONV", "CONV"]
    assert compiled.report.host == ()


def test_the_prologue_keeps_the_names_and_dtypes_of_the_inputs() -> None:
    model = make_model(
        [
            node("Cast", "x", "f", to=TensorProto.FLOAT),
            node("Transpose", "f", "t", perm=[0, 3, 1, 2]),
            node("Conv", "t w", "y"),
        ],
        {"x": ["N", 5, 4, 4]},
        ["y"],
        CONSTANTS,
        dtype=TensorProto.UINT8,
    )
    compiled = compile_model(model)
    prologue = onnx.load_from_string(compiled.host[0])
    (given,) = prologue.graph.input
    assert given.name == "x"
    assert given.type.tensor_type.elem_type == TensorProto.UINT8
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 5, 4, 4]
    # The image is in the device's order already: nothing is transposed there and back.
    assert "Transpose" not in {n.op_type for n in prologue.graph.node}
    (tensor,) = compiled.image.input_tensors
    assert [output.name for output in prologue.graph.output] == [tensor.name]


def test_a_model_without_a_device_segment_is_refused_with_its_operators() -> None:
    model = make_model(
        [
            node("Softmax", "x", "t"),
            node("Relu", "t", "r"),
            node("MatMul", "r four", "y"),
        ],
        {"x": [1, 4, 4, 4]},
        ["y"],
        {"four": np.ones((1, 4, 4, 4), np.float32)},
    )
    with pytest.raises(ModelError) as caught:
        compile_model(model)
    text = str(caught.value)
    assert text.startswith("cannot compile model: no part of it can be placed on the device")
    assert "Softmax 'Softmax_t' (operator 1 of 3): the device has no such operator" in text
    assert "MatMul 'MatMul_y' (operator 3 of 3): it multiplies computed matrices" in text


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Conv", "x x", "y")], "weights are computed"),
        ([node("Conv", "x w", "c"), node("MatMul", "c four", "y")], "multiplies"),
        (
            [
                node("Conv", "x w", "c"),
                node("AveragePool", "c", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            ],
            "padding does not count",
        ),
        (
            [node("Conv", "x w", "c"), node("Concat", "c x", "y", axis=2)],
            "no layer of the device reads it",
        ),
        ([node("Conv", "x w", "c"), node("ReduceMean", "c", "y", axes=[1])], "over axes [1]"),
        ([node("Conv", "x w", "c"), node("Elu", "c", "y")], "not between layers"),
        ([node("Conv", "x w", "c"), node("Softmax", "c", "y")], "no such operator"),
    ],
    ids=["computed weights", "matrices", "padding", "concat", "mean", "function", "unknown"],
)
def test_each_reason_is_given(nodes: list[onnx.NodeProto], reason: str) -> None:
    model = make_model(nodes, {"x": [1, 4, 4, 4]}, ["y"], CONSTANTS)
    try:
        text = " ".join(row.reason for row in compile_model(model).report.host)
    except ModelError as error:
        text = str(error)
    assert reason in text


def plain() -> onnx.ModelProto:
    return onnx.load_from_string(make_model([node("Conv", "x w", "y")], IMAGE, ["y"], CONSTANTS))


def changed(change: str) -> bytes:
    model = plain()
    graph = model.graph
    dims = graph.input[0].type.tensor_type.shape.dim
    match change:
        case "opset":
            model.opset_import[0].version = 6
        case "domain":
            model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
            graph.node[0].domain = "com.example"
        case "spatial":
            dims[2].dim_param = "height"
        case "batch":
            dims[0].dim_value = 4
        case "rank":
            graph.input[0].type.tensor_type.ClearField("shape")
        case "text":
            graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
        case "external":
            graph.initializer[0].data_location = TensorProto.EXTERNAL
        case "unknown operator":
            graph.node[0].op_type = "Convolve"
        case "contradiction":
            dims[1].dim_value = 5
        case "control flow":
            graph.node[0].op_type = "If"
        case "not finite":
            weights = np.full((4, 4, 1, 1), np.nan, np.float32)
            graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
        case "empty":
            del graph.node[:]
        case "initializer":
            graph.initializer[0].raw_data = b"\0" * 7
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("opset", "its opset is 6, wanted 7 or newer"),
        ("domain", "is of domain 'com.example'"),
        ("spatial", r"input 'x' has shape \[N, 4, height, 4\]; wanted every size but the batch"),
        ("batch", r"input 'x' has shape \[4, 4, 4, 4\]; wanted a first dimension of 1"),
        ("rank", "input 'x' is no tensor of a known rank"),
        ("text", "input 'x' has elements of type string"),
        ("external", "the data of 'w' are in another file"),
        ("unknown operator", "Convolve"),
        ("contradiction", "Input channels C is not equal to kernel channels"),
        ("control flow", "is control flow"),
        ("not finite", "not finite"),
        ("empty", "no operators"),
        ("initializer", "cannot read model"),
    ],
)
def test_bad_models_are_refused(change: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        compile_model(changed(change))
    assert str(caught.value).startswith("cannot ")


@pytest.mark.parametrize("junk", [b"", b"no model", b"\x08\x08" * 40, bytes(1000)])
def test_what_is_no_model_is_refused(junk: bytes) -> None:
    with pytest.raises(ModelError, match="cannot read model"):
        compile_model(junk)


def test_a_cut_or_damaged_model_is_refused_and_never_crashes() -> None:
    whole = plain().SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            compile_model(bytes(data))
        except ModelError as error:
            assert re.match("cannot (read|compile|calibrate)", str(error))  # noqa: PT017
