"""Tensors of 16 bits: where 8 lose what the outputs are made of, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compiler.pipeline import Arrays, make_model, node, relative_error

from edged.compiler import CompiledModel, compile_model
from edged.compiler._techniques import Techniques
from edged.npu import DType

CHANNELS = 8
SHAPE = [1, CHANNELS, 10, 10]
NARROW = replace(Techniques(), wide=False)


def difference(side: int, last: str) -> tuple[bytes, Arrays]:
    """``y`` is made of ``(x + z / 64) - x``, of which 8 bits hold x alone; z is another channel.

    Args:
        last: a convolution of *side* × *side* reads the difference; or "none".
    """
    identity = np.eye(CHANNELS, dtype=np.float32)
    rng = np.random.default_rng(3)
    constants = {
        "wa": (identity + np.roll(identity, 1, axis=0) / 64)[:, :, None, None],
        "wb": identity[:, :, None, None],
        "wc": rng.standard_normal((CHANNELS, CHANNELS, side, side)).astype(np.float32),
    }
    nodes = [
        node("Conv", "x wa", "a"),
        node("Conv", "x wb", "b"),
        node("Sub", "a b", "d"),
    ]
    if last == "none":
        nodes[-1] = node("Sub", "a b", "y")
        del constants["wc"]
    else:
        nodes.append(node("Conv", "d wc", "y", pads=[side // 2] * 4))
    model = make_model(nodes, {"x": SHAPE}, ["y"], constants)
    return model, {"x": rng.integers(0, 256, (8, *SHAPE[1:])).astype(np.float32)}


def wide(compiled: CompiledModel) -> list[str]:
    return [t.name.split("/")[0] for t in compiled.image.tensors if t.dtype is DType.S16]


@pytest.mark.parametrize(("side", "last"), [(1, "alone"), (3, "alone"), (1, "none")])
def test_a_small_difference_of_large_tensors_is_kept(side: int, last: str) -> None:
    model, samples = difference(side, last)
    compiled = compile_model(model, calibration=samples)
    assert relative_error(compiled, model, samples) < 0.03
    narrow = compile_model(model, calibration=samples, techniques=NARROW)
    assert relative_error(narrow, model, samples) > 0.2
    assert not wide(narrow)
    rows = [row for row in compiled.report.layers if row.wide is not None]
    assert [row.dtype for row in rows] == ["S16"] * len(wide(compiled))
    assert 0.9 < sum(row.wide or 0 for row in rows) <= 1


def test_what_8_bits_hold_stays_in_8_bits() -> None:
    rng = np.random.default_rng(4)
    weights = rng.standard_normal((2, CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    nodes = [node("Conv", "x wa", "a"), node("Relu", "a", "r"), node("Conv", "r wb", "y")]
    model = make_model(nodes, {"x": SHAPE}, ["y"], {"wa": weights[0], "wb": weights[1]})
    samples = {"x": rng.standard_normal((8, *SHAPE[1:])).astype(np.float32)}
    assert not wide(compile_model(model, calibration=samples))
    assert not [row for row in compile_model(model).report.layers if row.wide is not None]


def magnitude() -> tuple[bytes, Arrays]:
    """``y`` is made of ``√(a² + b²)``; most of these are small beside the largest."""
    rng = np.random.default_rng(5)
    identity = np.eye(CHANNELS, dtype=np.float32)
    constants = {
        "wa": identity[:, :, None, None],
        "wb": np.roll(identity, 1, axis=0)[:, :, None, None],
        "wc": rng.standard_normal((CHANNELS, CHANNELS, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("Conv", "x wa", "a"),
        node("Conv", "x wb", "b"),
        node("Mul", "a a", "aa"),
        node("Mul", "b b", "bb"),
        node("Add", "aa bb", "sum"),
        node("Sqrt", "sum", "root"),
        node("Conv", "root wc", "y"),
    ]
    model = make_model(nodes, {"x": SHAPE}, ["y"], constants)
    large = rng.random((16, *SHAPE[1:])) < 0.01
    signs = rng.choice([-1.0, 1.0], large.shape)
    small = rng.integers(1, 6, large.shape)
    return model, {"x": (signs * np.where(large, 120, small)).astype(np.float32)}


def test_what_neither_8_bits_hold_nor_tables_read_in_16_is_the_hosts() -> None:
    model, samples = magnitude()
    compiled = compile_model(model, calibration=samples)
    narrow = compile_model(model, calibration=samples, techniques=NARROW)
    assert len(narrow.image.entries) == 1 and len(compiled.image.entries) == 2
    assert relative_error(compiled, model, samples) < 0.5 * relative_error(narrow, model, samples)
    # The convolutions stay, and what goes between them and the host has all that the host knows.
    assert compiled.report.host_macs == 0
    assert {"a", "b", "root"} <= set(wide(compiled))
    reasons = {row.name: row.reason for row in compiled.report.host}
    assert any("8 bits are too few" in reason for reason in reasons.values()), reasons
