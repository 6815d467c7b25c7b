"""How finely answers leave the device, and what the report says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float

from edged.compiler import Techniques, compile_model


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


PLAIN = replace(Techniques(), columns=False)


def errors(model: bytes, calibration: Arrays | None, tested: Arrays, **options: Any) -> Any:
    """Per column: root mean square error over the standard deviation of the float values."""
    run = Pipeline(compile_model(model, calibration=calibration, **options))
    feeds = [{"x": tested["x"][i : i + 1]} for i in range(len(tested["x"]))]
    wanted = np.concatenate([run_float(model, one)["y"] for one in feeds])
    found = np.concatenate([run(one)["y"] for one in feeds])
    axes = (0, *range(2, wanted.ndim))
    return np.sqrt(((found - wanted) ** 2).mean(axis=axes)) / wanted.std(axis=axes)


@pytest.mark.parametrize("behind", ["", "Neg"])
def test_columns_of_a_thousandth_the_size_survive(behind: str) -> None:
    model = dense([200.0, 60.0, 0.2, 1.0], [320.0, 0.0, -0.1, 0.0], behind=behind)
    assert errors(model, samples(), samples(seed=2)).max() < 0.08
    assert errors(model, samples(), samples(seed=2), techniques=PLAIN).max() > 0.5


@pytest.mark.parametrize("count", [0, 4, 32], ids=["made up", "few", "many"])
def test_what_varies_little_around_a_large_offset_survives(count: int) -> None:
    model = dense([5.0], [300.0])
    given = samples(count) if count else None
    assert errors(model, given, samples(seed=2)).max() < 0.12


def test_an_offset_that_the_inputs_bring_is_seen_with_many_samples() -> None:
    model, inputs = dense([5.0]), samples(64)
    inputs["x"] = inputs["x"] * np.float32(0.1) + np.float32(20)
    rows = {n: compile_model(model, calibration={"x": inputs["x"][:n]}) for n in (8, 64)}
    assert rows[64].report.outputs[0].step < 0.2 * rows[8].report.outputs[0].step


def test_a_coarse_column_is_named() -> None:
    report = compile_model(dense([200.0, 0.2]), calibration=samples(), techniques=PLAIN).report
    (row,) = report.outputs
    assert (row.column, row.step > row.spread) == (1, True)
    assert row.coarse.startswith("column 1 of 'y' is coarse: it comes in steps of")
    assert "on the calibration inputs it varies by only" in row.coarse
    assert row.coarse in [remark.text for remark in report.remarks]
    fine = compile_model(dense([200.0, 0.2]), calibration=samples()).report
    assert fine.outputs[0].coarse == ""


def image(*nodes: Any, outputs: list[str]) -> bytes:
    """Conv of an image whose four channels differ a thousandfold in size, and *nodes* behind it."""
    weights = np.random.default_rng(3).standard_normal((4, 3, 3, 3)) / 5
    gains = np.array([500.0, 0.5, 1.0, 40.0]).reshape(4, 1, 1, 1)
    constants = {
        "w": (weights * gains).astype(np.float32),
        "b": np.array([-4e3, 0, 0, 3e3], np.float32),
        "rows": np.array([1, -1, 4]),
    }
    conv = node("Conv", "x w b", "c", pads=[1] * 4)
    return make_model([conv, *nodes], {"x": ["N", 3, 6, 6]}, outputs, constants)


HWC = node("Transpose", "c", "h", perm=[0, 2, 3, 1])
FORMS = {
    "image": image(node("Neg", "c", "y"), outputs=["y"]),
    "channels last": image(HWC, node("Neg", "h", "t"), outputs=["t", "c"]),
    "rows": image(HWC, node("Reshape", "h rows", "y"), outputs=["y"]),
    "bounded": image(node("Relu", "c", "y"), outputs=["y"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_undone_wherever_they_lie(form: str) -> None:
    model = FORMS[form]
    inputs = {"x": np.random.default_rng(4).standard_normal((24, 3, 6, 6)).astype(np.float32)}
    run = Pipeline(compile_model(model, calibration=inputs))
    for index in range(4):
        feeds = {"x": inputs["x"][index : index + 1]}
        for name, wanted in run_float(model, feeds).items():
            found = run(feeds)[name]
            axis = -1 if form in ("rows", "channels last") and name != "c" else 1
            # A bound keeps the host from adding the fourth column's offset of 3000.
            for column in range(3 if form == "bounded" else 4):
                value = wanted.take(column, axis)
                off = np.abs(found.take(column, axis) - value).max()
                assert off < 0.06 * (np.ptp(value) or 1.0), (name, column)


def test_a_class_that_no_sample_is_of_is_not_cut_off() -> None:
    """Two samples, both of class 0; the largest value of the others comes later."""
    eye = np.zeros((12, 6), np.float32)
    eye[np.arange(6), np.arange(6)] = 9
    eye[:, 0] *= 40  # One column is so much larger that each has steps of its own.
    model = make_model(
        [node("Gemm", "x w", "y")], {"x": ["N", 12]}, ["y"], {"w": eye + np.float32(0.01)}
    )
    seen = np.random.default_rng(6).normal(0.05, 0.01, (2, 12)).astype(np.float32)
    seen[:, 0] = 1
    other = np.full((1, 12), 0.05, np.float32)
    other[:, 4] = 1
    compiled = compile_model(model, calibration={"x": seen})
    found = Pipeline(compiled)({"x": other})["y"]
    np.testing.assert_allclose(found[0, 1:], run_float(model, {"x": other})["y"][0, 1:], atol=0.4)


def test_the_error_of_such_an_output_is_measured_in_its_own_units() -> None:
    model = dense([200.0, 0.2], [300.0, 0.0])
    compiled = compile_model(model, calibration=samples(), measured=4)
    (row,) = compiled.report.layers
    assert row.error is not None and 0 < row.error < 0.02
