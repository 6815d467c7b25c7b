"""Which tensors have an exponent for each channel: those that lose less by it.

A finer exponent for a channel of small values loses less of them. But a convolution that sums up
over channels takes the exponents of its input into its weights, which have one exponent for each
output channel: a weight of a channel that is finer by 3 bits is smaller by as much, and loses bits.
Both errors are weighed as they arrive at the device's outputs (:mod:`edged.compiler._noise`).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import numpy as np

from edged.compiler._calibrate import Calibration, unseen
from edged.compiler._noise import Noise
from edged.compiler._partition import Partition
from edged.compiler._passing import Exponents, sources_of
from edged.npu import Op

__all__ = ["Choice"]

_SPANS: Final = (1, 2, 3, 4, 5, 6)
"""By how many bits the finest channel may be finer than the coarsest."""

_GAIN: Final = 0.9
"""Below this part of the squared error with one exponent, one for each channel is worth it."""

_HEADROOM: Final = 1
"""By how many bits a channel may be larger than on samples that are hardly any, or made up."""

_ENOUGH: Final = 256
"""Of so many values of a channel, one that is far out is told for an outlier."""

_TINY: Final = 1e-30
_PASSING: Final = frozenset(
    [
        *(Op.CONV, Op.ADD, Op.MUL, Op.MATMUL, Op.TABLE, Op.CONCAT, Op.RESCALE),
        *(Op.AVGPOOL, Op.MAXPOOL, Op.COPY),
    ]
)


class Choice:
    """Chooses, for tensors of one program.

    Args:
        cut, seen: the program, and what its tensors were on the calibration samples.
    """

    def __init__(self, cut: Partition, seen: Calibration) -> None:
        self._cut = cut
        self._seen = seen
        self._noise = Noise(cut, seen)
        # What leaves may be as rare as a class: samples do not show the range of each.
        self._whole = {*cut.entering, *cut.leaving}
        for kernel in cut.kernels:
            bounded = math.isfinite(kernel.hi) or kernel.lo not in (0.0, -math.inf)
            if bounded and kernel.op is not Op.TABLE:
                self._whole.add(kernel.output)
            if kernel.op not in _PASSING:
                self._whole.update((*kernel.inputs, kernel.output))
            if kernel.op is Op.MATMUL:  # It sums up over channels, and has no weights.
                self._whole.add(kernel.inputs[0])
            for move in kernel.moves:
                name = kernel.inputs[move.source or 0]
                if sources_of(move, self._channels(name), kernel.plane[2]) is None:
                    self._whole.add(name)

    def _channels(self, name: str) -> int:
        return self._cut.layouts[name].plane[2]

    def free(self, name: str) -> bool:
        """Whether what gives and reads the tensor copes with exponents of its channels."""
        return name not in self._whole

    def exponents(
        self,
        name: str,
        tied: set[str],
        levels: int,
        one: int,
        kept: Collection[str],
        *,
        at_most: int | None,
    ) -> Exponents:
        """Those of *name*: all *one*, or of each channel its own.

        Args:
            tied: the tensors whose values they have to suit.
            levels: how many steps there are.
            kept: tensors of which nothing may be cut off.
            at_most: no channel is coarser.
        """
        same = np.full(self._channels(name), one, np.int64)
        members = sorted(tied)
        if not self.free(name) or not members or not all(map(self.free, members)):
            return same
        best = np.max([self._best(m, levels, whole=m in kept) for m in members], axis=0)
        if at_most is not None:
            best = np.minimum(best, at_most)
        known = best > -(2**30)
        coarsest = int(best[known].max(initial=one))
        if self._seen.unsure:
            best = np.minimum(best + _HEADROOM, coarsest)
        best = np.where(known, best, coarsest)
        candidates = [np.maximum(best, coarsest - span) for span in _SPANS]
        errors = [
            sum(self._noise.of(member, each, levels) for member in members)
            for each in (same, *candidates)
        ]
        least = int(np.argmin(errors[1:]))
        return candidates[least] if errors[1 + least] < _GAIN * errors[0] else same

    def _best(self, name: str, levels: int, *, whole: bool) -> Exponents:
        """The exponent that suits each channel of *name* by itself, far below all if it is 0."""
        octaves = self._seen.octaves[name]
        few = octaves.count < _ENOUGH
        largest = octaves.largest * (unseen(octaves.count) if few else 1.0)
        covering = np.ceil(np.log2(np.maximum(largest, _TINY) / (levels + 0.5))).astype(np.int64)
        result = covering
        if not few and not whole and not self._seen.unsure:
            least = octaves.error(covering, levels)
            for finer in (1, 2, 3):
                error = octaves.error(covering - finer, levels)
                result = np.where(error < least, covering - finer, result)
                least = np.minimum(error, least)
        return np.where(largest > 0, result, -(2**31))
