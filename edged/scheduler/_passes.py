"""The steps of a job: for each part and tile what is loaded, executed and stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edged.npu.instructions import Opcode
from edged.scheduler._jobs import Job, compute, target_words
from edged.scheduler._planes import POINT, Operand
from edged.scheduler._plans import planned
from edged.scheduler._program import Program, Region
from edged.scheduler._tiles import Tile

__all__ = ["make_tile", "run"]

_Part = tuple[int, int]
"""The first block of channels, and how many."""


def run(program: Program, job: Job) -> None:
    """Write the steps of a *job*.

    Raises:
        NothingFitsError: its smallest tile does not; nothing is written then.
    """
    machine = program.machine
    job = job.flattened()
    plan = planned(job, machine)
    total = job.blocks(machine)
    parts = [(first, min(plan.blocks, total - first)) for first in range(0, total, plan.blocks)]
    tiles = list(plan.tiling.tiles(job.target.height, job.target.width))
    held = _Held(program)
    for part, tile in _visits(parts, tiles, by_tile=plan.by_tile):
        some = job.of_blocks(machine, *part)
        held.hold(job, some, part, tile)
        make_tile(program, some, tile, held.sources, held.weights)
    held.free()


def _visits(
    parts: list[_Part], tiles: list[Tile], *, by_tile: bool
) -> Iterator[tuple[_Part, Tile]]:
    if by_tile:
        yield from ((part, tile) for tile in tiles for part in parts)
    else:
        yield from ((part, tile) for part in parts for tile in tiles)


class _Held:
    """What is loaded, and kept for as long as the next visit needs the same.

    Attributes:
        sources: of the first instruction. What CONV reads is the same for all blocks; others read
            those that they make.
        weights: of each instruction; None where it has none.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._part: _Part | None = None
        self._which: object = None
        self.sources: list[Region] = []
        self.weights: list[Region | None] = []

    def hold(self, job: Job, some: Job, part: _Part, tile: Tile) -> None:
        """Load what is not there.

        Args:
            some: *part* of *job*.
        """
        program = self._program
        if part != self._part:
            self._free_weights()
            self.weights = _constants(program, job, part)
            self._part = part
        which = tile if job.op is Opcode.CONV else (tile, part)
        if which != self._which:
            self._free_sources()
            self.sources = [_load(program, source, tile) for source in some.sources]
            self._which = which

    def free(self) -> None:
        self._free_weights()
        self._free_sources()

    def _free_weights(self) -> None:
        for region in self.weights:
            if region is not None:
                self._program.weights.free(region)

    def _free_sources(self) -> None:
        for region in self.sources:
            self._program.bank.free(region)


def _constants(program: Program, job: Job, part: _Part) -> list[Region | None]:
    """Load what each instruction needs in the weight buffer for a *part*."""
    machine = program.machine
    begin, channels = (count * job.block(machine) for count in part)
    channels = min(channels, job.target.channels - begin)
    regions: list[Region | None] = []
    for each in job.chain():
        size = each.block(machine)
        blocks = begin // size, -(-channels // size)
        regions.append(each.parameters.load(program, *blocks) if each.parameters else None)
    return regions


def _load(program: Program, source: Operand, tile: Tile) -> Region:
    part = tile.part(source.window)
    words = part.rows * part.columns * source.plane.words(program.machine)
    region = program.bank.take(words)
    program.load(source.plane, part, source.fill, region)
    return region


def make_tile(
    program: Program,
    job: Job,
    tile: Tile,
    sources: Sequence[Region],
    weights: Sequence[Region | None],
) -> None:
    """Compute a tile, what is made of it on chip, and store that."""
    if job.op is None:
        program.store(job.target, tile.part(POINT), sources[0])
        return
    words = target_words(job, program.machine)
    out = program.bank.take(tile.rows * tile.columns * words)
    compute(program, job, tile, sources, out, weights[0])
    if job.then is None:
        program.store(job.target, tile.part(POINT), out, words)
    else:
        after, index = job.then.job, job.then.index
        operands = list(after.sources)
        operands[index] = replace(operands[index], pitch=words)
        others = [
            out if number == index else _load(program, source, tile)
            for number, source in enumerate(operands)
        ]
        make_tile(program, replace(after, sources=tuple(operands)), tile, others, weights[1:])
        for number, region in enumerate(others):
            if number != index:
                program.bank.free(region)
    program.bank.free(out)
