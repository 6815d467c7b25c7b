"""Models of every opset and IR version, and in every type of float, compile to the same network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import DATA, Arrays, Pipeline, make_model, node, run_float
from onnx import TensorProto, helper, numpy_helper, version_converter

from edged._onnxfile import with_lower_versions
from edged.bundle import pack, verify_bundle
from edged.compiler import CompiledModel, compile_model
from edged.errors import ModelError

NEWEST = onnx.defs.onnx_opset_version()
MODELS = DATA / "models"
Constants = dict[str, npt.NDArray[Any]]
Between = Callable[[Constants], Sequence[onnx.NodeProto]]
"""Operators from "a", [1, 8, 8, 8], to "b"; their constants come into the dictionary."""


def network(opset: int, between: Between | None = None, **changes: Any) -> onnx.ModelProto:
    """A small classifier whose logits reach the host as signed bytes, and through a view."""
    rng = np.random.default_rng(4)
    constants: Constants = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.3, (12, 8, 3, 3)).astype(np.float32),
        "w3": rng.normal(0, 0.6, (12, 5)).astype(np.float32),
        "b3": rng.normal(0, 0.1, 5).astype(np.float32),
    }
    nodes = [
        node("Conv", "image w1", "a0", pads=[1, 1, 1, 1]),
        node("Relu", "a0", "a"),
        *(between(constants) if between else [node("Identity", "a", "b")]),
        node("Conv", "b w2", "c0", strides=[2, 2]),
        node("Relu", "c0", "c"),
        node("GlobalAveragePool", "c", "d"),
        node("Flatten", "d", "e"),
        node("Gemm", "e w3 b3", "f"),
        node("Softmax", "f", "answer", axis=1),
    ]
    model = onnx.load_from_string(
        make_model(nodes, {"image": ["N", 3, 8, 8]}, {"answer": ["N", 5]}, constants, opset=opset)
    )
    for key, value in changes.items():
        setattr(model, key, value)
    return model


def close(model: bytes, compiled: CompiledModel, shape: tuple[int, ...] = (1, 3, 8, 8)) -> None:
    """Compare with what ONNX Runtime makes of the file, whatever its header asks for."""
    model = with_lower_versions(model, "the model")
    rng = np.random.default_rng(6)
    run = Pipeline(compiled)
    spread = 0.0
    for _ in range(3):
        feeds = {"image": rng.normal(0, 1, shape).astype(np.float32)}
        wanted, found = run_float(model, feeds), run(feeds)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape
            assert np.abs(found[name] - value).max() < 0.03 * max(np.ptp(value), 1)
            spread = max(spread, float(np.ptp(value)))
    assert spread > 0.1


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset(opset: int) -> None:
    model = network(opset)
    compiled = compile_model(model.SerializeToString())
    assert {row.op for row in compiled.report.host} == {"Softmax"}
    close(model.SerializeToString(), compiled)


@pytest.mark.parametrize("version", range(3, onnx.IR_VERSION + 2))
def test_every_ir_version(version: int) -> None:
    """Up to the third, constants are inputs as well; the last is newer than any that is known."""
    plain = network(12)
    model = network(12, ir_version=version)
    if version == 3:
        model.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
        )
    compiled = compile_model(model.SerializeToString())
    assert compiled.program == compile_model(plain.SerializeToString()).program
    close(plain.SerializeToString(), compiled)


def test_an_opset_that_nobody_knows_is_refused_with_a_cure() -> None:
    with pytest.raises(ModelError, match=rf"opset is 99, newer than the {NEWEST} .*opset_version="):
        compile_model(network(99).SerializeToString())


def _up(scales: Constants) -> str:
    scales["scales"] = np.array([1, 1, 2, 2], np.float32)
    return "scales"


def _first(op: str, **attributes: Any) -> Between:
    return lambda constants: [node(op, "a", "b", **attributes)]


def _tiny(constants: Constants) -> list[onnx.NodeProto]:
    constants["three"] = np.array([3], np.int64)
    return [
        node("TopK", "a three", "top places", axis=2),
        node("Concat", "top a", "b", axis=2),
    ]


def _prelu(constants: Constants) -> list[onnx.NodeProto]:
    constants["slope"] = np.full((8, 1, 1), 0.1, np.float32)
    return [node("PRelu", "a slope", "b")]


def _normalised(constants: Constants, **attributes: Any) -> list[onnx.NodeProto]:
    for name in ("scale", "offset", "mean", "variance"):
        constants[name] = np.linspace(0.5, 1.5, 8).astype(np.float32)
    return [node("BatchNormalization", "a scale offset mean variance", "b", **attributes)]


OLD: dict[str, tuple[int, Between]] = {
    "Clip 7": (7, _first("Clip", min=0.0, max=1.0)),
    "Clip 10": (10, _first("Clip", min=0.0, max=1.0)),
    "Upsample 7": (7, _first("Upsample", scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")),
    "Upsample 9": (9, lambda c: [node("Upsample", f"a {_up(c)}", "b", mode="nearest")]),
    "Resize 10": (10, lambda c: [node("Resize", f"a {_up(c)}", "b", mode="nearest")]),
    "Pad 9": (9, _first("Pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.0)),
    "Pad 7, reflecting": (7, _first("Pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="reflect")),
    "Slice 9": (9, _first("Slice", axes=[2, 3], starts=[1, 1], ends=[8, 8])),
    "LRN 8": (8, _first("LRN", size=5)),
    "PRelu 9": (9, _prelu),
    "Dropout 7": (7, _first("Dropout", ratio=0.5)),
    "TopK 10": (10, _tiny),
    "BatchNormalization 7": (7, lambda c: _normalised(c, spatial=1)),
    "BatchNormalization 8": (8, _normalised),
    "Squeeze 8": (8, lambda c: [
        node("Unsqueeze", "a", "u", axes=[4]), node("Squeeze", "u", "b", axes=[4])
    ]),
    "Reshape 7": (7, lambda c: c.update(s=np.array([0, 8, 8, 8], np.int64)) or [
        node("Reshape", "a s", "b")
    ]),
}  # fmt: skip


@pytest.mark.parametrize(("opset", "between"), OLD.values(), ids=OLD.keys())
@pytest.mark.parametrize("ir_version", [3, 8])
def test_operators_of_old_opsets(opset: int, between: Between, ir_version: int) -> None:
    model = network(opset, between, ir_version=ir_version)
    if ir_version == 3:
        model.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
        )
    content = model.SerializeToString()
    close(content, compile_model(content))


def test_an_old_model_keeps_what_its_metadata_say() -> None:
    model = network(9)
    model.metadata_props.add(key="edged.features", value="e")
    compiled = compile_model(model.SerializeToString())
    assert "Gemm" in {row.op for row in compiled.report.host}


@pytest.mark.parametrize("opset", [21, 24, NEWEST])
def test_the_projects_own_model_at_new_opsets(opset: int, tmp_path: Any) -> None:
    model = version_converter.convert_version(onnx.load(MODELS / "kws_dscnn.onnx"), opset)
    onnx.save(model, tmp_path / "kws.onnx")
    pack(tmp_path / "kws.onnx", name="kws", version="1.0.0", output=tmp_path / "kws.edgemodel")
    old = compile_model((MODELS / "kws_dscnn.onnx").read_bytes())
    assert compile_model((tmp_path / "kws.onnx").read_bytes()).program == old.program


def test_the_projects_own_large_model_at_the_newest_opset() -> None:
    model = onnx.load(MODELS / "mobilenet_v2_imagenet.onnx")
    sample = {model.graph.input[0].name: np.full((1, 224, 224, 3), 90, np.uint8)}
    old = compile_model(model.SerializeToString(), calibration=sample)
    model = version_converter.convert_version(model, NEWEST)
    assert compile_model(model.SerializeToString(), calibration=sample).program == old.program


def typed(dtype: Any, kind: str) -> bytes:
    """The network with weights of *dtype*: all in it, inside of casts, or behind casts."""
    model = network(17)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, casts = list(model.graph.node), []
    for tensor in model.graph.initializer:
        narrow = numpy_helper.to_array(tensor).astype(dtype)
        if kind == "weights":
            casts.append(node("Cast", f"{tensor.name}/n", tensor.name, to=TensorProto.FLOAT))
        name = f"{tensor.name}/n" if kind == "weights" else tensor.name
        tensor.CopyFrom(numpy_helper.from_array(narrow, name))
    if kind == "inside":
        nodes[0].input[0], nodes[-1].output[0] = "image/n", "answer/n"
        casts.append(node("Cast", "image", "image/n", to=number))
        nodes.append(node("Cast", "answer/n", "answer", to=TensorProto.FLOAT))
    if kind == "all":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = number
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (np.float16, "all"),
        (np.float16, "inside"),
        (np.float16, "weights"),
        (np.float64, "all"),
        (np.float64, "inside"),
        (ml_dtypes.bfloat16, "inside"),
        (ml_dtypes.bfloat16, "weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_other_floats_are_computed_in_float32(dtype: Any, kind: str) -> None:
    compiled = compile_model(typed(dtype, kind))
    assert {row.op for row in compiled.report.host} <= {"Softmax", "Cast"}
    outside = dtype if kind == "all" else np.float32
    image = np.random.default_rng(6).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    wanted = run_float(network(17).SerializeToString(), {"image": image})["answer"]
    found = Pipeline(compiled)({"image": image.astype(outside)})["answer"]
    assert found.dtype == outside
    assert np.ptp(wanted) > 0.1
    assert np.abs(found.astype(np.float32) - wanted).max() < 0.03


def test_a_bundle_declares_half_floats_as_the_model_does(tmp_path: Any) -> None:
    (tmp_path / "half.onnx").write_bytes(typed(np.float16, "all"))
    bundle = tmp_path / "half.edgemodel"
    pack(tmp_path / "half.onnx", name="half", version="1.0.0", output=bundle)
    manifest = verify_bundle(bundle, tmp_path / "bundle").manifest
    assert [tensor.dtype for tensor in (*manifest.inputs, *manifest.outputs)] == ["float16"] * 2


@pytest.mark.parametrize("opset", [21, 23])
def test_group_normalization(opset: int) -> None:
    def between(constants: Constants) -> list[onnx.NodeProto]:
        constants["scale"] = np.linspace(0.5, 2, 8).astype(np.float32)
        constants["offset"] = np.linspace(-1, 1, 8).astype(np.float32)
        return [node("GroupNormalization", "a scale offset", "b", num_groups=2)]

    content = network(opset, between).SerializeToString()
    compiled = compile_model(content)
    assert compiled.report.macs
    close(content, compiled)


def _with(nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto]) -> bytes:
    model = network(17)
    model.graph.node.extend(nodes)
    model.graph.output.extend(outputs)
    return bytes(model.SerializeToString())


def _float(name: str, *shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


ODD_OUTPUTS = {
    "an input": _with([], [_float("image", "N", 3, 8, 8)]),
    "a copy of an input": _with(
        [node("Identity", "image", "copy")], [_float("copy", "N", 3, 8, 8)]
    ),
    "a weight": _with([], [_float("b3", 5)]),
    "a constant": _with(
        [node("Constant", "", "k", value_floats=[1.0, 2.0])], [_float("k", 2)]
    ),
    "a shape": _with(
        [node("Shape", "a", "s")], [helper.make_tensor_value_info("s", TensorProto.INT64, [4])]
    ),
    "one tensor by two names": _with(
        [node("Identity", "answer", "again")], [_float("again", "N", 5)]
    ),
    "one name twice": _with([], [_float("answer", "N", 5)]),
    "what others read": _with([], [_float("a", "N", 8, 8, 8)]),
    "one tensor in two orders": _with(
        [node("Transpose", "c", "t", perm=[0, 2, 3, 1])],
        [_float("c", "N", 12, 3, 3), _float("t", "N", 3, 3, 12)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", ODD_OUTPUTS.values(), ids=ODD_OUTPUTS.keys())
def test_outputs_of_every_kind(model: bytes) -> None:
    names = [output.name for output in onnx.load_from_string(model).graph.output]
    once = onnx.load_from_string(model)
    if len(set(names)) < len(names):  # ONNX Runtime takes it, and answers it once.
        del once.graph.output[-1]
    close(once.SerializeToString(), compile_model(model))


@pytest.mark.parametrize("shape", [["N", 7], ["N"], [1, 3, 9]])
def test_an_input_that_nothing_reads(shape: list[Any]) -> None:
    model = network(17)
    model.graph.input.append(helper.make_tensor_value_info("unread", TensorProto.FLOAT, shape))
    run = Pipeline(compile_model(model.SerializeToString()))
    image = np.ones((1, 3, 8, 8), np.float32)
    unread = np.ones([size if isinstance(size, int) else 1 for size in shape], np.float32)
    feeds: Arrays = {"image": image, "unread": unread}
    wanted = run_float(model.SerializeToString(), feeds)["answer"]
    assert np.abs(run(feeds)["answer"] - wanted).max() < 0.03
