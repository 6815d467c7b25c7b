"""Small networks, written as ONNX's own text with the constants in line.

The text is that of `onnx.parser` (onnx/docs/Syntax.md), with literals for constants, which become
initializers:

=================== =================================================================
``f(0.5)``          a float32 scalar
``f[1,2]``          a float32 vector
``i(3)`` ``i[0,8]`` an int64 scalar, and a vector
``w[16,3,3,3]``     random weights of that shape, scaled by the number of their inputs
``b[16]``           random biases
``n[1,1,24,24]``    normal noise
``v[32]``           variances, from 0.5 to 1.5
``ramp[-1,2]``      16 values evenly spaced, as a vector
``rampc[-1,2]``     the same as [16, 1, 1]: one for each channel
=================== =================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, parser

__all__ = ["CHANNELS", "SIDE", "network", "smooth"]

CHANNELS = 16
SIDE = 24

_Array = npt.NDArray[np.generic]
_Random = np.random.Generator
_LITERAL = re.compile(r"\b(f|i|w|b|n|v|ramp|rampc)([\[(])([^\])]*)[\])]")


def _weights(random: _Random, shape: Sequence[float]) -> _Array:
    shape = [int(size) for size in shape]
    inputs = int(np.prod(shape[1:])) if len(shape) > 2 else shape[-1]
    return random.normal(0, 1.4 / np.sqrt(inputs), shape).astype(np.float32)


def _noise(random: _Random, shape: Sequence[float]) -> _Array:
    return random.normal(0, 1, [int(size) for size in shape]).astype(np.float32)


_MAKERS: dict[str, Callable[[_Random, Sequence[float]], _Array]] = {
    "f": lambda _, values: np.array(values, np.float32),
    "w": _weights,
    "b": lambda random, shape: (0.1 * _noise(random, shape)).astype(np.float32),
    "n": _noise,
    "v": lambda random, shape: (1 + 0.5 * np.tanh(_noise(random, shape))).astype(np.float32),
    "ramp": lambda _, ends: np.linspace(*ends, CHANNELS).astype(np.float32),
    "rampc": lambda _, ends: np.linspace(*ends, CHANNELS).astype(np.float32).reshape(-1, 1, 1),
}


def network(
    inputs: str, outputs: str, body: str, *, opset: int = 17, ir: int = 8, seed: int = 1
) -> onnx.ModelProto:
    """A model.

    Args:
        inputs, outputs: as ONNX's text declares them: ``float[N,3,24,24] input``.
        body: its nodes.
        ir: version of the file format.
    """
    random = np.random.default_rng(seed)
    constants: list[onnx.TensorProto] = []

    def name_of(found: re.Match[str]) -> str:
        kind, bracket, text = found.groups()
        if kind == "i":
            values = np.array([int(each) for each in text.split(",") if each.strip()], np.int64)
        else:
            values = _MAKERS[kind](random, [float(each) for each in text.split(",")])
        name = f"{kind}_{len(constants)}"
        value = values.reshape(()) if bracket == "(" else values
        constants.append(numpy_helper.from_array(value, name))
        return name

    text = (
        f'<ir_version: {ir}, opset_import: ["": {opset}]>\n'
        f"net ({inputs}) => ({outputs}) {{\n{_LITERAL.sub(name_of, body)}\n}}"
    )
    model = parser.parse_model(text)
    model.graph.initializer.extend(constants)
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    return model


def smooth(
    shape: Sequence[int], count: int = 16, seed: int = 5, scale: float = 1.0
) -> npt.NDArray[np.float32]:
    """Noise blurred over the last two dimensions: a little like photographs. [count, *shape]."""
    values = np.random.default_rng(seed).normal(0, scale, (count, *shape))
    for axis in (-1, -2) if len(shape) > 1 else ():
        values = (values + np.roll(values, 1, axis) + np.roll(values, -1, axis)) / np.sqrt(3)
    return values.astype(np.float32)
