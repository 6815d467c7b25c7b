"""What stays on the host computes what the model says, quantisers between its operators or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import make_model, node, run_float

from edged._onnxruntime import InferenceSession, session

CHANNELS = 8


def quantised_model() -> bytes:
    """A network with quantisers around every operator, its weights made float constants.

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
        constants[name] = values.astype(np.float32)
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


@pytest.mark.parametrize("make", [session, InferenceSession], ids=["edged's", "requantising"])
def test_float_operators_between_quantisers_stay_in_float(
    make: Callable[[bytes], InferenceSession],
) -> None:
    model = quantised_model()
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 12, 12)).astype(np.float32)
    wanted = run_float(model, {"image": image})["answer"]
    (found,) = make(model).run(None, {"image": image})
    off = np.abs(found - wanted).max() / np.ptp(wanted)
    assert (off > 0.05) == (make is InferenceSession)
