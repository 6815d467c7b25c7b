"""How the magnitudes of each channel of a tensor are distributed, by powers of two.

Exponents and the ends of their range are powers of two as well, so that what a channel loses at an
exponent follows from the number, the sum and the sum of squares of the values in each octave.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Octaves"]

_Float = npt.NDArray[np.float64]

_FIRST: Final = -32
_COUNT: Final = 64
_PIXELS: Final = 1 << 14
"""How many of each channel are looked at, over all samples: as many as tell a rare value."""

_CUT_OFF: Final = 2.0
"""What is cut off counts twice: it errs to one side, and use brings more of it than samples."""


class Octaves:
    """Of one tensor, over all samples.

    Args:
        samples: how many there will be.
    """

    def __init__(self, samples: int) -> None:
        self._pixels = max(_PIXELS // samples, 1)
        self._sums: _Float = np.zeros((3, 0, _COUNT))
        self._seen = 0
        self._largest: _Float = np.zeros(0)

    def add(self, plane: npt.NDArray[np.float32]) -> None:
        """Take in the values of one sample, [H, W, C]: of many pixels one out of each stretch.

        Not every how-many-th: what a transposed convolution gives differs from phase to phase.
        """
        flat = plane.reshape(-1, plane.shape[-1])
        channels = flat.shape[1]
        if not self._seen:
            self._sums = np.zeros((3, channels, _COUNT))
            self._largest = np.zeros(channels)
        self._largest = np.maximum(self._largest, np.maximum(flat.max(axis=0), -flat.min(axis=0)))
        if len(flat) > self._pixels:
            within = np.random.default_rng(self._seen).random(self._pixels)
            stretches = (np.arange(self._pixels) + within) * (len(flat) / self._pixels)
            flat = flat[np.minimum(stretches.astype(np.int64), len(flat) - 1)]
        magnitudes = np.abs(flat).astype(np.float64)
        self._seen += len(magnitudes)
        octaves = np.clip(np.frexp(magnitudes)[1] - _FIRST, 0, _COUNT - 1) * (magnitudes > 0)
        places = (octaves + np.arange(channels) * _COUNT).reshape(-1)
        for power, total in enumerate(self._sums):
            weights = magnitudes.reshape(-1) ** power
            total += np.bincount(places, weights, total.size).reshape(total.shape)

    @property
    def count(self) -> int:
        """How many values of each channel were looked at."""
        return self._seen

    @property
    def largest(self) -> _Float:
        """The largest magnitude of each channel, of all its values, [C]."""
        return self._largest

    @property
    def squares(self) -> _Float:
        """The mean square of each channel, [C]."""
        return np.asarray(self._sums[2].sum(axis=1) / max(self._seen, 1))

    @property
    def active(self) -> _Float:
        """The part of each channel's values that is not 0, [C]."""
        return np.asarray(1.0 - self._sums[0, :, 0] / max(self._seen, 1))

    def error(self, exponents: npt.NDArray[np.int64], levels: int) -> _Float:
        """The mean squared error of each channel in at most *levels* steps of its exponent, [C]."""
        step = np.exp2(exponents.astype(np.float64))
        octave = np.arange(_COUNT) + _FIRST  # values of it are below 2**octave
        end = exponents + math.frexp(levels)[1]
        beyond = octave > end[:, None]
        lost = octave < exponents[:, None]
        count, total, squares = self._sums
        cut = np.where(beyond, squares, 0.0).sum(axis=1)
        reach = levels * step
        cut += np.where(beyond, count, 0.0).sum(axis=1) * reach**2
        cut -= 2.0 * reach * np.where(beyond, total, 0.0).sum(axis=1)
        rounded = np.where(beyond | lost, 0.0, count).sum(axis=1) * step**2 / 12
        rounded += np.where(lost, squares, 0.0).sum(axis=1)
        return np.asarray((rounded + _CUT_OFF * cut) / max(self._seen, 1))
