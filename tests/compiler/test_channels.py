"""An exponent for each channel, through every operator, against the float model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, relative_error, run_float
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.compiler import compile_model
from edged.compiler._kernel import Move
from edged.compiler._passing import sources_of
from edged.compiler._techniques import Techniques
from edged.npu import Loop, Op

CHANNELS = 16
EVEN = replace(Techniques(), channels=False, wide=False)
SIZES = 2.0 ** np.linspace(-4, 4, CHANNELS)
"""Channels that differ by a factor of 256."""


def uneven(body: Sequence[onnx.NodeProto], **constants: np.ndarray) -> tuple[bytes, Arrays]:
    """*body* reads `a` and `b`, whose channels differ in size, and gives `c`.

    What reads `c` makes its channels equal again, so that each of them counts.
    """
    rng = np.random.default_rng(1)
    identity = np.eye(CHANNELS, dtype=np.float32)
    noise = rng.standard_normal((2, CHANNELS, CHANNELS)).astype(np.float32) / 4
    first = (noise * SIZES[:, None]).astype(np.float32)
    last = (identity + rng.standard_normal((CHANNELS, CHANNELS)) / 32) / SIZES
    nodes = [
        node("Conv", "x wa", "a"),
        node("Conv", "x wb", "b"),
        *body,
        node("Conv", "c wl", "y"),
    ]
    weights = {
        "wa": first[0][:, :, None, None],
        "wb": first[1][:, :, None, None],
        "wl": last.astype(np.float32)[:, :, None, None],
    }
    model = make_model(nodes, {"x": [1, CHANNELS, 12, 12]}, ["y"], {**weights, **constants})
    return model, {"x": rng.standard_normal((8, CHANNELS, 12, 12)).astype(np.float32)}


def depthwise(name: str, source: str) -> onnx.NodeProto:
    return node("Conv", f"{source} wd", name, group=CHANNELS, pads=[1] * 4)


FILTERS = np.random.default_rng(2).standard_normal((CHANNELS, 1, 3, 3)).astype(np.float32) / 3
SLOPES = np.linspace(-0.5, 0.5, CHANNELS, dtype=np.float32).reshape(CHANNELS, 1, 1)
BODIES = {
    "dense": [node("Identity", "a", "c")],
    "relu": [node("Relu", "a", "c")],
    "depthwise": [depthwise("c", "a")],
    "add": [node("Add", "a b", "c")],
    "mul": [node("Sigmoid", "b", "g"), node("Mul", "a g", "c")],
    "table": [node("PRelu", "a slopes", "c")],
    "silu": [node("Sigmoid", "a", "g"), node("Mul", "a g", "c")],
    "maxpool": [node("MaxPool", "a", "c", kernel_shape=[3, 3], strides=[2, 2])],
    "avgpool": [node("AveragePool", "a", "c", kernel_shape=[3, 3], strides=[2, 2])],
    "copy": [node("Slice", "a starts ends axes", "c")],
    "concat": [
        node("Split", "a", "p q", axis=1),
        node("Split", "b", "r s", axis=1),
        node("Concat", "p s", "c", axis=1),
    ],
}


@pytest.mark.parametrize("body", BODIES)
def test_channels_of_different_size_are_as_good_as_equal_ones(body: str) -> None:
    constants = {
        "wd": FILTERS,
        "slopes": SLOPES,
        "starts": np.array([1, 2]),
        "ends": np.array([9, 12]),
        "axes": np.array([2, 3]),
    }
    read = {name for each in BODIES[body] for name in each.input}
    model, samples = uneven(BODIES[body], **{k: v for k, v in constants.items() if k in read})
    each = compile_model(model, calibration=samples)
    even = compile_model(model, calibration=samples, techniques=EVEN)
    assert not each.report.host
    found = relative_error(each, model, samples)
    assert found < 0.06
    assert found < 0.25 * relative_error(even, model, samples)


def test_what_leaves_has_no_exponents_by_what_samples_show() -> None:
    """A class that no sample is of would be cut off: what is large beyond weights' size stays."""
    model, samples = uneven([node("Identity", "a", "c")])
    rare = {"x": samples["x"].copy()}
    rare["x"][:, 0] = 0
    compiled = compile_model(model, calibration=rare)
    assert relative_error(compiled, model, samples) < 0.06


def test_a_tensor_whose_channels_change_places_has_one_exponent() -> None:
    """Every channel of the transposed tensor has elements of every channel."""
    body = [node("Transpose", "a", "t", perm=[0, 2, 1, 3]), node("Conv", "t wt", "c")]
    mixing = np.ones((CHANNELS, 12, 1, 1), np.float32)
    nodes = [node("Conv", "x wa", "a"), *body]
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((CHANNELS, CHANNELS, 1, 1)) * SIZES[:, None, None, None]
    model = make_model(
        nodes,
        {"x": [1, CHANNELS, 12, 12]},
        ["c"],
        {"wa": weights.astype(np.float32), "wt": mixing},
    )
    samples = {"x": rng.standard_normal((8, CHANNELS, 12, 12)).astype(np.float32)}
    compiled = compile_model(model, calibration=samples)
    assert Op.COPY in [layer.op for layer in compiled.image.layers]
    assert not any(layer.per_channel for layer in compiled.image.layers if layer.op is Op.COPY)
    feeds = {"x": samples["x"][:1]}
    wanted, found = run_float(model, feeds)["c"], Pipeline(compiled)(feeds)["c"]
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_sources_of_channels_are_what_the_loops_copy(data: st.DataObject) -> None:
    draw = data.draw
    given_, made = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    loops = draw(
        st.lists(
            st.builds(Loop, st.integers(1, 4), st.integers(0, 9), st.integers(0, 9)), max_size=4
        )
    )
    move = Move(0, draw(st.integers(0, 9)), draw(st.integers(0, 9)), tuple(loops))
    pairs = {(move.source_start % given_, move.target_start % made)}
    for loop in loops:
        pairs = {
            ((source + n * loop.source) % given_, (target + n * loop.target) % made)
            for source, target in pairs
            for n in range(loop.count)
        }
    found = sources_of(move, given_, made)
    targets = [target for _, target in pairs]
    if len(set(targets)) < len(targets):
        assert found is None
        return
    assert found is not None
    assert {(source, target) for target, source in enumerate(found) if source >= 0} == pairs
