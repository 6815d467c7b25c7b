"""The fast executor: a program image, run by ONNX Runtime's integer operators, bit for bit.

Tensors stay NHWC throughout. Signed activations are carried as u8 with zero point 128, since
ONNX Runtime is several times slower on s8; every scale is a power of two, so that the float
arithmetic inside the operators is exact. Where it would not be, the layer is computed in double.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged._onnxruntime import RunOptions, session
from edged.errors import DeviceError, ImageError
from edged.npu import DType, Entry, Layer, Op, ProgramImage, Tensor

__all__ = ["Executor", "WeightEncoding", "WeightEncodings"]

_Array = npt.NDArray[Any]
_MICROSOFT: Final = "com.microsoft"
_SIGN: Final = np.uint8(0x80)
_PAIR: Final = 32767 // 255

_MAX_FLOAT_ADD_SHIFT: Final = 16
"""QLinearAdd works in float32 with the zero points folded in: all terms, in units of 2^-shift,
stay below 2^24 up to this shift (2 · 255 · 2^14 + 128 · 2^16)."""


class WeightEncoding(enum.Enum):
    """How weights are handed to a convolution; which one is exact depends on CPU and kernel."""

    SIGNED = "u8×s8"
    """Half again as fast. Without a dot-product instruction its partial sums saturate at 16 bits,
    and the results are wrong."""
    UNSIGNED = "u8×u8"
    """With zero point 128. Exact everywhere."""


@dataclass(frozen=True, slots=True)
class WeightEncodings:
    """One encoding for each kind of convolution that ONNX Runtime has a kernel for."""

    dense: WeightEncoding
    """Ordinary and grouped ones, as matrix products."""
    depthwise: WeightEncoding
    """One filter per channel: these never add pairs in 16 bits, and u8×s8 is exact so far."""
    small: WeightEncoding
    """Dense ones with weights so small that pairs of products fit into 16 bits, which the bound on
    accumulators sees to where sums are long."""

    def __str__(self) -> str:
        return (
            f"{self.dense.value}, depthwise {self.depthwise.value},"
            f" small weights {self.small.value}"
        )

    def of(self, weights: npt.NDArray[np.int8], depthwise: bool) -> WeightEncoding:
        """The one for *weights*, [C_out, C_in / groups, kh, kw]."""
        if depthwise:
            return self.depthwise
        return self.small if _pairs_fit(weights) else self.dense


class Executor:
    """Runs one entry of a program image. Safe to use from several threads.

    Args:
        image: as :func:`edged.npu.parse_image` gives it; not kept.
        entry: number of the entry.
        weights: encodings that are exact on this CPU, see
            :func:`edged.emulator.exact_weight_encodings`.
        threads: how many threads one run may use.
        expose_all: keep every tensor, for :meth:`run_all`; slower.

    Raises:
        ImageError: ONNX Runtime does not accept the graph.
    """

    def __init__(
        self,
        image: ProgramImage,
        entry: int = 0,
        *,
        weights: WeightEncodings,
        threads: int = 1,
        expose_all: bool = False,
    ) -> None:
        self._tensors = image.tensors
        program = image.entries[entry]
        self._inputs = program.inputs
        self._outputs = program.outputs
        produced = list(dict.fromkeys(layer.output for layer in program.layers))
        wanted = produced if expose_all else [i for i in produced if i in set(program.outputs)]
        self._wanted = tuple(wanted)
        self._names = [_name(i) for i in self._wanted]
        model = _Graph(image.tensors, program, weights).build(self._wanted)
        try:
            self._session = session(model, threads=threads)
        except Exception as error:  # ONNX Runtime's exceptions have no class in common
            raise ImageError(f"cannot execute program image: {error}") from error

    def run(self, inputs: Sequence[_Array], options: RunOptions | None = None) -> list[_Array]:
        """Run once.

        Args:
            inputs: one [H, W, C] array per input of the entry, of its dtype.
            options: set ``terminate`` on them from another thread to end the run early.

        Returns:
            One [H, W, C] array per output, u8 or s8.

        Raises:
            DeviceError: the run was terminated, or ONNX Runtime failed.
        """
        values = self._run(inputs, options)
        return [values[index] for index in self._outputs]

    def warm_up(self, options: RunOptions | None = None) -> None:
        """Run on zeros, twice: the first runs pay for memory that the later ones find there.

        Raises:
            DeviceError: terminated through *options*, or there is not enough memory.
        """
        zeros = [
            np.zeros(self._tensors[i].shape, self._tensors[i].dtype.numpy) for i in self._inputs
        ]
        for _ in range(2):
            self._run(zeros, options)

    def run_all(self, inputs: Sequence[_Array]) -> dict[int, _Array]:
        """Run once; every tensor by its index, like :func:`edged.npu.numerics.run_all`."""
        return self._run(inputs, None)

    def _run(self, inputs: Sequence[_Array], options: RunOptions | None) -> dict[int, _Array]:
        values = dict(zip(self._inputs, inputs, strict=True))
        feeds = {_name(i): _carried(value)[np.newaxis] for i, value in values.items()}
        try:
            results = self._session.run(self._names, feeds, options)
        except Exception as error:  # ONNX Runtime's exceptions have no class in common
            raise DeviceError(f"cannot run program image: {error}") from error
        for index, result in zip(self._wanted, results, strict=True):
            values[index] = _uncarried(result[0], self._tensors[index].dtype)
        return values


def _pairs_fit(weights: npt.NDArray[np.int8]) -> bool:
    """Whether 255 · (|a| + |b|) stays below 2^15 for all neighbours a and b of a channel.

    ONNX Runtime multiplies matrices of [kh, kw, C_in / groups] in that order, in pairs.
    """
    rows = np.abs(weights.transpose(0, 2, 3, 1).reshape(len(weights), -1).astype(np.int16))
    return bool((rows[:, 1:] + rows[:, :-1]).max(initial=0) <= _PAIR)


def _carried(value: _Array) -> npt.NDArray[np.uint8]:
    return value if value.dtype == np.uint8 else value.view(np.uint8) ^ _SIGN


def _uncarried(value: npt.NDArray[np.uint8], dtype: DType) -> _Array:
    return value if dtype is DType.U8 else (value ^ _SIGN).view(np.int8)


def _name(index: int) -> str:
    """Tensors go by number: the names in an image come from anyone."""
    return f"t{index}"


def _zero(tensor: Tensor) -> np.uint8:
    """The u8 that carries 0."""
    return np.uint8(0 if tensor.dtype is DType.U8 else 128)


class _Graph:
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
            self._destination = f"part{number}" if layer.in_part else _name(output)
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
        shape = [1, *self._tensors[index].shape]
        return helper.make_tensor_value_info(_name(index), TensorProto.UINT8, shape)

    def _constant(self, value: _Array | np.generic, name: str = "") -> str:
        """The name of an initialiser with *value*; equal small ones are shared."""
        array = np.asarray(value)
        if not name:
            name = f"{array.dtype}{array.shape}:{array.tobytes().hex()}"
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
        assert layer.weights is not None and layer.bias is not None and layer.shifts is not None
        self._convolve(
            layer,
            inputs[0],
            output,
            layer.weights.transpose(0, 3, 1, 2),
            np.exp2(-layer.shifts.astype(np.float32)),
            layer.bias,
            layer.groups,
        )

    def _convolve(
        self,
        layer: Layer,
        source: Tensor,
        output: Tensor,
        weights: npt.NDArray[np.int8],
        scales: npt.NDArray[np.float32],
        bias: npt.NDArray[np.int32],
        groups: int,
    ) -> None:
        """QLinearConv; *weights* s8 [C_out, C_in / groups, kh, kw]."""
        one = self._constant(np.float32(1))
        encoded: _Array = np.ascontiguousarray(weights)
        zeros: _Array = np.zeros(len(weights), np.int8)
        depthwise = 1 < groups == source.shape[2] == len(weights)
        encoding = self._weights.of(encoded, depthwise)
        if encoding is WeightEncoding.UNSIGNED:
            encoded = encoded.view(np.uint8) ^ _SIGN
            zeros = np.full(len(weights), _SIGN)
        top, left, bottom, right = layer.pad
        unbounded, bounds = self._bounded(layer, output)
        operands = [
            _name(layer.inputs[0]),
            one,
            self._constant(_zero(source)),
            self._constant(encoded, f"weights{self._number}"),
            self._constant(scales, f"scales{self._number}"),
            self._constant(zeros, f"zeros{self._number}"),
            one,
            self._constant(_zero(output)),
            self._constant(bias, f"bias{self._number}"),
        ]
        self._node(
            "QLinearConv",
            operands,
            unbounded,
            _MICROSOFT,
            channels_last=1,
            group=groups,
            kernel_shape=list(layer.kernel),
            strides=list(layer.stride),
            dilations=list(layer.dilation),
            pads=[top, left, bottom, right],
        )
        if bounds:
            self._bound(layer, output, unbounded)

    def add(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        if layer.shift > _MAX_FLOAT_ADD_SHIFT:
            terms = [
                self._node("Mul", [self._widened(i, t), self._constant(np.float64(2.0**left))])
                for i, t, left in zip(layer.inputs, inputs, layer.lefts, strict=True)
            ]
            self._narrowed(layer, output, self._node("Add", terms), 2.0**-layer.shift)
            return
        unbounded, bounds = self._bounded(layer, output)
        operands = []
        for index, tensor, left in zip(layer.inputs, inputs, layer.lefts, strict=True):
            operands += [_name(index), self._constant(np.float32(2.0**left))]
            operands += [self._constant(_zero(tensor))]
        operands += [self._constant(np.float32(2.0**layer.shift)), self._constant(_zero(output))]
        self._node("QLinearAdd", operands, unbounded, _MICROSOFT)
        if bounds:
            self._bound(layer, output, unbounded)

    def maxpool(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        source, pads = _name(layer.inputs[0]), layer.pad
        if any(pad >= size for pad, size in zip(pads, layer.kernel * 2, strict=True)):
            # Sound if dilated, but ONNX Runtime has none of it. The lowest value is carried as 0.
            margins = np.array([0, *pads[:2], 0, 0, *pads[2:], 0], np.int64)
            source = self._node("Pad", [source, self._constant(margins)])
            pads = (0, 0, 0, 0)
        self._node(
            "NhwcMaxPool",
            [source],
            self._destination,
            _MICROSOFT,
            kernel_shape=list(layer.kernel),
            strides=list(layer.stride),
            dilations=list(layer.dilation),
            pads=list(pads),
        )

    def avgpool(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        (source,) = inputs
        height, width, channels = source.shape
        window = layer.kernel[0] * layer.kernel[1]
        if window & (window - 1) == 0:
            # The multiplier is a power of two as well: a depthwise convolution with ones.
            self._convolve(
                layer,
                source,
                output,
                np.ones((channels, 1, *layer.kernel), np.int8),
                np.full(channels, layer.multiplier * 2.0**-layer.shift, np.float32),
                np.zeros(channels, np.int32),
                channels,
            )
            return
        scale = layer.multiplier * 2.0**-layer.shift
        if layer.kernel == (height, width) and not any(layer.pad):
            wide = self._node("Cast", [_name(layer.inputs[0])], to=TensorProto.INT32)
            axes = self._constant(np.array([1, 2], np.int64))
            total = self._node("ReduceSum", [wide, axes], keepdims=1)
            total = self._node("Cast", [total], to=TensorProto.DOUBLE)
            offset = np.float64(int(_zero(source)) * window)
            total = self._node("Sub", [total, self._constant(offset)])
        else:
            # Sums stay below 2^24: float32 holds them, whatever the order of summation.
            wide = self._node("Cast", [_name(layer.inputs[0])], to=TensorProto.FLOAT)
            wide = self._node("Sub", [wide, self._constant(np.float32(_zero(source)))])
            wide = self._node("Transpose", [wide], perm=[0, 3, 1, 2])
            ones = np.ones((channels, 1, *layer.kernel), np.float32)
            total = self._node(
                "Conv",
                [wide, self._constant(ones, f"ones{self._number}")],
                group=channels,
                kernel_shape=list(layer.kernel),
                strides=list(layer.stride),
                pads=list(layer.pad),
            )
            total = self._node("Transpose", [total], perm=[0, 2, 3, 1])
            total = self._node("Cast", [total], to=TensorProto.DOUBLE)
        self._narrowed(layer, output, total, scale)

    def concat(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        self._requantise(layer, inputs, output, layer.rights)

    def rescale(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        self._requantise(layer, inputs, output, (layer.shift,))

    def _requantise(
        self, layer: Layer, inputs: list[Tensor], output: Tensor, rights: Sequence[int]
    ) -> None:
        """QLinearConcat looks each byte up in a table; of a single input it is a RESCALE."""
        unbounded, bounds = self._bounded(layer, output)
        operands = [self._constant(np.float32(1)), self._constant(_zero(output))]
        for index, tensor, left, right in zip(
            layer.inputs, inputs, layer.lefts, rights, strict=True
        ):
            operands += [_name(index), self._constant(np.float32(2.0 ** (left - right)))]
            operands += [self._constant(_zero(tensor))]
        self._node("QLinearConcat", operands, unbounded, _MICROSOFT, axis=3)
        if bounds:
            self._bound(layer, output, unbounded)

    def _widened(self, index: int, tensor: Tensor) -> str:
        """The tensor's values in double."""
        wide = self._node("Cast", [_name(index)], to=TensorProto.DOUBLE)
        return self._node("Sub", [wide, self._constant(np.float64(_zero(tensor)))])

    def _narrowed(self, layer: Layer, output: Tensor, value: str, scale: float) -> None:
        """``clip(RNE(value · scale))`` of exact doubles, carried as u8."""
        value = self._node("Mul", [value, self._constant(np.float64(scale))])
        value = self._node("Round", [value])
        bounds = (np.float64(layer.lo), np.float64(layer.hi))
        value = self._node("Clip", [value, *map(self._constant, bounds)])
        value = self._node("Add", [value, self._constant(np.float64(_zero(output)))])
        self._node("Cast", [value], self._destination, to=TensorProto.UINT8)

    def table(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        """An index is the byte that carries the element, which here is another one for s8."""
        assert layer.table is not None
        table = np.asarray(_carried(layer.table))
        if inputs[0].dtype is DType.S8:
            table = np.roll(table, 128, axis=1)
        index = self._node("Cast", [_name(layer.inputs[0])], to=TensorProto.INT32)
        if len(table) > 1:
            rows = np.arange(len(table), dtype=np.int32) * 256
            index = self._node("Add", [index, self._constant(rows)])
        entries = self._constant(table.reshape(-1), f"table{self._number}")
        self._gathered(entries, self._reshaped(index, (-1,)), output.shape, self._destination)

    def mul(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        """QLinearMul works in float32: products are below 2^16, and beyond 16 places 0 is left."""
        unbounded, bounds = self._bounded(layer, output)
        operands = []
        for index, tensor in zip(layer.inputs, inputs, strict=True):
            operands += [_name(index), self._constant(np.float32(1)), self._constant(_zero(tensor))]
        operands += [self._constant(np.float32(2.0**layer.shift)), self._constant(_zero(output))]
        self._node("QLinearMul", operands, unbounded, _MICROSOFT)
        if bounds:
            self._bound(layer, output, unbounded)

    def matmul(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        groups = layer.groups
        operands = []
        for index, tensor in zip(layer.inputs, inputs, strict=True):
            height, width, channels = tensor.shape
            split = self._reshaped(_name(index), (height * width, groups, channels // groups))
            operands.append(self._node("Transpose", [split], perm=[1, 0, 2]))
        operands += [self._constant(_zero(tensor)) for tensor in inputs]
        total = self._node("MatMulInteger", operands)
        total = self._node("Transpose", [total], perm=[1, 0, 2])
        total = self._reshaped(total, (1, *output.shape))
        total = self._node("Cast", [total], to=TensorProto.DOUBLE)
        self._narrowed(layer, output, total, 2.0**-layer.shift)

    def copy(self, layer: Layer, inputs: list[Tensor], output: Tensor) -> None:
        (source,) = inputs
        moved = self._moved(layer, source)
        as_it_is = layer.lefts[0] == layer.shift and source.dtype is output.dtype
        if as_it_is and (layer.lo, layer.hi) == (output.dtype.lowest, output.dtype.highest):
            self._node("Identity", [moved], self._destination)
            return
        unbounded, bounds = self._bounded(layer, output)
        operands = [
            self._constant(np.float32(1)),
            self._constant(_zero(output)),
            moved,
            self._constant(np.float32(2.0 ** (layer.lefts[0] - layer.shift))),
            self._constant(_zero(source)),
        ]
        self._node("QLinearConcat", operands, unbounded, _MICROSOFT, axis=0)
        if bounds:
            self._bound(layer, output, unbounded)

    def _moved(self, layer: Layer, source: Tensor) -> str:
        """What a COPY reads, in the order of its loops, with an axis for each."""
        counts = [loop.count for loop in layer.loops]
        size = math.prod(source.shape)
        axes = _axes(size, layer.source_start, [(loop.count, loop.source) for loop in layer.loops])
        if axes is None:
            places = np.full([1] * len(counts), layer.source_start, np.int32)
            for axis, loop in enumerate(layer.loops):
                step = loop.source if loop.count > 1 else 0
                turns = np.arange(loop.count, dtype=np.int32) * np.int32(step)
                others = tuple(other for other in range(len(counts)) if other != axis)
                places = places + np.expand_dims(turns, others)
            index = self._constant(places.reshape(-1), f"index{self._number}")
            flat = self._reshaped(_name(layer.inputs[0]), (size,))
            return self._gathered(flat, index, counts)
        sizes, firsts, lengths, order = axes
        value = self._reshaped(_name(layer.inputs[0]), sizes)
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
        target = _name(index)
        # Alike, and beside each other along an axis: what a concatenation is written as.
        for axis in (2, 0):
            boxes = [_box(place, numbers, axis) for place in places]
            if all(boxes):
                values = []
                for box, name in sorted(
                    (box, name) for box, name in zip(boxes, names, strict=True) if box
                ):
                    part = list(shape)
                    part[axis] = box[1]
                    values.append(self._reshaped(name, (1, *part)))
                self._node("Concat", values, target, axis=axis + 1)
                return
        flat = [
            self._reshaped(name, (place.size,)) for name, place in zip(names, places, strict=True)
        ]
        values_in_order = np.concatenate([place.reshape(-1) for place in places])
        axes = _interleaved(layers, shape)
        joined = self._node("Concat", flat, axis=0)
        if axes is not None:
            grids, perm = axes
            joined = self._node("Transpose", [self._reshaped(joined, grids)], perm=perm)
            self._reshaped(joined, (1, *shape), target)
            return
        inverse = np.empty(size, np.int32)
        inverse[values_in_order] = numbers.reshape(-1)
        self._gathered(joined, self._constant(inverse, f"order{self._number}"), shape, target)

    def _ordered(
        self, layer: Layer, name: str, place: npt.NDArray[np.int32]
    ) -> tuple[str, npt.NDArray[np.int32]]:
        """A part, and where its elements go, with the loops of a COPY in the output's order."""
        order = sorted(range(len(layer.loops)), key=lambda number: -layer.loops[number].target)
        if order == sorted(order):
            return name, place
        return self._node("Transpose", [name], perm=order), place.transpose(order)

    def _gathered(self, data: str, index: str, shape: Sequence[int], output: str = "") -> str:
        """Elements of *data* by *index*, both flat: Gather takes several times as long."""
        found = self._node("GatherElements", [data, index], axis=0)
        shape = shape if not output else (1, *shape)
        return self._reshaped(found, shape, output)

    def _reshaped(self, name: str, shape: Sequence[int], output: str = "") -> str:
        return self._node("Reshape", [name, self._constant(np.array(shape, np.int64))], output)


def _axes(
    size: int, start: int, loops: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Loops over *size* elements as a slice of an array with an axis for each.

    Returns:
        the array's shape, whose last axis is what lies between two steps of the finest loop; where
        the slice begins and how long it is along each axis; and which axis each loop that moves is,
        in the order of the loops. None if there is no such array.
    """
    moving = [
        (step, count, number) for number, (count, step) in enumerate(loops) if step and count > 1
    ]
    moving.sort(key=lambda each: (-each[0], each[2]))
    steps = [step for step, _, _ in moving]
    whole = [size, *steps, 1]
    if any(a % b for a, b in pairwise(whole)) or len(set(steps)) < len(steps):
        return None
    sizes = [a // b for a, b in pairwise(whole[:-1])] + [whole[-2]] if steps else [size]
    firsts, rest = [], start
    for step in (*steps, 1):
        first, rest = divmod(rest, step)
        firsts.append(first)
    lengths = [*(count for _, count, _ in moving), 1]
    if any(f + n > s for f, n, s in zip(firsts, lengths, sizes, strict=True)):
        return None
    numbers = [number for _, _, number in moving]
    return sizes, firsts, lengths, [numbers.index(number) for number in sorted(numbers)]


def _box(
    place: npt.NDArray[np.int32], numbers: npt.NDArray[np.int32], axis: int
) -> tuple[int, int] | None:
    """Where along *axis* the elements in *place* begin, and how many they are there.

    Args:
        numbers: those of all elements, [H, W, C]. Only as many are looked at as are in *place*.

    None if they are no box that is whole along the other axes, in its order.
    """
    shape = numbers.shape
    first, others = int(place.flat[0]), math.prod(shape) // shape[axis]
    if place.size % others:
        return None
    length = place.size // others
    inner = math.prod(shape[axis + 1 :])
    begin = first // inner
    if first % inner or begin + length > shape[axis]:
        return None
    box = [slice(None)] * 3
    box[axis] = slice(begin, begin + length)
    wanted = numbers[tuple(box)]
    return (begin, length) if np.array_equal(place.reshape(-1), wanted.reshape(-1)) else None


def _interleaved(
    layers: Sequence[Layer], shape: tuple[int, int, int]
) -> tuple[list[int], list[int]] | None:
    """Grids of all phases, one after the other, as an array and its order of axes; else None."""
    height, width, channels = shape
    _, _, down, right = layers[0].grid
    phases = [(row, column, down, right) for row in range(down) for column in range(right)]
    if any(layer.op is not Op.CONV for layer in layers):
        return None
    if [layer.grid for layer in layers] != phases or height % down or width % right:
        return None
    return [down, right, height // down, width // right, channels], [2, 0, 3, 1, 4]


_LOWER = {
    Op.CONV: _Graph.conv,
    Op.ADD: _Graph.add,
    Op.MAXPOOL: _Graph.maxpool,
    Op.AVGPOOL: _Graph.avgpool,
    Op.CONCAT: _Graph.concat,
    Op.RESCALE: _Graph.rescale,
    Op.TABLE: _Graph.table,
    Op.MUL: _Graph.mul,
    Op.COPY: _Graph.copy,
    Op.MATMUL: _Graph.matmul,
}
