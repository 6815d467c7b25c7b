"""A model that names its feature tensor has the same program whatever stands behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from compiler.pipeline import Pipeline, make_model, node, run_float

from edged.compiler import CompiledModel, compile_model
from edged.errors import ModelError


def samples() -> dict[str, Any]:
    return {"x": np.random.default_rng(5).normal(0, 1, (16, 3, 8, 8)).astype(np.float32)}


def network(classes: int, features: str = "features", scale: float = 1.0) -> bytes:
    """Conv, a scale that folds into it, Relu, pool → features; then a matrix of its own."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 0.3, (12, 3, 3, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, 12).astype(np.float32)
    weights = np.random.default_rng(classes).normal(0, 1, (12, classes)).astype(np.float32)
    nodes = [
        node("Conv", "x kernel bias", "conv"),
        node("Mul", "conv scale", "scaled"),
        node("Relu", "scaled", "relu"),
        node("GlobalAveragePool", "relu", "pooled"),
        node("Flatten", "pooled", "features"),
        node("Gemm", "features weights", "logits"),
        node("Softmax", "logits", "scores", axis=1),
    ]
    constants = {
        "kernel": kernel,
        "bias": bias,
        "weights": weights,
        "scale": np.full((1, 12, 1, 1), scale, np.float32),
    }
    model = onnx.load_from_string(make_model(nodes, {"x": ["N", 3, 8, 8]}, ["scores"], constants))
    if features:
        onnx.helper.set_model_props(model, {"edged.features": features})
    return bytes(model.SerializeToString())


def compiled(model: bytes) -> CompiledModel:
    return compile_model(model, calibration=samples())


def test_the_program_is_the_same_to_the_byte_whatever_stands_behind() -> None:
    five, nine = compiled(network(5)), compiled(network(9))
    assert five.program == nine.program
    assert five.image.digest == nine.image.digest
    assert "Gemm_logits" not in [layer.name for layer in five.image.layers]
    # And without the cut it is another.
    assert compiled(network(5, features="")).program != five.program


def test_nothing_is_folded_across_the_cut() -> None:
    one, seven = (compiled(network(5, "conv", scale)) for scale in (1.0, 7.0))
    assert one.program == seven.program


@pytest.mark.parametrize("features", ["features", "pooled", "relu", "conv", "logits"])
def test_what_comes_out_is_what_the_float_model_gives(features: str) -> None:
    model = network(5, features=features, scale=3.0)
    x = {"x": samples()["x"][:1]}
    found = Pipeline(compiled(model))(x)["scores"]
    np.testing.assert_allclose(found, run_float(model, x)["scores"], atol=0.06)


def test_the_report_says_why_the_classifier_is_on_the_host() -> None:
    rows = {row.op: row for row in compiled(network(5)).report.host}
    assert rows["Gemm"].where == "epilogue"
    assert "behind the features 'features'" in rows["Gemm"].reason


@pytest.mark.parametrize("name", ["nothing", "x", "weights"])
def test_a_name_that_no_operator_gives_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"edged.features = '{name}', which no operator"):
        compiled(network(5, features=name))
