"""Copies of up to five loops: two of them are a plane, one a run of channels, the others unrolled.

Shifts go by the channel that an element is written to. A loop that changes it is the run, or the
blocks that VECTOR has parameters for, or it is unrolled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.npu import Layer, Loop, Shift, Tensor
from edged.npu.instructions import Opcode
from edged.scheduler._elements import rescaled
from edged.scheduler._jobs import NothingFitsError
from edged.scheduler._pack import channel_words
from edged.scheduler._planes import Part, Plane
from edged.scheduler._program import Program
from edged.scheduler._tiles import MAX_TILE

__all__ = ["copy"]

_ONCE: Final = Loop(1, 0, 0)
_LONG: Final = 512
"""Elements of a pixel where there is nothing but a run, so that lanes have some each."""

_FIELD: Final = 0x7FFF


@dataclass(frozen=True, slots=True)
class _Copy:
    """What is the same for all turns of the outer loops.

    Attributes:
        rows, columns, run: its loops; elements of the run follow each other on both sides.
        by_column: whether shifts go by the column.
    """

    layer: Layer
    source: Tensor
    target: Tensor
    rows: Loop
    columns: Loop
    run: int
    by_column: bool


def copy(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """A copy."""
    for loops, source, target in _cut(layer, output.shape[2]):
        _turns(program, layer, inputs[0], output, loops, source, target)


def _cut(layer: Layer, channels: int) -> Iterator[tuple[list[Loop], int, int]]:
    """The loops of *layer*, and where they start, with no run longer than a pixel should be.

    Args:
        channels: of the output.
    """
    loops = _merged(layer.loops)
    start = layer.source_start, layer.target_start
    runs = [loop for loop in loops if loop.source == loop.target == 1]
    most = channels if layer.per_channel else _LONG if len(loops) == 1 else 0xFFFF
    if not runs or runs[0].count <= most:
        yield loops, *start
        return
    others = [loop for loop in loops if loop is not runs[0]]
    whole, rest = divmod(runs[0].count, most)
    yield [Loop(most, 1, 1), Loop(whole, most, most), *others], *start
    if rest:
        done = whole * most
        yield [Loop(rest, 1, 1), *others], start[0] + done, start[1] + done


def _turns(
    program: Program,
    layer: Layer,
    source: Tensor,
    target: Tensor,
    loops: Sequence[Loop],
    source_start: int,
    target_start: int,
) -> None:
    """Choose what the loops are, and go through those that are unrolled."""
    runs = [loop for loop in loops if loop.source == loop.target == 1]
    run = runs[0] if runs else _ONCE
    others = [loop for loop in loops if loop is not run]
    channels = target.shape[2] if layer.per_channel else 1
    fixed = sorted((x for x in others if not x.target % channels), key=lambda loop: loop.count)
    changing = sorted((x for x in others if x.target % channels), key=lambda loop: loop.count)
    by_column = bool(changing) and run.count == 1
    columns = changing.pop() if by_column else fixed.pop() if fixed else _ONCE
    rows = fixed.pop() if fixed else _ONCE
    if not by_column and rows.target < columns.target:
        rows, columns = columns, rows
    what = _Copy(layer, source, target, rows, columns, run.count, by_column)
    outer = fixed + changing
    for turns in itertools.product(*(range(loop.count) for loop in outer)):
        pairs = list(zip(turns, outer, strict=True))
        _plane(
            program,
            what,
            source_start + sum(turn * loop.source for turn, loop in pairs),
            target_start + sum(turn * loop.target for turn, loop in pairs),
        )


def _merged(loops: Sequence[Loop]) -> list[Loop]:
    """*loops* without those of one turn, and with those as one that go on like one."""
    left = sorted((loop for loop in loops if loop.count > 1), key=lambda x: (x.target, x.source))
    merged: list[Loop] = []
    for loop in left:
        inner = merged[-1] if merged else None
        if inner is not None and (loop.source, loop.target) == (
            inner.count * inner.source,
            inner.count * inner.target,
        ):
            merged[-1] = replace(inner, count=inner.count * loop.count)
        else:
            merged.append(loop)
    return merged


def _plane(program: Program, what: _Copy, source: int, target: int) -> None:
    """Copy a plane.

    Args:
        source, target: its first element on both sides.
    """
    layer = what.layer
    moved = [
        Plane(
            tensor.address + start * tensor.dtype.numpy.itemsize,
            what.rows.count,
            what.columns.count,
            rows * tensor.dtype.numpy.itemsize,
            columns * tensor.dtype.numpy.itemsize,
            what.run,
            tensor.dtype,
        )
        for tensor, start, rows, columns in (
            (what.source, source, what.rows.source, what.columns.source),
            (what.target, target, what.rows.target, what.columns.target),
        )
    ]
    shift, left = layer.shift, layer.lefts[0]
    if what.by_column:
        steps = target + what.columns.target * np.arange(what.columns.count)
        _by_column(program, layer, moved[0], moved[1], _each(shift, steps), _each(left, steps))
        return
    steps = target + np.arange(what.run)
    bounds = layer.lo, layer.hi
    rescaled(program, moved[0], moved[1], bounds, _of(shift, steps), _of(left, steps))


def _by_column(
    program: Program, layer: Layer, source: Plane, target: Plane, shift: Shift, left: Shift
) -> None:
    """Copy planes whose pixels are one element, with shifts for each column: VECTOR takes columns
    for blocks, which have parameters of their own."""
    machine = program.machine
    count, lanes = source.width, machine.array.tp
    words = channel_words(machine, count, 1, shift, lefts=(left,))
    pair = source.itemsize + target.itemsize
    most = min(machine.weight_words // 2, machine.bank_words // (2 * pair), _FIELD)
    if not most:
        raise NothingFitsError
    program.result(
        source_type=int(source.dtype), target_type=int(target.dtype), lo=layer.lo, hi=layer.hi
    )
    for first in range(0, count, most):
        wide = min(most, count - first)
        constants = program.weights.take(wide)
        program.load_weights(words[first : first + wide], constants)
        high = min(machine.bank_words // (2 * pair * wide), MAX_TILE // lanes)
        of, to = (plane.each(0, first, 1, 1) for plane in (source, target))
        of, to = replace(of, width=wide), replace(to, width=wide)
        for row in range(0, source.height, high * lanes):
            rows = min(high, -(-(source.height - row) // lanes))
            part = Part(row, 0, rows, wide, rows, 0, 1)
            region = program.bank.take(rows * wide * source.itemsize)
            out = program.bank.take(rows * wide * target.itemsize)
            program.load(of, part, 0, region)
            program.frame(
                rows=rows,
                columns=1,
                blocks=wide,
                source_row=wide * source.itemsize if rows > 1 else 0,
                source_block=source.itemsize,
                target_row=wide * target.itemsize if rows > 1 else 0,
                target_block=target.itemsize,
            )
            operands = {
                "source": region.first,
                "target": out.first,
                "weights": constants.first,
            }
            program.execute(Opcode.VECTOR, 0, operands, (region, constants), (out,))
            program.store(to, part, out)
            program.bank.free(region)
            program.bank.free(out)
        program.weights.free(constants)


def _of(shift: Shift, places: npt.NDArray[np.int64]) -> Shift:
    """*shift* of the elements at *places*; a number if they have the same."""
    chosen = _each(shift, places)
    if isinstance(chosen, int) or (chosen == chosen[0]).all():
        return int(np.max(chosen))
    return chosen


def _each(shift: Shift, places: npt.NDArray[np.int64]) -> Shift:
    """*shift* of the elements at *places*."""
    return shift if isinstance(shift, int) else shift[places % len(shift)]
