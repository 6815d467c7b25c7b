"""From float to integers: an exponent for each tensor, and s8 weights with one for each channel.

Scales are powers of two. A real value is ``q · 2**exponent``; an accumulator of a convolution has
the exponent of the input plus that of the channel's weights, and reaches the exponent of the output
by a right shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._calibrate import Calibration, Statistics, best_exponent, covering_exponent
from edged.compiler._columns import Columns, columns_of, in_columns, suits
from edged.compiler._graph import Range, abridged
from edged.compiler._kernel import Kernel
from edged.compiler._partition import Partition
from edged.compiler._round import Correlations, compensated
from edged.compiler._table_readers import TableReaders
from edged.compiler._techniques import Techniques
from edged.errors import ModelError
from edged.npu import ACCUMULATOR_BOUND, DType, Op

__all__ = ["MAX_LEFT", "Convolution", "Format", "Quantised", "quantise"]

MAX_LEFT: Final = 14
"""By how many places the device can shift an operand to the left."""

_MAX_SHIFT: Final = 31
_EXPONENTS: Final = (-100, 100)
_WEIGHT_LEVELS: Final = 127
_STRETCHED: Final = 1e-3
"""By how much a step may be above a power of two that it was stretched to, as a logarithm."""

_BLOCK: Final = 1 << 20
_COPYING: Final = frozenset({Op.ADD, Op.CONCAT, Op.COPY, Op.MAXPOOL, Op.RESCALE})


@dataclass(frozen=True, slots=True)
class Format:
    """How a tensor's values are written: ``q · 2**exponent``, q of *dtype*."""

    dtype: DType
    exponent: int

    @property
    def reach(self) -> int:
        """The largest magnitude of q."""
        return max(-self.dtype.lowest, self.dtype.highest)

    @property
    def numbers(self) -> npt.NDArray[np.float64]:
        """The real value of each byte, [256]."""
        steps = np.arange(256, dtype=np.uint8).view(self.dtype.numpy)
        return np.asarray(np.ldexp(steps.astype(np.float64), self.exponent))


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """Integer parameters of one convolution.

    Attributes:
        weights: s8, as the kernel's.
        bias: s32 in the scale of the accumulator.
        exponents: of the weights, one per output channel.
        bound: the largest magnitude an accumulator can have, per channel; below 2^24.
        coarser: channels whose exponent had to be raised for that bound.
    """

    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    exponents: npt.NDArray[np.int64]
    bound: npt.NDArray[np.int64]
    coarser: int


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """The formats of all tensors, and the parameters of the convolutions by their output.

    Attributes:
        columns: of tensors that leave with a step for each column.
    """

    formats: Mapping[str, Format]
    convolutions: Mapping[str, Convolution]
    columns: Mapping[str, Columns]


def quantise(cut: Partition, seen: Calibration, techniques: Techniques) -> Quantised:
    """Choose every format and quantise every weight.

    Values that go to the host are never cut off: the largest logit is an outlier, and the one that
    counts.

    Raises:
        ModelError: weights that are not finite, or that no exponent can hold.
    """
    statistics = seen.statistics
    covered = _covered(cut, statistics)
    tied = _tied(cut)
    formats: dict[str, Format] = {}
    convolutions: dict[str, Convolution] = {}
    columns = _columns(cut, seen) if techniques.columns else {}

    bounded = _bounded(cut)
    readers = TableReaders(cut, statistics)

    def chosen(name: str, dtype: DType, otherwise: int) -> Format:
        whole = [covered[member] for member in tied[name] if member in covered]
        if name in cut.leaving:
            whole.append(statistics[name].expected_largest)
        through = readers.exponent(tied[name], dtype) if techniques.least_error else None
        suited = [] if through is not None else [statistics[m] for m in sorted(tied[name])]
        whole += [s.largest for s in suited if s.few or not techniques.least_error]
        many = [s for s in suited if techniques.least_error and not s.few]
        exponents = [
            covering_exponent(max(whole, default=0.0), dtype.highest),
            best_exponent(many, dtype.highest),
            through,
        ]
        within = [bounded[member] for member in tied[name] if member in bounded]
        if within and len(within) == len(tied[name]):
            exponents = [max(within)]
        exponent = max((e for e in exponents if e is not None), default=otherwise)
        low, high = _EXPONENTS
        return Format(dtype, min(max(exponent, low), high))

    for name in cut.entering:
        lowest = cut.ranges[name].lo if name in cut.ranges else statistics[name].lowest
        formats[name] = chosen(name, DType.U8 if lowest >= 0 else DType.S8, 0)
    for kernel in cut.kernels:
        sources = [formats[name] for name in kernel.inputs]
        if kernel.op is Op.MAXPOOL:
            formats[kernel.output] = sources[0]
            continue
        if kernel.op is Op.COPY and len(set(kernel.inputs)) == 1:  # Other steps would tell no more.
            formats[kernel.output] = Format(_dtype(kernel, sources), sources[0].exponent)
            continue
        coarsest = max(source.exponent for source in sources)
        if kernel.output in columns:
            least = _finest_steps(kernel, sources[0])
            columns[kernel.output] = columns[kernel.output].no_finer_than(least)
            kernel = in_columns(kernel, columns[kernel.output])
            wanted = Format(_dtype(kernel, sources), 0)
        else:
            wanted = chosen(kernel.output, _dtype(kernel, sources), coarsest)
        finest = coarsest - MAX_LEFT
        if kernel.op is Op.CONV:
            means = statistics[kernel.inputs[0]].means * techniques.expected_error
            correlations = seen.correlations.get(kernel.output)
            parameters = _convolution(kernel, sources[0], wanted.exponent, means, correlations)
            convolutions[kernel.output] = parameters
            finest = sources[0].exponent + int(parameters.exponents.max())
        elif kernel.op is Op.AVGPOOL:
            finest = sources[0].exponent - 24
        elif kernel.op is Op.MUL:
            finest = sources[0].exponent + sources[1].exponent
        elif kernel.op is Op.TABLE:
            finest = _EXPONENTS[0]
        formats[kernel.output] = Format(wanted.dtype, max(wanted.exponent, finest))
    return Quantised(formats, convolutions, columns)


def _columns(cut: Partition, seen: Calibration) -> dict[str, Columns]:
    """Steps for the columns of what leaves the device and is read there by nobody."""
    read = {name for kernel in cut.kernels for name in kernel.inputs}
    result: dict[str, Columns] = {}
    for kernel in cut.kernels:
        if kernel.output in cut.leaving and kernel.output not in read and suits(kernel):
            given, levels = seen.channels[kernel.output], _dtype(kernel, ()).highest
            columns = columns_of(kernel, given, levels, many=seen.many)
            if columns is not None:
                result[kernel.output] = columns
    return result


def _finest_steps(kernel: Kernel, source: Format) -> npt.NDArray[np.float64]:
    """Steps of the output below which accumulators could not be shifted right to it, [C]."""
    assert kernel.weights is not None
    highest = np.abs(kernel.weights).max(axis=(1, 2, 3)).astype(np.float64)
    # The largest weight times a step of the input is then at most 64 steps of the output.
    return np.asarray(highest * 2.0**source.exponent / 64)


def _bounded(cut: Partition) -> dict[str, int]:
    """The exponents of tensors that are bounded on both sides: what the bounds take, no more.

    A quantised model has such bounds for every tensor, learned from more inputs than samples are.
    """
    ranges = {
        kernel.output: Range(kernel.lo, kernel.hi)
        for kernel in cut.kernels
        if math.isfinite(kernel.lo) and 0 < kernel.hi < math.inf
    }
    ranges |= {name: found * cut.scales.get(name, 1.0) for name, found in cut.ranges.items()}
    return {
        name: math.ceil(math.log2(found.step) - _STRETCHED)
        for name, found in ranges.items()
        if found.step > 0
    }


def _tied(cut: Partition) -> dict[str, set[str]]:
    """For each tensor, whose values its exponent has to suit.

    A max pool cannot rescale: what it reads and what it gives have one exponent. What only max
    pools read need not be kept beyond what they let through; what has another reader, or leaves the
    device, has to be kept itself.
    """
    pools = [kernel for kernel in cut.kernels if kernel.op is Op.MAXPOOL]
    kept = {n for k in cut.kernels if k.op is not Op.MAXPOOL for n in k.inputs} | set(cut.leaving)
    tied: dict[str, set[str]] = {}
    for name in (*cut.entering, *(kernel.output for kernel in cut.kernels)):
        tied[name] = {name}
    for pool in pools:
        (source,) = pool.inputs
        merged = tied[source] | tied[pool.output]
        for name in merged:
            tied[name] = merged
    return {name: group & kept for name, group in tied.items()}


def _covered(cut: Partition, statistics: Mapping[str, Statistics]) -> dict[str, float]:
    """For tensors that leave, or are copied or summed into such: the magnitude they must hold.

    It is their own largest, or what bounds or a max pool on the way let through of it.
    """
    covered = {name: statistics[name].largest for name in cut.leaving}
    for kernel in reversed(cut.kernels):
        through = covered.get(kernel.output)
        if through is None or kernel.op not in _COPYING:
            continue
        for name in kernel.inputs:
            whole = statistics[name].largest
            held = min(through, whole) if kernel.op in (Op.MAXPOOL, Op.RESCALE) else whole
            covered[name] = max(covered.get(name, 0.0), held)
    return covered


def _dtype(kernel: Kernel, sources: Sequence[Format]) -> DType:
    """U8 where a value below zero cannot be."""
    if kernel.function is not None:
        lowest = np.maximum(kernel.function(sources[0].numbers), kernel.lo).min()
        return DType.U8 if lowest >= 0 else DType.S8
    kept = kernel.op is not Op.CONV and all(source.dtype is DType.U8 for source in sources)
    return DType.U8 if kept or kernel.lo >= 0 else DType.S8


def _convolution(
    kernel: Kernel,
    source: Format,
    target: int,
    means: npt.NDArray[np.float64],
    correlations: Correlations | None,
) -> Convolution:
    """Integer weights and biases with a proven bound on the accumulator.

    Args:
        target: exponent of the output.
        means: of each channel of the input; the bias makes up for the shift of the mean that
            rounding the weights brings (Nagel et al., "Data-Free Quantization", 2019, section 4.2).
        correlations: round the weights by them.
    """
    assert kernel.weights is not None and kernel.bias is not None
    where = f"cannot compile model: layer {abridged(kernel.name)!r}"
    if not np.isfinite(kernel.weights).all() or not np.isfinite(kernel.bias).all():
        raise ModelError(f"{where} has weights or biases that are not finite")
    seen = _means_by_weight(kernel, means)
    by_channel = None if correlations is None else correlations.by_channel
    # A few channels at a time: in double, those of a large matrix at once would take gigabytes.
    groups = np.arange(len(kernel.weights)) // (len(kernel.weights) // kernel.groups)
    count = max(_BLOCK * len(kernel.weights) // kernel.weights.size, 1)
    blocks = [
        _channels(
            where,
            kernel.weights[first : first + count],
            kernel.bias[first : first + count],
            source,
            target,
            seen[groups[first : first + count]],
            None if by_channel is None else by_channel[first : first + count],
        )
        for first in range(0, len(kernel.weights), count)
    ]
    return Convolution(
        np.concatenate([block.weights for block in blocks]),
        np.concatenate([block.bias for block in blocks]),
        np.concatenate([block.exponents for block in blocks]),
        np.concatenate([block.bound for block in blocks]),
        sum(block.coarser for block in blocks),
    )


def _channels(
    where: str,
    kernel: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.float32],
    source: Format,
    target: int,
    seen: npt.NDArray[np.float64],
    correlations: npt.NDArray[np.float64] | None,
) -> Convolution:
    """:func:`_convolution` for some of the output channels: their weights and biases."""
    flat = kernel.astype(np.float64).reshape(len(kernel), -1)
    exponents = _weight_exponents(flat, target - source.exponent - _MAX_SHIFT)
    first = exponents.copy()
    while True:
        scale = 2.0**exponents
        steps = flat / scale[:, None]
        if correlations is None:
            weights = np.clip(np.rint(steps), -_WEIGHT_LEVELS, _WEIGHT_LEVELS)
        else:
            weights = compensated(steps, correlations, _WEIGHT_LEVELS)
        drift = ((weights * scale[:, None] - flat) * seen).sum(axis=1)
        bias = np.rint((offsets - drift) / (scale * 2.0**source.exponent))
        bound = source.reach * np.abs(weights).sum(axis=1) + np.abs(bias)
        above = bound >= ACCUMULATOR_BOUND
        if not above.any():
            break
        exponents[above] += 1
        if exponents.max() > _EXPONENTS[1]:
            raise ModelError(f"{where} has a bias of {np.abs(offsets).max():g}: too large")
    return Convolution(
        weights.reshape(kernel.shape).astype(np.int8),
        bias.astype(np.int32),
        exponents,
        bound.astype(np.int64),
        int((exponents > first).sum()),
    )


def _weight_exponents(flat: npt.NDArray[np.float64], finest: int) -> npt.NDArray[np.int64]:
    """For each row the exponent with the least squared error, at least *finest*."""
    highest = np.abs(flat).max(axis=1)
    covering = np.ceil(np.log2(np.maximum(highest, math.ldexp(1.0, -200)) / _WEIGHT_LEVELS))
    candidates = np.stack([covering, covering - 1])
    errors = []
    for exponents in candidates:
        scale = 2.0 ** exponents[:, None]
        kept = np.clip(np.rint(flat / scale), -_WEIGHT_LEVELS, _WEIGHT_LEVELS) * scale
        errors.append(((flat - kept) ** 2).sum(axis=1))
    best = np.where(errors[1] < errors[0], candidates[1], candidates[0])
    return np.asarray(np.maximum(best, finest), np.int64)


def _means_by_weight(kernel: Kernel, means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of what each weight is multiplied by, [groups, kh · kw · C_in / groups]."""
    assert kernel.weights is not None
    _, kh, kw, c_in = kernel.weights.shape
    return np.tile(means.reshape(kernel.groups, c_in), (1, kh * kw))
