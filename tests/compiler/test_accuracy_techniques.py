"""What the compiler does for accuracy: that each part does what it says, on networks of its own."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float
from onnx import TensorProto, helper

from edged.compiler import CompiledModel, Techniques, compile_model
from edged.compiler._calibrate import supplemented
from edged.compiler._fold import fold
from edged.compiler._import import load_graph
from edged.compiler._kernel import Kernel, Window
from edged.compiler._partition import Partition, partition
from edged.compiler._round import Correlations, compensated
from edged.compiler._stretch import stretch
from edged.npu import DType, Op

SIX = {"zero": np.float32(0), "six": np.float32(6)}


def inverted_residuals(channels: int = 8, size: int = 10) -> bytes:
    """Two blocks of MobileNetV2, with ReLU6 and an addition; the mean of the last ReLU6."""
    rng = np.random.default_rng(0)
    wide = 3 * channels

    def weights(*shape: int) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(shape) * 1.6 / math.prod(shape[1:]) ** 0.5).astype(np.float32)

    constants: dict[str, npt.NDArray[Any]] = {k: np.asarray(v) for k, v in SIX.items()}
    constants |= {"w0": weights(channels, 3, 3, 3), "b0": weights(channels)}
    nodes = [node("Conv", "x w0 b0", "stem", pads=[1] * 4)]
    source = "stem"
    for block in "uv":
        constants |= {
            f"{block}1": weights(wide, channels, 1, 1) * 2,
            f"{block}2": weights(wide, 1, 3, 3),
            f"{block}b": rng.uniform(0, 2, wide).astype(np.float32),
            f"{block}3": weights(channels, wide, 1, 1),
        }
        nodes += [
            node("Conv", f"{source} {block}1", f"{block}a"),
            node("Clip", f"{block}a zero six", f"{block}A"),
            node("Conv", f"{block}A {block}2 {block}b", f"{block}d", group=wide, pads=[1] * 4),
            node("Clip", f"{block}d zero six", f"{block}D"),
            node("Conv", f"{block}D {block}3", f"{block}p"),
            node("Add", f"{source} {block}p", f"{block}s"),
        ]
        source = f"{block}s"
    constants["head"] = weights(5, wide, 1, 1)
    nodes += [
        node("Conv", f"{source} u1", "e"),
        node("Clip", "e zero six", "E"),
        node("GlobalAveragePool", "E", "g"),
        node("Conv", "g head", "y"),
    ]
    return make_model(nodes, {"x": ["N", 3, size, size]}, ["y"], constants)


def normal(seed: int, *shape: int) -> Arrays:
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def cut_of(model: bytes) -> Partition:
    return partition(fold(load_graph(model)))


def float_run(cut: Partition, x: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """The kernels of *cut*, in double: every tensor of it."""
    values = {cut.entering[0]: x}
    for kernel in cut.kernels:
        operands = [values[name] for name in kernel.inputs]
        if kernel.op is Op.CONV:
            result = convolved(kernel, operands[0])
        elif kernel.op is Op.ADD:
            result = operands[0] + operands[1]
        else:
            assert kernel.op is Op.AVGPOOL
            result = operands[0].mean(axis=(0, 1), keepdims=True)
        values[kernel.output] = np.clip(result, kernel.lo, kernel.hi)
    return values


def convolved(kernel: Kernel, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    assert kernel.weights is not None and kernel.bias is not None
    top, left, bottom, right = kernel.window.pad
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)))
    height, width, channels = kernel.plane
    result = np.tile(kernel.bias.astype(np.float64), (height, width, 1))
    for y in range(kernel.window.kernel[0]):
        for z in range(kernel.window.kernel[1]):
            seen = padded[y : y + height, z : z + width]
            tap = kernel.weights[:, y, z].astype(np.float64)
            result += seen * tap[:, 0] if kernel.groups == channels else seen @ tap.T
    return result


def test_stretching_changes_nothing_that_the_network_computes() -> None:
    cut = cut_of(inverted_residuals())
    stretched = stretch(cut)
    x = np.random.default_rng(1).standard_normal((10, 10, 3))
    before, after = float_run(cut, x), float_run(stretched, x)
    assert (before["uA"] == 6).any() and (before["uD"] == 6).any()  # The bound is at work.
    assert set(stretched.scales) == {"uA", "uD", "vA", "vD", "E", "g"}
    for name, value in before.items():
        scaled = after[name] / stretched.scales.get(name, 1.0)
        np.testing.assert_allclose(scaled, value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_stretched_bound_is_the_largest_integer_and_needs_no_clipping() -> None:
    model, samples = inverted_residuals(), normal(2, 8, 3, 10, 10)
    rows = {row.name: row for row in compile_model(model, calibration=samples).report.layers}
    plain = replace(Techniques(), stretch=False)
    others = compile_model(model, calibration=samples, techniques=plain).report.layers
    assert (rows["Conv_ud"].dtype, rows["Conv_ud"].hi) == ("U8", 255)
    assert rows["Conv_ud"].scale == 255 / 192
    assert {row.name: row.hi for row in others}["Conv_ud"] == 192


def test_what_enters_and_leaves_the_device_is_not_stretched() -> None:
    constants = {"w": np.ones((4, 4, 1, 1), np.float32), **SIX}
    nodes = [
        node("Clip", "x zero six", "a"),
        node("Conv", "a w", "b"),
        node("Clip", "b zero six", "y"),
    ]
    cut = stretch(cut_of(make_model(nodes, {"x": [1, 4, 6, 6]}, ["y"], constants)))
    assert not set(cut.scales) & {*cut.entering, *cut.leaving}
    assert cut.kernels[-1].hi == 6


def test_tensors_that_are_added_or_joined_have_one_scale() -> None:
    rng = np.random.default_rng(3)
    constants = {n: rng.standard_normal((4, 4, 1, 1)).astype(np.float32) for n in "uvw"}
    nodes = [
        node("Conv", "x u", "a"),
        node("Clip", "a zero six", "b"),
        node("Conv", "x v", "c"),
        node("Add", "b c", "d"),
        node("Concat", "d c", "e", axis=1),
        node("Conv", "e t", "y"),
    ]
    constants["t"] = rng.standard_normal((3, 8, 1, 1)).astype(np.float32)
    cut = stretch(cut_of(make_model(nodes, {"x": [1, 4, 6, 6]}, ["y"], constants | SIX)))
    assert {cut.scales.get(name) for name in "bcde"} == {255 / 192}
    assert not {"x", "y"} & set(cut.scales)


def depthwise(window: Window, size: int, channels: int, weights: npt.NDArray[np.float32]) -> Kernel:
    return Kernel(
        Op.CONV,
        "d",
        ("x",),
        "y",
        (*window.over(size, size), channels),
        window,
        channels,
        weights,
        np.zeros(channels, np.float32),
    )


def smooth(rng: np.random.Generator, size: int, channels: int) -> npt.NDArray[np.float32]:
    """Planes whose neighbours are alike."""
    steps = rng.standard_normal((size, size, channels)).cumsum(axis=0).cumsum(axis=1)
    return np.asarray(steps / steps.std(), np.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_correlations_are_of_what_the_weights_meet(stride: int, dilation: int) -> None:
    rng = np.random.default_rng(4)
    window = Window((3, 2), (stride, stride), (1, 0, 2, 1), (dilation, dilation))
    kernel = depthwise(window, 9, 5, np.zeros((5, 3, 2, 1), np.float32))
    planes = [smooth(rng, 9, 5) for _ in range(3)]
    correlations = Correlations(kernel, len(planes))
    for plane in planes:
        correlations.add(plane)
    height, width, _ = kernel.plane
    wanted = np.zeros((5, 6, 6))
    for plane in planes:
        padded = np.pad(plane, ((1, 2), (0, 1), (0, 0)))
        for y in range(height):
            for x in range(width):
                rows = y * stride + dilation * np.arange(3)
                columns = x * stride + dilation * np.arange(2)
                met = padded[np.ix_(rows, columns)].reshape(6, 5).T.astype(np.float64)
                wanted += met[:, :, None] * met[:, None, :]
    np.testing.assert_allclose(correlations.by_channel, wanted, rtol=1e-4, atol=1e-3)


def test_compensated_weights_err_less_on_other_inputs_of_the_kind() -> None:
    rng = np.random.default_rng(5)
    weights = rng.uniform(-6, 6, (32, 3, 3, 1)).astype(np.float32)  # In steps: few bits.
    kernel = depthwise(Window((3, 3), pad=(1, 1, 1, 1)), 16, 32, weights)
    correlations = Correlations(kernel, 2)
    for _ in range(2):
        correlations.add(smooth(rng, 16, 32))
    flat = weights.reshape(32, 9).astype(np.float64)
    found = compensated(flat, correlations.by_channel, 127)
    assert np.array_equal(found, np.rint(found))

    unseen = smooth(rng, 16, 32).astype(np.float64)

    def error(steps: npt.NDArray[np.float64]) -> float:
        wrong = replace(kernel, weights=(steps - flat).reshape(weights.shape).astype(np.float32))
        return float((convolved(wrong, unseen) ** 2).mean())

    assert error(found) < 0.4 * error(np.rint(flat))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_inputs_without_a_square_round_to_the_nearest(scale: float) -> None:
    """Zeros, and what float32 has no squares of."""
    rng = np.random.default_rng(6)
    weights = rng.uniform(-3, 3, (4, 3, 3, 1)).astype(np.float32)
    correlations = Correlations(depthwise(Window((3, 3)), 8, 4, weights), 1)
    correlations.add(np.full((8, 8, 4), scale, np.float32))
    flat = weights.reshape(4, 9).astype(np.float64)
    np.testing.assert_array_equal(compensated(flat, correlations.by_channel, 127), np.rint(flat))


def test_weights_stay_within_their_levels() -> None:
    flat = np.array([[2.6, -2.6, 2.6, 2.6]])
    found = compensated(flat, np.ones((1, 4, 4)), 2)
    assert np.abs(found).max() <= 2


def test_many_samples_are_thinned_out_evenly() -> None:
    kernel = depthwise(Window((3, 3)), 130, 32, np.zeros((32, 3, 3, 1), np.float32))
    many = Correlations(kernel, 100)
    for value in range(100):
        many.add(np.full((130, 130, 32), value, np.float32))
    # 128 · 128 · 32 · 81 products a sample: six are enough.
    values = np.sqrt(many.by_channel[0, 0, 0] / (128 * 128))
    taken = range(0, 100, 17)
    np.testing.assert_allclose(values, math.sqrt(sum(v * v for v in taken)), rtol=1e-4)


def test_biases_make_up_for_the_shift_that_rounding_brings() -> None:
    """Weights of 0.7 in steps of 1, because of the one of 100: all are rounded up."""
    rng = np.random.default_rng(7)
    weights = rng.uniform(0.6, 0.8, (4, 64, 1, 1)).astype(np.float32)
    weights[:, 0] = 100.0
    model = make_model(
        [node("Conv", "x w", "y")],
        {"x": [1, 64, 8, 8]},
        ["y"],
        {"w": weights},
    )
    samples = {"x": rng.normal(5, 0.5, (6, 64, 8, 8)).astype(np.float32)}
    samples["x"][:, 0] *= 0.1
    feeds = {"x": samples["x"][:1]}
    wanted = run_float(model, feeds)["y"]

    def shift(techniques: Techniques) -> float:
        done = compile_model(model, calibration=samples, techniques=techniques)
        return float(np.abs((Pipeline(done)(feeds)["y"] - wanted).mean(axis=(0, 2, 3))).max())

    assert shift(Techniques()) < 0.1 * shift(replace(Techniques(), expected_error=False))


def test_together_they_bring_the_network_nearer_to_float() -> None:
    model, samples = inverted_residuals(), normal(8, 16, 3, 10, 10)
    none = Techniques(**{field.name: False for field in fields(Techniques)})

    def error(compiled: CompiledModel) -> float:
        run = Pipeline(compiled)
        others = [normal(100 + seed, 1, 3, 10, 10) for seed in range(8)]
        wrong = [run(feeds)["y"] - run_float(model, feeds)["y"] for feeds in others]
        return float(np.square(wrong).mean())

    plain = error(compile_model(model, calibration=samples, techniques=none))
    assert error(compile_model(model, calibration=samples)) < 0.7 * plain


def test_each_of_them_gives_the_same_bytes_twice() -> None:
    model, samples = inverted_residuals(), normal(9, 4, 3, 10, 10)
    programs = {compile_model(model, calibration=samples).program for _ in range(3)}
    assert len(programs) == 1
    for field in fields(Techniques):
        one = replace(Techniques(), **{field.name: False})
        other = compile_model(model, calibration=samples, techniques=one).program
        assert other == compile_model(model, calibration=samples, techniques=one).program
        # Not for floats with samples, nor columns that are alike, nor where 8 bits are enough.
        unused = field.name in ("scaled_input", "supplemented", "columns", "wide")
        assert (other in programs) == unused, field.name


def large_inputs(gain: float) -> bytes:
    """What batch norm folded into the weights looks like, for inputs around *gain*."""
    rng = np.random.default_rng(10)
    weights = rng.standard_normal((16, 1, 3, 3)).astype(np.float32) / 3
    return make_model(
        [node("Conv", "x w", "a"), node("Relu", "a", "y")],
        {"x": [1, 1, 24, 24]},
        ["y"],
        {"w": weights / np.float32(gain)},
    )


def test_synthetic_floats_are_as_large_as_the_first_layer_expects() -> None:
    def reach(gain: float, techniques: Techniques) -> float:
        compiled = compile_model(large_inputs(gain), techniques=techniques)
        return 127 * 2.0 ** compiled.image.input_tensors[0].exponent

    assert 4 <= reach(1.0, Techniques()) <= 16
    assert 100 <= reach(40.0, Techniques()) <= 640
    assert reach(40.0, replace(Techniques(), scaled_input=False)) < 8


def test_synthetic_samples_of_a_first_layer_of_zeros_keep_their_scale() -> None:
    model = make_model(
        [node("Conv", "x w", "y")],
        {"x": [1, 2, 6, 6]},
        ["y"],
        {"w": np.zeros((3, 2, 1, 1), np.float32)},
    )
    assert compile_model(model).image.input_tensors[0].dtype is DType.S8


def pixels(dtype: int = TensorProto.UINT8) -> bytes:
    """A convolution of an image of that type."""
    cast = node("Cast", "x", "f", to=TensorProto.FLOAT)
    nodes = [cast, node("Conv", "f w", "y", pads=[1] * 4)]
    weights = np.random.default_rng(11).standard_normal((2, 3, 3, 3)).astype(np.float32)
    return make_model(nodes, {"x": [1, 3, 8, 8]}, ["y"], {"w": weights}, dtype=dtype)


@pytest.mark.parametrize(("given", "used"), [(1, 8), (7, 8), (8, 8), (9, 9)])
def test_few_images_have_made_up_ones_beside_them(given: int, used: int) -> None:
    images = np.full((given, 3, 8, 8), 7, np.uint8)
    found = supplemented(fold(load_graph(pixels())), {"x": images})["x"]
    assert (found.shape, found.dtype) == ((used, 3, 8, 8), np.uint8)
    np.testing.assert_array_equal(found[:given], images)
    assert all(np.ptp(image) > 100 for image in found[given:])


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.INT32])
def test_few_images_of_unknown_range_are_left_alone(dtype: int) -> None:
    images = np.zeros((1, 3, 8, 8), helper.tensor_dtype_to_np_dtype(dtype))
    assert supplemented(fold(load_graph(pixels(dtype))), {"x": images})["x"] is images


def test_the_report_counts_the_samples_that_were_given() -> None:
    report = compile_model(pixels(), calibration={"x": np.full((2, 3, 8, 8), 9, np.uint8)}).report
    assert (report.calibration, report.samples) == ("samples", 2)
    assert "calibrated on only 2 inputs" in report.remarks[0].text
