"""Weights, parameters and tables as the instructions load them: words of the weight buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from edged.npu import Shift
from edged.npu.instructions import CHANNEL, Flag
from edged.scheduler._machine import Machine
from edged.scheduler._planes import Plane
from edged.scheduler._program import Program, Region

__all__ = [
    "Box",
    "Fixed",
    "MatrixWeights",
    "Parameters",
    "SumWeights",
    "Weights",
    "by_block",
    "channel_words",
    "depthwise_words",
    "table_words",
]

_Bytes = npt.NDArray[np.uint8]
_CHANNEL: Final = np.dtype(
    [(item.name, {"s32": "<i4", "u8": "u1"}[item.kind]) for item in CHANNEL.items]
)
_HALF: Final = 64
"""Twice this is what a u8 of a second operand lacks when it is loaded as s8."""


class Parameters(Protocol):
    """What the weight buffer has for a layer, by blocks of channels."""

    def words(self, blocks: int) -> int:
        """Words that *blocks* of them take."""
        ...

    def load(self, program: Program, first: int, blocks: int) -> Region:
        """Load those of *blocks* blocks from the *first* on."""
        ...


@dataclass(frozen=True, slots=True)
class Box:
    """Some of the positions of a kernel, and of its blocks of input channels: first and end."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    blocks: tuple[int, int]

    @property
    def taps(self) -> int:
        return (
            (self.rows[1] - self.rows[0])
            * (self.columns[1] - self.columns[0])
            * (self.blocks[1] - self.blocks[0])
        )


class SumWeights(Parameters, Protocol):
    """The weights of a CONV."""

    @property
    def whole(self) -> Box:
        """All of a block's weights."""
        ...

    def load_box(self, program: Program, block: int, box: Box) -> Region:
        """Load the parameters of a *block* and some of its weights."""
        ...


def by_block(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """*values*, [channels, …], as [blocks, size, …]; what is missing is zero."""
    blocks = -(-len(values) // size)
    padded = np.zeros((blocks * size, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded.reshape(blocks, size, *values.shape[1:])


def channel_words(
    machine: Machine,
    channels: int,
    size: int,
    shift: Shift,
    bias: npt.NDArray[np.int32] | int = 0,
    lefts: Sequence[Shift] = (),
) -> _Bytes:
    """The parameters of channels, *size* of them a word: [blocks, bytes]."""
    records = np.zeros(channels, _CHANNEL)
    records["bias"], records["shift"] = bias, shift
    for name, left in zip(("left", "second_left"), lefts, strict=False):
        records[name] = left
    return _padded(by_block(records, size).view(np.uint8).reshape(-1, size * CHANNEL.size), machine)


def depthwise_words(machine: Machine, weights: npt.NDArray[np.int8]) -> _Bytes:
    """Weights, [C, kh, kw], for DEPTHWISE: [blocks, words, bytes]."""
    blocks = by_block(weights.reshape(len(weights), -1), machine.array.ti)  # [blocks, ti, taps]
    rows = np.ascontiguousarray(blocks.transpose(0, 2, 1)).view(np.uint8)
    return _in_words(rows.reshape(len(rows), -1), machine)


def table_words(machine: Machine, table: npt.NDArray[Any]) -> _Bytes:
    """Tables, [1 or C, 256], for TABLE: [blocks, words, bytes]."""
    wide = table.dtype.itemsize > 1
    values = table.astype(np.int64) & 0xFFFF
    if len(table) > 1:
        values = by_block(values, machine.array.ti).transpose(0, 2, 1)  # [blocks, 256, ti]
    halves = [values & 0xFF, values >> 8] if wide else [values & 0xFF]
    rows = np.stack(halves, 1).astype(np.uint8)
    return _in_words(rows.reshape(len(rows), -1), machine)


def _in_words(rows: _Bytes, machine: Machine) -> _Bytes:
    words = -(-rows.shape[1] // machine.weight_bytes)
    padded = np.zeros((len(rows), words * machine.weight_bytes), np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(len(rows), words, machine.weight_bytes)


def _padded(rows: _Bytes, machine: Machine) -> _Bytes:
    words = np.zeros((len(rows), machine.weight_bytes), np.uint8)
    words[:, : rows.shape[1]] = rows
    return words


class Fixed:
    """Constant words, as many for each block.

    Args:
        data: [blocks, words, bytes]; of a single block, all have the same.
        shared: whether all blocks have the same.
    """

    def __init__(self, data: _Bytes, *, shared: bool = False) -> None:
        self._data = data
        self._shared = shared

    def words(self, blocks: int) -> int:
        return int(self._data.shape[1]) * (1 if self._shared else blocks)

    def load(self, program: Program, first: int, blocks: int) -> Region:
        part = self._data[:1] if self._shared else self._data[first : first + blocks]
        words = part.reshape(-1, part.shape[2])
        region = program.weights.take(len(words))
        program.load_weights(words, region)
        return region


class Weights(Fixed):
    """Constant weights of a CONV.

    Args:
        weights: s8 [C_out, kh, kw, C_in].
    """

    def __init__(
        self,
        machine: Machine,
        weights: npt.NDArray[np.int8],
        bias: npt.NDArray[np.int32],
        shift: Shift,
    ) -> None:
        ti, to = machine.array.ti, machine.array.to
        c_out, kh, kw, c_in = weights.shape
        blocks, inner = -(-c_out // to), -(-c_in // ti)
        data = np.zeros((blocks, 1 + kh * kw * inner, machine.weight_bytes), np.uint8)
        data[:, 0] = channel_words(machine, c_out, to, shift, bias)
        padded = np.zeros((blocks * to, kh, kw, inner * ti), np.int8)
        padded[:c_out, ..., :c_in] = weights
        words = padded.reshape(blocks, to, kh * kw * inner, ti).transpose(0, 2, 3, 1)
        data[:, 1:] = np.ascontiguousarray(words).view(np.uint8).reshape(blocks, -1, ti * to)
        super().__init__(data)
        self._shape = kh, kw, inner

    @property
    def whole(self) -> Box:
        kh, kw, inner = self._shape
        return Box((0, kh), (0, kw), (0, inner))

    def load_box(self, program: Program, block: int, box: Box) -> Region:
        taps = self._data[block, 1:].reshape(*self._shape, -1)
        part = taps[slice(*box.rows), slice(*box.columns), slice(*box.blocks)]
        words = np.concatenate([self._data[block, :1], part.reshape(box.taps, -1)])
        region = program.weights.take(len(words))
        program.load_weights(words, region)
        return region


class MatrixWeights:
    """Weights of a CONV out of a tensor: [K, M], a pixel for each input channel.

    Of a u8, of which 128 is taken away, the kernel has two rows more, of constant weights, which
    add 128 times the sum of the activations.

    Args:
        plane: of one row, whose pixels are the input channels.
        shift: of each output channel, or of all.
    """

    def __init__(self, machine: Machine, plane: Plane, shift: Shift, *, offset: bool) -> None:
        ti, to = machine.array.ti, machine.array.to
        self._machine = machine
        self._plane = plane
        self._offset = offset
        self._inner = -(-plane.width // ti)
        self._channels = channel_words(machine, plane.channels, to, shift)
        self._halves = np.full((self._inner, machine.weight_bytes), _HALF, np.uint8)

    @property
    def whole(self) -> Box:
        return Box((0, 3 if self._offset else 1), (0, 1), (0, self._inner))

    def words(self, blocks: int) -> int:
        return blocks * (1 + self.whole.taps)

    def load(self, program: Program, first: int, blocks: int) -> Region:
        region = program.weights.take(self.words(blocks))
        for number in range(blocks):
            self._load(program, first + number, self.whole, region, number * self.words(1))
        return region

    def load_box(self, program: Program, block: int, box: Box) -> Region:
        region = program.weights.take(1 + box.taps)
        self._load(program, block, box, region, 0)
        return region

    def _load(self, program: Program, block: int, box: Box, region: Region, skip: int) -> None:
        ti, to = self._machine.array.ti, self._machine.array.to
        first, end = box.blocks
        program.load_weights(self._channels[block : block + 1], region, skip)
        skip += 1
        for row in range(*box.rows):
            if row:
                program.load_weights(self._halves[first:end], region, skip)
            else:
                channels = min(to, self._plane.channels - block * to)
                rows = min(end * ti, self._plane.width) - first * ti
                part = self._plane.some(block * to, channels).each(0, first * ti, 1, 1)
                flags = Flag.OFFSET if self._offset else 0
                program.load_matrix(part, rows, flags, region, skip)
            skip += end - first
