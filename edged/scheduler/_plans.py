"""How a job is cut into parts and tiles: the way that is estimated to take the least time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from edged.npu.instructions import Flag, Opcode, Unit
from edged.scheduler._jobs import Job, NothingFitsError, target_words
from edged.scheduler._machine import Machine
from edged.scheduler._planes import Plane, Window
from edged.scheduler._rates import BEAT, DRAM_BYTES, MEETS, OVERHEAD, TABLE_ENTRIES, moving_cycles
from edged.scheduler._tiles import MAX_TILE, Tiling, tilings

__all__ = ["Plan", "planned", "steps"]

_FIELD: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Plan:
    """How a job is done.

    Attributes:
        blocks: of channels that are made at a time.
        by_tile: whether all blocks of a tile are made before the next tile; otherwise all tiles of
            some blocks before the next blocks.
        cycles: estimated.
    """

    blocks: int
    tiling: Tiling
    by_tile: bool
    cycles: float


def planned(job: Job, machine: Machine) -> Plan:
    """The plan with the least estimated cycles.

    Raises:
        NothingFitsError: the smallest tile does not.
    """
    best: Plan | None = None
    for blocks in _part_sizes(job, machine):
        some = job.of_blocks(machine, 0, blocks)
        for room in (machine.bank_words // 2, machine.bank_words):
            found = False
            for plan in _plans(job, some, blocks, room, machine):
                found = True
                if best is None or plan.cycles < best.cycles:
                    best = plan
            if found:
                break
    if best is None:
        raise NothingFitsError
    return best


def _part_sizes(job: Job, machine: Machine) -> list[int]:
    """How many blocks may be made at a time: all, or as many as fit."""
    total = job.blocks(machine)
    most = min(total, _FIELD)
    while most and _weight_words(job, most, machine) > machine.weight_words:
        most -= max(1, most // 16)
    sizes = {most, most // 2, most // 3, most // 4, most // 8, 1} if most else set()
    if job.then is not None:  # Parts begin with whole words.
        step = -(-machine.array.ti // job.block(machine))
        sizes = {size for size in sizes if size == total or size % step == 0}
    # Parts of the same size where there are several.
    even = {-(-total // -(-total // size)) if job.then is None else size for size in sizes if size}
    return sorted(even, reverse=True)


def _weight_words(job: Job, blocks: int, machine: Machine) -> int:
    """Words of the weight buffer for so many blocks, and what follows on chip."""
    words, channels = 0, blocks * job.block(machine)
    for each in job.chain():
        if each.parameters is not None:
            words += each.parameters.words(-(-channels // each.block(machine)))
    return words


def _plans(job: Job, some: Job, blocks: int, room: int, machine: Machine) -> Iterator[Plan]:
    """Plans whose tiles take at most *room* words, with the cycles that they are estimated at.

    Of two parts of the weights that fit, one is loaded while the array computes with the other; and
    so it is with tiles. What comes first and last has nothing beside it.
    """
    height, width = job.target.height, job.target.width
    parts = -(-job.blocks(machine) // blocks)
    words = _weight_words(job, blocks, machine)
    weights = words * machine.weight_bytes // DRAM_BYTES + (OVERHEAD[Unit.LOAD] if words else 0)
    tiles_doubled, weights_doubled = room < machine.bank_words, 2 * words <= machine.weight_words
    sizes = _Sizes.of(some, machine)
    for tiling in tilings(height, width, machine.array.tp, lambda r, c: sizes.fit(r, c, room)):
        count = tiling.count(height, width)
        load, besides, execute, store, shared = sizes.cycles(tiling)
        for by_tile in (False, True) if parts > 1 and count > 1 else (count == 1,):
            again = 1 if by_tile and job.op is Opcode.CONV else parts
            loads = (load * again + besides * parts) * count
            constants = weights * parts * (count if by_tile and parts > 1 else 1)
            steps = execute * count * parts, store * count * parts
            dram = (shared[0][0] * again + shared[0][1] * parts) * count + constants
            port = (shared[1][0] * again + shared[1][1] * parts) * count
            idle = OVERHEAD[Unit.LOAD] * count * again  # in which the others have the port alone
            port = max(port, loads + constants + _others(shared, count * parts, idle, port))
            if not tiles_doubled:
                total = loads + constants + sum(steps)
            elif parts > 1 and not weights_doubled:
                total = max(loads, dram - constants, port, *steps) + constants
            else:
                total = max(loads + constants, dram, port, *steps)
            yield Plan(blocks, tiling, by_tile, total + load + weights + store)


def _others(shared: _Shared, count: int, idle: int, total: int) -> int:
    """For how long what is stored and computed keeps the load unit from the port of the banks."""
    words = shared[2] * count
    return int(words * max(0.0, 1 - idle / max(total, 1)))


_Shared = tuple[tuple[int, int], tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What tiles of a job take, so that many can be tried.

    Attributes:
        sources: of each operand from DRAM, its window, words of a pixel, plane, and whether it
            is of the first instruction.
        results: words of a pixel of all results.
        first_result: likewise of the first one.
        steps: of each instruction, cycles for a pixel and besides.
        stored: the last result.
    """

    lanes: int
    sources: tuple[tuple[Window, int, Plane, bool], ...]
    results: int
    first_result: int
    steps: tuple[tuple[int, int], ...]
    stored: Plane

    @classmethod
    def of(cls, job: Job, machine: Machine) -> Self:
        chain = job.chain()
        sources = []
        taken = -1
        for each in chain:
            sources += [
                (s.window, s.words(machine), s.plane, each is job)
                for number, s in enumerate(each.sources)
                if number != taken
            ]
            taken = each.then.index if each.then is not None else -1
        results = [target_words(each, machine) for each in chain if each.op is not None]
        return cls(
            machine.array.tp,
            tuple(sources),
            sum(results),
            max(results, default=0),
            tuple(steps(each, machine) for each in chain),
            chain[-1].target,
        )

    def fit(self, rows: int, columns: int, room: int) -> bool:
        words = rows * columns * self.results
        if columns * self.first_result > _FIELD:
            return False
        for window, pixel, _, _ in self.sources:
            high, wide = window.extent(rows, columns)
            words += high * wide * pixel
            if max(rows * window.stride[0], high) * self.lanes > MAX_TILE:
                return False
            if max(columns * window.stride[1], wide) * self.lanes > MAX_TILE:
                return False
            if wide * pixel * max(window.reach, 1) > _FIELD:
                return False
        return words <= room

    def cycles(self, tiling: Tiling) -> tuple[int, int, int, int, _Shared]:
        """Estimated cycles for a tile: to load the operands of the first instruction, those of the
        others, to execute, and to store; and those that DRAM, and the port of the banks, take for
        the first, and for the rest; and of the latter, without those to load."""
        pixels = tiling.rows * tiling.columns
        loads, beats, words = [0, 0], [0, 0], [0, int(MEETS * pixels * self.results)]
        for window, _, plane, first in self.sources:
            high, wide = window.extent(tiling.rows, tiling.columns)
            size, step = plane.run_bytes, plane.pixel_bytes
            cycles, dram, chunks = moving_cycles(high * wide * self.lanes, size, step)
            which = 0 if first else 1
            loads[which] += max(cycles, dram) + OVERHEAD[Unit.LOAD]
            beats[which] += dram
            words[which] += chunks
        execute = sum(each * pixels + besides for each, besides in self.steps)
        size, step = self.stored.run_bytes, self.stored.pixel_bytes
        store, dram, chunks = moving_cycles(pixels * self.lanes, size, step)
        store = max(store, dram) + OVERHEAD[Unit.STORE]
        others = int(MEETS * pixels * self.results) + chunks
        shared = (beats[0], beats[1] + dram), (words[0], words[1] + chunks), others
        return loads[0], loads[1], execute, store, shared


def steps(job: Job, machine: Machine) -> tuple[int, int]:
    """Estimated cycles of an instruction for each pixel, and besides."""
    if job.op is None:
        return 0, 0
    blocks = job.blocks(machine)
    kernel = job.window.kernel[0] * job.window.kernel[1]
    words = job.sources[0].plane.words(machine)
    besides = OVERHEAD[Unit.EXECUTE] + blocks
    if job.op is Opcode.CONV:
        results = -(-machine.array.to // machine.array.ti) * job.target.itemsize
        return blocks * max(kernel * words, results), besides
    words = kernel * words + sum(source.plane.words(machine) for source in job.sources[1:])
    if job.op is Opcode.TABLE:
        tables = 1 if job.flags & Flag.SHARED else blocks
        besides += tables * TABLE_ENTRIES * machine.array.ti // BEAT
    return words, besides
