"""What stays on the host computes what the model says, quantisers between its operators or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Pipeline, make_model, node, run_float

from edged._onnxruntime import InferenceSession, session
from edged.bundle import pack, read_arrays, verify_bundle
from edged.compiler import CompiledModel, compile_model

CHANNELS = 8


def quantised_model() -> bytes:
    """A quantised network as converters from TFLite write it: quantisers around every operator.

    The depthwise convolution has a channel that sees zeros only, and with it weights 500 times as
    large as the others', as batch norm folded into a dead channel makes them. That does no harm
    while weights have a scale for each channel.
    """
    rng = np.random.default_rng(7)
    constants: dict[str, npt.NDArray[Any]] = {}
    nodes: list[onnx.NodeProto] = []

    def quantised(name: str, low: float, high: float) -> str:
        scale = (high - low) / 255
        constants[f"{name}/scale"] = np.array(scale, np.float32)
        constants[f"{name}/zero"] = np.array(round(-low / scale), np.uint8)
        for op, before, after in (
            ("QuantizeLinear", name, f"{name}/q"),
            ("DequantizeLinear", f"{name}/q", f"{name}/dq"),
        ):
            nodes.append(node(op, f"{before} {name}/scale {name}/zero", after))
        return f"{name}/dq"

    def weights(name: str, values: npt.NDArray[np.floating[Any]]) -> str:
        scales = np.abs(values).reshape(len(values), -1).max(axis=1) / 127
        spread = scales.reshape(-1, *(1,) * (values.ndim - 1))
        constants[f"{name}/q"] = np.rint(values / spread).astype(np.int8)
        constants[f"{name}/scale"] = scales.astype(np.float32)
        constants[f"{name}/zero"] = np.zeros(len(values), np.int8)
        parts = f"{name}/q {name}/scale {name}/zero"
        nodes.append(node("DequantizeLinear", parts, name, axis=0))
        return name

    stem = rng.normal(0, 0.2, (CHANNELS, 3, 3, 3))
    stem[0] = 1e-6
    deep = rng.normal(0, 0.3, (CHANNELS, 1, 3, 3))
    deep[0] *= 500
    head = rng.normal(0, 1, (4, CHANNELS, 1, 1))
    image = quantised("image", -4, 4)
    nodes.append(node("Conv", f"{image} {weights('stem', stem)}", "a", pads=[1] * 4))
    nodes.append(node("Relu", "a", "b"))
    nodes.append(
        node("Conv", f"{quantised('b', 0, 6)} {weights('deep', deep)}", "c", group=CHANNELS)
    )
    nodes.append(node("Conv", f"{quantised('c', -4, 4)} {weights('head', head)}", "d"))
    nodes.append(node("GlobalAveragePool", quantised("d", -6, 6), "answer"))
    return make_model(nodes, {"image": ["N", 3, 12, 12]}, {"answer": ["N", 4, 1, 1]}, constants)


@pytest.fixture(scope="module")
def model() -> bytes:
    return quantised_model()


@pytest.fixture(scope="module")
def compiled(model: bytes) -> CompiledModel:
    return compile_model(model)


def test_host_operators_between_quantisers_stay_in_float(
    model: bytes, compiled: CompiledModel
) -> None:
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 12, 12)).astype(np.float32)
    wanted = run_float(model, {"image": image})["answer"]
    found = Pipeline(compiled)({"image": image})["answer"]
    assert [row.op for row in compiled.report.host].count("Conv") == 2
    assert np.abs(found - wanted).max() < 0.02 * np.ptp(wanted)


@pytest.mark.parametrize("make", [session, InferenceSession], ids=["edged's", "requantising"])
def test_the_self_test_sees_a_session_that_quantises_float_weights_again(
    model: bytes,
    compiled: CompiledModel,
    tmp_path: Path,
    make: Callable[[bytes], InferenceSession],
) -> None:
    (tmp_path / "net.onnx").write_bytes(model)
    bundle = tmp_path / "net.edgemodel"
    pack(tmp_path / "net.onnx", name="net", version="1.0.0", output=bundle)
    verified = verify_bundle(bundle, tmp_path / "bundle")
    vectors = read_arrays(verified.folder / "selftest.npz")
    assert verified.manifest.self_test is not None
    (tolerance,) = verified.manifest.self_test.tolerances
    run = Pipeline(compiled, make=make)
    worst = max(
        np.abs(run({"image": given[None]})["answer"][0] - wanted).max()
        for given, wanted in zip(vectors["in:image"], vectors["out:answer"], strict=True)
    )
    assert (worst > tolerance) == (make is InferenceSession)
