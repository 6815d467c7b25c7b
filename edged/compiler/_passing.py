"""How exponents of channels pass through kernels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edged.compiler._kernel import Kernel, Move

__all__ = ["Exponents", "absorbed", "by_row", "rows_of", "sources_of"]

Exponents = npt.NDArray[np.int64]
"""One for each channel, [C]."""


def rows_of(kernel: Kernel) -> npt.NDArray[np.int64]:
    """The channel of the output that each row of a convolution's weights is for, [rows]."""
    channels = np.arange(kernel.plane[2]).reshape(kernel.groups, 1, -1)
    return np.repeat(channels, math.prod(kernel.phases), axis=1).reshape(-1)


def by_row(kernel: Kernel, exponents: Exponents) -> Exponents:
    """For each row of a convolution's weights the coarsest exponent of what it sums up, [rows]."""
    rows = kernel.plane[2] * math.prod(kernel.phases)
    coarsest = exponents.reshape(kernel.groups, -1).max(axis=1)
    return np.repeat(coarsest, rows // kernel.groups)


def absorbed(kernel: Kernel, exponents: Exponents) -> npt.NDArray[np.float64]:
    """What weights are multiplied by to take in *exponents*: [groups, C_in / groups], at most 1."""
    grouped = exponents.reshape(kernel.groups, -1)
    finer = grouped - grouped.max(axis=1, keepdims=True)
    return np.asarray(np.exp2(finer.astype(np.float64)))


def sources_of(move: Move, given: int, made: int) -> Exponents | None:
    """For each channel of what a COPY writes, of which channel it is a copy; -1 of none.

    Args:
        given, made: how many channels its source and its output have.

    Returns:
        [made]; None where elements of several channels come into one.
    """
    pairs = np.array([move.source_start % given * made + move.target_start % made])
    for loop in move.loops:
        down, across = loop.source % given, loop.target % made
        if loop.count > 1 and (down or across):
            turns = np.arange(loop.count)
            first = (pairs[:, None] // made + turns * down) % given
            second = (pairs[:, None] % made + turns * across) % made
            pairs = np.unique(first * made + second)
    result = np.full(made, -1, np.int64)
    result[pairs % made] = pairs // made
    return result if len(np.unique(pairs % made)) == len(pairs) else None
