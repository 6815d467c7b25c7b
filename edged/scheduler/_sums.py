"""A convolution whose window or weights do not fit: sums over several CONVs, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edged.npu.instructions import Flag
from edged.scheduler._jobs import Job, compute, target_words
from edged.scheduler._machine import Machine
from edged.scheduler._pack import Box, SumWeights
from edged.scheduler._planes import POINT, Operand, Window
from edged.scheduler._program import Program, Region
from edged.scheduler._tiles import Tile, Tiling

__all__ = ["run_in_sums", "seen"]


def run_in_sums(program: Program, job: Job, weights: SumWeights) -> None:
    """Write the steps of a CONV that makes one pixel a lane and one block of channels at a time."""
    machine = program.machine
    job = job.flattened()
    across = min(machine.array.tp, 1 << (job.target.width - 1).bit_length())
    tiling = Tiling(machine.array.tp // across, across, 1, 1)
    total = -(-job.target.channels // machine.array.to)
    boxes = list(_boxes(job, weights.whole, machine))
    for tile in tiling.tiles(job.target.height, job.target.width):
        for block in range(total):
            some = job.of_blocks(machine, block, 1)
            out = program.bank.take(target_words(some, machine))
            for number, box in enumerate(boxes):
                flags = Flag.FIRST if number == 0 else 0
                flags |= Flag.LAST if number == len(boxes) - 1 else 0
                _add_up(program, some, tile, block, box, weights, flags, out)
            program.store(some.target, tile.part(POINT), out)
            program.bank.free(out)


def _add_up(
    program: Program,
    job: Job,
    tile: Tile,
    block: int,
    box: Box,
    weights: SumWeights,
    flags: int,
    out: Region,
) -> None:
    """Add what the weights in *box* see to the sums of *tile*."""
    machine, (source,) = program.machine, job.sources
    part = replace(job, sources=(seen(source, box, machine),))
    constants = weights.load_box(program, block, box)
    (source,) = part.sources
    place = tile.part(source.window)
    region = program.bank.take(place.rows * place.columns * source.plane.words(machine))
    program.load(source.plane, place, source.fill, region)
    compute(program, replace(part, flags=flags), tile, [region], out, constants)
    program.weights.free(constants)
    program.bank.free(region)


def seen(source: Operand, box: Box, machine: Machine) -> Operand:
    """The part of *source* that the weights in *box* are for."""
    window, ti = source.window, machine.array.ti
    first = box.blocks[0] * ti
    channels = min(box.blocks[1] * ti, source.plane.channels) - first
    (dh, dw), (above, left) = window.dilation, window.before
    return replace(
        source,
        plane=source.plane.some(first, channels),
        window=Window(
            (box.rows[1] - box.rows[0], box.columns[1] - box.columns[0]),
            window.stride,
            window.dilation,
            (above - box.rows[0] * dh, left - box.columns[0] * dw),
        ),
    )


def _boxes(job: Job, whole: Box, machine: Machine) -> Iterator[Box]:
    """*whole* in parts that fit, as large as they do."""
    (_, rows), (_, columns), (_, blocks) = whole.rows, whole.columns, whole.blocks
    taps = machine.weight_words // 2 - 1 or 1
    source = job.sources[0]
    dh, dw = source.window.dilation
    out = max(1, machine.blocks(machine.array.to)) * job.target.itemsize
    # A second part is loaded while the first one is computed with.
    room = max((machine.bank_words - out) // 2, source.plane.itemsize) // source.plane.itemsize
    depth = min(blocks, taps, room)
    wide = high = 1
    if depth == blocks:
        wide = min(columns, taps // depth, 1 + (room // depth - 1) // max(dw, 1))
        if wide == columns:
            row = (dw * (columns - 1) + 1) * depth
            high = min(rows, taps // (wide * depth), 1 + (room // row - 1) // max(dh, 1))
    for row in range(0, rows, high):
        for column in range(0, columns, wide):
            for block in range(0, blocks, depth):
                yield Box(
                    (row, min(row + high, rows)),
                    (column, min(column + wide, columns)),
                    (block, min(block + depth, blocks)),
                )
