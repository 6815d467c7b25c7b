"""What loops with strides read and write, as slices, transpositions and boxes of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.npu import Layer, Op

__all__ = ["axes", "box", "interleaved"]

_SHORT_RUN: Final = 4


def axes(
    size: int, start: int, loops: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Loops over *size* elements as a slice of an array with an axis for each.

    Returns:
        the array's shape, whose last axis is what lies between two steps of the finest loop; where
        the slice begins and how long it is along each axis; and which axis each loop that moves is,
        in the order of the loops. None if there is no such array, or if slicing it would be slow:
        ONNX Runtime's copies run by run, and GatherElements takes a nanosecond for each element.
    """
    moving = [
        (step, count, number) for number, (count, step) in enumerate(loops) if step and count > 1
    ]
    moving.sort(key=lambda each: (-each[0], each[2]))
    steps = [step for step, _, _ in moving]
    whole = [size, *steps, 1]
    if any(a % b for a, b in pairwise(whole)) or len(set(steps)) < len(steps):
        return None
    sizes = [a // b for a, b in pairwise(whole[:-1])] + [whole[-2]] if steps else [size]
    firsts, rest = [], start
    for step in (*steps, 1):
        first, rest = divmod(rest, step)
        firsts.append(first)
    lengths = [*(count for _, count, _ in moving), 1]
    if any(f + n > s for f, n, s in zip(firsts, lengths, sizes, strict=True)):
        return None
    if steps and _run(sizes, lengths) < _SHORT_RUN:
        return None
    numbers = [number for _, _, number in moving]
    return sizes, firsts, lengths, [numbers.index(number) for number in sorted(numbers)]


def _run(sizes: Sequence[int], lengths: Sequence[int]) -> int:
    """How many elements of a slice lie beside each other."""
    run = 1
    for size, length in zip(reversed(sizes), reversed(lengths), strict=True):
        run *= length
        if length < size:
            break
    return run


def box(
    place: npt.NDArray[np.int32], numbers: npt.NDArray[np.int32], axis: int
) -> tuple[int, int] | None:
    """Where along *axis* the elements in *place* begin, and how many they are there.

    Args:
        numbers: those of all elements, [H, W, C]. Only as many are looked at as are in *place*.

    None if they are no box that is whole along the other axes, in its order.
    """
    shape = numbers.shape
    first, others = int(place.flat[0]), math.prod(shape) // shape[axis]
    if place.size % others:
        return None
    length = place.size // others
    inner = math.prod(shape[axis + 1 :])
    begin = first // inner
    if first % inner or begin + length > shape[axis]:
        return None
    places = [slice(None)] * 3
    places[axis] = slice(begin, begin + length)
    wanted = numbers[tuple(places)]
    return (begin, length) if np.array_equal(place.reshape(-1), wanted.reshape(-1)) else None


def interleaved(
    layers: Sequence[Layer], shape: tuple[int, int, int]
) -> tuple[list[int], list[int]] | None:
    """Grids of all phases, one after the other, as an array and its order of axes; else None."""
    height, width, channels = shape
    _, _, down, right = layers[0].grid
    phases = [(row, column, down, right) for row in range(down) for column in range(right)]
    if any(layer.op is not Op.CONV for layer in layers):
        return None
    if [layer.grid for layer in layers] != phases or height % down or width % right:
        return None
    return [down, right, height // down, width // right, channels], [2, 0, 3, 1, 4]
