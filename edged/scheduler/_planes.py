"""What lies in DRAM, as the load and store units see it: planes, and what lanes have of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from edged.npu import DType, Tensor
from edged.scheduler._machine import Machine

__all__ = ["POINT", "Operand", "Part", "Plane", "Window"]


@dataclass(frozen=True, slots=True)
class Plane:
    """Pixels in DRAM, each a run of channels.

    Attributes:
        address: of the first byte of pixel (0, 0).
        row_bytes, pixel_bytes: from one row, or column, to the next.
        channels: elements of each pixel.
    """

    address: int
    height: int
    width: int
    row_bytes: int
    pixel_bytes: int
    channels: int
    dtype: DType

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """All of a tensor."""
        height, width, channels = tensor.shape
        pixel = channels * tensor.dtype.numpy.itemsize
        return cls(tensor.address, height, width, width * pixel, pixel, channels, tensor.dtype)

    @property
    def wide(self) -> bool:
        """Whether the elements are s16."""
        return self.dtype is DType.S16

    @property
    def itemsize(self) -> int:
        return self.dtype.numpy.itemsize

    @property
    def run_bytes(self) -> int:
        """Bytes of each pixel."""
        return self.channels * self.itemsize

    def words(self, machine: Machine) -> int:
        """Words that a pixel takes in a bank."""
        return machine.blocks(self.channels) * self.itemsize

    def some(self, first: int, channels: int) -> Self:
        """The same pixels with *channels* of their channels, from *first* on."""
        return replace(self, address=self.address + first * self.itemsize, channels=channels)

    def each(self, row: int, column: int, down: int, right: int) -> Self:
        """Each *down*-th row from *row* on, and of these each *right*-th pixel from *column* on."""
        return replace(
            self,
            address=self.address + row * self.row_bytes + column * self.pixel_bytes,
            height=len(range(row, self.height, down)),
            width=len(range(column, self.width, right)),
            row_bytes=self.row_bytes * down,
            pixel_bytes=self.pixel_bytes * right,
        )

    @property
    def is_flat(self) -> bool:
        """Whether its rows follow each other as pixels do."""
        return self.height == 1 or self.row_bytes == self.width * self.pixel_bytes

    def flattened(self) -> Self:
        """The same with one row."""
        return replace(self, height=1, width=self.height * self.width)


@dataclass(frozen=True, slots=True)
class Window:
    """Which pixels of an input an output pixel needs.

    Attributes:
        stride: pixels of the input from one of the output to the next; 0: all have the same.
        before: rows above the input's first, and columns before it, that the first window has.
    """

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)

    def extent(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the input for so many of the output."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        return (rows - 1) * sh + dh * (kh - 1) + 1, (columns - 1) * sw + dw * (kw - 1) + 1

    @property
    def reach(self) -> int:
        """The most rows from one that is computed with to the next."""
        return max(*self.stride, *self.dilation)


POINT = Window()
"""Pixels by themselves."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A plane that is read.

    Attributes:
        fill: what elements outside of the plane are.
        pitch: words from one pixel to the next in a bank; 0: as many as a pixel has.
        apart: words from one block of channels to the next; 0: they are side by side.
    """

    plane: Plane
    window: Window = POINT
    fill: int = 0
    pitch: int = 0
    apart: int = 0

    def words(self, machine: Machine) -> int:
        """Words from one pixel to the next."""
        return self.pitch or self.plane.words(machine)


@dataclass(frozen=True, slots=True)
class Part:
    """What each lane has of a plane: rows and columns from some on, the lanes' beside each other.

    Attributes:
        row, column: of lane 0's first pixel; may be outside.
        rows, columns: that each lane has.
        lane_rows, lane_columns: from one lane's part to the next one's.
        across: lanes beside each other.
    """

    row: int
    column: int
    rows: int
    columns: int
    lane_rows: int
    lane_columns: int
    across: int

    def span(self, plane: Plane, lanes: int) -> tuple[int, int]:
        """Between which addresses all lanes read or write *plane*."""
        down = lanes // self.across
        first_row = min(max(self.row, 0), plane.height - 1)
        last_row = self.row + (down - 1) * self.lane_rows + self.rows - 1
        last_row = min(max(last_row, first_row), plane.height - 1)
        first_column = min(max(self.column, 0), plane.width - 1)
        last_column = self.column + (self.across - 1) * self.lane_columns + self.columns - 1
        last_column = min(max(last_column, first_column), plane.width - 1)
        return (
            plane.address + first_row * plane.row_bytes + first_column * plane.pixel_bytes,
            plane.address
            + last_row * plane.row_bytes
            + last_column * plane.pixel_bytes
            + plane.run_bytes,
        )
