"""From float to integers: an exponent for each tensor, and s8 weights with one for each channel.

Scales are powers of two. A real value is ``q · 2**exponent``; an accumulator of a convolution has
the exponent of the input plus that of the channel's weights, and reaches the exponent of the output
by a right shift.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._calibrate import Calibration, Statistics, best_exponent, covering_exponent
from edged.compiler._columns import Columns, columns_of, in_columns, suits
from edged.compiler._exponents import Choice
from edged.compiler._format import Format, arriving
from edged.compiler._graph import Range, abridged
from edged.compiler._kernel import Kernel
from edged.compiler._partition import Partition
from edged.compiler._passing import Exponents, absorbed, by_row, rows_of
from edged.compiler._round import Correlations, compensated
from edged.compiler._table_readers import TableReaders
from edged.compiler._techniques import Techniques
from edged.errors import ModelError
from edged.npu import ACCUMULATOR_BOUND, WIDE_ACCUMULATOR_BOUND, DType, Op

__all__ = ["MAX_LEFT", "Convolution", "Quantised", "quantise"]

MAX_LEFT: Final = 14
"""By how many places the device can shift an operand to the left."""

_MAX_SHIFT: Final = 31
_EXPONENTS: Final = (-100, 100)
_WEIGHT_LEVELS: Final = 127
_STRETCHED: Final = 1e-3
"""By how much a step may be above a power of two that it was stretched to, as a logarithm."""

_WIDE_HEADROOM: Final = 2.0
"""An s16 reaches so many times the largest magnitude on the samples: it has bits to spare."""

_BLOCK: Final = 1 << 20
_COPYING: Final = frozenset({Op.ADD, Op.CONCAT, Op.COPY, Op.MAXPOOL, Op.RESCALE})


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

    def real(self, name: str) -> Columns:
        """What the integers of the tensor *name* stand for."""
        form = self.formats[name]
        columns = self.columns.get(name)
        step = np.exp2(form.exponents.astype(np.float64))
        if columns is None:
            return Columns(step, np.zeros_like(step))
        return Columns(step * columns.step, columns.offset)


def quantise(
    cut: Partition, seen: Calibration, techniques: Techniques, wide: Collection[str] = ()
) -> Quantised:
    """Choose every format and quantise every weight.

    Args:
        wide: tensors that are s16.

    Values that go to the host are never cut off: the largest logit is an outlier, and the one that
    counts.

    Raises:
        ModelError: weights that are not finite, or that no exponent can hold.
    """
    statistics = seen.statistics
    readers = TableReaders(cut, statistics)
    kept = [name for name in cut.leaving if name not in readers]
    covered = _covered(cut, kept, statistics)
    tied = _tied(cut)
    formats: dict[str, Format] = {}
    convolutions: dict[str, Convolution] = {}
    columns: dict[str, Columns] = {}
    alone = _leaving_alone(cut) if techniques.columns else set()

    signed = _signed(cut)
    bounded = _bounded(cut, signed)
    choice = Choice(cut, seen)

    def chosen(name: str, dtype: DType, otherwise: int) -> Format:
        whole = [covered[member] for member in tied[name] if member in covered]
        if name in kept:
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
        known = bool(within) and len(within) == len(tied[name])
        if known:
            exponents = [max(within)]
        one = max((e for e in exponents if e is not None), default=otherwise)
        if techniques.channels and not known:
            least = one if through is not None else None
            each = choice.exponents(name, tied[name], dtype.highest, one, covered, at_most=least)
            return Format(dtype, np.clip(each, *_EXPONENTS))
        return even(name, dtype, one)

    def even(name: str, dtype: DType, exponent: int) -> Format:
        low, high = _EXPONENTS
        channels = cut.layouts[name].plane[2]
        return Format(dtype, np.full(channels, min(max(exponent, low), high)))

    def dtype_of(kernel: Kernel, sources: Sequence[Format]) -> DType:
        return DType.S8 if kernel.output in signed else _dtype(kernel, sources)

    def widest(name: str, otherwise: int) -> Format:
        largest = _WIDE_HEADROOM * statistics[name].largest
        covering = covering_exponent(largest, DType.S16.highest)
        return even(name, DType.S16, otherwise if covering is None else covering)

    for name in cut.entering:
        if name in wide:
            formats[name] = widest(name, 0)
            continue
        lowest = cut.ranges[name].lo if name in cut.ranges else statistics[name].lowest
        known = lowest >= 0 and name not in signed
        formats[name] = chosen(name, DType.U8 if known else DType.S8, 0)
    for kernel in cut.kernels:
        sources = [formats[name] for name in kernel.inputs]
        if kernel.op is Op.MAXPOOL:
            formats[kernel.output] = sources[0]
            continue
        if kernel.op is Op.COPY and len(set(kernel.inputs)) == 1:  # Other steps would tell no more.
            if all(map(choice.free, {kernel.output, *tied[kernel.output]})):
                exponents = np.max(arriving(kernel, formats), axis=0)
                formats[kernel.output] = Format(dtype_of(kernel, sources), exponents)
            else:
                exponent = sources[0].exponent
                formats[kernel.output] = even(kernel.output, dtype_of(kernel, sources), exponent)
            continue
        coarsest = max(source.exponent for source in sources)
        reference = sources[0].exponents
        if kernel.op is Op.CONV:
            kernel, reference = _taking(kernel, sources[0])
        stepped = _columns(kernel, reference, seen) if kernel.output in alone else None
        if stepped is not None:
            columns[kernel.output] = stepped
            kernel = in_columns(kernel, stepped)
            wanted = even(kernel.output, _dtype(kernel, sources), 0)
        elif kernel.output in wide:
            wanted = widest(kernel.output, coarsest)
        else:
            wanted = chosen(kernel.output, dtype_of(kernel, sources), coarsest)
        if kernel.op is Op.CONV:
            means = statistics[kernel.inputs[0]].means * techniques.expected_error
            means = means / absorbed(kernel, sources[0].exponents).reshape(-1)
            correlations = seen.correlations.get(kernel.output)
            source = Format(sources[0].dtype, reference)
            rows = rows_of(kernel)
            parameters = _convolution(kernel, source, wanted.exponents[rows], means, correlations)
            convolutions[kernel.output] = parameters
            finest = np.full(kernel.plane[2], _EXPONENTS[0])
            np.maximum.at(finest, rows, reference + parameters.exponents)
            wanted = wanted.no_finer_than(finest)
        elif kernel.op is Op.AVGPOOL:
            wanted = wanted.no_finer_than(reference - 24)
        elif kernel.op in (Op.MUL, Op.MATMUL):
            wanted = wanted.no_finer_than(np.sum(arriving(kernel, formats), axis=0))
        elif kernel.op is not Op.TABLE:
            wanted = wanted.no_finer_than(np.max(arriving(kernel, formats), axis=0) - MAX_LEFT)
        formats[kernel.output] = wanted
    return Quantised(formats, convolutions, columns)


def _taking(kernel: Kernel, source: Format) -> tuple[Kernel, Exponents]:
    """*kernel* with the exponents of its input taken into its weights.

    Returns:
        the kernel, and the exponent of what its weights then multiply, for each row of them.
    """
    assert kernel.weights is not None
    reference = by_row(kernel, source.exponents)
    factors = absorbed(kernel, source.exponents)
    if (factors == 1.0).all():
        return kernel, reference
    factors = np.repeat(factors, len(kernel.weights) // kernel.groups, axis=0)[:, None, None]
    return replace(kernel, weights=(kernel.weights * factors).astype(np.float32)), reference


def _leaving_alone(cut: Partition) -> set[str]:
    """What may have steps for its columns: it leaves the device and is read there by nobody."""
    read = {name for kernel in cut.kernels for name in kernel.inputs}
    given = {kernel.output for kernel in cut.kernels if suits(kernel)}
    return given & set(cut.leaving) - read


def _columns(kernel: Kernel, reference: Exponents, seen: Calibration) -> Columns | None:
    """Steps for the columns of what *kernel* gives, where they are worth it."""
    given, levels = seen.channels[kernel.output], _dtype(kernel, ()).highest
    finest = np.exp2(reference.astype(np.float64))
    columns = columns_of(kernel, given, finest, levels, many=seen.many)
    return columns and columns.no_finer_than(_finest_steps(kernel, finest))


def _finest_steps(kernel: Kernel, finest: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Steps of the output below which accumulators could not be shifted right to it, [C]."""
    assert kernel.weights is not None
    highest = np.abs(kernel.weights).max(axis=(1, 2, 3)).astype(np.float64)
    # The largest weight times a step of the input is then at most 64 steps of the output.
    return np.asarray(highest * finest / 64)


def _signed(cut: Partition) -> set[str]:
    """What is s8 whatever its values: a product of matrices sums up too many of two u8.

    What is copied, or pooled by its maximum, into such a tensor is s8 as well.
    """
    found: set[str] = set()
    for kernel in reversed(cut.kernels):
        if kernel.op is Op.MATMUL:
            a, b = kernel.inputs
            if kernel.depth * DType.U8.reach**2 >= ACCUMULATOR_BOUND:
                found.add(b)
            if kernel.depth * DType.U8.reach * DType.S8.reach >= ACCUMULATOR_BOUND:
                found.add(a)
        elif kernel.op in (Op.COPY, Op.MAXPOOL) and kernel.output in found:
            found.update(kernel.inputs)
    return found


def _bounded(cut: Partition, signed: Collection[str]) -> dict[str, int]:
    """The exponents of tensors that are bounded on both sides: what the bounds take, no more.

    A quantised model has such bounds for every tensor, learned from more inputs than samples are.
    """
    ranges = {
        kernel.output: Range(kernel.lo, kernel.hi)
        for kernel in cut.kernels
        if math.isfinite(kernel.lo) and 0 < kernel.hi < math.inf
    }
    ranges |= {name: found * cut.scales.get(name, 1.0) for name, found in cut.ranges.items()}
    ranges |= {n: Range(min(r.lo, -r.hi), r.hi) for n, r in ranges.items() if n in signed}
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


def _covered(
    cut: Partition, kept: Sequence[str], statistics: Mapping[str, Statistics]
) -> dict[str, float]:
    """For tensors that leave, or are copied or summed into such: the magnitude they must hold.

    It is their own largest, or what bounds or a max pool on the way let through of it.
    """
    covered = {name: statistics[name].largest for name in kept}
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
    target: Exponents,
    means: npt.NDArray[np.float64],
    correlations: Correlations | None,
) -> Convolution:
    """Integer weights and biases with a proven bound on the accumulator.

    Args:
        source: of what each row of weights multiplies.
        target: exponents of the output, for each row.
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
            Format(source.dtype, source.exponents[first : first + count]),
            target[first : first + count],
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
    target: Exponents,
    seen: npt.NDArray[np.float64],
    correlations: npt.NDArray[np.float64] | None,
) -> Convolution:
    """:func:`_convolution` for some of the output channels: their weights and biases."""
    flat = kernel.astype(np.float64).reshape(len(kernel), -1)
    exponents = _weight_exponents(flat, target - source.exponents - _MAX_SHIFT)
    first = exponents.copy()
    limit = WIDE_ACCUMULATOR_BOUND if source.dtype is DType.S16 else ACCUMULATOR_BOUND
    while True:
        scale = 2.0**exponents
        steps = flat / scale[:, None]
        if correlations is None:
            weights = np.clip(np.rint(steps), -_WEIGHT_LEVELS, _WEIGHT_LEVELS)
        else:
            weights = compensated(steps, correlations, _WEIGHT_LEVELS)
        drift = ((weights * scale[:, None] - flat) * seen).sum(axis=1)
        bias = np.rint((offsets - drift) / (scale * np.exp2(source.exponents.astype(np.float64))))
        bound = source.dtype.reach * np.abs(weights).sum(axis=1) + np.abs(bias)
        above = bound >= limit
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


def _weight_exponents(flat: npt.NDArray[np.float64], finest: Exponents) -> npt.NDArray[np.int64]:
    """For each row the exponent with the least squared error, at least its *finest*."""
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
