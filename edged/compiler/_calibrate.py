"""What values the tensors of the device take: the float model run on calibration samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged._madeup import Hint, Step, Wanted, hints, made_up, to_scale
from edged.compiler._graph import Graph, abridged
from edged.compiler._octaves import Octaves
from edged.compiler._partition import Partition
from edged.compiler._round import Correlations
from edged.compiler._session import FloatSession
from edged.compiler._techniques import Techniques
from edged.errors import ModelError

__all__ = [
    "Calibration",
    "Channels",
    "Samples",
    "Statistics",
    "best_exponent",
    "calibrate",
    "checked_samples",
    "covering_exponent",
    "finer",
    "supplemented",
    "synthetic_samples",
    "unseen",
]

Samples = Mapping[str, npt.NDArray[Any]]

_MAX_SAMPLES: Final = 256
_SYNTHETIC_SAMPLES: Final = 16
_FEW: Final = 8
_MANY: Final = 16
_SURE: Final = 4
_SEED: Final = 0x6564676564
_SMALL: Final = 4096
_BINS: Final = 4096
_FINER: Final = 5
_RARE: Final = 3.75
"""How many standard deviations from the mean a value is that still has to be told from others: one
in 5,000 of a normal distribution is further away."""


class Statistics:
    """What is kept of one tensor's values: a histogram, extremes, channel means.

    The histogram's range is a power of two that doubles when a larger value comes, pairs of bins
    falling together: one pass over the data, and bins that quantisation steps are whole numbers of.

    Attributes:
        lowest: the lowest value.
        largest: the largest magnitude.
        counts: the histogram of magnitudes, [2, bins]: of values from 0 on, and of those below.
    """

    def __init__(self) -> None:
        self.lowest = np.inf
        self.largest = 0.0
        self.counts = np.zeros((2, _BINS), np.int64)
        self._exponent: int | None = None
        self._sum: npt.NDArray[np.float64] | None = None
        self._pixels = 0

    def add(self, plane: npt.NDArray[np.float32]) -> None:
        """Take in the values of one sample, [H, W, C]."""
        self.lowest = min(self.lowest, float(plane.min()))
        total = plane.sum(axis=(0, 1), dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._pixels += plane.shape[0] * plane.shape[1]
        self.largest = max(self.largest, float(plane.max()), -float(plane.min()))
        if self.largest > 0:
            self._reach(math.frexp(self.largest)[1])
        exponent = self._exponent or 0
        bins = (plane * np.float32(2.0**-exponent * _BINS)).astype(np.int64).reshape(-1)
        np.clip(bins, 1 - _BINS, _BINS - 1, out=bins)
        signed = np.bincount(bins + _BINS, minlength=2 * _BINS)
        self.counts[0] += signed[_BINS:]
        self.counts[1, 1:] += signed[_BINS - 1 : 0 : -1]

    def _reach(self, exponent: int) -> None:
        """Make the range at least 2**exponent."""
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent:
            pairs = self.counts.reshape(2, -1, 2).sum(axis=2)
            self.counts = np.concatenate([pairs, np.zeros_like(pairs)], axis=1)
            self._exponent += 1

    @property
    def few(self) -> bool:
        """Whether so few values were seen that no outlier among them can be told for one."""
        return self.expected_largest > self.largest

    @property
    def expected_largest(self) -> float:
        """The largest magnitude that use will bring, where few values do not show it."""
        return self.largest * unseen(int(self.counts.sum()))

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """The mean of each channel, [C]."""
        assert self._sum is not None
        return self._sum / self._pixels

    @property
    def numbers(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The centres of the bins that something fell in, and how much: [N] each."""
        signed = np.concatenate([self._centres, -self._centres])
        counts = self.counts.reshape(-1)
        return signed[counts > 0], counts[counts > 0]

    @property
    def _centres(self) -> npt.NDArray[np.float64]:
        centres = np.asarray((np.arange(_BINS) + 0.5) * (2.0 ** (self._exponent or 0) / _BINS))
        centres[0] = 0.0  # Mostly the exact zeros that ReLU makes.
        return centres

    def error(self, exponent: int, levels: int) -> float:
        """The squared error of values in at most *levels* steps of ``2**exponent``, summed up."""
        if self._exponent is None:
            return 0.0
        centres = self._centres
        step = 2.0**exponent
        steps = np.rint(centres / step)
        errors = (centres - np.minimum(steps, levels) * step) ** 2
        # What is cut off counts double: it errs to one side, and samples show fewer outliers than
        # use will.
        return float((self.counts.sum(axis=0) * np.where(steps > levels, 2.0, 1.0) * errors).sum())


def unseen(count: int) -> float:
    """By what the extremes of *count* values fall short of rare ones, at least 1.

    The largest of n values of a normal distribution is about √(2 ln n) standard deviations away.
    """
    return max(_RARE / math.sqrt(2.0 * math.log(max(count, 2))), 1.0)


def covering_exponent(largest: float, levels: int) -> int | None:
    """The finest exponent at which *levels* steps reach the magnitude *largest*; None for zero."""
    return math.ceil(math.log2(largest / (levels + 0.5))) if largest else None


def best_exponent(tensors: Sequence[Statistics], levels: int) -> int | None:
    """The exponent with the least squared error for all *tensors*, in at most *levels* steps.

    Often finer than the one that covers them: a few outliers are cut off for the sake of the rest.
    None if only zeros were seen.
    """
    covering = covering_exponent(max((s.largest for s in tensors), default=0.0), levels)
    if covering is None:
        return None
    return min(
        finer(covering), key=lambda exponent: sum(s.error(exponent, levels) for s in tensors)
    )


def finer(covering: int) -> range:
    """Exponents to try: the one that covers every value, and some that cut off a few outliers."""
    return range(covering, covering - _FINER, -1)


class Channels:
    """The range, mean and spread of each channel of one tensor, over all samples and pixels."""

    def __init__(self) -> None:
        self._lowest: npt.NDArray[np.float64] | None = None
        self._highest: npt.NDArray[np.float64] | None = None
        self._mean: npt.NDArray[np.float64] = np.zeros(())
        self._squares: npt.NDArray[np.float64] = np.zeros(())
        self._count = 0

    def add(self, plane: npt.NDArray[np.float32]) -> None:
        """Take in the values of one sample, [H, W, C]."""
        flat = plane.reshape(-1, plane.shape[-1]).astype(np.float64)
        low, high = flat.min(axis=0), flat.max(axis=0)
        self._lowest = low if self._lowest is None else np.minimum(self._lowest, low)
        self._highest = high if self._highest is None else np.maximum(self._highest, high)
        # Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979: sums of plain
        # squares would lose a small spread around a large mean.
        mean = flat.mean(axis=0)
        squares = ((flat - mean) ** 2).sum(axis=0)
        total = self._count + len(flat)
        apart = mean - self._mean
        self._squares = self._squares + squares + apart**2 * (self._count * len(flat) / total)
        self._mean = self._mean + apart * (len(flat) / total)
        self._count = total

    @property
    def count(self) -> int:
        """How many values were seen, in all channels."""
        return self._count * self._mean.size

    @property
    def lowest(self) -> npt.NDArray[np.float64]:
        """The lowest value of each channel, [C]."""
        assert self._lowest is not None
        return self._lowest

    @property
    def highest(self) -> npt.NDArray[np.float64]:
        """The highest value of each channel, [C]."""
        assert self._highest is not None
        return self._highest

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """The mean of each channel, [C]."""
        return self._mean

    @property
    def spreads(self) -> npt.NDArray[np.float64]:
        """The standard deviation of each channel, [C]."""
        return np.sqrt(self._squares / max(self._count, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What the float model did on the samples.

    Attributes:
        statistics: of each tensor of the device, as scaled there.
        channels: of each tensor that leaves the device.
        octaves: of each tensor, by channel.
        unsure: whether so few samples are the user's own that a channel may well be larger in use.
        many: whether there are enough samples of the user's own to trust a mean.
        correlations: of the inputs of convolutions whose weights are rounded by them, by output.
    """

    statistics: Mapping[str, Statistics]
    channels: Mapping[str, Channels]
    octaves: Mapping[str, Octaves]
    unsure: bool
    many: bool
    correlations: Mapping[str, Correlations]


def checked_samples(graph: Graph, given: Samples) -> Samples:
    """*given* after it is found to fit the model's inputs, thinned out evenly if there is much.

    Raises:
        ModelError: names, dtypes, shapes, or values that are not finite.
    """
    wanted = _inputs(graph)
    if set(given) != set(graph.inputs):
        raise ModelError(
            f"cannot calibrate: samples are for inputs {sorted(given)}, the model has"
            f" {sorted(graph.inputs)}"
        )
    counts = {len(given[i.name]) if given[i.name].ndim else 0 for i in wanted}
    if len(counts) != 1 or counts == {0}:
        raise ModelError(
            f"cannot calibrate: {sorted(counts)} samples for the model's inputs;"
            " wanted as many for each, and at least one"
        )
    for i in wanted:
        array = given[i.name]
        if array.dtype != i.dtype or array.shape[1:] != i.shape[1:]:
            raise ModelError(
                f"cannot calibrate: samples of input {abridged(i.name)!r} are {array.dtype}"
                f" {list(array.shape)}, wanted {i.dtype} {['N', *i.shape[1:]]}"
            )
        if not np.isfinite(array).all():
            raise ModelError(
                f"cannot calibrate: samples of input {abridged(i.name)!r} have values that are not"
                " finite"
            )
    (count,) = counts
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MAX_SAMPLES)).astype(np.int64))
    return {name: array[chosen] for name, array in given.items()}


def supplemented(graph: Graph, samples: Samples) -> Samples:
    """*samples*, and made-up ones where they are few 8-bit images.

    One or two photographs do not show every channel its range. Made-up images of 8 bits have the
    range of real ones; of floats that is not known, and they are left alone.
    """
    inputs = _inputs(graph)
    missing = _FEW - len(samples[inputs[0].name])
    if missing <= 0 or any(len(i.shape) != 4 or i.dtype.itemsize > 1 for i in inputs):
        return samples
    rng = np.random.default_rng(_SEED)
    more = made_up(inputs, {}, missing, rng)
    return {i.name: np.concatenate([samples[i.name], more[i.name]]) for i in inputs}


def synthetic_samples(graph: Graph, techniques: Techniques) -> Samples:
    """Stand-ins where there are no calibration data: seeded, the same every time.

    Raises:
        ModelError: the float model cannot be run.
    """
    inputs = _inputs(graph)
    told = hints(
        inputs,
        [Step(node.op, node.inputs, node.outputs, node.attributes) for node in graph.nodes],
        {name: array for name, array in graph.constants.items() if array.size <= _SMALL},
        {name: array.shape for name, array in graph.constants.items()},
    )
    told = told if techniques.scaled_input else {n: Hint(rows=h.rows) for n, h in told.items()}
    samples = made_up(inputs, told, _SYNTHETIC_SAMPLES, np.random.default_rng(_SEED))
    return to_scale(samples, told, _first_layer(graph)) if techniques.scaled_input else samples


def _first_layer(graph: Graph) -> Callable[[Samples], npt.NDArray[Any] | None]:
    """What the first layer with weights gives on one sample.

    Raises:
        ModelError: the float model cannot be run.
    """
    first = next((node for node in graph.nodes if node.op in ("Conv", "Gemm")), None)
    if first is None or not graph.values[first.output].placeable:
        return lambda _sample: None
    large = graph.large()
    model = graph.onnx([first.output], large)
    session = FloatSession(model, "run the first layer of the float model")
    return lambda sample: session.run({**sample, **large})[0]


def calibrate(
    graph: Graph,
    cut: Partition,
    samples: Samples,
    techniques: Techniques,
    progress: Callable[[float], None],
    *,
    own: int,
) -> Calibration:
    """Run the float model on *samples* and keep what the values of the device's tensors were.

    Args:
        progress: called with a fraction after each sample.
        own: how many of the samples are the user's.

    Raises:
        ModelError: the float model cannot be run, or gives values that are not finite.
    """
    count = len(next(iter(samples.values())))
    names = (*cut.entering, *(kernel.output for kernel in cut.kernels))
    computed = [name for name in names if name not in graph.inputs]
    # A network may have half a gigabyte of weights, and a file and a session of it copies.
    large = graph.large()
    session = FloatSession(graph.onnx(computed, large), "run the float model for calibration")
    statistics = {name: Statistics() for name in names}
    octaves = {name: Octaves(count) for name in names}
    channels = {name: Channels() for name in cut.leaving}
    compensated = [k for k in cut.kernels if techniques.compensated and Correlations.fits(k)]
    correlations = [Correlations(kernel, count) for kernel in compensated]
    for index in range(count):
        feeds = {name: array[index : index + 1] for name, array in samples.items()}
        values = feeds | dict(zip(computed, session.run({**feeds, **large}), strict=True))
        for name in names:
            if not np.isfinite(values[name]).all():
                raise ModelError(
                    f"cannot calibrate: {abridged(name)!r} is not finite on sample {index};"
                    " wanted weights and samples that keep the float model finite"
                )
            plane = cut.layouts[name].to_plane(values[name])
            if name in cut.scales:
                plane = plane * np.float32(cut.scales[name])
            statistics[name].add(plane)
            octaves[name].add(plane)
            if name in channels:
                channels[name].add(plane)
            for correlation in correlations:
                if name == correlation.kernel.inputs[0]:
                    correlation.add(plane)
        progress((index + 1) / count)
    return Calibration(
        statistics,
        channels,
        octaves,
        own < _SURE,
        own >= _MANY,
        {c.kernel.output: c for c in correlations},
    )


def _inputs(graph: Graph) -> list[Wanted]:
    result = []
    for name in graph.inputs:
        dtype = graph.values[name].dtype
        assert dtype is not None  # The checker has refused inputs without a type.
        result.append(Wanted(name, dtype, graph.shape(name)))
    return result
