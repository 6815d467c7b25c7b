"""How long the gateware would take: a simple model, for counters and for ``--pace modelled``.

A layer takes the longer of computing and of moving its data, since the two overlap:

- a convolution's pass over the array handles TI input channels, TO output channels of one group and
  TP pixels per cycle; kernel positions follow each other. A depthwise layer uses one of TI × TO.
- a convolution of s16 passes twice, over the high bytes and over the low ones.
- a product of matrices is a convolution with one kernel position.
- every other layer handles TO channels of TP pixels per cycle.
- each tensor is read and written once, weights are read once, at 17 GB/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from edged.npu import Array, DType, Layer, Op, ProgramImage

__all__ = ["CLOCK_KHZ", "Cost", "cost_of"]

CLOCK_KHZ: Final = 250_000
_BYTES_PER_CYCLE: Final = 17e9 / (CLOCK_KHZ * 1e3)
_LAYER_CYCLES: Final = 64
"""To fetch, decode and drain."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run.

    Attributes:
        cycles: periods of the array's clock.
        stalls: those of them in which the array waited for DRAM.
        read, written: bytes of DRAM traffic.
    """

    cycles: int
    stalls: int
    read: int
    written: int

    @property
    def seconds(self) -> float:
        return self.cycles / (CLOCK_KHZ * 1e3)


def cost_of(image: ProgramImage, entry: int = 0) -> Cost:
    """The modelled cost of one run of an *entry* of *image*."""
    cycles = stalls = read = written = 0
    for layer in image.entries[entry].layers:
        taken = sum(image.tensors[index].nbytes for index in layer.inputs)
        taken += sum(a.nbytes for a in (layer.weights, layer.bias, layer.table) if a is not None)
        taken += sum(np.size(shift) for shift in (layer.shift, *layer.lefts))
        given = _elements_written(layer, image) * image.tensors[layer.output].dtype.numpy.itemsize
        compute = _compute_cycles(layer, image, image.array)
        move = int((taken + given) / _BYTES_PER_CYCLE)
        cycles += max(compute, move) + _LAYER_CYCLES
        stalls += max(0, move - compute)
        read += taken
        written += given
    return Cost(cycles, stalls, read, written)


def _compute_cycles(layer: Layer, image: ProgramImage, array: Array) -> int:
    channels = image.tensors[layer.output].shape[2]
    pixels = -(-_elements_written(layer, image) // channels // array.tp)
    positions = layer.kernel[0] * layer.kernel[1]
    if layer.op is Op.MATMUL:
        c_in = image.tensors[layer.inputs[0]].shape[2] // layer.groups
    elif layer.weights is not None:
        c_in = layer.weights.shape[3]
    else:
        return pixels * positions * -(-channels // array.to)
    passes = -(-c_in // array.ti) * -(-channels // layer.groups // array.to)
    if image.tensors[layer.inputs[0]].dtype is DType.S16:
        passes *= 2
    return pixels * positions * passes * layer.groups


def _elements_written(layer: Layer, image: ProgramImage) -> int:
    """Elements of its output that a layer writes."""
    if layer.op is Op.COPY:
        return math.prod(loop.count for loop in layer.loops)
    height, width, channels = image.tensors[layer.output].shape
    row, column, down, right = layer.grid
    return len(range(row, height, down)) * len(range(column, width, right)) * channels
