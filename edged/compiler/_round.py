"""Weights rounded so that their errors cancel out, in place of each to the nearest.

In a depthwise convolution the few inputs of a channel are neighbouring pixels, nearly alike: what
matters is that the errors of its weights add up to little, not that each is small. Weights are
rounded one after the other, and the error of each is made up for by those that are still to come,
as far as the inputs are alike (Frantar et al., "GPTQ", 2022, and Hassibi and Stork, "Second order
derivatives for network pruning", 1992).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._kernel import Kernel
from edged.npu import Op

__all__ = ["Correlations", "compensated"]

_Float = npt.NDArray[np.float64]

_DAMPING: Final = 0.1
"""Of the mean square input: how little to trust what few samples say of how inputs go together."""

_ENOUGH: Final = 1 << 28
"""How many products are summed up for a layer: a few photographs tell as much as many."""

_MAX_PRODUCTS: Final = 1 << 30
_MAX_SUMS: Final = 1 << 22


class Correlations:
    """Of what the weights of a depthwise convolution are multiplied by: E[x_k · x_l] by channel.

    Attributes:
        kernel: the convolution.
    """

    def __init__(self, kernel: Kernel, samples: int) -> None:
        """*kernel* is one that :meth:`fits`; *samples* says how many there will be."""
        self.kernel = kernel
        self._every = math.ceil(samples / max(_ENOUGH // _products(kernel), 1))
        assert kernel.weights is not None
        _, rows, columns, _ = kernel.weights.shape
        self._window = [(y, x) for y in range(rows) for x in range(columns)]
        count = len(self._window)
        self._sums = np.zeros((count, count, kernel.groups))
        self._given = 0

    @staticmethod
    def fits(kernel: Kernel) -> bool:
        """Whether *kernel* is a depthwise convolution of more than a pixel, and not a vast one."""
        if kernel.op is not Op.CONV or kernel.weights is None or kernel.groups == 1:
            return False
        if kernel.phases != (1, 1):
            return False
        _, rows, columns, depth = kernel.weights.shape
        small = kernel.groups * (rows * columns) ** 2 <= _MAX_SUMS
        return depth == 1 < rows * columns and small and _products(kernel) <= _MAX_PRODUCTS

    def add(self, plane: npt.NDArray[np.float32]) -> None:
        """Take in the input of one sample, [H, W, C]: of many, only some, evenly chosen."""
        self._given += 1
        if (self._given - 1) % self._every:
            return
        seen = self._seen(plane)
        for first, a in enumerate(seen):
            for second in range(first, len(seen)):
                # Not a matrix product: threads must not decide in which order is summed up.
                total = np.einsum("hwc,hwc->hc", a, seen[second]).sum(axis=0, dtype=np.float64)
                self._sums[first, second] += total
                if second > first:
                    self._sums[second, first] += total

    def _seen(self, plane: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """What each weight of the window meets: [H_out, W_out, C]."""
        window, (height, width, _) = self.kernel.window, self.kernel.plane
        top, left, bottom, right = window.pad
        padded = np.pad(plane, ((top, bottom), (left, right), (0, 0)))
        rows = slice(0, window.stride[0] * (height - 1) + 1, window.stride[0])
        columns = slice(0, window.stride[1] * (width - 1) + 1, window.stride[1])
        return [
            np.ascontiguousarray(
                padded[y * window.dilation[0] :, x * window.dilation[1] :][rows, columns]
            )
            for y, x in self._window
        ]

    @property
    def by_channel(self) -> _Float:
        """[C_out, K, K], up to a factor."""
        assert self.kernel.weights is not None
        repeated = len(self.kernel.weights) // self.kernel.groups
        return np.repeat(self._sums.transpose(2, 0, 1), repeated, axis=0)


def _products(kernel: Kernel) -> int:
    """How many products one sample is worth."""
    assert kernel.weights is not None
    return math.prod(kernel.plane) * math.prod(kernel.weights.shape[1:]) ** 2


def compensated(weights: _Float, correlations: _Float, levels: int) -> _Float:
    """*weights* as whole numbers of magnitude ≤ *levels* that give nearly the same sums.

    Args:
        weights: [C, K], in steps.
        correlations: [C, K, K], of what they are multiplied by.
    """
    count = weights.shape[1]
    mean = np.trace(correlations, axis1=1, axis2=2)[:, None, None] / count
    # A channel without input, or with one that is beyond all squares: to the nearest.
    usable = np.isfinite(mean) & (mean > np.finfo(np.float32).tiny)
    identity = np.eye(count)
    damped = np.divide(correlations, mean, where=usable, out=np.zeros_like(correlations))
    damped = np.where(usable, damped + _DAMPING * identity, identity)
    # Row k: how the inputs behind k make up for an error at k.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    left = weights.copy()
    rounded = np.zeros_like(left)
    for k in range(count):
        rounded[:, k] = np.clip(np.rint(left[:, k]), -levels, levels)
        error = (left[:, k] - rounded[:, k]) / upper[:, k, k]
        left[:, k + 1 :] -= error[:, None] * upper[:, k, k + 1 :]
    return rounded
