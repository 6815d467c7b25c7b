"""Transposed convolutions, and linear interpolation, are convolutions that each write a part."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from compiler.pipeline import Pipeline, make_model, node, run_float
from compiler.test_operators import check, exact, ops
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.compiler import compile_model
from edged.npu import Op


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_transposed_convolution(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c_in, c_out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride = draw(pairs), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = [draw(st.integers(0, n - 1)) for n in reach * 2]
    added = [draw(st.integers(0, n - 1)) for n in stride]
    size = draw(st.integers(3, 5)), draw(st.integers(3, 5))
    for axis in range(2):
        whole = stride[axis] * (size[axis] - 1) + added[axis] + reach[axis]
        while whole <= pads[axis] + pads[axis + 2]:
            pads[axis + 2 * (pads[axis + 2] > 0)] -= 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    attributes: dict[str, Any] = {
        "group": groups,
        "strides": stride,
        "dilations": dilation,
        "pads": pads,
        "output_padding": added,
    }
    model = make_model(
        [node("ConvTranspose", "x w b", "y", **attributes)],
        {"x": ["N", c_in, *size]},
        ["y"],
        {"w": exact(rng, (c_in, c_out // groups, *kernel)), "b": exact(rng, (c_out,))},
    )
    samples = {"x": exact(rng, (2, c_in, *size), draw(st.sampled_from([-127, 0])))}
    compiled = check(model, samples)
    assert set(ops(compiled)) == {Op.CONV}
    assert compiled.report.host == ()
    one = {"x": samples["x"][:1]}
    fast = Pipeline(compiled, fast=True)(one)
    np.testing.assert_array_equal(fast["y"], Pipeline(compiled)(one)["y"])


@pytest.mark.parametrize("group", [1, 2, 4])
def test_norm_and_bound_behind_it_become_part_of_it(group: int) -> None:
    rng = np.random.default_rng(3)
    norm = {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in ("s", "o", "m", "v")}
    model = make_model(
        [
            node("ConvTranspose", "x w", "c", strides=[2, 2], group=group),
            node("BatchNormalization", "c s o m v", "n"),
            node("Relu", "n", "y"),
        ],
        {"x": ["N", 4, 5, 5]},
        ["y"],
        {"w": exact(rng, (4, 4 // group, 2, 2)), **norm},
    )
    samples = {"x": exact(rng, (4, 4, 5, 5))}
    compiled = compile_model(model, calibration=samples)
    assert [layer.grid for layer in compiled.image.layers] == [
        (0, 0, 2, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 2),
        (1, 1, 2, 2),
    ]
    assert {layer.lo for layer in compiled.image.layers} == {0}
    one = {"x": samples["x"][:1]}
    wanted, found = run_float(model, one)["y"], Pipeline(compiled)(one)["y"]
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def test_a_phase_multiplies_only_what_it_needs() -> None:
    """Of a kernel of 3 × 3 with stride 2 the phases have 1, 2, 2 and 4 elements."""
    rng = np.random.default_rng(4)
    model = make_model(
        [node("ConvTranspose", "x w", "y", strides=[2, 2], pads=[1, 1, 1, 1])],
        {"x": ["N", 2, 5, 5]},
        ["y"],
        {"w": exact(rng, (2, 3, 3, 3))},
    )
    compiled = check(model, {"x": exact(rng, (1, 2, 5, 5))})
    kernels = [layer.kernel for layer in compiled.image.layers]
    assert sorted(kernels) == [(1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize(
    ("way", "size"),
    [
        ("half_pixel", (10, 8)),
        ("half_pixel", (15, 4)),
        ("half_pixel", (20, 16)),
        ("pytorch_half_pixel", (10, 8)),
        ("asymmetric", (10, 12)),
        ("align_corners", (9, 7)),
        ("align_corners", (13, 4)),
    ],
)
def test_linear_interpolation(way: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    eye = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    resize = node("Resize", "r", "m", mode="linear", coordinate_transformation_mode=way)
    resize.input.extend(["", "", "sizes"])
    model = make_model(
        [node("Relu", "x", "r"), resize, node("Conv", "m eye", "y")],
        {"x": ["N", 3, 5, 4]},
        ["y"],
        {"sizes": np.array([1, 3, *size]), "eye": eye},
    )
    compiled = check(model, {"x": exact(rng, (2, 3, 5, 4))}, steps=1.6)
    assert compiled.report.host == ()


def test_interpolation_by_no_whole_factor_and_at_the_end_is_the_hosts() -> None:
    rng = np.random.default_rng(10)
    for size, behind in (((7, 7), True), ((10, 8), False)):
        resize = node("Resize", "c", "m", mode="linear")
        resize.input.extend(["", "", "sizes"])
        last = node("Conv", "m w", "y") if behind else node("Sigmoid", "m", "y")
        model = make_model(
            [node("Conv", "x w", "c"), resize, last],
            {"x": ["N", 3, 5, 4]},
            ["y"],
            {"sizes": np.array([1, 3, *size]), "w": exact(rng, (3, 3, 1, 1))},
        )
        compiled = compile_model(model)
        assert "Resize" in [row.op for row in compiled.report.host]


def test_all_phases_are_seen_when_exponents_are_chosen() -> None:
    """With a kernel of 4 and a stride of 3, some phases have far larger values than others.

    Pixels of which every third is looked at would show the same phases in all rows.
    """
    rng = np.random.default_rng(226)

    def drawn(*shape: int) -> npt.NDArray[np.float32]:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    model = make_model(
        [
            node("Conv", "x w", "c"),
            node("DepthToSpace", "c", "b", blocksize=2),
            node("Concat", "b b", "j", axis=2),
            node("ConvTranspose", "j t", "z", strides=[3, 3]),
            node("Conv", "z v", "y"),
        ],
        {"x": ["N", 5, 5, 5]},
        ["y"],
        {"w": drawn(4, 5, 1, 1), "t": drawn(1, 3, 4, 4), "v": drawn(3, 3, 1, 1)},
    )
    samples = {"x": rng.normal(0, 1, (6, 5, 5, 5)).astype(np.float32)}
    compiled = compile_model(model, calibration=samples, measured=6)
    assert all(row.error is not None and row.error < 0.08 for row in compiled.report.layers)
