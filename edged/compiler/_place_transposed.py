"""Transposed convolutions, as convolutions that each write a part of the output.

With stride s, what an output row y is computed from depends on y mod s: every s-th row is an
ordinary convolution with every s-th row of the kernel, reversed (Shi et al., "Is the deconvolution
layer the same as a convolutional layer?", 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Node
from edged.compiler._kernel import Kernel, Limit, Window
from edged.compiler._layout import Layout
from edged.compiler._place_operands import image, parameters
from edged.npu import Op

__all__ = ["RULES"]

_MAX_PHASES: Final = 64
_MAX_WEIGHTS: Final = 1 << 24

_FLAT_TRANSPOSED: Final = Limit(
    "The kernel has two dimensions.", "its kernel has {count} dimensions, not 2"
)
_FEW_PHASES: Final = Limit(
    f"The product of its strides is at most {_MAX_PHASES}.", "its strides are {strides}"
)
_SMALL_KERNELS: Final = Limit(
    f"With its dilation, its kernel has at most {_MAX_WEIGHTS >> 20} Mi weights.",
    "its kernel has {count} weights with its dilation",
)
_CLEAR_PADDING: Final = Limit(
    "Padding that follows from the size of the output is as much on either side.",
    "its padding is not given, and not the same on either side",
)


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """The convolutions along one dimension.

    Attributes:
        taps: by phase, the kernel's element at each place of the window; its size where there is
            none.
        pad: of the window for phase 0.
    """

    taps: npt.NDArray[np.int64]
    pad: tuple[int, int]


def _transposed(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = image(operands)
    weights, bias = parameters(graph, node)
    if weights.ndim != 4:
        raise _FLAT_TRANSPOSED(count=weights.ndim - 2)
    sizes, shape = source.plane[:2], graph.shape(node.output)
    strides = tuple(int(n) for n in node.attributes.get("strides", (1, 1)))
    if math.prod(strides) > _MAX_PHASES:
        raise _FEW_PHASES(strides=strides)
    groups = int(node.attributes.get("group", 1))
    dilations = node.attributes.get("dilations", (1, 1))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weights.shape[2:], strict=True)]
    channels = weights.shape[0] * weights.shape[1]
    _check_weights(channels * math.prod(reach))
    # The zeros that a dilation puts between weights are weights.
    spread = np.zeros((*weights.shape[:2], *reach), np.float32)
    spread[:, :, :: dilations[0], :: dilations[1]] = weights
    begins = _begins(node, sizes, spread.shape[2:], strides, shape[2:])
    rows, columns = (
        _axis(sizes[axis], shape[2 + axis], spread.shape[2 + axis], strides[axis], begins[axis])
        for axis in range(2)
    )
    _check_weights(channels * rows.taps.size * columns.taps.size)
    # One more row and column of zeros, for places of a window that have no element of the kernel.
    padded = np.pad(spread, ((0, 0), (0, 0), (0, 1), (0, 1)))
    c_in, per_group = weights.shape[:2]
    by_phase = padded.reshape(groups, c_in // groups, per_group, *padded.shape[2:])
    by_phase = by_phase[:, :, :, rows.taps[:, :, None, None], columns.taps]
    # [groups, C_in, C_out, phase, kh, phase, kw] → [groups, phase, phase, C_out, kh, kw, C_in]
    by_phase = by_phase.transpose(0, 3, 5, 2, 4, 6, 1)
    offsets = np.zeros(shape[1], np.float32) if bias is None else bias.reshape(-1)
    offsets = np.broadcast_to(offsets.reshape(groups, 1, 1, per_group), by_phase.shape[:4])
    (top, bottom), (left, right) = rows.pad, columns.pad
    window = Window(by_phase.shape[4:6], pad=(top, left, bottom, right))
    plane = (*shape[2:], shape[1])
    kernel = Kernel(
        Op.CONV,
        node.name,
        (source.base,),
        node.output,
        (plane[0], plane[1], plane[2]),
        window,
        groups,
        np.ascontiguousarray(by_phase).reshape(-1, *by_phase.shape[4:]),
        offsets.reshape(-1),
        phases=(strides[0], strides[1]),
    )
    return kernel, Layout(node.output, kernel.plane, shape)


def _check_weights(count: int) -> None:
    if count > _MAX_WEIGHTS:
        raise _SMALL_KERNELS(count=count)


def _begins(
    node: Node,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    wanted: tuple[int, ...],
) -> list[int]:
    """How many rows and columns of the whole output are cut off at its beginning."""
    attributes = node.attributes
    if attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in attributes:
        return [int(n) for n in attributes.get("pads", (0, 0, 0, 0))[:2]]
    if attributes.get("auto_pad") == b"VALID" and "output_shape" not in attributes:
        return [0, 0]
    added = attributes.get("output_padding", (0, 0))
    begins = []
    for axis in range(2):
        whole = strides[axis] * (sizes[axis] - 1) + added[axis] + kernel[axis]
        if whole < wanted[axis] or (whole - wanted[axis]) % 2:
            raise _CLEAR_PADDING()
        begins.append((whole - wanted[axis]) // 2)
    return begins


def _axis(before: int, after: int, kernel: int, stride: int, begin: int) -> _Axis:
    """Row y = stride · j + r of *after* sums kernel[k] · input[j + q - t] over k = k₀ + stride · t.

    There k₀ = (r + begin) mod stride, and q = (r + begin) div stride.
    """
    shifts, firsts = np.divmod(np.arange(stride) + begin, stride)
    counts = -(-(kernel - firsts) // stride)  # below 1 where the kernel has no element
    rows = -(-after // stride)
    top = max(int((counts - 1 - shifts).max()), rows - before, 0)
    size = max(top + int(shifts.max()) + 1, before + top + 1 - rows + bool(after % stride))
    _check_weights(stride * size)
    turns = top + shifts[:, None] - np.arange(size)
    taps = firsts[:, None] + stride * turns
    taps = np.where((turns >= 0) & (taps < kernel), taps, kernel)
    return _Axis(taps, (top, rows - before - top + size - 1))


RULES: Final[dict[str, Callable[[Graph, Node, list[Layout]], tuple[Kernel, Layout]]]] = {
    "ConvTranspose": _transposed
}
