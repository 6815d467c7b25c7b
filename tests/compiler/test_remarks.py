"""What the compiler remarks: the host's share and what keeps it there, calibration, coarseness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from compiler.pipeline import make_model, node

from edged.compiler import _remarks, compile_model
from edged.remarks import Code, Remark, parse

_W = np.random.default_rng(5).normal(0, 0.2, (16, 16, 3, 3)).astype(np.float32)
_CONSTANTS = {"w": _W, "v": _W[:, :9], "uneven": np.array([0, 9, 16, 16])}


def remarks(nodes: list[onnx.NodeProto], outputs: str = "y") -> dict[str, Remark]:
    model = make_model(nodes, {"x": ["N", 16, 12, 12]}, outputs.split(), _CONSTANTS)
    return {each.code: each for each in compile_model(model).report.remarks}


def share(nodes: list[onnx.NodeProto], outputs: str = "y") -> Remark:
    return remarks(nodes, outputs)[Code.HOST_SHARE]


def test_a_share_is_kept_by_operators_that_only_together_would_move_it() -> None:
    """Neither alone would move the small convolution, which is not worth a round trip."""
    found = share(
        [
            node("Conv", "x w", "c", pads=[1] * 4),
            node("MaxPool", "c", "p", kernel_shape=[4, 4], strides=[4, 4]),
            node("Softmax", "p", "s", axis=1),
            node("LpNormalization", "s", "t"),
            node("Conv", "t w", "y", pads=[1] * 4),
        ]
    )
    assert found.value == pytest.approx(9 / 153, abs=1e-4) and found.warning
    assert found.text == (
        "6 % of the multiply-accumulates stay on the host (LpNormalization ×1 and Softmax ×1"
        " together: 6 % would move if the device could run them)"
    )


def test_the_fewest_kinds_are_named() -> None:
    """A norm at the end keeps nothing on the host, a Softmax in the middle does."""
    found = share(
        [
            node("Conv", "x w", "c", pads=[1] * 4),
            node("MaxPool", "c", "p", kernel_shape=[4, 4], strides=[4, 4]),
            node("Softmax", "p", "s", axis=1),
            node("Conv", "s w", "d", pads=[1] * 4),
            node("LpNormalization", "d", "y"),
        ]
    )
    assert "(Softmax ×1: 6 % would move if the device could run it)" in found.text


def test_turns_of_the_host_between_runs_are_counted() -> None:
    found = remarks(
        [
            node("Conv", "x w", "c", pads=[1] * 4),
            node("Softmax", "c", "s", axis=1),
            node("Conv", "s w", "d", pads=[1] * 4),
            node("Softmax", "d", "t", axis=1),
            node("LpNormalization", "t", "e"),
            node("Conv", "e w", "f", pads=[1] * 4),
            node("LpNormalization", "f", "y"),
        ]
    )
    assert found[Code.HOST_SHARE].value == 0
    trips = found[Code.ROUND_TRIPS]
    assert (trips.value, trips.warning) == (2, True)
    assert trips.text == (
        "the host takes 2 turns between runs of the device: of Softmax ×2 and LpNormalization ×1;"
        " each is a round trip in every call"
    )


def test_an_order_that_no_loops_make_is_put_down_to_its_reshape() -> None:
    """144 elements of a channel become 256, and so rows begin anywhere in a row."""
    found = share(
        [
            node("Conv", "x w", "c", pads=[1] * 4),
            node("Reshape", "c uneven", "r"),
            node("MaxPool", "r", "p", kernel_shape=[4, 4], strides=[4, 4]),
            node("Conv", "p v", "y", pads=[1] * 4),
        ]
    )
    assert "(Reshape ×1: 6 % would move if the device could run it)" in found.text


def test_what_a_host_operator_costs_itself_is_counted() -> None:
    """A transposed convolution on 144 pixels beside a convolution on as many."""
    transposed = node("ConvTranspose", "c w", "y", strides=[9, 9])
    found = share([node("Conv", "x w", "c", pads=[1] * 4), transposed])
    assert found.value == 0.5
    assert "(ConvTranspose ×1: 50 % would move" in found.text


def test_all_on_the_device_is_no_warning() -> None:
    found = share([node("Conv", "x w", "c"), node("Relu", "c", "y")])
    assert found == Remark("host-share", "all multiply-accumulates run on the device", False, 0.0)


def test_what_is_not_known_is_said() -> None:
    found = share([node("Conv", "x w", "y"), node("Det", "x", "z")], "y z")
    assert found.text.endswith("; the cost of Det ×1 there is not known") and found.warning


def test_made_up_and_few_samples_and_the_file(tmp_path: Path) -> None:
    model = make_model([node("Conv", "x w", "y")], {"x": ["N", 16, 12, 12]}, ["y"], _CONSTANTS)
    made_up = compile_model(model)
    assert made_up.report.remarks[0].code == Code.MADE_UP_CALIBRATION
    assert "edgectl pack --calibration" in made_up.report.remarks[0].text
    made_up.write(tmp_path)
    assert parse((tmp_path / "remarks.json").read_bytes()) == made_up.report.remarks
    one = {"x": np.ones((1, 16, 12, 12), np.float32)}
    few = compile_model(model, calibration=one).report.remarks[0]
    assert (few.code, few.value) == (Code.FEW_SAMPLES, 1)
    assert "on only 1 input;" in few.text


def test_work_that_no_operator_keeps_on_the_host_is_put_down_to_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the device could do and does not, since it is not worth the way there."""
    monkeypatch.setattr(_remarks, "segment_macs", lambda _graph, _kinds: 1 << 40)
    found = share([node("Conv", "x w", "c", pads=[1] * 4), node("Det", "c", "d")], "c d")
    assert "would move" not in found.text
    transposed = node("ConvTranspose", "c w", "y", strides=[9, 9])
    found = share([node("Conv", "x w", "c", pads=[1] * 4), transposed])
    assert found.text == "50 % of the multiply-accumulates stay on the host"
