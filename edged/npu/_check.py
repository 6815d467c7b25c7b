"""What makes a program image sound, beyond its bytes: geometry, order, bounds, addresses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edged.errors import ImageError
from edged.npu.graph import ACCUMULATOR_BOUND, Layer, Op, ProgramImage, Tensor

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
    if not image.inputs or not image.outputs or not image.layers:
        raise ImageError("cannot use program image: it needs an input, an output and a layer")
    written = set(image.inputs)
    for layer in image.layers:
        where = f"cannot use program image: layer {layer.name!r} ({layer.op.name.lower()})"
        for index in layer.inputs:
            if index not in written:
                raise ImageError(f"{where} reads tensor {index} before it is written")
        if layer.output in written:
            raise ImageError(f"{where} writes tensor {layer.output} a second time")
        written.add(layer.output)
        inputs = [image.tensors[index] for index in layer.inputs]
        output = image.tensors[layer.output]
        if 0 in (*layer.kernel, *layer.stride, *layer.dilation, layer.groups):
            raise ImageError(f"{where} has a zero kernel, stride, dilation or group count")
        if not output.dtype.lowest <= layer.lo <= layer.hi <= output.dtype.highest:
            raise ImageError(
                f"{where} has bounds {layer.lo} … {layer.hi}, {output.dtype.name.lower()} has"
                f" {output.dtype.lowest} … {output.dtype.highest}"
            )
        if len(inputs) not in _ARITY[layer.op]:
            raise ImageError(f"{where} has {len(inputs)} inputs")
        _CHECKS[layer.op](where, layer, inputs, output)
    missing = [index for index in image.outputs if index not in written]
    if missing:
        raise ImageError(f"cannot use program image: output tensor {missing[0]} is never written")


def _window(where: str, layer: Layer, source: Tensor, output: Tensor) -> None:
    height, width, _ = source.shape
    if window_shape(layer, height, width) != output.shape[:2]:
        raise ImageError(
            f"{where} gives {window_shape(layer, height, width)} pixels,"
            f" its output has {output.shape[:2]}"
        )
    for pad, kernel, dilation in zip(layer.pad, layer.kernel * 2, layer.dilation * 2, strict=True):
        if pad > dilation * (kernel - 1):
            raise ImageError(f"{where} pads {pad}, a whole window")


def _limit(where: str, what: str, value: int, limit: int) -> None:
    if not 0 <= value <= limit:
        raise ImageError(f"{where} has {what} {value}, wanted 0 … {limit}")


def _conv(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    (source,) = inputs
    assert layer.weights is not None and layer.bias is not None and layer.shifts is not None
    c_out, _, _, c_in = layer.weights.shape
    if c_in * layer.groups != source.shape[2] or c_out != output.shape[2] or c_out % layer.groups:
        raise ImageError(
            f"{where} has weights {layer.weights.shape} in {layer.groups} groups,"
            f" between {source.shape} and {output.shape}"
        )
    _window(where, layer, source, output)
    _limit(where, "shift", int(layer.shifts.max()), 31)
    reach = max(-source.dtype.lowest, source.dtype.highest) * np.abs(
        layer.weights.astype(np.int64)
    ).sum(axis=(1, 2, 3)) + np.abs(layer.bias.astype(np.int64))
    if int(reach.max()) >= ACCUMULATOR_BOUND:
        raise ImageError(
            f"{where} may accumulate {int(reach.max())} in channel {int(reach.argmax())},"
            f" the bound is {ACCUMULATOR_BOUND}"
        )


def _add(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    if inputs[0].shape != output.shape or inputs[1].shape != output.shape:
        raise ImageError(f"{where} adds {inputs[0].shape} and {inputs[1].shape}")
    _limit(where, "left shift", max(layer.lefts), 14)
    _limit(where, "shift", layer.shift, 31)


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
    _limit(where, "shift", layer.shift, 47)
    _window(where, layer, source, output)


def _concat(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    if sum(tensor.shape[2] for tensor in inputs) != output.shape[2] or any(
        tensor.shape[:2] != output.shape[:2] for tensor in inputs
    ):
        raise ImageError(f"{where} joins {[tensor.shape for tensor in inputs]} to {output.shape}")
    _limit(where, "left shift", max(layer.lefts), 14)
    _limit(where, "right shift", max(layer.rights), 31)


def _rescale(where: str, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
    if inputs[0].shape != output.shape:
        raise ImageError(f"{where} changes the shape")
    _limit(where, "left shift", max(layer.lefts), 14)
    _limit(where, "shift", layer.shift, 31)


_Check = Callable[[str, Layer, list[Tensor], Tensor], None]
_CHECKS: dict[Op, _Check] = {
    Op.CONV: _conv,
    Op.ADD: _add,
    Op.MAXPOOL: _maxpool,
    Op.AVGPOOL: _avgpool,
    Op.CONCAT: _concat,
    Op.RESCALE: _rescale,
}
_ARITY: dict[Op, range] = {
    Op.CONV: range(1, 2),
    Op.ADD: range(2, 3),
    Op.MAXPOOL: range(1, 2),
    Op.AVGPOOL: range(1, 2),
    Op.CONCAT: range(1, 4096),
    Op.RESCALE: range(1, 2),
}
