"""What an error of a tensor, or of weights, is worth at the device's outputs.

Errors of rounding are taken for independent noise that passes through a linear network: a
convolution adds up the variances of what it reads, weighted with the squares of its weights. So the
variance of the outputs follows from that of each tensor, and backwards from the outputs, what a
unit of variance in each channel is worth. The outputs' own mean squares make them comparable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._calibrate import Calibration
from edged.compiler._kernel import Kernel
from edged.compiler._octaves import Octaves
from edged.compiler._partition import Partition
from edged.compiler._passing import Exponents, absorbed, rows_of, sources_of
from edged.npu import Op

__all__ = ["Noise"]

_Float = npt.NDArray[np.float64]

_ROWS: Final = 64
"""Output channels of a convolution whose weights are looked at."""

_BLOCK: Final = 1 << 22
_WEIGHT_LEVELS: Final = 127
_TINY: Final = 1e-30


class Noise:
    """Of one program.

    Attributes:
        worth: of each tensor, what a variance of 1 in a channel adds to the relative squared error
            of the outputs, [C].
    """

    def __init__(self, cut: Partition, seen: Calibration) -> None:
        self._seen = seen
        self._weights: dict[str, list[tuple[_Weights, str]]] = {}
        self.worth: dict[str, _Float] = {
            name: np.zeros(cut.layouts[name].plane[2])
            for name in (*cut.entering, *(kernel.output for kernel in cut.kernels))
        }
        for name in cut.leaving:
            squares = seen.octaves[name].squares
            self.worth[name] += 1.0 / max(float(squares.sum()), _TINY)
        for kernel in reversed(cut.kernels):
            for name, worth in _before(kernel, self.worth, seen.octaves):
                self.worth[name] += worth
            if kernel.op is Op.CONV:
                pair = _Weights(kernel), kernel.output
                self._weights.setdefault(kernel.inputs[0], []).append(pair)

    def of(self, name: str, exponents: Exponents, levels: int) -> float:
        """The relative squared error of the outputs that *exponents* of the tensor *name* bring.

        Args:
            levels: how many steps there are.
        """
        octaves = self._seen.octaves[name]
        total = float((self.worth[name] * octaves.error(exponents, levels)).sum())
        for weights, output in self._weights.get(name, ()):
            total += weights.error(octaves.squares, exponents, self.worth[output])
        return total


def _before(
    kernel: Kernel, worth: Mapping[str, _Float], octaves: Mapping[str, Octaves]
) -> list[tuple[str, _Float]]:
    """What each input's variance is worth, by what that of the output is."""
    after = worth[kernel.output]
    channels = {name: len(worth[name]) for name in kernel.inputs}
    match kernel.op:
        case Op.CONV:
            if kernel.lo == 0.0:
                after = after * octaves[kernel.output].active
            after = after[rows_of(kernel)]
            return [(kernel.inputs[0], _through(kernel, after))]
        case Op.TABLE:
            given, made = octaves[kernel.inputs[0]].squares, octaves[kernel.output].squares
            return [(kernel.inputs[0], after * np.minimum(made / np.maximum(given, _TINY), 1.0))]
        case Op.AVGPOOL:
            return [(kernel.inputs[0], after / math.prod(kernel.window.kernel))]
        case Op.MUL:
            pairs = zip(kernel.inputs, reversed(kernel.inputs), strict=True)
            return [
                (name, _to(channels[name], after * octaves[other].squares)) for name, other in pairs
            ]
        case Op.MATMUL:
            a, b = kernel.inputs
            of_a, of_b = (octaves[name].squares.reshape(kernel.groups, -1) for name in (a, b))
            grouped = after.reshape(kernel.groups, -1)
            through = (grouped * of_b).sum(axis=1, keepdims=True)
            return [
                (a, np.broadcast_to(through, of_a.shape).reshape(-1)),
                (b, (grouped * of_a.sum(axis=1, keepdims=True)).reshape(-1)),
            ]
        case Op.CONCAT:
            ends = np.cumsum(list(map(len, (worth[name] for name in kernel.inputs))))[:-1]
            return list(zip(kernel.inputs, np.split(after, ends), strict=True))
        case Op.COPY:
            result = []
            for move in kernel.moves:
                if move.source is None:
                    continue
                name = kernel.inputs[move.source]
                sources = sources_of(move, channels[name], len(after))
                if sources is None:
                    result.append((name, np.full(channels[name], after.mean())))
                    continue
                given = np.zeros(channels[name])
                np.add.at(given, sources[sources >= 0], after[sources >= 0])
                result.append((name, given))
            return result
    return [(name, _to(channels[name], after)) for name in kernel.inputs]


def _to(channels: int, worth: _Float) -> _Float:
    """*worth* of a tensor that may be repeated over the channels of the output."""
    return worth if len(worth) == channels else np.full(channels, worth.sum())


def _through(kernel: Kernel, after: _Float) -> _Float:
    """Σ_o after[o] · Σ_k w[o, k, c]², for each channel of the input."""
    assert kernel.weights is not None
    count, _, _, depth = kernel.weights.shape
    flat = kernel.weights.reshape(count, -1, depth)
    groups = np.arange(count) // (count // kernel.groups)
    result = np.zeros((kernel.groups, depth))
    rows = max(_BLOCK * count // flat.size, 1)
    for first in range(0, count, rows):
        block = flat[first : first + rows]
        squares = np.einsum("okc,okc->oc", block, block).astype(np.float64)
        each = squares * after[first : first + rows, None]
        np.add.at(result, groups[first : first + rows], each)
    return result.reshape(-1)


class _Weights:
    """What the rounding of a convolution's weights brings, by the exponents of its input."""

    def __init__(self, kernel: Kernel) -> None:
        assert kernel.weights is not None
        count, _, _, depth = kernel.weights.shape
        per_group = count // kernel.groups
        grouped = kernel.weights.reshape(kernel.groups, per_group, -1, depth)
        # Of many filters some tell enough.
        self._every = math.ceil(per_group / max(_ROWS // kernel.groups, 1))
        self._kernel = kernel
        self._window = grouped.shape[2]
        self._highest = np.abs(grouped[:, :: self._every]).max(axis=2).astype(np.float64)

    def error(self, squares: _Float, exponents: Exponents, worth: _Float) -> float:
        """What it is worth.

        Args:
            squares: mean square of each channel of the input.
            worth: of the output's channels.
        """
        groups = self._kernel.groups
        factor = absorbed(self._kernel, exponents)
        highest = (self._highest * factor[:, None]).max(axis=2)
        step = np.exp2(np.ceil(np.log2(np.maximum(highest, _TINY) / _WEIGHT_LEVELS)))
        seen = (squares.reshape(groups, -1) / factor**2).sum(axis=1) * self._window
        of_rows = worth[rows_of(self._kernel)].reshape(groups, -1)[:, :: self._every] * self._every
        return float((step**2 / 12 * seen[:, None] * of_rows).sum())
