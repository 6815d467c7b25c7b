"""Calibration, the bound on accumulators, memory, and that compiling is reproducible."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float

from edged.compiler import compile_model
from edged.errors import ModelError
from edged.npu import (
    ACCUMULATOR_BOUND,
    DType,
    Entry,
    Op,
    ProgramImage,
    numerics,
    parse_image,
    serialize_image,
    weights_bytes,
)
from edged.remarks import Code


def residual(channels: int = 8, size: int = 12) -> bytes:
    rng = np.random.default_rng(0)
    constants = {
        name: (rng.standard_normal((channels, channels, 3, 3)) / 9).astype(np.float32)
        for name in "uvw"
    }
    pads = [1, 1, 1, 1]
    return make_model(
        [
            node("Conv", "x u", "a", pads=pads),
            node("Relu", "a", "b"),
            node("Conv", "b v", "c", pads=pads),
            node("Add", "b c", "d"),
            node("Conv", "d w", "e", pads=pads),
            node("Relu", "e", "y"),
        ],
        {"x": ["N", channels, size, size]},
        ["y"],
        constants,
    )


def normal(seed: int, *shape: int) -> Arrays:
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def reaches(image: ProgramImage) -> np.ndarray:
    """The largest accumulator of each channel of each convolution, reckoned anew."""
    found = []
    for layer in image.layers:
        if layer.weights is not None and layer.bias is not None:
            source = image.tensors[layer.inputs[0]]
            weights = np.abs(layer.weights.astype(np.int64)).sum(axis=(1, 2, 3))
            peak = 255 if source.dtype is DType.U8 else 128
            found.append(peak * weights + np.abs(layer.bias.astype(np.int64)))
    return np.concatenate(found)


def test_a_long_sum_gets_coarser_weights_and_stays_below_the_bound() -> None:
    """4096 inputs of 127 · 255 would reach 2^27."""
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.5, 1, (4096, 6)).astype(np.float32)
    weights[:, 0] = 0.001  # Nothing to hold back in this channel but the same proportions.
    weights[16:, 1] = 0.0  # Short enough to keep its eight bits.
    model = make_model([node("MatMul", "x w", "y")], {"x": [1, 4096]}, ["y"], {"w": weights})
    samples = {"x": rng.uniform(0, 1, (4, 4096)).astype(np.float32)}
    compiled = compile_model(model, calibration=samples)
    (row,) = compiled.report.layers
    assert row.coarser_channels == 5
    assert row.accumulator == reaches(compiled.image).max() < ACCUMULATOR_BOUND
    layer = compiled.image.layers[0]
    assert layer.weights is not None
    assert np.abs(layer.weights[1].astype(int)).max() > 63
    assert np.abs(layer.weights[2].astype(int)).max() <= 31
    feeds = {"x": samples["x"][:1]}
    wanted = run_float(model, feeds)["y"]
    np.testing.assert_allclose(Pipeline(compiled)(feeds)["y"], wanted, atol=0.01 * wanted.max())


def test_a_large_bias_counts_towards_the_bound() -> None:
    model = make_model(
        [node("Conv", "x w b", "y")],
        {"x": [1, 2, 4, 4]},
        ["y"],
        {
            "w": np.full((3, 2, 1, 1), 1e-6, np.float32),
            "b": np.array([0.0, 50.0, -100.0], np.float32),
        },
    )
    compiled = compile_model(model, calibration=normal(2, 2, 2, 4, 4))
    assert reaches(compiled.image).max() < ACCUMULATOR_BOUND
    found = Pipeline(compiled)(normal(3, 1, 2, 4, 4))["y"]
    np.testing.assert_allclose(found[0, :, 0, 0], [0, 50, -100], atol=0.5)


def test_channels_of_very_different_weights_keep_their_precision() -> None:
    scales = np.array([1e-3, 1.0, 30.0], np.float32).reshape(3, 1, 1, 1)
    rng = np.random.default_rng(4)
    weights = rng.uniform(-1, 1, (3, 4, 1, 1)).astype(np.float32) * scales
    model = make_model(
        [node("Conv", "x w", "c"), node("Conv", "c v", "y", group=3)],
        {"x": [1, 4, 6, 6]},
        ["y"],
        {"w": weights, "v": 1.0 / scales},
    )
    (first, _) = compile_model(model, calibration=normal(5, 4, 4, 6, 6)).report.layers
    assert first.weight_exponents is not None
    assert first.weight_exponents[1] - first.weight_exponents[0] >= 12


def test_tensors_behind_relu_are_unsigned_and_others_signed() -> None:
    image = compile_model(residual(), calibration=normal(6, 4, 8, 12, 12)).image
    assert [image.tensors[layer.output].dtype for layer in image.layers] == [
        DType.U8,  # Conv, Relu
        DType.S8,  # Conv
        DType.S8,  # Add
        DType.U8,  # Conv, Relu
    ]
    assert image.input_tensors[0].dtype is DType.S8


def test_an_input_that_is_never_negative_is_unsigned() -> None:
    samples = {"x": np.abs(normal(7, 4, 8, 12, 12)["x"])}
    assert compile_model(residual(), calibration=samples).image.input_tensors[0].dtype is DType.U8


def test_outliers_within_are_cut_off_but_not_in_what_leaves_the_device() -> None:
    """One value in 50,000 is 64 times the rest."""
    rng = np.random.default_rng(8)
    values = rng.uniform(-1, 1, (1, 1, 224, 224)).astype(np.float32)
    values[0, 0, 0, 0] = 64.0
    one = np.ones((1, 1, 1, 1), np.float32)
    model = make_model(
        [node("Conv", "x w", "c"), node("Conv", "c w", "y")],
        {"x": [1, 1, 224, 224]},
        ["y"],
        {"w": one},
    )
    image = compile_model(model, calibration={"x": values}).image
    tensors = [image.tensors[layer.output] for layer in image.layers]
    inner, outer = ((t.dtype.highest + 0.5) * 2.0**t.exponent for t in tensors)
    assert inner < 64 <= outer


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ({"z": np.zeros((1, 8, 12, 12), np.float32)}, r"inputs \['z'\], the model has \['x'\]"),
        ({"x": np.zeros((0, 8, 12, 12), np.float32)}, "at least one"),
        ({"x": np.zeros((2, 8, 12, 11), np.float32)}, "wanted float32"),
        ({"x": np.zeros((2, 8, 12, 12))}, "are float64"),
        ({"x": np.full((1, 8, 12, 12), np.inf, np.float32)}, "not finite"),
    ],
)
def test_bad_calibration_data_are_refused(samples: Arrays, words: str) -> None:
    with pytest.raises(ModelError, match=f"cannot calibrate.*{words}"):
        compile_model(residual(), calibration=samples)


def test_without_calibration_data_synthetic_ones_are_used_and_it_is_said() -> None:
    model = residual()
    compiled = compile_model(model)
    assert compiled.report.calibration == "synthetic"
    assert compiled.report.remarks[0].code == Code.MADE_UP_CALIBRATION
    feeds = normal(9, 1, 8, 12, 12)
    wanted = run_float(model, feeds)["y"]
    error = np.abs(Pipeline(compiled)(feeds)["y"] - wanted)
    assert error.max() < 0.1 * wanted.max()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    names = ("program.img", "host-0.onnx", "host-1.onnx", "report.json", "remarks.json")
    written = []
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        folder.mkdir()
        compile_model(residual(), calibration=normal(10, 4, 8, 12, 12)).write(folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)
        written.append([(folder / name).read_bytes() for name in names])
    assert written[0] == written[1]
    report = json.loads(written[0][3])
    assert report["macs"] == 3 * 8 * 8 * 9 * 144
    assert [layer["op"] for layer in report["layers"]] == ["CONV", "CONV", "ADD", "CONV"]


def test_tensors_share_memory_without_disturbing_each_other() -> None:
    """Every layer is run on one arena of bytes at the addresses that the program names."""
    compiled = compile_model(residual(), calibration=normal(11, 4, 8, 12, 12))
    image = parse_image(serialize_image(compiled.image))
    arena = bytearray(image.dram_bytes - weights_bytes(image.layers))
    assert len(arena) < sum(tensor.nbytes for tensor in image.tensors)
    assert all(tensor.address % 64 == 0 for tensor in image.tensors)

    (source,) = image.input_tensors
    x = np.random.default_rng(12).integers(-128, 128, source.shape).astype(np.int8)
    arena[source.address : source.address + source.nbytes] = x.tobytes()
    for layer in image.layers:
        entry = Entry((layer,), tuple(dict.fromkeys(layer.inputs)), (layer.output,))
        one = dataclasses.replace(image, entries=(entry,))
        operands = [
            np.frombuffer(arena, t.dtype.numpy, t.size, t.address).reshape(t.shape).copy()
            for t in one.input_tensors
        ]
        (result,) = numerics.run(one, operands)
        (target,) = one.output_tensors
        arena[target.address : target.address + target.nbytes] = result.tobytes()
    (target,) = image.output_tensors
    found = np.frombuffer(arena, target.dtype.numpy, target.size, target.address)
    np.testing.assert_array_equal(found.reshape(target.shape), numerics.run(image, [x])[0])


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize(("side", "most"), [(5, 0.04), (6, 0.07)])
def test_a_long_sum_is_computed_in_parts_and_keeps_more_bits(
    side: int, most: float, flattened: bool
) -> None:
    """As in the first fully connected layer of VGG-16, a convolution of a whole image or a Gemm."""
    rng = np.random.default_rng(side)
    shape = (1 << 10, side, side)
    constants = {
        "w": rng.standard_normal((8, *shape)).astype(np.float32) / 100,
        "b": np.linspace(-1, 1, 8).astype(np.float32),
    }
    nodes = [node("Conv", "x w b", "h"), node("Relu", "h", "y")]
    if flattened:
        constants["w"] = constants["w"].reshape(8, -1)
        nodes[:1] = [node("Flatten", "x", "f"), node("Gemm", "f w b", "h", transB=1)]
    source = make_model(nodes, {"x": ("N", *shape)}, ["y"], constants)
    x = np.abs(rng.standard_normal((16, *shape))).astype(np.float32)
    compiled = compile_model(source, calibration={"x": x})
    assert [layer.op for layer in compiled.image.layers] == [Op.CONV] * 4 + [Op.ADD] * 3

    run = Pipeline(compiled)
    wanted = np.concatenate([run_float(source, {"x": x[i : i + 1]})["y"] for i in range(16)])
    found = np.concatenate([run({"x": x[i : i + 1]})["y"] for i in range(16)])
    # In one sum, with the bits that its weights could have then, it is 0.06 and 0.21.
    assert np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < most
