"""Quantised models run on the device as the float models that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import DATA, Arrays, Pipeline, make_model, node, run_float
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edged._onnxruntime import session
from edged.compiler import CompiledModel, compile_model
from edged.compiler._import import load_graph
from edged.npu import DType

Constants = dict[str, npt.NDArray[Any]]


def float_network() -> bytes:
    """A residual network with a depthwise convolution, a pool, a concatenation and a classifier."""
    rng = np.random.default_rng(5)
    constants: Constants = {}

    def weights(name: str, *shape: int) -> str:
        size = np.prod(shape[1:]) if len(shape) > 1 else 100
        constants[name] = rng.normal(0, 1.4 / np.sqrt(size), shape).astype(np.float32)
        return name

    nodes = [
        node("Conv", f"input {weights('w1', 16, 3, 3, 3)} {weights('b1', 16)}", "c1", pads=[1] * 4),
        node("Relu", "c1", "r1"),
        node("Conv", f"r1 {weights('w2', 16, 16, 3, 3)}", "c2", pads=[1] * 4),
        node("Add", "r1 c2", "a"),
        node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", f"p {weights('w3', 16, 1, 3, 3)}", "c3", group=16, pads=[1] * 4),
        node("Relu", "c3", "r3"),
        node("Concat", "r3 p", "k", axis=1),
        node("Conv", f"k {weights('w4', 24, 32, 1, 1)}", "c4"),
        node("Relu", "c4", "r4"),
        node("GlobalAveragePool", "r4", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", f"f {weights('w5', 24, 10)} {weights('b5', 10)}", "answer"),
    ]
    return make_model(nodes, {"input": ["N", 3, 16, 16]}, {"answer": ["N", 10]}, constants)


def images(count: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, 16, 16)).astype(np.float32)


STATIC = {
    "asymmetric": ("QDQ", "QUInt8", False, {}),
    "signed, weights per channel": ("QDQ", "QInt8", True, {}),
    "symmetric": ("QDQ", "QInt8", False, {"ActivationSymmetric": True}),
    "16-bit activations": ("QDQ", "QUInt16", True, {}),
    "16-bit activations, older opset": ("QDQ", "QUInt16", True, {"UseQDQContribOps": True}),
    "QOperator": ("QOperator", "QUInt8", False, {}),
}


@pytest.fixture(params=[*STATIC, "dynamic"])
def quantised(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """What ONNX Runtime's quantisers make of the network."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        left = iter(images(8, seed=1))

        def get_next(self) -> Arrays | None:
            image = next(self.left, None)
            return None if image is None else {"input": image[None]}

    before, after = tmp_path / "float.onnx", tmp_path / "quantised.onnx"
    before.write_bytes(float_network())
    if request.param == "dynamic":
        quantization.quantize_dynamic(before, after)
    else:
        form, activations, per_channel, extra = STATIC[request.param]
        quantization.quantize_static(
            before,
            after,
            Reader(),
            quant_format=quantization.QuantFormat[form],
            activation_type=quantization.QuantType[activations],
            weight_type=quantization.QuantType.QInt8,
            per_channel=per_channel,
            extra_options=extra,
        )
    return after.read_bytes()


def test_what_onnx_runtime_quantised_runs_on_the_device(quantised: bytes) -> None:
    compiled = compile_model(quantised)
    assert compiled.report.host_macs == 0
    # A float input is rounded to the model's own steps before it comes to the device.
    assert {row.op for row in compiled.report.host} <= {"QuantizeLinear", "DequantizeLinear"}
    assert all(row.where == "prologue" for row in compiled.report.host)
    run = Pipeline(compiled)
    for image in images(6, seed=2):
        wanted = run_float(float_network(), {"input": image[None]})["answer"]
        found = run({"input": image[None]})["answer"]
        assert np.abs(found - wanted).max() < 0.1 * np.ptp(wanted)


def hand_made(
    nodes: Sequence[onnx.NodeProto],
    scales: Mapping[str, tuple[float, np.integer[Any]]],
    *,
    image: int = TensorProto.FLOAT,
    answer: int = TensorProto.FLOAT,
) -> bytes:
    """A model of 8 × 8 pixels; NAME in *scales* gives NAME_s and NAME_z, scale and zero point."""
    rng = np.random.default_rng(3)
    constants: Constants = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32),
    }
    for name, (scale, zero) in scales.items():
        constants |= {f"{name}_s": np.array(scale, np.float32), f"{name}_z": np.array(zero)}
    graph = helper.make_graph(
        list(nodes),
        "quantised",
        [helper.make_tensor_value_info("image", image, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("answer", answer, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def pair(name: str, source: str, target: str) -> list[onnx.NodeProto]:
    """*source* quantised and dequantised as *name* in the scales says."""
    return [
        node("QuantizeLinear", f"{source} {name}_s {name}_z", f"{target}/q"),
        node("DequantizeLinear", f"{target}/q {name}_s {name}_z", target),
    ]


BYTES = {"x": (1 / 64, np.uint8(128)), "six": (6 / 255, np.uint8(0)), "y": (0.1, np.int8(10))}
STEM = [
    node("DequantizeLinear", "image x_s x_z", "real"),
    node("Conv", "real w1", "c", pads=[1, 1, 1, 1]),
]


def pixels(seed: int) -> Arrays:
    return {"image": np.random.default_rng(seed).integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)}


def test_a_range_that_stands_for_relu6_stays_a_bound() -> None:
    nodes = [*STEM, *pair("six", "c", "d"), node("Conv", "d w2", "answer")]
    model = hand_made(nodes, BYTES, image=TensorProto.UINT8)
    compiled = compile_model(model)
    stem = compiled.report.layers[0]
    # The device's steps are the model's own: 255 of them are six.
    assert (stem.dtype, stem.lo, stem.hi) == ("U8", 0, 255)
    assert 255 * 2.0**stem.exponent / stem.scale == pytest.approx(6.0)
    run = Pipeline(compiled)
    loud = {"image": np.where(pixels(0)["image"] < 128, 0, 255).astype(np.uint8)}
    for feeds in (pixels(1), loud):
        wanted, found = run_float(model, feeds)["answer"], run(feeds)["answer"]
        assert np.abs(found - wanted).max() < 0.03 * np.ptp(wanted)


def test_an_asymmetric_input_is_shifted_before_it_comes_to_the_device() -> None:
    nodes = [*STEM, *pair("y", "c", "answer")]
    compiled = compile_model(hand_made(nodes, BYTES, image=TensorProto.UINT8))
    (entering,) = compiled.image.input_tensors
    assert entering.dtype is DType.S8
    prologue = session(compiled.host[0])
    assert [each.type for each in prologue.get_inputs()] == ["tensor(uint8)"]
    feeds = pixels(0)
    (found,) = prologue.run([entering.name], feeds)
    wanted = feeds["image"].transpose(0, 2, 3, 1).astype(np.int64) - 128
    np.testing.assert_array_equal(found, wanted)


MOVED = {
    "a pool": [node("MaxPool", "c/q", "m", kernel_shape=[2, 2], strides=[2, 2])],
    "a reshape": [
        node("Flatten", "c/q", "m0"),
        node("Constant", "", "shape", value_ints=[1, 8, 4, 16]),
        node("Reshape", "m0 shape", "m"),
    ],
    "a concatenation": [
        node("Concat", "c/q c/q", "m0", axis=1),
        node("Split", "m0", "m m1", axis=1),
    ],
}


@pytest.mark.parametrize("between", MOVED.values(), ids=MOVED.keys())
def test_operators_that_move_quantised_values_move_float_ones(
    between: Sequence[onnx.NodeProto],
) -> None:
    nodes = [
        *STEM,
        node("QuantizeLinear", "c y_s y_z", "c/q"),
        *between,
        node("DequantizeLinear", "m y_s y_z", "d"),
        node("Relu", "d", "answer"),
    ]
    model = hand_made(nodes, BYTES, image=TensorProto.UINT8)
    compiled = compile_model(model)
    written = onnx.load_from_string(compiled.host[-1])
    assert "QuantizeLinear" not in {each.op_type for each in written.graph.node}
    agree(model, compiled, steps=2)


def agree(model: bytes, compiled: CompiledModel, steps: float) -> None:
    """Compare with ONNX Runtime in steps of the scale "y"."""
    run = Pipeline(compiled)
    for seed in range(3):
        feeds = pixels(seed)
        wanted, found = run_float(model, feeds)["answer"], run(feeds)["answer"]
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        unit = 1.0 if wanted.dtype.kind in "iu" else BYTES["y"][0]
        off = np.abs(found.astype(np.float64) - wanted.astype(np.float64)) / unit
        assert off.max() <= steps and np.ptp(wanted / unit) > 20


def test_a_quantised_answer_stays_quantised() -> None:
    nodes = [*STEM, node("QuantizeLinear", "c y_s y_z", "answer")]
    model = hand_made(nodes, BYTES, image=TensorProto.UINT8, answer=TensorProto.INT8)
    agree(model, compile_model(model), steps=1)


def test_the_place_of_the_largest_is_looked_for_among_float_values() -> None:
    nodes = [
        *STEM,
        node("QuantizeLinear", "c y_s y_z", "c/q"),
        node("ArgMax", "c/q", "answer", axis=1),
    ]
    model = hand_made(nodes, BYTES, image=TensorProto.UINT8, answer=TensorProto.INT64)
    compiled = compile_model(model)
    assert [row.op for row in compiled.report.host if row.where == "epilogue"] == ["ArgMax"]


def test_what_is_read_by_something_else_is_still_quantised_dynamically() -> None:
    nodes = [
        node("Conv", "image w1", "c"),
        node("DynamicQuantizeLinear", "c", "q s z"),
        node("Cast", "q", "f", to=TensorProto.FLOAT),
        node("Mul", "f s", "answer"),
    ]
    model = hand_made(nodes, {})
    run = Pipeline(compile_model(model))
    feeds = {"image": images(1, seed=4)[:, :, :8, :8]}
    wanted, found = run_float(model, feeds)["answer"], run(feeds)["answer"]
    assert np.abs(found - wanted).max() < 0.03 * np.ptp(wanted)


QUANTISED = DATA / "quantised"


def photographs(size: int) -> list[npt.NDArray[np.uint8]]:
    """Those of the test data, [1, size, size, 3]."""
    paths = [*sorted((DATA / "images").glob("*.jpg")), *sorted(QUANTISED.glob("*.png"))]
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(small)[None])
    return pixels


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [False, True], ids=["ranges alone", "with samples"])
def test_birds(calibrated: bool) -> None:
    """A model trained with quantisation: against its float form, and the file as it is written."""
    content = (QUANTISED / "mobilenet_v2_birds_qdq.onnx").read_bytes()
    float_form = load_graph(content)
    (name,) = float_form.inputs
    pictures = photographs(224)
    samples = {name: np.concatenate(pictures)} if calibrated else None
    compiled = compile_model(content, calibration=samples)
    assert compiled.report.host_macs == 0
    assert not any(row.op == "QuantizeLinear" for row in compiled.report.host)
    run = Pipeline(compiled, fast=True)
    models = {"float": float_form.onnx(float_form.outputs), "as written": content}
    for model in models.values():
        off = []
        for picture in pictures:
            wanted = run_float(model, {name: picture})["prediction"][0]
            found = run({name: picture})["prediction"][0]
            off.append(abs(float(found[wanted.argmax()] - wanted.max())))
            # Where the model is sure, the class is the same.
            assert wanted.max() < 0.4 or found.argmax() == wanted.argmax()
        assert np.mean(off) < 0.03 and max(off) < 0.12, off


@pytest.mark.slow
def test_movenet() -> None:
    """Key points that the float form is sure of, where there is a person to be seen."""
    content = (QUANTISED / "movenet_lightning_qdq.onnx").read_bytes()
    float_form = load_graph(content)
    (name,), (answer,) = float_form.inputs, float_form.outputs
    compiled = compile_model(content)
    report = compiled.report
    assert report.macs > 0.8 * (report.macs + report.host_macs)
    assert not any(row.op == "QuantizeLinear" for row in report.host)
    with Image.open(QUANTISED / "squat.png") as image:
        small = image.convert("RGB").resize((192, 192), Image.Resampling.BILINEAR)
    feeds = {name: np.asarray(small)[None]}
    wanted = run_float(float_form.onnx(float_form.outputs), feeds)[answer][0, 0]
    found = Pipeline(compiled, fast=True)(feeds)[answer][0, 0]
    sure = wanted[:, 2] > 0.3
    assert sure.sum() > 10
    off = np.abs(found - wanted)[sure, :2].max(axis=1)
    assert (off < 0.01).mean() > 0.8 and off.max() < 0.03, off
