"""Which tensors are s16, or the host's: those whose 8 bits lose most of what the outputs lose.

What a tensor's rounding is worth at the outputs is estimated (:mod:`edged.compiler._noise`); where
that is much in all, the tensors that most of it comes from are s16, as far as the array's second
passes are affordable. What no s16 can be, since tables read it, is the host's if it is no
convolution. What that brings is then measured on samples, by who asks.
"""

from __future__ import annotations

import math
from typing import Final

from edged.compiler._calibrate import Calibration
from edged.compiler._kernel import Kernel
from edged.compiler._noise import Noise
from edged.compiler._partition import Partition
from edged.compiler._quantise import Quantised
from edged.npu import Op

__all__ = ["between", "tabled", "wide"]

_MUCH: Final = 0.1
"""An estimated error of the outputs, relative, below which 8 bits are enough."""

_BUDGET: Final = 0.25
"""How many more multiply-accumulates the second passes may take, of all."""

_LEAST: Final = 0.02
"""What brings less of the squared error is left in 8 bits."""

_TOGETHER: Final = 0.5
"""What is chosen has to bring so much of the squared error."""

_FEW: Final = 3

_LARGER: Final = 64
"""What an s16 is added to may be larger by this: left shifts reach no further."""

_READING: Final = frozenset({Op.CONV, Op.ADD, Op.MUL, Op.CONCAT, Op.RESCALE, Op.AVGPOOL})
_GIVING: Final = _READING | {Op.TABLE, Op.MATMUL}


def wide(cut: Partition, seen: Calibration, quantised: Quantised) -> dict[str, float]:
    """The tensors to try as s16, with the part of the outputs' squared error that each brings.

    Empty where 8 bits are enough, or something else is to blame.
    """
    noise = Noise(cut, seen)
    brought = {
        kernel.output: _brought(kernel, seen, quantised, noise)
        for kernel in cut.kernels
        if kernel.output not in quantised.columns
    }
    total = sum(brought.values())
    if math.sqrt(total) < _MUCH:
        return {}
    passes = _second_passes(cut, seen)
    left = _BUDGET * sum(kernel.macs for kernel in cut.kernels)
    chosen: dict[str, float] = {}
    for name in sorted(passes.keys() & brought.keys(), key=lambda name: (-brought[name], name)):
        if brought[name] >= _LEAST * total and passes[name] <= left:
            left -= passes[name]
            chosen[name] = brought[name] / total
    return chosen if sum(chosen.values()) >= _TOGETHER else {}


def tabled(cut: Partition) -> set[str]:
    """What tables read and no convolution gives, to be tried on the host where 8 bits are too few.

    Empty where these are many: each costs a round trip.
    """
    makers = {k.output for k in cut.kernels if not k.macs and k.op in _GIVING}
    read = {name for kernel in cut.kernels if kernel.op is Op.TABLE for name in kernel.inputs}
    found = makers & read
    return found if len(found) <= _FEW else set()


def between(cut: Partition, seen: Calibration) -> set[str]:
    """What goes to the host and back between segments, as far as it can be s16."""
    given = {name for part in cut.parts[1:-1] for name in part.leaving}
    taken = {name for part in cut.parts[1:] for name in part.entering}
    return (given | taken) & _second_passes(cut, seen).keys()


def _brought(kernel: Kernel, seen: Calibration, quantised: Quantised, noise: Noise) -> float:
    if kernel.op is Op.MAXPOOL or (kernel.op is Op.COPY and len(set(kernel.inputs)) == 1):
        return 0.0  # It moves what was rounded before.
    form = quantised.formats[kernel.output]
    lost = seen.octaves[kernel.output].error(form.exponents, form.dtype.highest)
    return float((noise.worth[kernel.output] * lost).sum())


def _second_passes(cut: Partition, seen: Calibration) -> dict[str, int]:
    """Of what can be s16: multiply-accumulates of the convolutions that read it."""
    passes = {kernel.output: 0 for kernel in cut.kernels if kernel.op in _GIVING}
    passes |= dict.fromkeys(cut.entering, 0)
    largest = {name: found.largest for name, found in seen.statistics.items()}
    for kernel in cut.kernels:
        beside = max(largest[name] for name in kernel.inputs)
        for name in set(kernel.inputs) & passes.keys():
            added = kernel.op is Op.ADD and beside > _LARGER * largest[name]
            if kernel.op in _READING and not added:
                passes[name] += kernel.macs
            else:
                del passes[name]
    return passes
