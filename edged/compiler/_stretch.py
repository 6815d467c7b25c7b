"""Scales for tensors inside the program, so that a bound is the largest integer there is.

A convolution's output may be multiplied by any number if the weights that read it are divided by
it: the network computes the same. ReLU6 has its bound at 6; with steps of a power of two that is
192 of 255 in a byte, and a quarter of the byte stands for values that cannot be. Multiplied by
255 / 192 they use all of it, and the device's own saturation is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edged.compiler._graph import Range
from edged.compiler._kernel import Kernel
from edged.compiler._partition import Partition
from edged.npu import Op

__all__ = ["stretch"]


def stretch(cut: Partition) -> Partition:
    """*cut* with scaled tensors, weights and bounds; what it computes in float is the same.

    ``scales`` of the result says by what each tensor is multiplied. What leaves the device is not:
    other programs count on it. What enters is where the range that the host gives it is known.
    """
    scales = _scales(cut)
    kernels = tuple(_scaled(kernel, scales) for kernel in cut.kernels)
    return cut.with_kernels(kernels, scales)


def _scales(cut: Partition) -> dict[str, float]:
    """By tensor; 1 is left out."""
    bounds = {k.output: Range(k.lo, k.hi) for k in cut.kernels if 0 < k.hi < math.inf}
    bounds |= cut.ranges
    unknown = set(cut.entering) - set(cut.ranges)
    products = [kernel for kernel in cut.kernels if kernel.op in (Op.MUL, Op.MATMUL)]
    multiplied = {name for kernel in products for name in (*kernel.inputs, kernel.output)}
    kept = {*cut.leaving, *multiplied}
    scales: dict[str, float] = {}
    for group in _groups(cut):
        bounded = [bounds[name] for name in sorted(group) if name in bounds]
        if bounded and group.isdisjoint(unknown) and group.isdisjoint(kept):
            scales |= dict.fromkeys(group, _factor(max(bounded, key=lambda each: each.step)))
    return scales


def _groups(cut: Partition) -> list[set[str]]:
    """Tensors that have to have one scale: convolutions and tables pass from one to another."""
    groups = {name: {name} for name in cut.entering}
    for kernel in cut.kernels:
        passes = kernel.op in (Op.CONV, Op.TABLE)
        tied = (kernel.output,) if passes else (*kernel.inputs, kernel.output)
        merged = set(tied).union(*(groups.get(name, ()) for name in tied))
        groups |= dict.fromkeys(merged, merged)
    return list({id(group): group for group in groups.values()}.values())


def _factor(bounds: Range) -> float:
    """From the step that reaches *bounds* to the next larger power of two, at most 2."""
    return math.ldexp(1.0 / bounds.step, math.ceil(math.log2(bounds.step)))


def _scaled(kernel: Kernel, scales: Mapping[str, float]) -> Kernel:
    factor = scales.get(kernel.output, 1.0)
    before = scales.get(kernel.inputs[0], 1.0)
    bounded = replace(kernel, lo=kernel.lo * factor, hi=kernel.hi * factor)
    if kernel.function is not None:
        return replace(bounded, function=kernel.function.scaled(before, factor))
    if kernel.weights is None or kernel.bias is None or factor == before == 1.0:
        return bounded
    return replace(
        bounded,
        weights=kernel.weights * np.float32(factor / before),
        bias=kernel.bias * np.float32(factor),
    )
