"""Vectors for the self-test: what the float model answers, and how far off a device may be.

An 8-bit model with power-of-two scales is no copy of the float model. On MobileNetV2 its top-1
probability is off by up to 0.22; so 0.25 is the tolerance where the outputs are probabilities, and
a quarter of the range of the float model's answers to all samples elsewhere. That does not measure
accuracy. It tells a model that works from one that does not: wrong weights, a wrong bank, a stuck
column. To that end the samples are taken for which the float model is the most decided: whose
floats have the widest spread, and whose labels, indices and masks a little noise on the input does
not change. Coordinates that depend on where a maximum is may move twice as far as that noise moves
them. An element of a hidden state may be anything in its range: a gate of an LSTM that opens in one
model and not in the other moves it from one end to the other, while the answer hardly changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.bundle._graph import Graph, Tensors
from edged.bundle._manifest import SelfTest
from edged.errors import ModelError

__all__ = ["INPUT_PREFIX", "OUTPUT_PREFIX", "make_self_test"]

INPUT_PREFIX: Final = "in:"
OUTPUT_PREFIX: Final = "out:"
_SAMPLES: Final = 4
_CANDIDATES: Final = 8
_NOISE: Final = 0.02
_DRIFT: Final = 0.05
"""Of a whole sample, which no mean over it takes away."""

_NOISE_MARGIN: Final = 2.0
_SHARE: Final = 0.25
_SEED: Final = 20
_PROBABILITY_TOLERANCE: Final = 0.25
_RANGE_TOLERANCE: Final = 0.25
_SMALLEST_TOLERANCE: Final = 1e-6
# Expected values are kept to this fraction of the tolerance: two processors whose float results
# differ in the last bits then still make the same bundle.
_GRID: Final = 1 / 1024


def make_self_test(
    graph: Graph,
    samples: Mapping[str, npt.NDArray[Any]] | None,
    tolerance: float | None = None,
    states: Collection[str] = (),
) -> tuple[dict[str, npt.NDArray[Any]], SelfTest]:
    """Vectors for *graph*, and what they are held to.

    Args:
        graph: the model.
        samples: input name → [N, …] to choose from; ``None``: seeded noise.
        tolerance: for every output; absolute, or the share of a discrete one that may differ;
            ``None``: by what the output is.
        states: outputs that go into the model again, and are no answers.

    Returns:
        ``in:NAME`` and ``out:NAME`` → [samples, …], and the record for the manifest.

    Raises:
        ModelError: the float model does not run, or a dimension is open and there are no samples.
    """
    count = _CANDIDATES if graph.discrete | graph.selected else _SAMPLES
    candidates = graph.made_up(count, _SEED) if samples is None else samples
    run = graph.float_model()
    count = len(next(iter(candidates.values())))
    results = [run({name: a[i : i + 1] for name, a in candidates.items()}) for i in range(count)]
    outputs = {
        tensor.name: stacked
        for tensor in graph.outputs
        if (stacked := _stack([r[tensor.name] for r in results], tensor.name, graph)) is not None
    }
    watched = (graph.discrete | graph.selected) & outputs.keys()
    noisy = _noisy_results(run, candidates) if watched else []
    steady = {n: _steadiness(outputs[n], noisy, n) for n in watched & graph.discrete}
    moved = {n: _movement(outputs[n], noisy, n) for n in watched & graph.selected}
    chosen = _most_decided(outputs, steady, moved, count)
    tolerances = []
    vectors = {f"{INPUT_PREFIX}{name}": array[chosen] for name, array in candidates.items()}
    for tensor in graph.outputs:
        if tensor.name not in outputs:
            tolerances.append(1.0)
            continue
        expected = outputs[tensor.name][chosen]
        if tensor.name in graph.discrete:
            share = _share(expected, steady[tensor.name][chosen])
            tolerances.append(share if tolerance is None else tolerance)
            # Integers are what tells that they are judged as such, also where floats are answered.
            expected = expected if expected.dtype.kind in "iub" else expected.astype(np.int64)
        else:
            by_noise = (
                _NOISE_MARGIN * moved[tensor.name][chosen].max() if tensor.name in moved else 0
            )
            by_range = _tolerance(outputs[tensor.name], tensor.name in states)
            usual = max(by_range, float(f"{by_noise:.2g}"))
            tolerances.append(usual if tolerance is None else tolerance)
            expected = _on_grid(expected, tolerances[-1])
        vectors[f"{OUTPUT_PREFIX}{tensor.name}"] = expected
    return vectors, SelfTest(samples=len(chosen), tolerances=tuple(tolerances))


def _stack(results: list[npt.NDArray[Any]], name: str, graph: Graph) -> npt.NDArray[Any] | None:
    """All samples, or None if the size of the output depends on the values, as NonZero's does."""
    if any(r.ndim == 0 or r.shape[0] != 1 or r.shape != results[0].shape for r in results):
        if name in graph.unsized:
            return None
        shapes = sorted({r.shape for r in results})
        raise ModelError(
            f"cannot make a self-test for {graph.name}: output {name!r} has the shapes {shapes} for"
            " single samples; wanted one shape with the batch first"
        )
    stacked = np.concatenate(results)
    if not stacked.size:
        raise ModelError(
            f"cannot make a self-test for {graph.name}: output {name!r} has no elements"
        )
    if not np.isfinite(stacked).all():
        raise ModelError(f"cannot make a self-test for {graph.name}: output {name!r} is not finite")
    return stacked


def _noisy_results(
    run: Callable[[Tensors], dict[str, npt.NDArray[Any]]], candidates: Tensors
) -> list[dict[str, npt.NDArray[Any]]]:
    """What the float model answers to each of the candidates with a little noise on it."""
    rng = np.random.default_rng(_SEED)
    noisy = {name: _noisy(array, rng) for name, array in candidates.items()}
    count = len(next(iter(candidates.values())))
    return [run({name: a[i : i + 1] for name, a in noisy.items()}) for i in range(count)]


def _steadiness(
    output: npt.NDArray[Any], noisy: list[dict[str, npt.NDArray[Any]]], name: str
) -> npt.NDArray[np.float64]:
    """For each candidate the share of elements of a discrete output that noise does not change.

    What changes with noise of 2 % on the input may change in 8 bits as well.
    """
    return np.asarray(
        [
            float((r[name][0] == one).mean()) if r[name][0].shape == one.shape else 0.0
            for r, one in zip(noisy, output, strict=True)
        ]
    )


def _movement(
    output: npt.NDArray[Any], noisy: list[dict[str, npt.NDArray[Any]]], name: str
) -> npt.NDArray[np.float64]:
    """For each candidate how far noise moves an element of an output at most."""
    whole = float(np.ptp(output.astype(np.float64)))
    return np.asarray(
        [
            float(np.abs(r[name][0].astype(np.float64) - one).max())
            if r[name][0].shape == one.shape
            else whole
            for r, one in zip(noisy, output, strict=True)
        ]
    )


def _noisy(array: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Floats and bytes with some noise; wider integers are counts and indices, and stay."""
    if array.dtype.kind not in "iuf" or (array.dtype.kind != "f" and array.dtype.itemsize > 1):
        return array
    noise = _NOISE * rng.standard_normal(array.shape)
    each = (len(array), *(1,) * (array.ndim - 1))
    gain, level = (_DRIFT * rng.standard_normal(each) for _ in range(2))
    noisy = array * (1.0 + gain) + (noise + level) * array.std()
    if array.dtype.kind != "f":
        limits = np.iinfo(array.dtype)
        noisy = np.clip(np.rint(noisy), limits.min, limits.max)
    return np.asarray(noisy, array.dtype)


def _share(expected: npt.NDArray[Any], steady: npt.NDArray[np.float64]) -> float:
    """How many elements of a discrete output may differ.

    At most half of the elements in which two answers differ that are drawn from the expected values
    by chance: so few that the commonest value everywhere would not do. As many as noise changes may
    differ in any case.
    """
    _, counts = np.unique(expected, return_counts=True)
    chance = 1.0 - float(((counts / expected.size) ** 2).sum())
    unsteady = 1.0 - float(steady.mean())
    share = min(_SHARE + 2.0 * unsteady, max(0.5 * chance, unsteady))
    return float(f"{max(share, _SMALLEST_TOLERANCE):.3g}")


def _most_decided(outputs: Tensors, steady: Tensors, moved: Tensors, count: int) -> list[int]:
    spread = np.zeros(count)
    for name, array in outputs.items():
        if name in steady:
            spread += np.round(steady[name], 6)
            continue
        flat = array.reshape(count, -1).astype(np.float64)
        whole = float(np.ptp(flat)) or 1.0
        if name in moved:
            spread -= np.round(moved[name] / whole, 6)
            continue
        spread += np.round(np.ptp(flat, axis=1) / whole, 6)
    return sorted(np.argsort(-spread, kind="stable")[:_SAMPLES].tolist())


def _tolerance(expected: npt.NDArray[Any], state: bool) -> float:
    values = expected.astype(np.float64)
    if state:
        return float(f"{max(float(np.ptp(values)), _SMALLEST_TOLERANCE):.2g}")
    sums = values.sum(axis=-1)
    if values.min() >= 0 and values.max() <= 1 and np.abs(sums - 1).max() < 1e-2:
        return _PROBABILITY_TOLERANCE
    tolerance = max(float(np.ptp(values)) * _RANGE_TOLERANCE, _SMALLEST_TOLERANCE)
    return float(f"{tolerance:.2g}")


def _on_grid(expected: npt.NDArray[Any], tolerance: float) -> npt.NDArray[Any]:
    step = 2.0 ** math.floor(math.log2(tolerance * _GRID))
    rounded: npt.NDArray[Any] = (np.round(expected / step) * step).astype(expected.dtype)
    return rounded
