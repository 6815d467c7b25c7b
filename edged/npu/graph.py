"""The integer graph that a program image holds: tensors, layers, and the program as a whole."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.npu.registers import Array
from edged.npu.regmap import ABI, ElementType
from edged.npu.regmap import LayerOp as Op

__all__ = [
    "ACCUMULATOR_BOUND",
    "WIDE_ACCUMULATOR_BOUND",
    "DType",
    "Entry",
    "Layer",
    "Loop",
    "Op",
    "ProgramImage",
    "Schedule",
    "Shift",
    "Tensor",
]

ACCUMULATOR_BOUND = 1 << 24
"""Every accumulator of 8-bit activations stays below this in magnitude, so that float32
requantisation is exact."""

WIDE_ACCUMULATOR_BOUND = 1 << 31
"""Likewise of a convolution of s16: 256 times the sum over the high bytes, plus that over the low
bytes, plus the bias. Each of the two sums is then below :data:`ACCUMULATOR_BOUND` by itself: with
``32768 · Σ|w| < 2**31`` the larger, ``255 · Σ|w|``, is below ``255 · 2**16``."""

Shift = int | npt.NDArray[np.uint8]
"""By how many places to shift: one number, or one for each channel of the output, [C]."""


class DType(enum.IntEnum):
    """Element type of an activation tensor; the zero point is 0 in each."""

    U8 = ElementType.U8
    S8 = ElementType.S8
    S16 = ElementType.S16

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(_TYPES[self])

    @property
    def lowest(self) -> int:
        return int(np.iinfo(_TYPES[self]).min)

    @property
    def highest(self) -> int:
        return int(np.iinfo(_TYPES[self]).max)

    @property
    def reach(self) -> int:
        """The largest magnitude."""
        return max(-self.lowest, self.highest)


_TYPES: dict[DType, type[np.integer[Any]]] = {
    DType.U8: np.uint8,
    DType.S8: np.int8,
    DType.S16: np.int16,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An activation tensor in device DRAM, [H, W, C] dense, batch 1.

    Attributes:
        exponent: the real value is ``q · 2**exponent``; where each channel has an exponent of its
            own, the largest of them. It is there to be read: the device computes with shifts, and
            what moves tensors to and from the host has the exponents itself.
        address: bytes from the base of the bank; a multiple of the size of an element.
    """

    name: str
    dtype: DType
    shape: tuple[int, int, int]
    exponent: int
    address: int

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.numpy.itemsize


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a COPY: how often, and by how many elements input and output go on each time."""

    count: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the CODE of an image is made for.

    Attributes:
        activation_buffer, weight_buffer: on-chip bytes.
        accumulators: of each lane of the array.
    """

    activation_buffer: int = 0
    weight_buffer: int = 0
    accumulators: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One operation of the integer graph.

    Attributes:
        inputs: indices into :attr:`ProgramImage.tensors`.
        output: likewise. A tensor is written by one layer, or in parts by several (COPY, and CONV
            with a grid); once all of it is, later layers read it.
        kernel, stride, dilation: (vertical, horizontal).
        pad: (top, left, bottom, right). Convolution pads with 0, max pooling with nothing at all,
            average pooling with zeros that count.
        lo, hi: bounds of the result, within the output's dtype; ReLU and ReLU6 are made of these.
        groups: CONV, MATMUL.
        lefts: left shift before rounding, 0 … 14: ADD of each input; CONCAT, RESCALE, COPY one.
        shift: right shift of the result, 0 … 31 (AVGPOOL: … 47); MAXPOOL and TABLE have none.
            This and *lefts* are all numbers, or all one for each channel of the output.
        multiplier: AVGPOOL: ``round(2**24 / (kh · kw))``.
        weights: CONV: s8 [C_out, kh, kw, C_in / groups].
        bias: CONV: s32 [C_out].
        grid: CONV: row and column of the output that the first pixel goes to, and how many rows
            and columns lie from one to the next.
        table: TABLE: [1, 256] or [C, 256], of the output's dtype.
        source_start, target_start: COPY: element of input and output at which it starts; elements
            are counted in the order [H, W, C].
        loops: COPY: at most 5, the outermost first.
    """

    op: Op
    name: str
    inputs: tuple[int, ...]
    output: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    lo: int = 0
    hi: int = 255
    lefts: tuple[Shift, ...] = ()
    shift: Shift = 0
    multiplier: int = 0
    weights: npt.NDArray[np.int8] | None = None
    bias: npt.NDArray[np.int32] | None = None
    grid: tuple[int, int, int, int] = (0, 0, 1, 1)
    table: npt.NDArray[Any] | None = None
    source_start: int = 0
    target_start: int = 0
    loops: tuple[Loop, ...] = ()

    @property
    def per_channel(self) -> bool:
        """Whether it has shifts for each channel of the output."""
        return not all(isinstance(shift, int) for shift in (self.shift, *self.lefts))

    @property
    def in_part(self) -> bool:
        """Whether it writes a part of its output, or may."""
        return self.op is Op.COPY or self.grid != (0, 0, 1, 1)

    def written(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What it writes of *output*, [H, W, C], as a view: for a COPY, an axis for each loop.

        Raises:
            ValueError: that is not inside.
        """
        if self.op is Op.COPY:
            return _strided(
                output, self.target_start, [(loop.count, loop.target) for loop in self.loops]
            )
        row, column, down, right = self.grid
        if not (row < output.shape[0] and column < output.shape[1] and down and right):
            raise ValueError(f"grid {self.grid} in {output.shape}")
        return output[row::down, column::right]

    def copied(self, source: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """COPY: what it reads of *source*, [H, W, C], as a view with an axis for each loop.

        Raises:
            ValueError: that is not inside.
        """
        return _strided(
            source, self.source_start, [(loop.count, loop.source) for loop in self.loops]
        )

    def by_loop(self, shift: Shift) -> Shift:
        """COPY: *shift* by the channel that each element goes to, with an axis for each loop."""
        if isinstance(shift, int):
            return shift
        places = np.full([1] * len(self.loops), self.target_start, np.int64)
        for axis, loop in enumerate(self.loops):
            if loop.target % len(shift) and loop.count > 1:
                turns = loop.target * np.arange(loop.count)
                others = [other for other in range(len(self.loops)) if other != axis]
                places = places + np.expand_dims(turns, others)
        return shift[places % len(shift)]


def _strided(array: npt.NDArray[Any], start: int, loops: list[tuple[int, int]]) -> npt.NDArray[Any]:
    if start + sum((count - 1) * step for count, step in loops) >= array.size:
        raise ValueError(f"loops {loops} from {start} leave the {array.size} elements")
    if not array.flags.c_contiguous or any(count < 1 or step < 0 for count, step in loops):
        raise ValueError(f"loops {loops}")
    return np.lib.stride_tricks.as_strided(
        array.reshape(-1)[start:],
        [count for count, _ in loops],
        [step * array.itemsize for _, step in loops],
    )


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An entry point: layers that one RUN executes.

    It stands by itself: what is in DRAM when it begins are its inputs, which the host has written,
    and whatever else, since runs of other entries may come between. So tensors of different entries
    may have the same addresses.

    Attributes:
        layers: in the order of execution.
        inputs, outputs: indices into :attr:`ProgramImage.tensors`, in the order in which the host
            moves them.
        instruction: its first one in the image's code, counted from 0; 0 where there is no code.
    """

    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    instruction: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ProgramImage:
    """A program for the device, as values.

    Attributes:
        array: the MAC array it was compiled for.
        entries: its entry points, by their number; at most 64.
        dram_bytes: DRAM that a bank needs: activations from address 0, then the weights.
        code: instructions, 32 bytes each; empty where there are none.
        packed: what they load; a multiple of 64 bytes.
        schedule: what they are made for.
        digest: blake2s (32 bytes) of the serialised image; empty until it was serialised or parsed.
    """

    array: Array
    tensors: tuple[Tensor, ...]
    entries: tuple[Entry, ...]
    dram_bytes: int
    abi: int = ABI
    digest: bytes = field(default=b"")
    code: bytes = b""
    packed: bytes = b""
    schedule: Schedule = Schedule()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of all entries."""
        return tuple(layer for entry in self.entries for layer in entry.layers)

    @property
    def only(self) -> Entry:
        """The entry of a program that has one.

        Raises:
            ValueError: it has several.
        """
        (entry,) = self.entries
        return entry

    @property
    def inputs(self) -> tuple[int, ...]:
        """The inputs of the only entry."""
        return self.only.inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        """The outputs of the only entry."""
        return self.only.outputs

    @property
    def input_tensors(self) -> tuple[Tensor, ...]:
        """The input tensors of the only entry."""
        return self.chosen(self.inputs)

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        """The output tensors of the only entry."""
        return self.chosen(self.outputs)

    def chosen(self, indices: Iterable[int]) -> tuple[Tensor, ...]:
        """The tensors with these *indices*."""
        return tuple(self.tensors[index] for index in indices)

    def macs(self) -> int:
        """Multiply-accumulates of the convolutions and products of matrices of all entries."""
        total = 0
        for layer in self.layers:
            h, w, c = self.tensors[layer.output].shape
            if layer.weights is not None:
                row, column, down, right = layer.grid
                pixels = len(range(row, h, down)) * len(range(column, w, right))
                total += pixels * int(layer.weights.size)
            elif layer.op is Op.MATMUL:
                total += h * w * c * self.tensors[layer.inputs[0]].shape[2] // layer.groups
        return total
