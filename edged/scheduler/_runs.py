"""Convolutions of few channels: a row of the window is read as one run of channels.

A word of a bank has many channels, and pixels of an image three. But pixels of a row follow each
other in DRAM, so that a row of the window is a run of ``kernel width · channels`` bytes. Read as
the channels of one pixel of a plane whose pixels are ``stride · channels`` bytes apart, and so
overlap, it takes a few words instead of one for each column of the window.

Windows that reach over the left or right edge would read pixels of another row, so each of their
columns is a convolution by itself, with the weights that are inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.scheduler._machine import Machine
from edged.scheduler._planes import Operand, Plane, Window

__all__ = ["Run", "pays_off", "runs"]

Run = tuple[Operand, Plane, npt.NDArray[np.int8]]
"""What is read, what is written, and weights [C_out, kh, 1, run]."""

_JOB_CYCLES: Final = 250
"""About what it takes to begin and end another convolution."""


def pays_off(
    source: Operand, target: Plane, weights: npt.NDArray[np.int8], machine: Machine
) -> bool:
    """Whether reading runs takes less time."""
    plane, window = source.plane, source.window
    if plane.pixel_bytes != plane.run_bytes or window.kernel[1] == 1:
        return False
    (kh, kw), span = window.kernel, window.extent(1, 1)[1]
    before = kh * kw * machine.blocks(plane.channels)
    after = kh * machine.blocks(span * plane.channels)
    first, end = _inside(source, target)
    edges = target.width - (end - first)
    blocks = -(-target.channels // machine.array.to)
    pixels = target.height * target.width / machine.array.tp
    return end > first and blocks * pixels * (before - after) > _JOB_CYCLES * edges


def runs(source: Operand, target: Plane, weights: npt.NDArray[np.int8]) -> Iterator[Run]:
    """The convolutions that, together, are the one of *source* to *target*."""
    first, end = _inside(source, target)
    for begin, stop in (
        *((column, column + 1) for column in range(first)),
        (first, end),
        *((column, column + 1) for column in range(end, target.width)),
    ):
        yield _run(source, target, weights, begin, stop)


def _inside(source: Operand, target: Plane) -> tuple[int, int]:
    """The columns of *target*, first and end, whose windows are inside of the source's rows."""
    window, width = source.window, source.plane.width
    left, stride, span = window.before[1], window.stride[1], window.extent(1, 1)[1]
    first = -(-left // stride)
    end = min((width + left - span) // stride + 1, target.width)
    return min(first, target.width), max(end, min(first, target.width))


def _run(
    source: Operand, target: Plane, weights: npt.NDArray[np.int8], first: int, end: int
) -> Run:
    """The part that makes some columns of *target*: one at an edge, or several inside."""
    plane, window = source.plane, source.window
    c_out, kh, _, c_in = weights.shape
    span, dilation = window.extent(1, 1)[1], window.dilation[1]
    begin = first * window.stride[1] - window.before[1]
    spread = np.zeros((c_out, kh, span, c_in), np.int8)
    spread[:, :, ::dilation] = weights
    spread = spread[:, :, max(-begin, 0) : plane.width - begin]
    channels = spread.shape[2] * c_in
    read = replace(
        plane,
        address=plane.address + max(begin, 0) * plane.pixel_bytes,
        width=end - first,
        pixel_bytes=plane.pixel_bytes * window.stride[1],
        channels=channels,
    )
    by_rows = Window(
        (window.kernel[0], 1),
        (window.stride[0], 1),
        (window.dilation[0], 1),
        (window.before[0], 0),
    )
    written = replace(
        target, address=target.address + first * target.pixel_bytes, width=end - first
    )
    return (
        replace(source, plane=read, window=by_rows),
        written,
        spread.reshape(c_out, kh, 1, channels),
    )
