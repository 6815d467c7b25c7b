"""What makes a program image sound, beyond its bytes: geometry, order, bounds, addresses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edged.errors import ImageError
from edged.npu.graph import (
    ACCUMULATOR_BOUND,
    WIDE_ACCUMULATOR_BOUND,
    DType,
    Entry,
    Layer,
    Op,
    ProgramImage,
    Tensor,
)
from edged.npu.regmap import MAX_ENTRIES

__all__ = ["check_image", "window_shape"]


def window_shape(layer: Layer, height: int, width: int) -> tuple[int, int]:
    """Height and width of what a kernel gives over an input of *height* × *width*; may be ≤ 0."""
    top, left, bottom, right = layer.pad
    return (
        (height + top + bottom - layer.dilation[0] * (layer.kernel[0] - 1) - 1) // layer.stride[0]
        + 1,
        (width + left + right - layer.dilation[1] * (layer.kernel[1] - 1) - 1) // layer.stride[1]
        + 1,
    )


def check_image(image: ProgramImage, weights_bytes: int) -> None:
    """Prove that *image* can be executed as it is written.

    Args:
        weights_bytes: size of the weights section, which shares the bank's DRAM.

    Raises:
        ImageError: naming the layer or tensor, what was found and what was wanted.
    """
    arena = image.dram_bytes - weights_bytes
    for tensor in image.tensors:
        if tensor.address + tensor.nbytes > arena:
            raise ImageError(
                f"cannot use program image: tensor {tensor.name!r} ends at"
                f" {tensor.address + tensor.nbytes}, activations have {max(arena, 0)} bytes"
            )
        if tensor.address % tensor.dtype.numpy.itemsize:
            raise ImageError(
                f"cannot use program image: tensor {tensor.name!r} has address {tensor.address},"
                f" wanted a multiple of {tensor.dtype.numpy.itemsize}"
            )
    if not 1 <= len(image.entries) <= MAX_ENTRIES:
        raise ImageError(
            f"cannot use program image: it has {len(image.entries)} entries, wanted 1 …"
            f" {MAX_ENTRIES}"
        )
    for number, entry in enumerate(image.entries):
        _check_entry(image, number, entry, arena)


def _check_entry(image: ProgramImage, number: int, entry: Entry, arena: int) -> None:
    """Prove that *entry* can be executed, with nothing in DRAM but its inputs."""
    if not entry.inputs or not entry.outputs or not entry.layers:
        raise ImageError(
            f"cannot use program image: entry {number} needs an input, an output and a layer"
        )
    written = _Written(image.tensors, entry.inputs, arena)
    for layer in entry.layers:
        where = f"cannot use program image: layer {layer.name!r} ({layer.op.name.lower()})"
        for index in layer.inputs:
            if index not in written.whole:
                raise ImageError(f"{where} reads tensor {index} before it is written")
        written.add(where, layer)
        inputs = [image.tensors[index] for index in layer.inputs]
        output = image.tensors[layer.output]
        if 0 in (*layer.kernel, *layer.stride, *layer.dilation, layer.groups):
            raise ImageError(f"{where} has a zero kernel, stride, dilation or group count")
        if layer.grid != (0, 0, 1, 1) and layer.op is not Op.CONV:
            raise ImageError(f"{where} has a grid, which convolutions have alone")
        if (layer.op is Op.COPY) != bool(layer.loops):
            raise ImageError(f"{where} has {len(layer.loops)} loops")
        if not output.dtype.lowest <= layer.lo <= layer.hi <= output.dtype.highest:
            raise ImageError(
                f"{where} has bounds {layer.lo} … {layer.hi}, {output.dtype.name.lower()} has"
                f" {output.dtype.lowest} … {output.dtype.highest}"
            )
        if len(inputs) not in _ARITY[layer.op]:
            raise ImageError(f"{where} has {len(inputs)} inputs")
        _CHECKS[layer.op](where, layer, inputs, output)
    missing = [index for index in entry.outputs if index not in written.whole]
    if missing:
        raise ImageError(
            f"cannot use program image: output tensor {missing[0]} of entry {number} is never"
            " written"
        )


class _Written:
    """Which tensors are written whole, and which elements of the others.

    Attributes:
        whole: indices of the former.
    """

    def __init__(self, tensors: Sequence[Tensor], inputs: Iterable[int], arena: int) -> None:
        self.whole = set(inputs)
        self._tensors = tensors
        self._room = arena
        self._marks: dict[int, npt.NDArray[np.bool_]] = {}
        self._missing: dict[int, int] = {}

    def add(self, where: str, layer: Layer) -> None:
        """Note what *layer* writes.

        Raises:
            ImageError: it was written before, or is not inside.
        """
        index = layer.output
        if index in self.whole or (index in self._marks and not layer.in_part):
            raise ImageError(f"{where} writes tensor {index} a second time")
        if not layer.in_part:
            self.whole.add(index)
            return
        tensor = self._tensors[index]
        if index not in self._marks:
            # They are in DRAM beside each other: so are the marks bounded.
            self._room -= tensor.size
            if self._room < 0:
                raise ImageError(f"{where} leaves more unfinished tensors than DRAM can hold")
            self._marks[index] = np.zeros(tensor.shape, np.bool_)
            self._missing[index] = tensor.size
        try:
            part = layer.written(self._marks[index])
        except ValueError as error:
            raise ImageError(f"{where} writes outside of tensor {index}: {error}") from error
        self._missing[index] -= math.prod(part.shape)
        if self._missing[index] >= 0:
            part[...] = True
        if self._missing[index] <= 0:
            # As many were written as there are: if one is left out, another was written twice.
            if self._missing[index] < 0 or not self._marks[index].all():
                raise ImageError(f"{where} writes elements of tensor {index} a second time")
            del self._marks[index]
            self._room += tensor.size
            self.whole.add(index)


def _window(where: str, layer: Layer, source: Tensor, output: Tensor) -> None:
    height, width, _ = source.shape
    row, column, down, right = layer.grid
    wanted = len(range(row, output.shape[0], down)), len(range(column, output.shape[1], right))
    if window_shape(layer, height, width) != wanted:
        raise ImageError(
            f"{where} gives {window_shape(layer, height, width)} pixels, its output has {wanted}"
        )
    for pad, kernel, dilation in zip(layer.pad, layer.kernel * 2, layer.dilation * 2, strict=True):
        if pad > dilation * (kernel - 1):
            raise ImageError(f"{where} pads {pad}, a whole window")


def _shifts(where: str, layer: Layer, limit: int = 31) -> None:
    for what, shifts, most in (("left shift", layer.lefts, 14), ("shift", (layer.shift,), limit)):
        for shift in shifts:
            lowest, highest = int(np.min(shift)), int(np.max(shift))
            if lowest < 0 or highest > most:
                found = lowest if lowest < 0 else highest
                raise ImageError(f"{where} has {what} {found}, wanted 0 … {most}")


def _in_8_bits(where: str, inputs: list[Tensor]) -> None:
    for tensor in inputs:
        if tensor.dtype is DType.S16:
            raise ImageError(f"{where} reads {tensor.name!r} in s16, wanted u8 or s8")


def _conv(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    (source,) = inputs
    assert layer.weights is not None and layer.bias is not None
    c_out, _, _, c_in = layer.weights.shape
    if c_in * layer.groups != source.shape[2] or c_out != output.shape[2] or c_out % layer.groups:
        raise ImageError(
            f"{where} has weights {layer.weights.shape} in {layer.groups} groups,"
            f" between {source.shape} and {output.shape}"
        )
    _window(where, layer, source, output)
    _shifts(where, layer)
    sizes = np.abs(layer.weights.astype(np.int64)).sum(axis=(1, 2, 3))
    reach = source.dtype.reach * sizes + np.abs(layer.bias.astype(np.int64))
    bound = WIDE_ACCUMULATOR_BOUND if source.dtype is DType.S16 else ACCUMULATOR_BOUND
    if int(reach.max()) >= bound:
        raise ImageError(
            f"{where} may accumulate {int(reach.max())} in channel {int(reach.argmax())},"
            f" the bound is {bound}"
        )


def _add(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    if inputs[0].shape != output.shape or inputs[1].shape != output.shape:
        raise ImageError(f"{where} adds {inputs[0].shape} and {inputs[1].shape}")
    _shifts(where, layer)


def _maxpool(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    (source,) = inputs
    if source.shape[2] != output.shape[2] or source.dtype is not output.dtype:
        raise ImageError(f"{where} changes the channels or the dtype")
    if layer.lo > output.dtype.lowest or layer.hi < output.dtype.highest:
        raise ImageError(f"{where} has bounds of its own")
    _window(where, layer, source, output)


def _avgpool(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    (source,) = inputs
    window = layer.kernel[0] * layer.kernel[1]
    if source.shape[2] != output.shape[2] or layer.dilation != (1, 1):
        raise ImageError(f"{where} changes the channels, or is dilated")
    if window > ACCUMULATOR_BOUND >> 8 or layer.multiplier != round(ACCUMULATOR_BOUND / window):
        raise ImageError(f"{where} has multiplier {layer.multiplier} for a window of {window}")
    _shifts(where, layer, 47)
    _window(where, layer, source, output)


def _concat(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    if sum(tensor.shape[2] for tensor in inputs) != output.shape[2] or any(
        tensor.shape[:2] != output.shape[:2] for tensor in inputs
    ):
        raise ImageError(f"{where} joins {[tensor.shape for tensor in inputs]} to {output.shape}")
    _shifts(where, layer)


def _rescale(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    if inputs[0].shape != output.shape:
        raise ImageError(f"{where} changes the shape")
    _shifts(where, layer)


def _table(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    assert layer.table is not None
    _in_8_bits(where, inputs)
    if inputs[0].shape != output.shape or len(layer.table) not in (1, output.shape[2]):
        raise ImageError(
            f"{where} has {len(layer.table)} tables, between {inputs[0].shape} and {output.shape}"
        )
    if layer.table.min() < layer.lo or layer.table.max() > layer.hi:
        raise ImageError(f"{where} has entries beyond its bounds {layer.lo} … {layer.hi}")


def _mul(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    height, width, channels = output.shape
    shapes = (output.shape, (1, 1, channels), (height, width, 1))
    if inputs[0].shape != output.shape or inputs[1].shape not in shapes:
        raise ImageError(f"{where} multiplies {inputs[0].shape} and {inputs[1].shape}")
    _shifts(where, layer)


def _copy(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    last = layer.source_start + sum((loop.count - 1) * loop.source for loop in layer.loops)
    if last >= inputs[0].size:
        raise ImageError(f"{where} reads element {last}, its input has {inputs[0].size}")
    _shifts(where, layer)


def _matmul(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    _in_8_bits(where, inputs)
    a, b = inputs
    depth = b.shape[0] * b.shape[1]
    if (
        a.shape[2] != depth * layer.groups
        or a.shape[:2] != output.shape[:2]
        or b.shape[2] != output.shape[2]
        or b.shape[2] % layer.groups
    ):
        raise ImageError(
            f"{where} multiplies {a.shape} and {b.shape} to {output.shape} in {layer.groups} groups"
        )
    reach = depth * a.dtype.reach * b.dtype.reach
    if reach >= ACCUMULATOR_BOUND:
        raise ImageError(
            f"{where} may accumulate {reach} over {depth} products, the bound is"
            f" {ACCUMULATOR_BOUND}"
        )
    _shifts(where, layer)


_Check = Callable[[str, Layer, list[Tensor], Tensor], None]
_CHECKS: dict[Op, _Check] = {
    Op.CONV: _conv,
    Op.ADD: _add,
    Op.MAXPOOL: _maxpool,
    Op.AVGPOOL: _avgpool,
    Op.CONCAT: _concat,
    Op.RESCALE: _rescale,
    Op.TABLE: _table,
    Op.MUL: _mul,
    Op.COPY: _copy,
    Op.MATMUL: _matmul,
}
_ARITY: dict[Op, range] = {
    Op.CONV: range(1, 2),
    Op.ADD: range(2, 3),
    Op.MAXPOOL: range(1, 2),
    Op.AVGPOOL: range(1, 2),
    Op.CONCAT: range(1, 4096),
    Op.RESCALE: range(1, 2),
    Op.TABLE: range(1, 2),
    Op.MUL: range(2, 3),
    Op.COPY: range(1, 2),
    Op.MATMUL: range(2, 3),
}
