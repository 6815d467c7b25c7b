"""The integer reference: what each layer computes, slowly and plainly. The arbiter.

Everything is integer numpy on [H, W, C] tensors; emulator and gateware must equal it bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.errors import RequestError
from edged.npu.graph import Layer, Op, ProgramImage, Shift

__all__ = ["run", "run_all", "shift_round_half_even"]

_Int64 = npt.NDArray[np.int64]
_Shape = tuple[int, ...]


def shift_round_half_even(value: _Int64, shift: Shift) -> _Int64:
    """``round(value / 2**shift)`` in integers, ties to even; *shift* ≥ 0 broadcasts."""
    places = np.asarray(shift, np.int64)
    half_minus_one = np.where(places > 0, (np.int64(1) << np.maximum(places - 1, 0)) - 1, 0)
    odd = np.where(places > 0, (value >> places) & 1, 0)
    return np.asarray((value + half_minus_one + odd) >> places, np.int64)


def run(
    image: ProgramImage, inputs: Sequence[npt.NDArray[Any]], entry: int = 0
) -> list[npt.NDArray[Any]]:
    """Execute an *entry* of *image* on *inputs*, one [H, W, C] array per input in its order.

    Returns:
        One [H, W, C] array per output, of its dtype.

    Raises:
        RequestError: the number, shape or dtype of the inputs.
    """
    tensors = run_all(image, inputs, entry)
    return [tensors[index] for index in image.entries[entry].outputs]


def run_all(
    image: ProgramImage, inputs: Sequence[npt.NDArray[Any]], entry: int = 0
) -> dict[int, npt.NDArray[Any]]:
    """As :func:`run`, but every tensor of the entry by its index."""
    program = image.entries[entry]
    if len(inputs) != len(program.inputs):
        raise RequestError(
            f"cannot run program: {len(inputs)} inputs given, wanted {len(program.inputs)}"
        )
    values: dict[int, npt.NDArray[Any]] = {}
    for index, value in zip(program.inputs, inputs, strict=True):
        tensor = image.tensors[index]
        if value.shape != tensor.shape or value.dtype != tensor.dtype.numpy:
            raise RequestError(
                f"cannot run program: input {tensor.name!r} is {value.dtype} {value.shape},"
                f" wanted {tensor.dtype.numpy} {tensor.shape}"
            )
        values[index] = value
    for layer in program.layers:
        operands = [values[index].astype(np.int64) for index in layer.inputs]
        output = image.tensors[layer.output]
        if layer.output not in values:
            values[layer.output] = np.zeros(output.shape, output.dtype.numpy)
        part = layer.written(values[layer.output])
        result = np.clip(_COMPUTE[layer.op](layer, operands, part.shape), layer.lo, layer.hi)
        part[...] = result.astype(output.dtype.numpy)
    return values


def _seen(layer: Layer, x: _Int64, fill: int, shape: _Shape) -> Iterator[_Int64]:
    """What each position of the kernel sees, row by row: [H_out, W_out, C]."""
    top, left, bottom, right = layer.pad
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=fill)
    height, width, _ = shape
    for y, z in np.ndindex(*layer.kernel):
        rows = y * layer.dilation[0] + layer.stride[0] * np.arange(height)
        columns = z * layer.dilation[1] + layer.stride[1] * np.arange(width)
        yield padded[rows[:, None], columns[None, :]]


def _conv(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE((Σ x·w + bias) · 2^-shift[c])``.

    An s16 is ``256·high + low``, high s8 and low u8: the sum is 256 times one over the high bytes
    plus one over the low ones.
    """
    assert layer.weights is not None and layer.bias is not None
    (x,) = operands
    height, width, c_out = shape
    c_in, per_group = layer.weights.shape[3], c_out // layer.groups
    # Sums of products in double, since numpy has fast products of matrices of these alone: every
    # partial sum is an integer below 2^24, or 2^31 of s16, and exact in it.
    weights = layer.weights.astype(np.float64)
    acc = np.zeros((layer.groups, height * width, per_group))
    for (y, z), pixels in zip(np.ndindex(*layer.kernel), _seen(layer, x, 0, shape), strict=True):
        seen = pixels.astype(np.float64).reshape(height * width, layer.groups, c_in)
        kernel = weights[:, y, z].reshape(layer.groups, per_group, c_in)
        acc += seen.transpose(1, 0, 2) @ kernel.transpose(0, 2, 1)
    total = acc.transpose(1, 0, 2).reshape(shape).astype(np.int64) + layer.bias
    return shift_round_half_even(total, layer.shift)


def _add(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE((a·2^left_a + b·2^left_b) · 2^-shift)``."""
    a, b = operands
    return shift_round_half_even((a << layer.lefts[0]) + (b << layer.lefts[1]), layer.shift)


def _maxpool(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    (x,) = operands
    return functools.reduce(np.maximum, _seen(layer, x, -(2**31), shape))


def _avgpool(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE(Σ x · round(2^24 / n) · 2^-shift)``, n the size of the window, padding included."""
    (x,) = operands
    total = functools.reduce(np.add, _seen(layer, x, 0, shape))
    return shift_round_half_even(total * layer.multiplier, layer.shift)


def _concat(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE(x · 2^(left − shift))`` of all inputs, one after the other."""
    return shift_round_half_even(np.concatenate(operands, axis=2) << layer.lefts[0], layer.shift)


def _rescale(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE(x · 2^(left − shift))``."""
    return shift_round_half_even(operands[0] << layer.lefts[0], layer.shift)


def _table(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``t[x mod 256]``, of one table or of the channel's."""
    assert layer.table is not None
    rows = np.arange(shape[2]) if len(layer.table) > 1 else 0
    return np.asarray(layer.table[rows, operands[0] & 0xFF], np.int64)


def _mul(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE(a·b · 2^-shift)``; b is repeated over pixels or channels."""
    a, b = operands
    return shift_round_half_even(a * b, layer.shift)


def _copy(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE(x · 2^(left − shift))`` of the elements that its loops reach, in their order."""
    left, shift = layer.by_loop(layer.lefts[0]), layer.by_loop(layer.shift)
    return shift_round_half_even(layer.copied(operands[0]) << left, shift)


def _matmul(layer: Layer, operands: list[_Int64], shape: _Shape) -> _Int64:
    """``RNE(Σ_k a[n, g, k] · b[k, g, m] · 2^-shift)``: n and k are pixels of a and of b.

    The sum is below 2^24, and so exact in double.
    """
    a, b = (x.reshape(-1, layer.groups, x.shape[2] // layer.groups) for x in operands)
    product = a.transpose(1, 0, 2).astype(np.float64) @ b.transpose(1, 0, 2).astype(np.float64)
    total = product.transpose(1, 0, 2).reshape(shape).astype(np.int64)
    return shift_round_half_even(total, layer.shift)


_COMPUTE: dict[Op, Callable[[Layer, list[_Int64], _Shape], _Int64]] = {
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
