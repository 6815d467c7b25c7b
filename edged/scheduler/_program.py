"""The instructions of an entry while they are written, one unit's after the other's.

Whoever writes them does so in an order in which they could be executed one by one, and says what
each reads and writes; :mod:`edged.scheduler._order` finds out what has to wait for what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.errors import ModelError
from edged.npu.instructions import Instruction, Opcode
from edged.scheduler._machine import Machine
from edged.scheduler._planes import Part, Plane

__all__ = ["BANK", "DRAM", "MAX_STEPS", "WEIGHTS", "Packed", "Program", "Region", "Ring", "Step"]

BANK: Final = 0
WEIGHTS: Final = 1
DRAM: Final = 2

MAX_STEPS: Final = 100_000
"""Instructions of a layer."""

_SEGMENT: Final = 1 << 14
"""Fields of instructions that count a plane's rows and columns are short: beyond this many, the
plane is said to begin later."""


@dataclass(frozen=True, slots=True)
class Region:
    """What an instruction reads or writes: words of a buffer, which may wrap, or bytes of DRAM.

    Attributes:
        space: :data:`BANK`, :data:`WEIGHTS` or :data:`DRAM`.
    """

    space: int
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction, and what it reads and writes."""

    instruction: Instruction
    reads: tuple[Region, ...] = ()
    writes: tuple[Region, ...] = ()


class Ring:
    """A buffer, whose words are given out in turn."""

    def __init__(self, space: int, words: int) -> None:
        self.space = space
        self.words = words
        self._next = 0
        self._held: list[Region] = []

    def take(self, words: int) -> Region:
        """Some words that nobody holds.

        Raises:
            ModelError: there are not as many in one place.
        """
        start = self._next
        for _ in range(2 * len(self._held) + 2):
            hit = self._hit(start, words)
            if hit is None and words <= self.words:
                region = Region(self.space, start, words)
                self._held.append(region)
                self._next = (start + words) % self.words
                return region
            if hit is None:
                break
            start = (hit.first + hit.size) % self.words
        raise ModelError(f"cannot schedule: {words} words of a buffer of {self.words} are not free")

    def free(self, region: Region) -> None:
        """Give words back."""
        self._held.remove(region)

    def _hit(self, start: int, words: int) -> Region | None:
        for held in self._held:
            ahead = (held.first - start) % self.words
            behind = (start - held.first) % self.words
            if ahead < words or behind < held.size:
                return held
        return None


class Packed:
    """Section PACKED while it grows; what is equal stands there once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._size = 0

    def add(self, words: npt.NDArray[np.uint8]) -> int:
        """The address of *words*, which are a multiple of 64 bytes."""
        data = words.tobytes()
        place = self._places.get(data)
        if place is None:
            place = self._places[data] = self._size
            self._parts.append(data)
            self._size += len(data)
        return place

    def data(self) -> bytes:
        return b"".join(self._parts)


class Program:
    """The steps of an entry.

    Attributes:
        bank, weights: who has which words of the buffers.
    """

    def __init__(self, machine: Machine, packed: Packed) -> None:
        self.machine = machine
        self.packed = packed
        self.bank = Ring(BANK, machine.bank_words)
        self.weights = Ring(WEIGHTS, machine.weight_words)
        self.steps: list[Step] = []
        self._layer = ""
        self._begin = 0
        self._set: dict[Opcode, dict[str, int]] = {}

    def begin(self, layer: str) -> None:
        """The steps that follow are those of *layer*."""
        self._layer = layer
        self._begin = len(self.steps)

    def load(self, plane: Plane, part: Part, fill: int, to: Region) -> None:
        """Load each lane's part of *plane* to the words *to*, row by row."""
        self._move(Opcode.LOAD_PLANE, Opcode.LOAD, plane, part, fill, to)

    def store(self, plane: Plane, part: Part, of: Region, words: int | None = None) -> None:
        """Store each lane's part of *plane* from the words *of*.

        Args:
            words: from one pixel to the next; None: as many as a pixel has.
        """
        self._move(Opcode.STORE_PLANE, Opcode.STORE, plane, part, 0, of, words)

    def load_weights(self, words: npt.NDArray[np.uint8], to: Region, skip: int = 0) -> None:
        """Load constant *words*, [words, bytes], to those of *to*, behind *skip* of them."""
        self._add(
            Opcode.LOAD_WEIGHTS,
            {
                "address": self.packed.add(words),
                "buffer": (to.first + skip) % self.weights.words,
                "words": len(words),
            },
            writes=(to,),
        )

    def load_matrix(self, plane: Plane, rows: int, flags: int, to: Region, skip: int) -> None:
        """Load *rows* pixels of *plane* as words of weights, behind *skip* words of *to*."""
        span = (rows - 1) * plane.pixel_bytes + plane.run_bytes
        self._add(
            Opcode.LOAD_MATRIX,
            {
                "address": plane.address,
                "buffer": (to.first + skip) % self.weights.words,
                "row_bytes": plane.pixel_bytes,
                "rows": rows,
                "columns": plane.run_bytes,
            },
            flags,
            reads=(Region(DRAM, plane.address, span),),
            writes=(to,),
        )

    def frame(self, **operands: int) -> None:
        """Set the loops of what is executed."""
        self._configure(Opcode.FRAME, operands)

    def result(self, **operands: int) -> None:
        """Set types and bounds."""
        self._configure(Opcode.RESULT, operands)

    def execute(
        self,
        op: Opcode,
        flags: int,
        operands: dict[str, int],
        reads: tuple[Region, ...],
        writes: tuple[Region, ...],
    ) -> None:
        self._add(op, operands, flags, reads, writes)

    def _move(
        self,
        setting: Opcode,
        moving: Opcode,
        plane: Plane,
        part: Part,
        fill: int,
        buffer: Region,
        words: int | None = None,
    ) -> None:
        words = words or plane.words(self.machine)
        # A plane of more rows or columns than fields can tell begins where they are needed.
        first_row = max(part.row, 0) // _SEGMENT * _SEGMENT
        first_column = max(part.column, 0) // _SEGMENT * _SEGMENT
        self._configure(
            setting,
            {
                "height": min(plane.height - first_row, 0xFFFF),
                "width": min(plane.width - first_column, 0xFFFF),
                "row_bytes": plane.row_bytes,
                "pixel_bytes": plane.pixel_bytes,
                "lanes_across": part.across,
                "wide": int(plane.wide),
                "fill": fill & 0xFFFF,
                "lane_rows": part.lane_rows,
                "lane_columns": part.lane_columns,
                "buffer_row": part.columns * words if part.rows > 1 else 0,
                "buffer_pixel": words if part.columns > 1 else 0,
            },
        )
        low, high = part.span(plane, self.machine.array.tp)
        dram = (Region(DRAM, low, high - low),)
        self._add(
            moving,
            {
                "address": plane.address
                + first_row * plane.row_bytes
                + first_column * plane.pixel_bytes,
                "buffer": buffer.first,
                "row": part.row - first_row,
                "column": part.column - first_column,
                "rows": part.rows,
                "columns": part.columns,
                "bytes": plane.run_bytes,
            },
            reads=dram if moving is Opcode.LOAD else (buffer,),
            writes=dram if moving is Opcode.STORE else (buffer,),
        )

    def _configure(self, op: Opcode, operands: dict[str, int]) -> None:
        if self._set.get(op) != operands:
            self._set[op] = operands
            self._add(op, operands)

    def _add(
        self,
        op: Opcode,
        operands: dict[str, int],
        flags: int = 0,
        reads: tuple[Region, ...] = (),
        writes: tuple[Region, ...] = (),
    ) -> None:
        if len(self.steps) - self._begin >= MAX_STEPS:
            raise ModelError(
                f"cannot schedule layer {self._layer!r}: it needs more than {MAX_STEPS}"
                " instructions; larger buffers, or loops that move runs of elements, need fewer"
            )
        self.steps.append(Step(Instruction(op, operands, flags=flags), reads, writes))
