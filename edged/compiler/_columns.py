"""Outputs with a step and an offset for each column.

A tensor of the device has one exponent. For an output around 300 that varies by 5, or one whose
columns are pixels and a confidence, that leaves a few steps for what matters. A convolution that
gives an output therefore computes ``(y - offset[c]) / step[c]``, its weights and biases changed for
that, and the host undoes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._calibrate import Channels, unseen
from edged.compiler._kernel import Kernel
from edged.npu import Op

__all__ = ["Columns", "columns_of", "in_columns", "suits"]

_Float = npt.NDArray[np.float64]

_HEADROOM: Final = 1.25
"""The range of an output beside what the samples show: use shows more."""

_UNEVEN: Final = 16.0
"""Columns of which the widest is wider than the narrowest by this get steps of their own."""

_AWAY: Final = 0.5
"""An offset above this part of the range around it is left to the host."""

_NARROWEST: Final = 2.0**-40
"""Of the widest column's range: what is less is as good as nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What the real values of a tensor are: ``q · 2**exponent · step[c] + offset[c]``.

    Attributes:
        step: [C], above 0.
        offset: [C].
    """

    step: _Float
    offset: _Float

    @property
    def even(self) -> bool:
        """Whether all steps are the same."""
        return bool((self.step == self.step[0]).all())

    def no_finer_than(self, step: _Float) -> Columns:
        """The same with steps of at least *step*, [C]."""
        return Columns(np.maximum(self.step, step), self.offset)

    def real(self, values: _Float) -> _Float:
        """What *values* of the device, [H, W, C] by its exponent, stand for."""
        return values * self.step + self.offset


def suits(kernel: Kernel) -> bool:
    """Whether the host can undo steps and offsets of what *kernel* gives: it has no upper bound."""
    plain = kernel.op is Op.CONV and kernel.phases == (1, 1)
    return plain and kernel.hi == math.inf and kernel.lo in (0.0, -math.inf)


def columns_of(
    kernel: Kernel, given: Channels, finest: _Float, levels: int, *, many: bool
) -> Columns | None:
    """Steps with which *levels* of them reach what each column of *kernel* may be.

    Calibration samples show the range of a column only if there are many: of a thousand classes
    most are never the answer. So what a column may be follows from the size of its weights, times
    the most that any column is of that on the samples.

    Args:
        kernel: with the exponents of its input taken into its weights: then what they multiply may
            be equally large in all channels.
        given: of the kernel's output.
        finest: the step of what each row of weights multiplies, [C].
        many: there are enough samples to trust the mean of a column; otherwise its offset is the
            bias, which is the same for all inputs.

    Returns:
        None where one exponent for all columns does about as well.
    """
    assert kernel.weights is not None and kernel.bias is not None
    bias = kernel.bias.astype(np.float64)
    bounded = kernel.lo == 0.0
    headroom = _HEADROOM * unseen(given.count)
    flat = kernel.weights.reshape(len(bias), -1)
    sizes = np.sqrt(np.einsum("ck,ck->c", flat, flat, dtype=np.float64)) * finest
    offset = given.means if many else bias
    reach = _reach(given, offset, sizes, bounded) * headroom
    if bounded or (np.abs(offset) <= _AWAY * reach).all():
        offset = np.zeros_like(offset)
        around_bias = _reach(given, bias, sizes, bounded)
        reach = np.maximum(bias + around_bias, 0.0 if bounded else around_bias - bias) * headroom
    widest = float(reach.max())
    if widest <= 0.0 and not offset.any():
        return None
    # A column that is always the same has any step.
    reach = np.where(reach > widest * _NARROWEST, reach, widest or 1.0)
    if widest < _UNEVEN * reach.min():
        if not offset.any():
            return None
        reach = np.full(len(reach), widest)
    return Columns(reach / levels, offset)


def _reach(given: Channels, centre: _Float, sizes: _Float, bounded: bool) -> _Float:
    """How far each column may be from *centre*: as far as samples show, and as any goes by *sizes*.

    *bounded* columns that are always 0 say nothing.
    """
    away = np.maximum(given.highest - centre, centre - given.lowest)
    away = np.where(bounded & (given.highest <= 0.0), 0.0, away)
    factor = float((away[sizes > 0] / sizes[sizes > 0]).max(initial=0.0))
    return np.maximum(sizes * factor, away)


def in_columns(kernel: Kernel, columns: Columns) -> Kernel:
    """*kernel* giving ``(y - offset) / step``."""
    assert kernel.weights is not None and kernel.bias is not None
    weights = kernel.weights / columns.step[:, None, None, None]
    bias = (kernel.bias.astype(np.float64) - columns.offset) / columns.step
    return replace(kernel, weights=weights.astype(np.float32), bias=bias.astype(np.float32))
