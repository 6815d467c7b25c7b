"""A small model and a bundle of it, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged import bundle


def tiny_model(*, batch: int | str = "N", dtype: int = TensorProto.UINT8) -> bytes:
    """Image [batch, 8, 8, 3] → probabilities [batch, 4]: mean over the pixels, MatMul, Softmax."""
    weights = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["mean", "tenth"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores:0"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", dtype, [batch, 8, 8, 3])],
        [helper.make_tensor_value_info("scores:0", TensorProto.FLOAT, [batch, 4])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array(0.1, np.float32), "tenth"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.model_version = 3
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny_model())
    return path


@pytest.fixture(scope="session")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "floats.onnx"
    path.write_bytes(tiny_model(dtype=TensorProto.FLOAT))
    return path


@pytest.fixture(scope="session")
def packed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    labels = folder / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\n")
    bundle.pack(model, name="tiny", version="1.2.3", labels=labels, output=folder)
    return folder / "tiny-1.2.3.edgemodel"
