"""What has to wait for what: from regions that steps read and write to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.npu.instructions import MAX_TOKENS, Instruction, Opcode, Unit, unit_of
from edged.scheduler._machine import Machine
from edged.scheduler._program import BANK, DRAM, WEIGHTS, Region, Step

__all__ = ["ordered"]

_GRANULES: Final = 1 << 14
"""Parts of DRAM that are told apart, at least."""


def ordered(
    steps: Sequence[Step], machine: Machine, dram_bytes: int
) -> tuple[list[Instruction], list[int]]:
    """The instructions of *steps*, which are in an order in which they could be executed one by
    one, with the tokens that make the units obey what matters of it; and the place of each step
    among them, and of the end.

    A unit knows of each other one up to which step it is done: by tokens, and by what the giver of
    a token knew itself. A step that needs to know more takes a token. Between two SYNCs no pair of
    units has more tokens than there may be.
    """
    last = _Last(machine, dram_bytes)
    known = [[-1] * len(Unit) for _ in Unit]
    knew: dict[int, list[int]] = {}  # what the unit of a step knows once it is done
    tokens = [[0] * len(Unit) for _ in Unit]
    waits = [0] * len(steps)
    signals = [0] * len(steps)
    syncs: list[int] = []
    for at, step in enumerate(steps):
        unit = unit_of(step.instruction.op)
        assert unit is not None
        if not (step.reads or step.writes):
            continue
        needed = last.before(step)
        givers = [giver for giver in Unit if giver != unit and needed[giver] > known[unit][giver]]
        if any(tokens[giver][unit] == MAX_TOKENS for giver in givers):
            syncs.append(at)
            tokens = [[0] * len(Unit) for _ in Unit]
            known = [[at - 1] * len(Unit) for _ in Unit]
            givers = []
        # What the later one knows of the other need not be asked for.
        for giver in sorted(givers, key=lambda giver: -needed[giver]):
            if needed[giver] > known[unit][giver]:
                tokens[giver][unit] += 1
                signals[needed[giver]] |= 1 << unit
                waits[at] |= 1 << giver
                theirs = knew[needed[giver]]
                known[unit] = [max(a, b) for a, b in zip(known[unit], theirs, strict=True)]
        known[unit][unit] = at
        knew[at] = known[unit].copy()
        last.note(at, unit, step)
    return _assembled(steps, waits, signals, syncs)


def _assembled(
    steps: Sequence[Step], waits: list[int], signals: list[int], syncs: list[int]
) -> tuple[list[Instruction], list[int]]:
    stops = set(syncs)
    made: list[Instruction] = []
    places = []
    for at, step in enumerate(steps):
        if at in stops:
            made.append(Instruction(Opcode.SYNC, {}))
        places.append(len(made))
        instruction = step.instruction
        if waits[at] or signals[at]:
            instruction = replace(instruction, wait=waits[at], signal=signals[at])
        made.append(instruction)
    places.append(len(made))
    made.append(Instruction(Opcode.END, {}))
    return made, places


class _Last:
    """Which step of each unit was the last to read, and to write, each word."""

    def __init__(self, machine: Machine, dram_bytes: int) -> None:
        self._granule = max(1, dram_bytes // _GRANULES)
        sizes = {
            BANK: machine.bank_words,
            WEIGHTS: machine.weight_words,
            DRAM: dram_bytes // self._granule + 2,
        }
        self._read, self._written = (
            {space: np.full((len(Unit), size), -1, np.int32) for space, size in sizes.items()}
            for _ in range(2)
        )

    def before(self, step: Step) -> list[int]:
        """The last step of each unit that has to be done before *step* begins; -1: none."""
        needed = np.full(len(Unit), -1, np.int32)
        for regions, tables in (
            (step.reads, (self._written,)),
            (step.writes, (self._written, self._read)),
        ):
            for region in regions:
                for table in tables:
                    for piece in self._pieces(table[region.space], region):
                        np.maximum(needed, piece.max(axis=1), out=needed)
        return [int(at) for at in needed]

    def note(self, at: int, unit: Unit, step: Step) -> None:
        for regions, table in ((step.reads, self._read), (step.writes, self._written)):
            for region in regions:
                for piece in self._pieces(table[region.space], region):
                    piece[unit] = at

    def _pieces(self, table: npt.NDArray[np.int32], region: Region) -> list[npt.NDArray[np.int32]]:
        if region.space == DRAM:
            end = (region.first + region.size - 1) // self._granule + 1
            return [table[:, region.first // self._granule : end]]
        words = table.shape[1]
        end = region.first + region.size
        if end <= words:
            return [table[:, region.first : end]]
        return [table[:, region.first :], table[:, : end - words]]
