"""How many cycles a gateware takes for the code of an image, and what bounds each layer.

A unit executes its instructions one after the other, the three of them side by side, as far as
tokens let them:

- LOAD moves a chunk of up to 64 bytes of one pixel a cycle, for one lane after the other;
  LOAD_WEIGHTS 64 bytes, LOAD_MATRIX a row. DRAM gives 51 of 64 bytes a cycle, 64 cycles after the
  first one was asked for.
- CONV takes a cycle for each word of weights, or as many as the result has words if these are
  more, and one for the parameters of a block. DEPTHWISE, POOL and VECTOR take one for each word
  that they read. TABLE fills its table first.
- STORE moves like LOAD. When it gives a token to the load unit, its data has reached DRAM.

Instructions are fetched two a cycle, and wait in queues of 16.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edged.npu import Array, DType, ProgramImage
from edged.npu.instructions import INSTRUCTION_BYTES, Flag, Instruction, Opcode, Unit, unit_of

__all__ = ["CHUNK", "DRAM_BYTES", "OVERHEAD", "LayerCycles", "measure", "moving_cycles"]

LATENCY: Final = 64
"""Cycles from a request to DRAM to its first byte."""
DRAM_BYTES: Final = 51
"""That it gives or takes in a cycle, at most."""
CHUNK: Final = 64
QUEUE: Final = 16
_TABLE_ENTRIES: Final = 256
OVERHEAD: Final = {Unit.LOAD: LATENCY + 12, Unit.EXECUTE: 14, Unit.STORE: 16}
"""Cycles of an instruction in which its unit does not yet, or no longer, move or compute."""


@dataclass(frozen=True, slots=True)
class LayerCycles:
    """What a layer takes.

    Attributes:
        cycles: from the end of the layer before it to its own.
        array: cycles of it in which the array multiplies.
        load, execute, store: cycles in which each unit is busy with its instructions.
        read, written: bytes of DRAM.
        instructions: how many.
    """

    cycles: int
    array: int
    load: int
    execute: int
    store: int
    read: int
    written: int
    instructions: int

    @property
    def bound(self) -> str:
        """What takes most of the time: the array, DRAM, or that units wait for each other."""
        busiest = max(self.load, self.execute, self.store)
        if busiest < 0.7 * self.cycles:
            return "dependencies"
        if self.execute == busiest:
            return "array" if self.array > 0.5 * busiest else "elements"
        return "dram"


def measure(
    image: ProgramImage, layers: Sequence[Sequence[int]], entry: int = 0
) -> list[LayerCycles]:
    """The cycles of each layer of an *entry* of *image*, which has code.

    Args:
        layers: of each entry, the first instruction of each of its layers.
    """
    clock = _Clock(image.array)
    at = image.entries[entry].instruction
    begins = layers[entry]
    found: list[LayerCycles] = []
    before = clock.total()
    while True:
        instruction = Instruction.unpack(
            image.code[at * INSTRUCTION_BYTES : (at + 1) * INSTRUCTION_BYTES]
        )
        ends = instruction.op is Opcode.END
        while len(found) < len(begins) and (
            ends or (len(found) + 1 < len(begins) and at == begins[len(found) + 1])
        ):
            after = clock.total()
            found.append(LayerCycles(*(b - a for a, b in zip(before, after, strict=True))))
            before = after
        if ends:
            return found
        clock.execute(instruction)
        at += 1


def moving_cycles(pixels: int, size: int) -> int:
    """Cycles to move *pixels* of *size* bytes: a chunk of one pixel each, as DRAM gives them."""
    return max(pixels * -(-size // CHUNK), -(-pixels * size // DRAM_BYTES))


class _Clock:
    """The time at which each unit is free, as instructions are added in the program's order."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._free = dict.fromkeys(Unit, 0)
        self._queues: dict[Unit, deque[int]] = {unit: deque(maxlen=QUEUE) for unit in Unit}
        self._tokens: dict[tuple[int, int], deque[int]] = {
            (giver, taker): deque() for giver in Unit for taker in Unit
        }
        self._busy = dict.fromkeys(Unit, 0)
        self._fetched = 0.0
        self._end = self._multiplied = self._read = self._written = self._count = 0
        self._planes: dict[Unit, dict[str, int]] = {}
        self._frame: dict[str, int] = {}
        self._result: dict[str, int] = {}

    def total(self) -> tuple[int, ...]:
        """The figures of :class:`LayerCycles` up to here."""
        busy = (self._busy[unit] for unit in Unit)
        return self._end, self._multiplied, *busy, self._read, self._written, self._count

    def execute(self, instruction: Instruction) -> None:
        self._count += 1
        self._fetched += 0.5
        unit = unit_of(instruction.op)
        if unit is None:
            self._fetched = max(self._fetched, self._end) + LATENCY
            return
        queue = self._queues[unit]
        if len(queue) == QUEUE:  # There is room once the one that many before it is done.
            self._fetched = max(self._fetched, queue[0])
        start = max(self._free[unit], int(self._fetched))
        for giver in Unit:
            if instruction.wait >> giver & 1:
                start = max(start, self._tokens[giver, unit].popleft())
        cycles = self._cycles(unit, instruction)
        done = start + cycles
        if unit is Unit.STORE and instruction.signal >> Unit.LOAD & 1:
            done += LATENCY
        self._free[unit] = done
        self._busy[unit] += cycles
        queue.append(done)
        for taker in Unit:
            if instruction.signal >> taker & 1:
                self._tokens[unit, taker].append(done)
        self._end = max(self._end, done)

    def _cycles(self, unit: Unit, instruction: Instruction) -> int:
        """How long the unit takes for it."""
        op, operands = instruction.op, instruction.operands
        match op:
            case Opcode.LOAD_PLANE | Opcode.STORE_PLANE:
                self._planes[unit] = operands
                return 1
            case Opcode.FRAME:
                self._frame = operands
                return 1
            case Opcode.RESULT:
                self._result = operands
                return 1
            case Opcode.LOAD | Opcode.STORE:
                pixels = self._array.tp * operands["rows"] * operands["columns"]
                moved = pixels * operands["bytes"]
                return OVERHEAD[unit] + self._moved(
                    unit, moved, moving_cycles(pixels, operands["bytes"])
                )
            case Opcode.LOAD_WEIGHTS:
                moved = operands["words"] * self._array.ti * self._array.to
                return OVERHEAD[unit] + self._moved(unit, moved, moving_cycles(1, moved))
            case Opcode.LOAD_MATRIX:
                moved = operands["rows"] * operands["columns"]
                return OVERHEAD[unit] + self._moved(
                    unit, moved, moving_cycles(operands["rows"], operands["columns"])
                )
        return OVERHEAD[unit] + self._executed(instruction)

    def _moved(self, unit: Unit, moved: int, cycles: int) -> int:
        if unit is Unit.STORE:
            self._written += moved
        else:
            self._read += moved
        return cycles

    def _executed(self, instruction: Instruction) -> int:
        frame, result, array = self._frame, self._result, self._array
        width = 2 if result["source_type"] == DType.S16 else 1
        result_width = 2 if result["target_type"] == DType.S16 else 1
        pixels = frame["rows"] * frame["columns"]
        window = frame["kernel_rows"] * frame["kernel_columns"]
        blocks = frame["blocks"]
        match instruction.op:
            case Opcode.CONV:
                taps = window * frame["kernel_blocks"] * width
                words = -(-array.to // array.ti) * result_width
                self._multiplied += blocks * pixels * taps
                return blocks * (1 + pixels * max(taps, words))
            case Opcode.DEPTHWISE:
                weights = -(-window * array.ti // CHUNK)
                return blocks * (1 + weights + pixels * max(window * width, result_width))
            case Opcode.POOL:
                return blocks * (1 + pixels * max(window * width, result_width))
            case Opcode.VECTOR:
                if instruction.flags & (Flag.ADD | Flag.MULTIPLY):
                    width += 2 if result["second_type"] == DType.S16 else 1
                return blocks * (1 + pixels * max(width, result_width))
        tables = 1 if instruction.flags & Flag.SHARED else blocks
        entries = _TABLE_ENTRIES * (1 if instruction.flags & Flag.SHARED else array.ti)
        fill = entries * result_width // CHUNK
        return tables * (1 + fill) + blocks * pixels * max(1, result_width)
