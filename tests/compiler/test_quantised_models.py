"""Models that were quantised already, in the formats of ONNX Runtime, answer as it answers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Pipeline, node, run_float
from onnx import TensorProto, helper, numpy_helper

from edged.compiler import compile_model
from edged.errors import ModelError

Constants = dict[str, npt.NDArray[Any]]
SCALES = {"a": 0.04, "b": 0.03, "y": 0.05, "z": 0.06}
SPATIAL = {"kernel_shape": [2, 2], "strides": [2, 2]}


def microsoft(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    made = node(op, inputs, output, domain="com.microsoft", **attributes)
    if made.op_type in ("QLinearConv", "QLinearMatMul"):
        made.domain = ""
    return made


def of(*names: str) -> str:
    """Value, scale and zero point of each."""
    return " ".join(f"{name} {name}_scale {name}_zero" for name in names)


def quantised(nodes: Sequence[onnx.NodeProto], constants: Constants | None = None) -> bytes:
    """A convolution, "a", and *nodes*, which make "y" of it; all tensors are quantised."""
    rng = np.random.default_rng(8)
    given: Constants = {
        "stem": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "w": rng.integers(-90, 90, (8, 8, 3, 3)).astype(np.int8),
        "w_scale": np.linspace(0.001, 0.006, 8).astype(np.float32),
        "w_zero": np.zeros(8, np.int8),
        "bias": rng.integers(-900, 900, 8).astype(np.int32),
        "m": rng.integers(-90, 90, (8, 8)).astype(np.int8),
        "m_scale": np.array(0.01, np.float32),
        "m_zero": np.array(3, np.int8),
        **{f"{name}_scale": np.array(scale, np.float32) for name, scale in SCALES.items()},
        **{f"{name}_zero": np.array(120, np.uint8) for name in SCALES},
        **(constants or {}),
    }
    graph = helper.make_graph(
        [
            node("Conv", "image stem", "c", pads=[1, 1, 1, 1]),
            node("QuantizeLinear", "c a_scale a_zero", "a"),
            *nodes,
            node("DequantizeLinear", of("y"), "answer"),
        ],
        "quantised",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in given.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


SCALED = "y_scale y_zero"
ROW = [node("GlobalMaxPool", "c", "row0"), node("Flatten", "row0", "row1")]
ROW.append(node("QuantizeLinear", "row1 a_scale a_zero", "r"))
FORMS: dict[str, Sequence[onnx.NodeProto]] = {
    "QLinearConv": [microsoft("QLinearConv", f"{of('a', 'w')} {SCALED} bias", "y")],
    "QLinearConv, without bias": [microsoft("QLinearConv", f"{of('a', 'w')} {SCALED}", "y")],
    "QLinearMatMul": [
        *ROW, microsoft("QLinearMatMul", f"r a_scale a_zero {of('m')} {SCALED}", "y")
    ],
    "QGemm": [
        *ROW,
        microsoft("QGemm", f"r a_scale a_zero {of('m')} bias {SCALED}", "y", transB=1, alpha=0.5),
    ],
    "QLinearAdd": [microsoft("QLinearAdd", f"{of('a', 'a')} {SCALED}", "y")],
    "QLinearMul": [microsoft("QLinearMul", f"{of('a', 'a')} {SCALED}", "y")],
    "QLinearSigmoid": [microsoft("QLinearSigmoid", f"{of('a')} {SCALED}", "y")],
    "QLinearLeakyRelu": [microsoft("QLinearLeakyRelu", f"{of('a')} {SCALED}", "y", alpha=0.2)],
    "QLinearSoftmax": [
        microsoft("QLinearSoftmax", f"{of('a')} {SCALED}", "y", axis=-1, opset=17)
    ],
    "QLinearGlobalAveragePool": [
        microsoft("QLinearGlobalAveragePool", f"{of('a')} {SCALED}", "y", channels_last=0)
    ],
    "QLinearAveragePool": [
        microsoft("QLinearAveragePool", f"{of('a')} {SCALED}", "y", channels_last=0, **SPATIAL)
    ],
    "QLinearConcat": [microsoft("QLinearConcat", f"{SCALED} {of('a', 'a')}", "y", axis=1)],
    "QLinearWhere": [
        node("Greater", "c a_scale", "sign"),
        microsoft("QLinearWhere", f"sign {of('a', 'a')} {SCALED}", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("nodes", FORMS.values(), ids=FORMS.keys())
def test_quantised_operators(nodes: Sequence[onnx.NodeProto]) -> None:
    model = quantised(nodes)
    compiled = compile_model(model)
    run = Pipeline(compiled)
    rng = np.random.default_rng(2)
    for _ in range(3):
        feeds = {"image": rng.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)}
        wanted, found = run_float(model, feeds)["answer"], run(feeds)["answer"]
        assert found.shape == wanted.shape
        # The device has steps of its own, up to twice as large: some are a step or two off.
        assert np.abs(found - wanted).mean() < 1.5 * SCALES["y"]
        assert np.ptp(wanted) > 4 * SCALES["y"]


def test_a_form_that_is_not_read_is_refused_with_the_way_out() -> None:
    pool = microsoft("QLinearGlobalAveragePool", f"{of('a')} {SCALED}", "y", channels_last=1)
    with pytest.raises(ModelError, match=r"QLinearGlobalAveragePool .*QuantFormat\.QDQ"):
        compile_model(quantised([pool]))
