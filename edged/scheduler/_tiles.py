"""How a plane is cut into tiles, and tiles into the parts of lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from edged.scheduler._planes import Part, Window

__all__ = ["MAX_TILE", "Tile", "Tiling", "tilings"]

MAX_TILE: Final = 1 << 15
"""Rows, or columns, of the input that all lanes of a tile reach: fields of instructions have 16
bits."""

_COUNTS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 4096)


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels of the output that are made at a time.

    Attributes:
        row, column: the first of lane 0.
        rows, columns: that each lane makes.
    """

    row: int
    column: int
    rows: int
    columns: int
    across: int

    def part(self, window: Window) -> Part:
        """What lanes need of an input."""
        rows, columns = window.extent(self.rows, self.columns)
        (down, right), (above, left) = window.stride, window.before
        return Part(
            self.row * down - above,
            self.column * right - left,
            rows,
            columns,
            self.rows * down,
            self.columns * right,
            self.across,
        )


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of a plane, all of the same size but for the last ones, which may be smaller.

    Attributes:
        down, across: lanes below each other and beside each other.
        rows, columns: that each lane makes.
    """

    down: int
    across: int
    rows: int
    columns: int

    def count(self, height: int, width: int) -> int:
        return -(-height // (self.rows * self.down)) * -(-width // (self.columns * self.across))

    def tiles(self, height: int, width: int) -> Iterator[Tile]:
        for row in range(0, height, self.rows * self.down):
            rows = min(self.rows, -(-(height - row) // self.down))
            for column in range(0, width, self.columns * self.across):
                columns = min(self.columns, -(-(width - column) // self.across))
                yield Tile(row, column, rows, columns, self.across)


def tilings(
    height: int, width: int, lanes: int, fits: Callable[[int, int], bool]
) -> Iterator[Tiling]:
    """Ways to cut a plane of *height* × *width*.

    Args:
        fits: whether so many rows and columns a lane do; if they do, fewer do.
    """
    for across in (n for n in range(1, lanes + 1) if lanes % n == 0):
        down = lanes // across
        seen = set()
        for parts in _counts(-(-width // across)):
            columns = -(-width // (across * parts))
            if columns in seen or not fits(1, columns):
                continue
            seen.add(columns)
            least = -(-height // (down * _most_rows(-(-height // down), columns, fits)))
            for count in {least, least + 1, 2 * least, 4 * least, 8 * least}:
                yield Tiling(down, across, -(-height // (down * count)), columns)


def _counts(most: int) -> Iterator[int]:
    yield from (count for count in _COUNTS if count < most)
    yield most


def _most_rows(most: int, columns: int, fits: Callable[[int, int], bool]) -> int:
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle, columns):
            low = middle
        else:
            high = middle - 1
    return low
