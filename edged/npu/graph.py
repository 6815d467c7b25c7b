"""The int8 graph that a program image holds: tensors, layers, and the program as a whole."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.npu.registers import Array
from edged.npu.regmap import ABI, ElementType
from edged.npu.regmap import LayerOp as Op

__all__ = ["ACCUMULATOR_BOUND", "DType", "Layer", "Op", "ProgramImage", "Tensor"]

ACCUMULATOR_BOUND = 1 << 24
"""Every accumulator stays below this in magnitude, so that float32 requantisation is exact."""


class DType(enum.IntEnum):
    """Element type of an activation tensor; the zero point is 0 in both."""

    U8 = ElementType.U8
    S8 = ElementType.S8

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self is DType.U8 else np.int8)

    @property
    def lowest(self) -> int:
        return 0 if self is DType.U8 else -128

    @property
    def highest(self) -> int:
        return 255 if self is DType.U8 else 127


@dataclass(frozen=True, slots=True)
class Tensor:
    """An activation tensor in device DRAM, [H, W, C] dense, batch 1.

    Attributes:
        exponent: the real value is ``q · 2**exponent``.
        address: bytes from the base of the bank.
    """

    name: str
    dtype: DType
    shape: tuple[int, int, int]
    exponent: int
    address: int

    @property
    def nbytes(self) -> int:
        h, w, c = self.shape
        return h * w * c


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One operation of the int8 graph.

    Attributes:
        inputs: indices into :attr:`ProgramImage.tensors`.
        output: likewise; each tensor is written by one layer, and after it is read by later ones.
        kernel, stride, dilation: (vertical, horizontal).
        pad: (top, left, bottom, right). Convolution pads with 0, max pooling with nothing at all,
            average pooling with zeros that count.
        lo, hi: bounds of the result, within the output's dtype; ReLU and ReLU6 are made of these.
        lefts: ADD, CONCAT, RESCALE: left shift of each input, 0 … 14.
        rights: CONCAT: right shift of each input, 0 … 31. Empty for the others.
        shift: ADD, AVGPOOL, RESCALE: right shift of the result, 0 … 31 (AVGPOOL: … 47).
        multiplier: AVGPOOL: ``round(2**24 / (kh · kw))``.
        weights: CONV: s8 [C_out, kh, kw, C_in / groups].
        bias: CONV: s32 [C_out].
        shifts: CONV: u8 [C_out], right shift of each output channel, 0 … 31.
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
    lefts: tuple[int, ...] = ()
    rights: tuple[int, ...] = ()
    shift: int = 0
    multiplier: int = 0
    weights: npt.NDArray[np.int8] | None = None
    bias: npt.NDArray[np.int32] | None = None
    shifts: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ProgramImage:
    """A program for the device, as values.

    Attributes:
        array: the MAC array it was compiled for.
        dram_bytes: DRAM that a bank needs: activations from address 0, then the weights.
        inputs, outputs: indices into ``tensors``, in the order in which the host moves them.
        digest: blake2s (32 bytes) of the serialised image; empty until it was serialised or parsed.
    """

    array: Array
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dram_bytes: int
    abi: int = ABI
    digest: bytes = field(default=b"")

    @property
    def input_tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors[i] for i in self.inputs)

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors[i] for i in self.outputs)

    def macs(self) -> int:
        """Multiply-accumulates of one run's convolutions."""
        total = 0
        for layer in self.layers:
            if layer.weights is not None:
                h, w, _ = self.tensors[layer.output].shape
                total += h * w * int(layer.weights.size)
        return total
