"""An entry of a program image as an ONNX graph that computes the same, bit for bit.

Tensors stay NHWC throughout. Signed bytes are carried as u8 with zero point 128, since ONNX Runtime
is several times slower on s8, and s16 as float32, for which it has all operators. Every scale is a
power of two, so that the float arithmetic inside the operators is exact. Where it would not be, the
layer is computed in double.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged.emulator._encoding import WeightEncoding, WeightEncodings
from edged.emulator._strides import axes, box, interleaved
from edged.npu import ACCUMULATOR_BOUND, DType, Entry, Layer, Op, Shift, Tensor

__all__ = ["EntryGraph", "carried", "name_of", "uncarried"]

_APART: Final = 6
"""By how many places the operands of an addition may be apart, to be multiplied by a weight."""

_Array = npt.NDArray[Any]
_MICROSOFT: Final = "com.microsoft"
_SIGN: Final = np.uint8(0x80)

_MAX_FLOAT_ADD_SHIFT: Final = 16
"""QLinearAdd works in float32 with the zero points folded in: all terms, in units of 2^-shift,
stay below 2^24 up to this shift (2 · 255 · 2^14 + 128 · 2^16)."""


def carried(value: _Array) -> _Array:
    if value.dtype.itemsize > 1:
        return value.astype(np.float32)
    return value if value.dtype == np.uint8 else value.view(np.uint8) ^ _SIGN


def uncarried(value: _Array, dtype: DType) -> _Array:
    if dtype is DType.S16:
        return value.astype(dtype.numpy)
    return value if dtype is DType.U8 else (value ^ _SIGN).view(np.int8)


def name_of(index: int) -> str:
    """Tensors go by number: the names in an image come from anyone."""
    return f"t{index}"


def _zero(tensor: Tensor) -> np.uint8:
    """What carries 0."""
    return np.uint8(128 if tensor.dtype is DType.S8 else 0)


def _scale(layer: Layer) -> npt.NDArray[np.float64]:
    """What the result is multiplied by: one factor, or one for each channel of the output."""
    return 1 / _exp2(layer.shift)


def _exp2(shift: Shift) -> npt.NDArray[np.float64]:
    return np.exp2(np.asarray(shift, np.float64))


def _window(layer: Layer) -> dict[str, Any]:
    return {
        "kernel_shape": list(layer.kernel),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": list(layer.pad),
    }


_POINTWISE: Final = Layer(Op.CONV, "", (), 0)
_PAIRWISE: Final = Layer(Op.CONV, "", (), 0, kernel=(1, 2))


class EntryGraph:
    """The ONNX graph for an entry, one small group of nodes per layer."""

    def __init__(self, tensors: Sequence[Tensor], entry: Entry, weights: WeightEncodings) -> None:
        self._tensors = tensors
        self._entry = entry
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._temporaries = 0
        self._number = 0  # of the layer that is being lowered
        self._destination = ""  # where its result is to be

    def build(self, outputs: Sequence[int]) -> bytes:
        unfinished = Counter(layer.output for layer in self._entry.layers if layer.in_part)
        parts: dict[int, list[tuple[Layer, str]]] = {}
        for number, layer in enumerate(self._entry.layers):
            self._number = number
            output = layer.output
            self._destination = f"part{number}" if layer.in_part else name_of(output)
            _LOWER[layer.op](
                self,
                layer,
                [self._tensors[i] for i in layer.inputs],
                self._tensors[output],
            )
            if layer.in_part:
                parts.setdefault(output, []).append((layer, self._destination))
                unfinished[output] -= 1
                if not unfinished[output]:
                    self._assemble(output, parts.pop(output))
        graph = helper.make_graph(
            self._nodes,
            "image",
            [self._value(index) for index in self._entry.inputs],
            [self._value(index) for index in outputs],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return bytes(model.SerializeToString())

    def _value(self, index: int) -> onnx.ValueInfoProto:
        tensor = self._tensors[index]
        carrier = TensorProto.FLOAT if tensor.dtype is DType.S16 else TensorProto.UINT8
        return helper.make_tensor_value_info(name_of(index), carrier, [1, *tensor.shape])

    def _constant(self, value: _Array | np.generic) -> str:
        """The name of an initialiser with *value*; equal ones are shared."""
        array = np.asarray(value)
        name = f"{array.dtype}{array.shape}:{hashlib.blake2b(array.tobytes()).hexdigest()}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def _node(
        self, op: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        if not output:
            self._temporaries += 1
            output = f"x{self._temporaries}"
        self._nodes.append(
            helper.make_node(op, list(inputs), [output], domain=domain, **attributes)
        )
        return output

    def _bounded(self, layer: Layer, tensor: Tensor) -> tuple[str, bool]:
        """Where a layer writes before its bounds are applied, and whether they still have to be.

        Saturation to the dtype comes for free; tighter bounds cost a Clip.
        """
        if (layer.lo, layer.hi) == (tensor.dtype.lowest, tensor.dtype.highest):
            return self._destination, False
        return f"unbounded{self._number}", True

    def _bound(self, layer: Layer, tensor: Tensor, value: str) -> None:
        zero = int(_zero(tensor))
        bounds = (np.uint8(layer.lo + zero), np.uint8(layer.hi + zero))
        self._node("Clip", [value, *map(self._constant, bounds)], self._destination)

    def conv(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        assert layer.weights is not None and layer.bias is not None
        (source,) = inputs
        weights = layer.weights.transpose(0, 3, 1, 2)
        if DType.S16 in (source.dtype, output.dtype):
            total = self._summed(layer, source, weights.astype(np.float32), layer.groups)
            wide = source.dtype is DType.S16
            bias = layer.bias.astype(np.float64 if wide else np.float32)
            total = self._node("Add", [total, self._constant(bias)])
            self._narrowed(layer, output, total, _scale(layer), wide=wide)
            return
        scales = np.broadcast_to(_scale(layer), len(weights)).astype(np.float32)
        unbounded, bounds = self._bounded(layer, output)
        self._convolve(
            layer,
            name_of(layer.inputs[0]),
            (source, output),
            (weights, scales, layer.bias),
            layer.groups,
            unbounded,
        )
        if bounds:
            self._bound(layer, output, unbounded)

    def _convolve(
        self,
        window: Layer,
        name: str,
        ends: tuple[Tensor, Tensor],
        parameters: tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int32]],
        groups: int,
        destination: str = "",
    ) -> str:
        """QLinearConv, of *name*, which is carried as the first of *ends*, to the second.

        Args:
            window: the layer whose kernel, stride, dilation and padding it has.
            parameters: weights, s8 [C_out, C_in / groups, kh, kw]; scales and biases, [C_out].
        """
        source, output = ends
        weights, scales, bias = parameters
        one = self._constant(np.float32(1))
        encoded: _Array = np.ascontiguousarray(weights)
        zeros: _Array = np.zeros(len(weights), np.int8)
        depthwise = 1 < groups == encoded.shape[1] * groups == len(weights)
        encoding = self._weights.of(encoded, depthwise)
        if encoding is WeightEncoding.UNSIGNED:
            encoded = encoded.view(np.uint8) ^ _SIGN
            zeros = np.full(len(weights), _SIGN)
        operands = [
            name,
            one,
            self._constant(_zero(source)),
            self._constant(encoded),
            self._constant(scales),
            self._constant(zeros),
            one,
            self._constant(_zero(output)),
            self._constant(bias),
        ]
        return self._node(
            "QLinearConv",
            operands,
            destination,
            _MICROSOFT,
            channels_last=1,
            group=groups,
            **_window(window),
        )

    def add(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        lefts = [_exp2(left) for left in layer.lefts]
        if self._in_bytes(layer, inputs, output) and np.max(layer.shift) <= _MAX_FLOAT_ADD_SHIFT:
            unbounded, bounds = self._bounded(layer, output)
            operands = []
            for index, tensor, left in zip(layer.inputs, inputs, lefts, strict=True):
                operands += [name_of(index), self._constant(np.float32(left))]
                operands += [self._constant(_zero(tensor))]
            operands += [self._constant(np.float32(_exp2(layer.shift)))]
            operands += [self._constant(_zero(output))]
            self._node("QLinearAdd", operands, unbounded, _MICROSOFT)
            if bounds:
                self._bound(layer, output, unbounded)
            return
        channels = output.shape[2]
        places = np.array([np.broadcast_to(left, channels) for left in layer.lefts], np.int64)
        apart = places - places.min(axis=0)
        if DType.S16 not in (output.dtype, *(t.dtype for t in inputs)) and apart.max() <= _APART:
            scale = _exp2(places.min(axis=0)) * _scale(layer)
            self._added(layer, inputs, output, np.exp2(apart.T).astype(np.int8), scale)
            return
        reach = sum(left * tensor.dtype.reach for tensor, left in zip(inputs, lefts, strict=True))
        wide = bool(np.max(reach) >= ACCUMULATOR_BOUND)
        values = self._reals(layer, inputs, wide=wide)
        terms = [self._times(x, left, wide=wide) for x, left in zip(values, lefts, strict=True)]
        total = self._node("Add", terms)
        self._narrowed(layer, output, total, _scale(layer), wide=wide)

    def _added(
        self,
        layer: Layer,
        inputs: list[Tensor],
        output: Tensor,
        weights: npt.NDArray[np.int8],
        scale: npt.NDArray[np.float64],
    ) -> None:
        """``RNE((a·weights[c, 0] + b·weights[c, 1]) · scale[c])`` of bytes.

        A depthwise convolution over pairs of pixels, one of each input: in float it would take
        three times as long. What carries 0 is made up for by the bias.
        """
        height, width, channels = output.shape
        pairs = [self._reshaped(name_of(i), (1, height * width, 1, channels)) for i in layer.inputs]
        bias = -weights.astype(np.int32) @ np.array([_zero(t) for t in inputs], np.int32)
        total = self._convolve(
            _PAIRWISE,
            self._node("Concat", pairs, axis=2),
            (replace(inputs[0], dtype=DType.U8), output),
            (weights[:, None, None], scale.astype(np.float32), bias),
            channels,
        )
        unbounded, bounds = self._bounded(layer, output)
        self._reshaped(total, (1, *output.shape), unbounded)
        if bounds:
            self._bound(layer, output, unbounded)

    def maxpool(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        source, pads = name_of(layer.inputs[0]), layer.pad
        wide = inputs[0].dtype is DType.S16
        if any(pad >= size for pad, size in zip(pads, layer.kernel * 2, strict=True)):
            # Sound if dilated, but ONNX Runtime has none of it. The lowest value is carried as 0.
            margins = np.array([0, *pads[:2], 0, 0, *pads[2:], 0], np.int64)
            lowest = [self._constant(np.float32(DType.S16.lowest))] if wide else []
            source = self._node("Pad", [source, self._constant(margins), *lowest])
            pads = (0, 0, 0, 0)
        window = _window(replace(layer, pad=pads))
        if wide:
            source = self._node("Transpose", [source], perm=[0, 3, 1, 2])
            source = self._node("MaxPool", [source], **window)
            self._node("Transpose", [source], self._destination, perm=[0, 2, 3, 1])
            return
        self._node("NhwcMaxPool", [source], self._destination, _MICROSOFT, **window)

    def avgpool(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        (source,) = inputs
        height, width, channels = source.shape
        window = layer.kernel[0] * layer.kernel[1]
        scale = layer.multiplier * _scale(layer)
        in_bytes = DType.S16 not in (source.dtype, output.dtype)
        if in_bytes and window & (window - 1) == 0:
            # The multiplier is a power of two as well: a depthwise convolution with ones.
            unbounded, bounds = self._bounded(layer, output)
            parameters = (
                np.ones((channels, 1, *layer.kernel), np.int8),
                np.broadcast_to(scale, channels).astype(np.float32),
                np.zeros(channels, np.int32),
            )
            name = name_of(layer.inputs[0])
            self._convolve(layer, name, (source, output), parameters, channels, unbounded)
            if bounds:
                self._bound(layer, output, unbounded)
            return
        if layer.kernel == (height, width) and not any(layer.pad):
            wide = self._node("Cast", [name_of(layer.inputs[0])], to=TensorProto.INT32)
            plane = self._constant(np.array([1, 2], np.int64))
            total = self._node("ReduceSum", [wide, plane], keepdims=1)
            total = self._node("Cast", [total], to=TensorProto.DOUBLE)
            offset = np.float64(int(_zero(source)) * window)
            total = self._node("Sub", [total, self._constant(offset)])
        else:
            ones = np.ones((channels, 1, *layer.kernel), np.float32)
            total = self._summed(layer, source, ones, channels)
            if source.dtype is not DType.S16:
                total = self._node("Cast", [total], to=TensorProto.DOUBLE)
        self._narrowed(layer, output, total, scale, wide=True)

    def _summed(
        self, layer: Layer, source: Tensor, weights: npt.NDArray[np.float32], groups: int
    ) -> str:
        """A convolution in float32, [1, H, W, C]; of s16 two, put together in double.

        Sums stay below 2^24: float32 holds them, whatever the order of summation.
        """
        value = self._real(name_of(layer.inputs[0]), source)
        value = self._node("Transpose", [value], perm=[0, 3, 1, 2])
        kernel = self._constant(weights)

        def convolved(planes: str) -> str:
            total = self._node("Conv", [planes, kernel], group=groups, **_window(layer))
            return self._node("Transpose", [total], perm=[0, 2, 3, 1])

        if source.dtype is not DType.S16:
            return convolved(value)
        high = self._node("Floor", [self._times(value, np.float64(1 / 256))])
        low = self._node("Sub", [value, self._times(high, np.float64(256))])
        parts = [
            self._node("Cast", [convolved(plane)], to=TensorProto.DOUBLE) for plane in (high, low)
        ]
        return self._node("Add", [self._times(parts[0], np.float64(256), wide=True), parts[1]])

    def concat(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        scale = _exp2(layer.lefts[0]) * _scale(layer)
        if DType.S16 in (output.dtype, *(tensor.dtype for tensor in inputs)):
            joined = self._node("Concat", self._reals(layer, inputs), axis=3)
            self._narrowed(layer, output, joined, scale)
            return
        ends = np.cumsum([tensor.shape[2] for tensor in inputs])[:-1]
        scales = np.split(np.broadcast_to(scale, output.shape[2]), ends)
        unbounded, bounds = self._bounded(layer, output)
        parts = []
        for index, tensor, part in zip(layer.inputs, inputs, scales, strict=True):
            if (part == part[0]).all():
                parts.append((name_of(index), tensor, part[0]))
            else:
                parts.append((self._by_channel(name_of(index), tensor, output, part), output, 1.0))
        self._joined(parts, output, unbounded)
        if bounds:
            self._bound(layer, output, unbounded)

    rescale = concat
    """Of a single input."""

    def _joined(
        self, parts: Sequence[tuple[str, Tensor, float]], output: Tensor, destination: str
    ) -> str:
        """QLinearConcat, along the last axis: it looks each byte up in a table.

        Args:
            parts: name, what it is carried as, and what its values are multiplied by.
        """
        operands = [self._constant(np.float32(1)), self._constant(_zero(output))]
        for name, tensor, scale in parts:
            operands += [name, self._constant(np.float32(scale)), self._constant(_zero(tensor))]
        return self._node("QLinearConcat", operands, destination, _MICROSOFT, axis=-1)

    def _by_channel(
        self, name: str, source: Tensor, output: Tensor, scales: npt.NDArray[np.float64]
    ) -> str:
        """``RNE(x · scale[c])`` of [1, H, W, C] bytes: a depthwise convolution is fastest."""
        channels = len(scales)
        parameters = (
            np.ones((channels, 1, 1, 1), np.int8),
            scales.astype(np.float32),
            np.zeros(channels, np.int32),
        )
        return self._convolve(_POINTWISE, name, (source, output), parameters, channels)

    @staticmethod
    def _in_bytes(layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> bool:
        """Whether operators of bytes that have one scale a tensor do."""
        tensors = (output, *inputs)
        return not layer.per_channel and all(t.dtype is not DType.S16 for t in tensors)

    def _real(self, name: str, tensor: Tensor, *, wide: bool = False) -> str:
        """The values of *name*, which is carried as *tensor*, in float32 or in double."""
        if tensor.dtype is not DType.S16:
            operands = [name, self._constant(np.float32(1)), self._constant(_zero(tensor))]
            name = self._node("DequantizeLinear", operands)
        return self._node("Cast", [name], to=TensorProto.DOUBLE) if wide else name

    def _reals(self, layer: Layer, inputs: Sequence[Tensor], *, wide: bool = False) -> list[str]:
        return [
            self._real(name_of(index), tensor, wide=wide)
            for index, tensor in zip(layer.inputs, inputs, strict=True)
        ]

    def _times(
        self, value: str, scale: npt.NDArray[np.float64] | np.float64, *, wide: bool = False
    ) -> str:
        factor = np.asarray(scale, np.float64 if wide else np.float32)
        return self._node("Mul", [value, self._constant(factor)])

    def _narrowed(
        self,
        layer: Layer,
        output: Tensor,
        value: str,
        scale: npt.NDArray[np.float64] | np.float64,
        *,
        wide: bool = False,
    ) -> None:
        """``clip(RNE(value · scale))`` of exact float32, or doubles, as *output* is carried."""
        value = self._times(value, scale, wide=wide)
        kind = np.float64 if wide else np.float32
        if output.dtype is not DType.S16 and not wide:
            operands = [value, self._constant(np.float32(1)), self._constant(_zero(output))]
            unbounded, bounds = self._bounded(layer, output)
            self._node("QuantizeLinear", operands, unbounded)
            if bounds:
                self._bound(layer, output, unbounded)
            return
        value = self._node("Round", [value])
        limits = (kind(layer.lo), kind(layer.hi))
        destination = "" if wide else self._destination
        value = self._node("Clip", [value, *map(self._constant, limits)], destination)
        if not wide:
            return
        if output.dtype is DType.S16:
            self._node("Cast", [value], self._destination, to=TensorProto.FLOAT)
            return
        value = self._node("Add", [value, self._constant(np.float64(_zero(output)))])
        self._node("Cast", [value], self._destination, to=TensorProto.UINT8)

    def table(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        """An index is the byte that carries the element, which here is another one for s8."""
        assert layer.table is not None
        table = np.asarray(carried(layer.table))
        if inputs[0].dtype is DType.S8:
            table = np.roll(table, 128, axis=1)
        index = self._node("Cast", [name_of(layer.inputs[0])], to=TensorProto.INT32)
        if len(table) > 1:  # One column for each channel: faster than to add 256 for each.
            index = self._reshaped(index, (-1, len(table)))
            entries = self._constant(np.ascontiguousarray(table.T))
        else:
            index = self._reshaped(index, (-1,))
            entries = self._constant(table[0])
        self._gathered(entries, index, output.shape, self._destination)

    def mul(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        """QLinearMul works in float32: products are below 2^16, and beyond 16 places 0 is left."""
        if not self._in_bytes(layer, inputs, output):
            wide = inputs[0].dtype.reach * inputs[1].dtype.reach >= ACCUMULATOR_BOUND
            product = self._node("Mul", self._reals(layer, inputs, wide=wide))
            self._narrowed(layer, output, product, _scale(layer), wide=wide)
            return
        unbounded, bounds = self._bounded(layer, output)
        operands = []
        for index, tensor in zip(layer.inputs, inputs, strict=True):
            operands += [name_of(index), self._constant(np.float32(1))]
            operands += [self._constant(_zero(tensor))]
        operands += [self._constant(np.float32(_exp2(layer.shift))), self._constant(_zero(output))]
        self._node("QLinearMul", operands, unbounded, _MICROSOFT)
        if bounds:
            self._bound(layer, output, unbounded)

    def matmul(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        groups = layer.groups
        operands = []
        for index, tensor in zip(layer.inputs, inputs, strict=True):
            height, width, channels = tensor.shape
            split = self._reshaped(name_of(index), (height * width, groups, channels // groups))
            operands.append(self._node("Transpose", [split], perm=[1, 0, 2]))
        operands += [self._constant(_zero(tensor)) for tensor in inputs]
        total = self._node("MatMulInteger", operands)
        total = self._node("Transpose", [total], perm=[1, 0, 2])
        total = self._reshaped(total, (1, *output.shape))
        total = self._node("Cast", [total], to=TensorProto.DOUBLE)
        self._narrowed(layer, output, total, _scale(layer), wide=True)

    def copy(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        (source,) = inputs
        moved = self._moved(layer, source)
        counts = [loop.count for loop in layer.loops]
        scale = _exp2(layer.by_loop(layer.lefts[0])) / _exp2(layer.by_loop(layer.shift))
        last = scale.ndim > 0 and scale.shape[-1] == scale.size
        unbounded, bounds = self._bounded(layer, output)
        if source.dtype is output.dtype and not bounds and (scale == 1).all():
            self._node("Identity", [moved], self._destination)
            return
        if DType.S16 in (source.dtype, output.dtype) or not (last or scale.size == 1):
            self._narrowed(layer, output, self._real(moved, source), scale)
            return
        if scale.size == 1:
            self._joined([(moved, source, float(scale.reshape(())))], output, unbounded)
        else:
            moved = self._reshaped(moved, (1, math.prod(counts[:-1]), 1, counts[-1]))
            moved = self._by_channel(moved, source, output, scale.reshape(-1))
            self._reshaped(moved, counts, unbounded)
        if bounds:
            self._bound(layer, output, unbounded)

    def _moved(self, layer: Layer, source: Tensor) -> str:
        """What a COPY reads, in the order of its loops, with an axis for each."""
        counts = [loop.count for loop in layer.loops]
        size = math.prod(source.shape)
        found = axes(size, layer.source_start, [(loop.count, loop.source) for loop in layer.loops])
        if found is None:
            places = np.full([1] * len(counts), layer.source_start, np.int32)
            for axis, loop in enumerate(layer.loops):
                step = loop.source if loop.count > 1 else 0
                turns = np.arange(loop.count, dtype=np.int32) * np.int32(step)
                others = tuple(other for other in range(len(counts)) if other != axis)
                places = places + np.expand_dims(turns, others)
            index = self._constant(places.reshape(-1))
            flat = self._reshaped(name_of(layer.inputs[0]), (size,))
            return self._gathered(flat, index, counts)
        sizes, firsts, lengths, order = found
        value = self._reshaped(name_of(layer.inputs[0]), sizes)
        if list(lengths) != list(sizes):
            ends = [first + length for first, length in zip(firsts, lengths, strict=True)]
            value = self._node(
                "Slice", [value, *(self._constant(np.array(x, np.int64)) for x in (firsts, ends))]
            )
        if order != sorted(order):
            value = self._node("Transpose", [value], perm=[*order, len(order)])
        repeated = [loop.count > 1 and not loop.source for loop in layer.loops]
        ones = [1 if again else n for n, again in zip(counts, repeated, strict=True)]
        value = self._reshaped(value, ones)
        if any(repeated):
            value = self._node("Expand", [value, self._constant(np.array(counts, np.int64))])
        return value

    def _assemble(self, index: int, parts: list[tuple[Layer, str]]) -> None:
        """Put a tensor together of parts that several layers have made."""
        shape = self._tensors[index].shape
        size = math.prod(shape)
        numbers = np.arange(size, dtype=np.int32).reshape(shape)
        layers = [layer for layer, _ in parts]
        ordered = [self._ordered(layer, name, layer.written(numbers)) for layer, name in parts]
        names = [name for name, _ in ordered]
        places = [place for _, place in ordered]
        target = name_of(index)
        # Alike, and beside each other along an axis: what a concatenation is written as.
        for axis in (2, 0):
            boxes = [box(place, numbers, axis) for place in places]
            if all(boxes):
                values = []
                for place, name in sorted(
                    (place, name) for place, name in zip(boxes, names, strict=True) if place
                ):
                    part = list(shape)
                    part[axis] = place[1]
                    values.append(self._reshaped(name, (1, *part)))
                self._node("Concat", values, target, axis=axis + 1)
                return
        flat = [
            self._reshaped(name, (place.size,)) for name, place in zip(names, places, strict=True)
        ]
        values_in_order = np.concatenate([place.reshape(-1) for place in places])
        phases = interleaved(layers, shape)
        joined = self._node("Concat", flat, axis=0)
        if phases is not None:
            grids, perm = phases
            joined = self._node("Transpose", [self._reshaped(joined, grids)], perm=perm)
            self._reshaped(joined, (1, *shape), target)
            return
        inverse = np.empty(size, np.int32)
        inverse[values_in_order] = numbers.reshape(-1)
        self._gathered(joined, self._constant(inverse), shape, target)

    def _ordered(
        self, layer: Layer, name: str, place: npt.NDArray[np.int32]
    ) -> tuple[str, npt.NDArray[np.int32]]:
        """A part, and where its elements go, with the loops of a COPY in the output's order."""
        order = sorted(range(len(layer.loops)), key=lambda number: -layer.loops[number].target)
        if order == sorted(order):
            return name, place
        return self._node("Transpose", [name], perm=order), place.transpose(order)

    def _gathered(self, data: str, index: str, shape: Sequence[int], output: str = "") -> str:
        """Elements of *data* by *index*, along the first axis of both: Gather takes longer."""
        found = self._node("GatherElements", [data, index], axis=0)
        shape = shape if not output else (1, *shape)
        return self._reshaped(found, shape, output)

    def _reshaped(self, name: str, shape: Sequence[int], output: str = "") -> str:
        return self._node("Reshape", [name, self._constant(np.array(shape, np.int64))], output)


_LOWER = {
    Op.CONV: EntryGraph.conv,
    Op.ADD: EntryGraph.add,
    Op.MAXPOOL: EntryGraph.maxpool,
    Op.AVGPOOL: EntryGraph.avgpool,
    Op.CONCAT: EntryGraph.concat,
    Op.RESCALE: EntryGraph.rescale,
    Op.TABLE: EntryGraph.table,
    Op.MUL: EntryGraph.mul,
    Op.COPY: EntryGraph.copy,
    Op.MATMUL: EntryGraph.matmul,
}
