"""How finely answers leave the device, and what the report says of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from compiler.pipeline import Arrays, make_model, node, run_float

from edged.compiler import compile_model


def samples(count: int = 32, width: int = 12, seed: int = 1) -> Arrays:
    values = np.random.default_rng(seed).standard_normal((count, width))
    return {"x": values.astype(np.float32)}


def dense(gains: list[float], offsets: list[float] | None = None, *, behind: str = "") -> bytes:
    """A Gemm whose columns have these gains and offsets; *behind* it, an operator of the host."""
    count = len(gains)
    weights = np.random.default_rng(0).standard_normal((12, count)) / 12**0.5 * gains
    constants = {
        "w": weights.astype(np.float32),
        "b": np.asarray(offsets or [0.0] * count, np.float32),
    }
    nodes = [node("Gemm", "x w b", "z" if behind else "y")]
    if behind:
        nodes.append(node(behind, "z", "y"))
    return make_model(nodes, {"x": ["N", 12]}, ["y"], constants)


@pytest.mark.parametrize("behind", ["", "Sigmoid"])
def test_the_report_says_how_coarse_each_output_is(behind: str) -> None:
    report = compile_model(dense([1.0, 1.0, 1.0], behind=behind), calibration=samples()).report
    columns = run_float(dense([1.0, 1.0, 1.0]), samples())["y"].std(axis=0)
    (row,) = report.outputs
    assert row.name == ("z" if behind else "y")
    assert row.outputs == ("y",)
    assert row.spread == pytest.approx(columns[row.column], rel=1e-3)
    assert 0 < row.step <= 0.125
    assert row.coarse == ""
    assert json.loads(report.json())["outputs"][0]["name"] == row.name


def test_a_column_that_does_not_vary_is_not_coarse() -> None:
    (row,) = compile_model(dense([1.0, 0.0]), calibration=samples()).report.outputs
    assert row.column == 0 and row.coarse == ""
