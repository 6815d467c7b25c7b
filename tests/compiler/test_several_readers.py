"""A value keeps its range whoever else reads it: random graphs with outputs in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float

from edged.compiler import Techniques, compile_model

COVERING = replace(Techniques(), least_error=False)
"""Without a choice to cut off outliers: what is cut off then is cut off by a fault."""


LINEAR = ["Conv", "Relu", "Clip", "MaxPool", "Average", "Add", "Concat"]
CURVED = [*LINEAR, "Sigmoid", "SiLU", "HardSwish", "PRelu", "Mul", "Gate", "Sub"]


class Branches:
    """A random graph of the device's operators; its values have several readers.

    Args:
        kinds: of the operators.

    Attributes:
        outputs: about half of its values.
    """

    def __init__(self, seed: int, kinds: Sequence[str] = LINEAR) -> None:
        self._kinds = kinds
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}
        self._shapes: dict[str, tuple[int, int]] = {}  # value → channels, side
        self._scales: dict[str, float] = {"x": 1.0}  # value → about its standard deviation
        self._convolve("x", 3, 12)
        for _ in range(int(self._rng.integers(4, 10))):
            self._grow()
        names = list(self._shapes)
        chosen = self._rng.random(len(names)) < 0.5
        self.outputs = [n for n, take in zip(names, chosen, strict=True) if take] or names[-1:]
        self.outputs = list(dict.fromkeys([*self.outputs, names[-1]]))

    def model(self) -> bytes:
        shape = {"x": ("N", 3, 12, 12)}
        return make_model(self._nodes, shape, self.outputs, self._constants)

    def _named(self) -> str:
        return f"v{len(self._shapes)}"

    def _add(
        self, op: str, inputs: str, shape: tuple[int, int], scale: float, **attributes: object
    ) -> None:
        name = self._named()
        self._nodes.append(node(op, inputs, name, **attributes))
        self._shapes[name] = shape
        self._scales[name] = scale

    def _convolve(self, source: str, channels: int, side: int) -> None:
        count = int(self._rng.choice([4, 6]))
        name = self._named()
        gain = self._rng.choice([0.02, 0.5, 1.0, 1.5, 20.0])
        weights = self._rng.standard_normal((count, channels, 3, 3)) * gain / (channels * 9) ** 0.5
        scale = self._scales[source] * gain
        bias = (self._rng.standard_normal(count) * 0.3 + self._rng.choice([-1.5, 0, 0.5])) * scale
        self._constants[f"{name}w"] = weights.astype(np.float32)
        self._constants[f"{name}b"] = bias.astype(np.float32)
        self._add("Conv", f"{source} {name}w {name}b", (count, side), scale, pads=[1] * 4)

    def _grow(self) -> None:
        names = list(self._shapes)
        source = names[int(self._rng.integers(len(names)))]
        shape, scale = self._shapes[source], self._scales[source]
        channels, side = shape
        alike = [n for n in names if self._shapes[n] == shape]
        level = [n for n in names if self._shapes[n][1] == side]
        other = str(self._rng.choice(alike))
        match self._rng.choice(self._kinds):
            case "Conv":
                self._convolve(source, channels, side)
            case "Relu":
                self._add("Relu", source, shape, scale)
            case "Clip":
                low, high = sorted(self._rng.choice([-2.0, -0.5, 0.0, 0.8, 2.5], 2, replace=False))
                name = self._named()
                self._constants[f"{name}l"] = np.array(low * scale, np.float32)
                self._constants[f"{name}h"] = np.array(high * scale, np.float32)
                self._add("Clip", f"{source} {name}l {name}h", shape, scale)
            case "MaxPool":
                pool = {"kernel_shape": [3, 3], "pads": [1] * 4}
                self._add("MaxPool", source, shape, scale, **pool)
            case "Average" if side > 3:
                pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
                self._add("AveragePool", source, (channels, side // 2), scale, **pool)
            case "Add" | "Sub" as op:
                largest = max(scale, self._scales[other])
                self._add(op, f"{source} {other}", shape, largest)
            case "Sigmoid":
                self._add("Sigmoid", source, shape, 1.0)
            case "HardSwish":
                self._add("HardSwish", source, shape, scale)
            case "SiLU":
                self._add("Sigmoid", source, shape, 1.0)
                self._add("Mul", f"{source} v{len(self._shapes) - 1}", shape, scale)
            case "PRelu":
                name = self._named()
                slopes = self._rng.uniform(-0.5, 0.9, (channels, 1, 1))
                self._constants[f"{name}s"] = slopes.astype(np.float32)
                self._add("PRelu", f"{source} {name}s", shape, scale)
            case "Mul":
                self._add("Mul", f"{source} {other}", shape, scale * self._scales[other])
            case "Gate":
                self._add("GlobalAveragePool", other, (channels, 1), self._scales[other])
                self._add("Sigmoid", f"v{len(self._shapes) - 1}", (channels, 1), 1.0)
                self._add("Mul", f"v{len(self._shapes) - 1} {source}", shape, scale)
            case _:
                joined = str(self._rng.choice(level))
                count = channels + self._shapes[joined][0]
                largest = max(scale, self._scales[joined])
                if count <= 24:
                    self._add("Concat", f"{source} {joined}", (count, side), largest, axis=1)


@pytest.mark.parametrize("seed", range(16))
def test_every_output_has_its_range_behind_functions_and_products_too(seed: int) -> None:
    """Looser: products of values that are off are off by more, and sigmoids of coarse values."""
    branches = Branches(seed, CURVED)
    model, samples = branches.model(), normal(seed, 3, 3, 12, 12)
    compiled = compile_model(model, calibration=samples, techniques=COVERING)
    run, fast = Pipeline(compiled), Pipeline(compiled, fast=True)
    for index in range(3):
        feeds = {"x": samples["x"][index : index + 1]}
        wanted, found, again = run_float(model, feeds), run(feeds), fast(feeds)
        for name in branches.outputs:
            assert np.array_equal(found[name], again[name]), name
            reach = np.abs(wanted[name]).max()
            assert np.abs(found[name] - wanted[name]).max() <= 0.35 * reach + 1e-6, name


def normal(seed: int, count: int, *shape: int) -> Arrays:
    values = np.random.default_rng(seed).standard_normal((count, *shape))
    return {"x": values.astype(np.float32)}


@pytest.mark.parametrize("seed", [*range(8), 27, 36, 41, 43, 44, 52])
def test_every_output_has_its_range_whoever_else_reads_it(seed: int) -> None:
    branches = Branches(seed)
    model, samples = branches.model(), normal(seed, 3, 3, 12, 12)
    for techniques in (COVERING, Techniques()):
        run = Pipeline(compile_model(model, calibration=samples, techniques=techniques))
        for index in range(3):
            feeds = {"x": samples["x"][index : index + 1]}
            wanted, found = run_float(model, feeds), run(feeds)
            for name in branches.outputs:
                reach = np.abs(wanted[name]).max()
                off = np.abs(found[name] - wanted[name]).max()
                assert off <= 0.12 * reach + 1e-6, (name, off, reach, techniques.least_error)


def small(nodes: list[onnx.NodeProto], outputs: list[str], **constants: float) -> bytes:
    """A graph on x [N, 2, 8, 8]; constants named by their operand are multiples of the identity."""
    eye = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    arrays = {name: eye * np.float32(gain) for name, gain in constants.items()}
    return make_model(nodes, {"x": ["N", 2, 8, 8]}, outputs, arrays)


def worst(model: bytes, samples: Arrays) -> dict[str, float]:
    """For each output the largest error on the samples, relative to its largest value."""
    run = Pipeline(compile_model(model, calibration=samples))
    wrong: dict[str, list[float]] = {}
    for index in range(len(samples["x"])):
        feeds = {"x": samples["x"][index : index + 1]}
        wanted, found = run_float(model, feeds), run(feeds)
        for name, value in wanted.items():
            off = np.abs(found[name] - value).max() / np.abs(value).max()
            wrong.setdefault(name, []).append(float(off))
    return {name: max(values) for name, values in wrong.items()}


POOL = {"kernel_shape": [3, 3], "pads": [1] * 4}


@pytest.mark.parametrize("reader", ["output", "Conv"])
def test_what_a_max_pool_holds_back_is_kept_for_others(reader: str) -> None:
    """A value from -30 to 4, of which the pool lets through from -16 up."""
    nodes = [node("Conv", "x w", "a"), node("MaxPool", "a", "p", **POOL)]
    outputs = ["p", "a"]
    if reader == "Conv":
        nodes.append(node("Conv", "a v", "b"))
        outputs = ["p", "b"]
    samples = normal(1, 4, 2, 8, 8)
    samples["x"] = -np.abs(samples["x"]) * 8
    assert max(worst(small(nodes, outputs, w=1.0, v=1.0), samples).values()) < 0.06


def test_two_pools_of_one_value_each_keep_what_they_let_through() -> None:
    pools = [
        node("MaxPool", "a", "p", **POOL),
        node("MaxPool", "a", "q", kernel_shape=[8, 8]),
    ]
    for order in (pools, pools[::-1]):
        nodes = [node("Conv", "x w", "a"), *order]
        samples = normal(2, 4, 2, 8, 8)
        samples["x"] = -np.abs(samples["x"]) * 8
        assert worst(small(nodes, ["p", "q"], w=1.0), samples)["p"] < 0.06


def test_a_tiny_addend_keeps_its_range_for_its_other_readers() -> None:
    """No shift of the device lines the two up, and nothing of the one is seen in the sum."""
    nodes = [
        node("Conv", "x w", "a"),
        node("MaxPool", "a", "p", **POOL),
        node("Conv", "x v", "b"),
        node("Add", "p b", "s"),
        node("Conv", "a u", "z"),
    ]
    model = small(nodes, ["p", "s", "z"], w=1e-4, v=3e3, u=1.0)
    assert max(worst(model, normal(3, 4, 2, 8, 8)).values()) < 0.02


def test_what_is_always_zero_on_the_samples_does_not_make_others_coarse() -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("Relu", "a", "r"),
        node("Conv", "x v", "b"),
        node("Concat", "r b", "c", axis=1),
        node("Add", "r b", "s"),
    ]
    samples = normal(4, 4, 2, 8, 8)
    samples["x"] = np.abs(samples["x"]) * np.float32(1e-6)
    model = small(nodes, ["c", "s"], w=-1.0, v=1.0)
    assert max(worst(model, samples).values()) < 0.06


@pytest.mark.parametrize("joint", ["Concat", "Add"])
def test_what_is_joined_into_an_output_is_not_cut_off_before(joint: str) -> None:
    """One value in 512 is just beyond a power of two: worth cutting off inside, not in answers."""
    attributes = {"axis": 1} if joint == "Concat" else {}
    nodes = [
        node("Conv", "x w", "a"),
        node("Conv", "x v", "b"),
        node(joint, "a b", "y", **attributes),
    ]
    samples = {"x": np.clip(normal(5, 16, 2, 8, 8)["x"], -3.0, 3.0)}
    samples["x"][0, 0, 3, 3] = 3.9
    assert worst(small(nodes, ["y"], w=1.1, v=0.1), samples)["y"] < 0.03
