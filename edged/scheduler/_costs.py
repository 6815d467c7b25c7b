"""What each instruction takes of its unit and of DRAM, as a straightforward gateware does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.npu import Array, DType
from edged.npu.instructions import Flag, Instruction, Opcode, Unit
from edged.scheduler._rates import BEAT, LATENCY, OVERHEAD, TABLE_ENTRIES

__all__ = ["Costs", "Work"]

_MEAN = 8
"""Cycles that the mean of a window takes besides one for each channel, one after the other."""


@dataclass(frozen=True, slots=True)
class Work:
    """An instruction.

    Attributes:
        unit: None of SYNC and END.
        cycles: that it takes if DRAM is never short.
        before: of these, in which it does not move or compute.
        beats: that DRAM moves.
        words: how often it uses the port of the banks at which they are written, and read by the
            store unit.
        array: cycles in which the array multiplies.
        waits, signals: units whose token it takes, and to which it gives one.
    """

    unit: Unit | None
    cycles: int = 1
    before: int = 0
    beats: int = 0
    words: int = 0
    array: int = 0
    waits: tuple[Unit, ...] = ()
    signals: tuple[Unit, ...] = ()

    @property
    def demand(self) -> float:
        """Bytes of DRAM in each of the other cycles."""
        return self.beats * BEAT / max(self.cycles - self.before, 1)

    @property
    def port(self) -> float:
        """Part of these cycles in which it uses the banks' port."""
        return self.words / max(self.cycles - self.before, 1)


class Costs:
    """Says what instructions take, in the order of a program: planes and frames stay as set."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._planes: dict[Unit, dict[str, int]] = {}
        self._frame: dict[str, int] = {}
        self._result: dict[str, int] = {}

    def of(self, instruction: Instruction, unit: Unit | None) -> Work:
        """What *instruction* takes, which *unit* executes."""
        op, operands = instruction.op, instruction.operands
        if unit is None:
            return Work(None)
        tokens = _units(instruction.wait), _units(instruction.signal)
        match op:
            case Opcode.LOAD_PLANE | Opcode.STORE_PLANE:
                self._planes[unit] = operands
                return Work(unit, 2, 1, 0, 0, 0, *tokens)
            case Opcode.FRAME:
                self._frame = operands
                return Work(unit, 2, 1, 0, 0, 0, *tokens)
            case Opcode.RESULT:
                self._result = operands
                return Work(unit, 2, 1, 0, 0, 0, *tokens)
            case Opcode.LOAD | Opcode.STORE:
                cycles, beats, words = self._moved(unit, operands)
            case Opcode.LOAD_WEIGHTS:
                words = 0
                cycles = beats = operands["words"] * self._array.ti * self._array.to // BEAT
            case Opcode.LOAD_MATRIX:
                words = 0
                beats = operands["rows"] * -(-operands["columns"] // BEAT)
                cycles = max(beats, operands["rows"])
            case _:
                cycles, words, array = self._executed(instruction)
                before = OVERHEAD[unit]
                return Work(unit, before + cycles, before, 0, words, array, *tokens)
        before = OVERHEAD[unit]
        if unit is Unit.STORE and Unit.LOAD in tokens[1]:
            before += LATENCY
        return Work(unit, before + cycles, before, beats, words, 0, *tokens)

    def _moved(self, unit: Unit, move: dict[str, int]) -> tuple[int, int, int]:
        """Cycles, beats and chunks of a LOAD or a STORE."""
        plane, size = self._planes[unit], move["bytes"]
        lanes = np.arange(self._array.tp)[:, None, None]
        down, across = lanes // plane["lanes_across"], lanes % plane["lanes_across"]
        rows = move["row"] + down * plane["lane_rows"] + np.arange(move["rows"])[:, None]
        columns = move["column"] + across * plane["lane_columns"] + np.arange(move["columns"])
        inside = (rows >= 0) & (rows < plane["height"])
        inside = inside & (columns >= 0) & (columns < plane["width"])
        addresses = move["address"] + rows * plane["row_bytes"] + columns * plane["pixel_bytes"]
        addresses = addresses[inside]
        first, last = addresses // BEAT, (addresses + size - 1) // BEAT
        beats = last - first + 1
        beats[1:] -= first[1:] == last[:-1]
        chunks = -(-size // BEAT)
        outside = inside.size - len(addresses)
        cycles = int(np.maximum(beats, chunks).sum())
        cycles += outside * (chunks if unit is Unit.LOAD else 1)
        words = chunks * (inside.size if unit is Unit.LOAD else len(addresses))
        return cycles, int(beats.sum()), words

    def _executed(self, instruction: Instruction) -> tuple[int, int, int]:
        """Cycles, words of the result, and cycles in which the array multiplies."""
        frame, result, array = self._frame, self._result, self._array
        width = 2 if result["source_type"] == DType.S16 else 1
        result_width = 2 if result["target_type"] == DType.S16 else 1
        pixels = frame["rows"] * frame["columns"]
        window = frame["kernel_rows"] * frame["kernel_columns"]
        blocks, shared = frame["blocks"], bool(instruction.flags & Flag.SHARED)
        written = blocks * pixels * result_width
        match instruction.op:
            case Opcode.CONV:
                taps = window * frame["kernel_blocks"] * width
                words = -(-array.to // array.ti) * result_width
                cycles = blocks * (words + pixels * max(taps, words))
                return cycles, blocks * pixels * words, blocks * pixels * taps
            case Opcode.DEPTHWISE:
                cycles = blocks * (result_width + pixels * max(window * width, result_width))
                return cycles, written, 0
            case Opcode.POOL:
                each = result_width
                if not instruction.flags & Flag.MAXIMUM:
                    each += array.ti + _MEAN
                return blocks * (1 + pixels * max(window * width, each)), written, 0
            case Opcode.VECTOR:
                if instruction.flags & (Flag.ADD | Flag.MULTIPLY):
                    width += 2 if result["second_type"] == DType.S16 else 1
                parameters = 1 if shared else blocks * result_width
                cycles = parameters + blocks * pixels * max(width, result_width)
                return cycles, written, 0
        fill = TABLE_ENTRIES * array.ti // BEAT * result_width
        return (1 if shared else blocks) * (1 + fill) + written, written, 0


def _units(bits: int) -> tuple[Unit, ...]:
    return tuple(unit for unit in Unit if bits >> unit & 1)
