"""A job: one instruction over a whole plane, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edged.npu.instructions import Flag, Opcode
from edged.scheduler._machine import Machine
from edged.scheduler._pack import Parameters
from edged.scheduler._planes import POINT, Operand, Plane, Window
from edged.scheduler._program import Program, Region
from edged.scheduler._tiles import MAX_TILE, Tile, Tiling, tilings
from edged.scheduler.timing import DRAM_BYTES, OVERHEAD, moving_cycles

__all__ = ["Job", "NothingFitsError", "compute", "run", "target_words"]

_FIELD: Final = 0xFFFF
_TABLE_CYCLES: Final = 256


class NothingFitsError(Exception):
    """A job has no tile that is small enough for the buffers."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is computed.

    Attributes:
        op: of the execute unit; None: the plane is moved as it is.
        sources: one or two operands.
        lo, hi: bounds of the result.
        multiplier: POOL, mean.
        parameters: what the weight buffer has; None: nothing.
    """

    op: Opcode | None
    sources: tuple[Operand, ...]
    target: Plane
    lo: int = 0
    hi: int = 0
    flags: int = 0
    multiplier: int = 0
    parameters: Parameters | None = None

    @property
    def window(self) -> Window:
        return self.sources[0].window

    def block(self, machine: Machine) -> int:
        """Channels of a block of the result."""
        return machine.array.to if self.op is Opcode.CONV else machine.array.ti

    def of_blocks(self, machine: Machine, first: int, blocks: int) -> Job:
        """The part of it that makes some of the blocks of channels."""
        size = self.block(machine)
        begin = first * size
        channels = min(blocks * size, self.target.channels - begin)
        if channels == self.target.channels:
            return self
        sources = self.sources
        if self.op is not Opcode.CONV:
            sources = tuple(
                source
                if number and self.flags & Flag.SPREAD
                else replace(source, plane=source.plane.some(begin, channels))
                for number, source in enumerate(sources)
            )
        return replace(self, sources=sources, target=self.target.some(begin, channels))

    def flattened(self) -> Job:
        """The same with planes of one row, if that can be."""
        whole = [source.plane for source in self.sources if source.window == POINT]
        if self.window != POINT or self.target.height == 1:
            return self
        if any(source.window not in (POINT, _EVERYWHERE) for source in self.sources):
            return self
        if not all(plane.is_flat for plane in (self.target, *whole)):
            return self
        sources = tuple(
            replace(source, plane=source.plane.flattened()) if source.window == POINT else source
            for source in self.sources
        )
        return replace(self, sources=sources, target=self.target.flattened())


_EVERYWHERE = Window(stride=(0, 0))


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a job is done.

    Attributes:
        blocks: of channels that are made at a time.
        by_tile: whether all blocks of a tile are made before the next tile; otherwise all tiles of
            some blocks before the next blocks.
    """

    blocks: int
    tiling: Tiling
    by_tile: bool


def run(program: Program, job: Job) -> None:
    """Write the steps of a *job*.

    Raises:
        NothingFitsError: its smallest tile does not.
    """
    machine = program.machine
    job = job.flattened()
    plan = _planned(job, machine)
    total = -(-job.target.channels // job.block(machine))
    parts = [(first, min(plan.blocks, total - first)) for first in range(0, total, plan.blocks)]
    tiles = list(plan.tiling.tiles(job.target.height, job.target.width))
    # An operand or weights that are needed again are kept. What CONV reads is the same for all
    # blocks; other instructions read those that they make.
    weights: tuple[tuple[int, int], Region] | None = None
    loaded: tuple[object, list[Region]] | None = None
    for part, tile in _visits(parts, tiles, by_tile=plan.by_tile):
        some = job.of_blocks(machine, *part)
        if job.parameters is not None and (weights is None or weights[0] != part):
            if weights is not None:
                program.weights.free(weights[1])
            weights = part, job.parameters.load(program, *part)
        which = tile if job.op is Opcode.CONV else (tile, part)
        if loaded is None or loaded[0] != which:
            if loaded is not None:
                _free(program, loaded[1])
            loaded = which, [_load(program, source, tile) for source in some.sources]
        _execute(program, some, tile, loaded[1], weights[1] if weights else None)
    if weights is not None:
        program.weights.free(weights[1])
    if loaded is not None:
        _free(program, loaded[1])


def _visits(
    parts: list[tuple[int, int]], tiles: list[Tile], *, by_tile: bool
) -> Iterator[tuple[tuple[int, int], Tile]]:
    if by_tile:
        yield from ((part, tile) for tile in tiles for part in parts)
    else:
        yield from ((part, tile) for part in parts for tile in tiles)


def _free(program: Program, regions: list[Region]) -> None:
    for region in regions:
        program.bank.free(region)


def _load(program: Program, source: Operand, tile: Tile) -> Region:
    part = tile.part(source.window)
    words = part.rows * part.columns * source.plane.words(program.machine)
    region = program.bank.take(words)
    program.load(source.plane, part, source.fill, region)
    return region


def _execute(
    program: Program, job: Job, tile: Tile, sources: list[Region], weights: Region | None
) -> None:
    """Compute a tile and store it."""
    part = tile.part(POINT)
    if job.op is None:
        program.store(job.target, part, sources[0])
        return
    words = target_words(job, program.machine)
    out = program.bank.take(tile.rows * tile.columns * words)
    compute(program, job, tile, sources, out, weights)
    program.store(job.target, part, out, words)
    program.bank.free(out)


def compute(
    program: Program,
    job: Job,
    tile: Tile,
    sources: Sequence[Region],
    out: Region,
    weights: Region | None,
) -> None:
    """Write the instruction that makes a *tile* out of what is loaded."""
    assert job.op is not None
    program.frame(**_frame(job, tile, program.machine))
    program.result(**_result(job, tile, program.machine))
    operands = {"source": sources[0].first, "target": out.first}
    if weights is not None:
        operands["weights"] = weights.first
    if len(sources) > 1:
        operands["second"] = sources[1].first
    reads = (*sources, weights) if weights is not None else tuple(sources)
    program.execute(job.op, job.flags, operands, reads, (out,))


def target_words(job: Job, machine: Machine) -> int:
    """Words of a pixel of the result. CONV writes whole blocks."""
    size = job.block(machine)
    channels = -(-job.target.channels // size) * size
    return machine.blocks(channels) * job.target.itemsize


def _frame(job: Job, tile: Tile, machine: Machine) -> dict[str, int]:
    """The operands of FRAME for a *tile*."""
    (kh, kw), (sh, sw), (dh, dw) = job.window.kernel, job.window.stride, job.window.dilation
    source = job.sources[0].plane
    pixel, target = source.words(machine), target_words(job, machine)
    row = job.window.extent(tile.rows, tile.columns)[1] * pixel
    frame = {
        "rows": tile.rows,
        "columns": tile.columns,
        "blocks": -(-job.target.channels // job.block(machine)),
        "source_row": sh * row if tile.rows > 1 else 0,
        "source_column": sw * pixel if tile.columns > 1 else 0,
        "target_row": tile.columns * target if tile.rows > 1 else 0,
        "target_column": target if tile.columns > 1 else 0,
        "kernel_rows": kh,
        "kernel_columns": kw,
        "kernel_row": dh * row if kh > 1 else 0,
        "kernel_column": dw * pixel if kw > 1 else 0,
    }
    if job.op is Opcode.CONV:
        return frame | {"kernel_blocks": pixel // source.itemsize}
    return frame | {"source_block": source.itemsize, "target_block": job.target.itemsize}


def _result(job: Job, tile: Tile, machine: Machine) -> dict[str, int]:
    """The operands of RESULT for a *tile*."""
    result = {
        "source_type": int(job.sources[0].plane.dtype),
        "target_type": int(job.target.dtype),
        "lo": job.lo,
        "hi": job.hi,
        "multiplier": job.multiplier,
    }
    if len(job.sources) < 2:
        return result
    second = job.sources[1]
    (down, right), words = second.window.stride, second.plane.words(machine)
    row = second.window.extent(tile.rows, tile.columns)[1] * words
    return result | {
        "second_type": int(second.plane.dtype),
        "second_row": down * row if tile.rows > 1 else 0,
        "second_column": right * words if tile.columns > 1 else 0,
        "second_block": 0 if job.flags & Flag.SPREAD else second.plane.itemsize,
    }


# Planning.


def _planned(job: Job, machine: Machine) -> _Plan:
    """The plan with the least estimated cycles."""
    best: tuple[float, _Plan] | None = None
    for blocks in _part_sizes(job, machine):
        some = job.of_blocks(machine, 0, blocks)
        for room in (machine.bank_words // 2, machine.bank_words):
            found = False
            for cost, plan in _plans(job, some, blocks, room, machine):
                found = True
                if best is None or cost < best[0]:
                    best = cost, plan
            if found:
                break
    if best is None:
        raise NothingFitsError
    return best[1]


def _part_sizes(job: Job, machine: Machine) -> list[int]:
    """How many blocks may be made at a time: all, or as many as fit."""
    total = -(-job.target.channels // job.block(machine))
    most = min(total, _FIELD)
    if job.parameters is not None:
        while most and job.parameters.words(most) > machine.weight_words:
            most = min(most - 1, most * machine.weight_words // job.parameters.words(most))
    sizes = {most, most // 2, most // 4, most // 16, 1} if most else set()
    # Parts of the same size where there are several.
    return sorted({-(-total // -(-total // size)) for size in sizes if size}, reverse=True)


def _plans(
    job: Job, some: Job, blocks: int, room: int, machine: Machine
) -> Iterator[tuple[float, _Plan]]:
    """Plans whose tiles take at most *room* words, with the cycles that they are estimated at."""
    height, width = job.target.height, job.target.width
    total = -(-job.target.channels // job.block(machine))
    parts = -(-total // blocks)
    words = job.parameters.words(blocks) if job.parameters is not None else 0
    weights = words * machine.weight_bytes / DRAM_BYTES
    doubled = room < machine.bank_words
    for tiling in tilings(
        height, width, machine.array.tp, lambda r, c: _fits(some, r, c, room, machine)
    ):
        count = tiling.count(height, width)
        load, execute, store = (
            cycles + extra
            for cycles, extra in zip(
                _tile_cycles(some, tiling, machine), OVERHEAD.values(), strict=True
            )
        )
        for by_tile in (False, True) if parts > 1 and count > 1 else (count == 1,):
            once = by_tile and job.op is Opcode.CONV
            loads = load * count * (1 if once else parts)
            loads += weights * parts * (count if by_tile and parts > 1 else 1)
            steps = execute * count * parts, store * count * parts
            total_cycles = max(loads, *steps) if doubled else loads + sum(steps)
            fill = (loads + sum(steps)) / (count * parts)
            yield total_cycles + fill, _Plan(blocks, tiling, by_tile)


def _fits(job: Job, rows: int, columns: int, room: int, machine: Machine) -> bool:
    words = rows * columns * (target_words(job, machine) if job.op is not None else 0)
    if columns * target_words(job, machine) > _FIELD:
        return False
    for source in job.sources:
        high, wide = source.window.extent(rows, columns)
        pixel = source.plane.words(machine)
        words += high * wide * pixel
        lanes = machine.array.tp
        if max(rows * source.window.stride[0], high) * lanes > MAX_TILE:
            return False
        if max(columns * source.window.stride[1], wide) * lanes > MAX_TILE:
            return False
        if wide * pixel * max(source.window.reach, 1) > _FIELD:
            return False
    return words <= room


def _tile_cycles(job: Job, tiling: Tiling, machine: Machine) -> tuple[float, float, float]:
    """Estimated cycles of the three units for a tile."""
    pixels, lanes = tiling.rows * tiling.columns, machine.array.tp
    load = 0.0
    for source in job.sources:
        high, wide = source.window.extent(tiling.rows, tiling.columns)
        load += moving_cycles(high * wide * lanes, source.plane.run_bytes)
    store = moving_cycles(pixels * lanes, job.target.run_bytes)
    kernel = job.window.kernel[0] * job.window.kernel[1]
    source_words = job.sources[0].plane.words(machine)
    if job.op is Opcode.CONV:
        blocks = -(-job.target.channels // machine.array.to)
        results = -(-machine.array.to // machine.array.ti) * job.target.itemsize
        execute = blocks * (1 + pixels * max(kernel * source_words, results))
    elif job.op is None:
        execute = 0
    else:
        execute = pixels * kernel * source_words
        execute += pixels * sum(s.plane.words(machine) for s in job.sources[1:])
        if job.op is Opcode.TABLE:
            execute += machine.blocks(job.target.channels) * _TABLE_CYCLES
    return load, execute, store
