"""Pooling: the maximum or the mean of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edged.errors import ModelError
from edged.npu import DType, Layer, Op, Tensor
from edged.npu.instructions import Flag, Opcode
from edged.scheduler._elements import parameters
from edged.scheduler._jobs import Job, NothingFitsError, compute
from edged.scheduler._machine import Machine
from edged.scheduler._pack import Box
from edged.scheduler._passes import run
from edged.scheduler._planes import POINT, Operand, Plane, Window
from edged.scheduler._program import Program, Region
from edged.scheduler._sums import seen
from edged.scheduler._tiles import Tile, Tiling

__all__ = ["pool"]

_EXACT = 128
"""Bytes whose sum an s16 holds."""


def pool(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """A pooling. Padding is nothing for the maximum, and zeros that count for the mean."""
    maximum = layer.op is Op.MAXPOOL
    source = Operand(
        Plane.of(inputs[0]),
        Window(layer.kernel, layer.stride, layer.dilation, (layer.pad[0], layer.pad[1])),
        inputs[0].dtype.lowest if maximum else 0,
    )
    target = Plane.of(output)
    job = Job(Opcode.POOL, (source,), target, layer.lo, layer.hi, Flag.MAXIMUM)
    if not maximum:
        flags, constants = parameters(program.machine, target.channels, layer.shift)
        job = replace(job, flags=flags, multiplier=layer.multiplier, parameters=constants)
    try:
        run(program, job)
    except NothingFitsError:
        _in_parts(program, layer, job)


def _in_parts(program: Program, layer: Layer, job: Job) -> None:
    """Windows that do not fit: parts of each into a row of words, and these into the result.

    The parts of a mean are sums in s16, which are exact of so few bytes.

    Raises:
        ModelError: s16 would need sums of more bits.
    """
    machine = program.machine
    maximum = bool(job.flags & Flag.MAXIMUM)
    (source,) = job.sources
    if source.plane.wide and not maximum:
        raise ModelError(
            f"cannot schedule layer {layer.name!r}: a window of {layer.kernel} in s16 does not fit"
            f" into a bank of {machine.bank_words} words; a larger activation buffer is needed"
        )
    boxes = list(_boxes(source.window, machine, maximum=maximum))
    dtype = source.plane.dtype if maximum else DType.S16
    for block in range(machine.blocks(job.target.channels)):
        some = job.of_blocks(machine, block, 1)
        # A row of one pixel for each part, which is never in DRAM.
        row = replace(some.target, height=1, width=len(boxes), dtype=dtype)
        last = replace(some, sources=(Operand(row, Window((1, len(boxes)))),))
        bounds = dtype.lowest, dtype.highest
        part = replace(some, target=row, lo=bounds[0], hi=bounds[1])
        if not maximum:
            flags, ones = parameters(machine, row.channels, 0)
            part = replace(part, flags=flags, multiplier=1, parameters=ones)
        for tile in Tiling(1, machine.array.tp, 1, 1).tiles(job.target.height, job.target.width):
            _pixel(program, part, last, block, tile, boxes)


def _pixel(
    program: Program, part: Job, last: Job, block: int, tile: Tile, boxes: Sequence[Box]
) -> None:
    """A *block* of a pixel of each lane: its parts by *part*, and the result by *last*."""
    row = program.bank.take(len(boxes) * part.target.itemsize)
    for number, box in enumerate(boxes):
        source = seen(part.sources[0], box, program.machine)
        place = tile.part(source.window)
        region = program.bank.take(place.rows * place.columns * source.plane.words(program.machine))
        program.load(source.plane, place, source.fill, region)
        step = part.target.itemsize
        word = Region(row.space, (row.first + number * step) % program.bank.words, step)
        _compute(program, replace(part, sources=(source,)), 0, tile, region, word)
        program.bank.free(region)
    out = program.bank.take(last.target.itemsize)
    _compute(program, last, block, tile, row, out)
    program.store(last.target, tile.part(POINT), out)
    program.bank.free(row)
    program.bank.free(out)


def _compute(
    program: Program, job: Job, block: int, tile: Tile, source: Region, out: Region
) -> None:
    constants = job.parameters.load(program, block, 1) if job.parameters is not None else None
    compute(program, job, tile, [source], out, constants)
    if constants is not None:
        program.weights.free(constants)


def _boxes(window: Window, machine: Machine, *, maximum: bool) -> Iterator[Box]:
    """The window in parts that fit, and whose sums do."""
    kh, kw = window.kernel
    dh, dw = window.dilation
    words = machine.bank_words // 4
    most = words if maximum else min(words, _EXACT)
    wide = max(1, min(kw, most, 1 + (words - 1) // dw))
    high = 1
    if wide == kw:
        row = dw * (kw - 1) + 1
        high = max(1, min(kh, most // kw, 1 + (words // row - 1) // dh))
    for row_begin in range(0, kh, high):
        for column in range(0, kw, wide):
            yield Box(
                (row_begin, min(row_begin + high, kh)),
                (column, min(column + wide, kw)),
                (0, 1),
            )
