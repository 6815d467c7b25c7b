"""Movements of elements as the loops of COPY layers.

What a movement does is known as two arrays of one shape: for each element, its place in the tensor
that it comes from and in the one that it goes to. A nest of loops visits the elements in order; it
is found from the innermost loop outwards. Where one nest does not do, the arrays are cut into boxes
along their axes: a padded image is its inside and its borders.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._kernel import Move
from edged.npu import Loop

__all__ = ["ZERO", "moves", "nest"]

ZERO: Final = -1
"""The place of an element that comes from nowhere, and is 0."""

_MAX_LOOPS: Final = 5
_MAX_MOVES: Final = 27  # The inside of a box, and its borders along three axes.

_Places = npt.NDArray[np.int64]


def nest(sources: _Places, targets: _Places) -> tuple[Loop, ...] | None:
    """The loops that visit the pairs of *sources* and *targets*, [N] each, in their order.

    None if it takes steps backwards, or more loops than a COPY has, or cannot be done by loops.
    """
    pairs = np.stack([sources, targets], axis=1)
    loops: list[Loop] = []
    while len(pairs) > 1:
        step = pairs[1] - pairs[0]
        again = (pairs[1:] - pairs[:-1] == step).all(axis=1)
        # With any nest each turn of the innermost loop is as long as the first.
        count = len(pairs) if again.all() else int(again.argmin()) + 1
        if step.min() < 0 or len(pairs) % count or len(loops) == _MAX_LOOPS:
            return None
        turns = pairs.reshape(-1, count, 2)
        if (turns - turns[:, :1] != turns[0] - turns[0, 0]).any():
            return None
        loops.append(Loop(count, int(step[0]), int(step[1])))
        pairs = turns[:, 0]
    return tuple(reversed(loops)) or (Loop(1, 0, 0),)


def moves(source: int, places: _Places, targets: _Places) -> list[Move] | None:
    """The parts of a COPY that bring the elements at *places* of an input to *targets*.

    Args:
        source: position of the input.
        places: of any shape; :data:`ZERO` where there is no element.
        targets: of the same shape.

    Returns:
        None if it cannot be done, or takes too many parts.
    """
    whole = _move(source, places, targets)
    if whole is not None:
        return [whole]
    runs = [_runs(places, axis) for axis in range(places.ndim)]
    if math.prod(len(each) for each in runs) > _MAX_MOVES:
        return None
    parts = [_move(source, places[box], targets[box]) for box in itertools.product(*runs)]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None


def _move(source: int, places: _Places, targets: _Places) -> Move | None:
    nowhere = places < 0
    zeros = bool(nowhere.all())
    if nowhere.any() and not zeros:
        return None
    start = 0 if zeros else int(places.flat[0])
    loops = nest(
        places.reshape(-1) if not zeros else np.zeros(places.size, np.int64), targets.reshape(-1)
    )
    if loops is None:
        return None
    return Move(None if zeros else source, start, int(targets.flat[0]), loops)


def _runs(places: _Places, axis: int) -> list[slice]:
    """Where to cut *axis*, so that loops may do along each piece."""
    lines = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
    # The line that has most elements stands for all others.
    line = lines[:, int((lines >= 0).sum(axis=0).argmax())]
    edges = np.flatnonzero(np.diff(line < 0)) + 1
    bounds = [0, *edges.tolist(), len(line)]
    runs: list[slice] = []
    for begin, end in itertools.pairwise(bounds):
        piece = line[begin:end]
        if piece[0] < 0 or nest(piece, np.arange(len(piece))) is not None:
            runs.append(slice(begin, end))
        else:
            runs += [slice(begin + a, begin + b) for a, b in _straight(piece)]
    return runs


def _straight(piece: _Places) -> list[tuple[int, int]]:
    """The longest pieces with even steps, from the left, until there are too many."""
    found: list[tuple[int, int]] = []
    begin = 0
    while begin < len(piece) and len(found) <= _MAX_MOVES:
        steps = np.diff(piece[begin:])
        even = steps == steps[0] if len(steps) else steps == 0
        length = len(piece) - begin if even.all() else int(even.argmin()) + 1
        found.append((begin, begin + length))
        begin += length
    return found
