"""Convolutions of few channels: a row of the window is read as one run of channels.

A word of a bank has many channels, and pixels of an image three. But pixels of a row follow each
other in DRAM, so that a row of the window is a run of ``kernel width · channels`` bytes. Read as
the channels of one pixel of a plane whose pixels are ``stride · channels`` bytes apart, and so
overlap, it takes a few words instead of one for each column of the window. A run that is a little
longer has the windows of several output pixels in it, which are made together, as the channels of
one: the same work with fewer pixels to load, and no outputs of the array are left without use.

Windows that reach over the left or right edge would read pixels of another row, so each of their
columns is a convolution by itself, with the weights that are inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.scheduler._machine import Machine
from edged.scheduler._planes import Operand, Plane, Window
from edged.scheduler._rates import BEAT

__all__ = ["Run", "runs"]


@dataclass(frozen=True, slots=True)
class Run:
    """A convolution.

    Attributes:
        weights: s8 [together · C_out, kh, 1, run].
        together: how many pixels of the original output each pixel of its own has.
    """

    source: Operand
    target: Plane
    weights: npt.NDArray[np.int8]
    together: int


_JOB_CYCLES: Final = 250
"""About what it takes to begin and end another convolution."""


def runs(
    source: Operand, target: Plane, weights: npt.NDArray[np.int8], machine: Machine
) -> list[Run]:
    """The convolutions that, together, are the one of *source* to *target*; none if that takes no
    less time."""
    plane, window = source.plane, source.window
    if plane.pixel_bytes != plane.run_bytes or window.kernel[1] == 1:
        return []
    first, end = _inside(source, target)
    if first >= end:
        return []
    before = math.prod(window.kernel) * machine.blocks(plane.channels)
    before *= -(-target.channels // machine.array.to)
    together = min(
        (count for count in _TOGETHER if count == 1 or _joins(target, end - first, count)),
        key=lambda count: _cycles(source, target, count, machine),
    )
    pixels = target.height * target.width / machine.array.tp
    after = _cycles(source, target, together, machine) * machine.array.tp
    others = target.width - (end - first) + (end - first) % together
    if pixels * (before - after) <= _JOB_CYCLES * others:
        return []
    last = first + (end - first) // together * together
    parts = [(column, 1, 1) for column in range(first)]
    parts += [(first, (last - first) // together, together)]
    parts += [(column, 1, 1) for column in range(last, target.width)]
    return [_run(source, target, weights, *part) for part in parts]


_TOGETHER: Final = (1, 2, 4, 8)


def _joins(target: Plane, width: int, count: int) -> bool:
    """Whether so many pixels of *target* are one longer pixel, and there are as many."""
    return target.pixel_bytes == target.run_bytes and count <= width


def _span(window: Window, together: int) -> int:
    """Columns of the input for so many of the output."""
    return window.extent(1, together)[1]


def _cycles(source: Operand, target: Plane, together: int, machine: Machine) -> float:
    """Estimated cycles for a pixel of the output, and a lane of *machine*."""
    window, plane = source.window, source.plane
    channels = _span(window, together) * plane.channels
    blocks = -(-target.channels * together // machine.array.to)
    execute = blocks * window.kernel[0] * machine.blocks(channels) * plane.itemsize
    load = window.stride[0] * -(-channels * plane.itemsize // BEAT)
    return max(execute / machine.array.tp, load) / together


def _inside(source: Operand, target: Plane) -> tuple[int, int]:
    """The columns of *target*, first and end, whose windows are inside of the source's rows."""
    window, width = source.window, source.plane.width
    left, stride, span = window.before[1], window.stride[1], _span(window, 1)
    first = min(-(-left // stride), target.width)
    end = min((width + left - span) // stride + 1, target.width)
    return first, max(end, first)


def _run(
    source: Operand,
    target: Plane,
    weights: npt.NDArray[np.int8],
    first: int,
    count: int,
    together: int,
) -> Run:
    """The part that makes *count* times *together* columns of *target*, from the *first* on."""
    plane, window = source.plane, source.window
    c_out, kh, kw, c_in = weights.shape
    (_, stride), (_, dilation) = window.stride, window.dilation
    begin = first * stride - window.before[1]
    spread = np.zeros((together, c_out, kh, _span(window, together), c_in), np.int8)
    for number in range(together):
        columns = number * stride + dilation * np.arange(kw)
        spread[number, :, :, columns] = weights.transpose(2, 0, 1, 3)
    # At an edge, only the columns that there are.
    spread = spread[:, :, :, max(-begin, 0) : plane.width - begin]
    channels = spread.shape[3] * c_in
    read = replace(
        plane,
        address=plane.address + max(begin, 0) * plane.pixel_bytes,
        width=count,
        pixel_bytes=plane.pixel_bytes * stride * together,
        channels=channels,
    )
    by_rows = Window(
        (window.kernel[0], 1),
        (window.stride[0], 1),
        (window.dilation[0], 1),
        (window.before[0], 0),
    )
    written = replace(
        target,
        address=target.address + first * target.pixel_bytes,
        width=count,
        pixel_bytes=target.pixel_bytes * together,
        channels=target.channels * together,
    )
    joined = spread.reshape(together * c_out, kh, 1, channels)
    return Run(replace(source, plane=read, window=by_rows), written, joined, together)
