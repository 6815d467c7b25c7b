"""Vectors for the self-test: what the float model answers, and how far off a device may be.

An 8-bit model with power-of-two scales is no copy of the float model. On MobileNetV2 its top-1
probability is off by up to 0.22; so 0.25 is the tolerance where the outputs are probabilities, and
a quarter of the range of the expected values elsewhere. That does not measure accuracy. It tells a
model that works from one that does not: wrong weights, a wrong bank, a stuck column. To that end
the samples are taken for which the float model is the most decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.bundle._graph import Graph
from edged.bundle._manifest import SelfTest, TensorDecl
from edged.errors import ModelError

__all__ = ["INPUT_PREFIX", "OUTPUT_PREFIX", "make_self_test"]

INPUT_PREFIX: Final = "in:"
OUTPUT_PREFIX: Final = "out:"
_SAMPLES: Final = 4
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
) -> tuple[dict[str, npt.NDArray[Any]], SelfTest]:
    """Vectors for *graph*, and what they are held to.

    Args:
        graph: the model.
        samples: input name → [N, …] to choose from; ``None``: seeded noise.
        tolerance: absolute, for every output; ``None``: by what the output is.

    Returns:
        ``in:NAME`` and ``out:NAME`` → [samples, …], and the record for the manifest.

    Raises:
        ModelError: the float model does not run, or a dimension is open and there are no samples.
    """
    candidates = _noise(graph) if samples is None else samples
    run = graph.float_model()
    count = len(next(iter(candidates.values())))
    results = [run({name: a[i : i + 1] for name, a in candidates.items()}) for i in range(count)]
    outputs = {
        tensor.name: _stack([result[tensor.name] for result in results], tensor.name, graph.name)
        for tensor in graph.outputs
    }
    chosen = _most_decided(outputs, count)
    tolerances = []
    vectors = {f"{INPUT_PREFIX}{name}": array[chosen] for name, array in candidates.items()}
    for name, array in outputs.items():
        expected = array[chosen]
        tolerances.append(_tolerance(expected) if tolerance is None else tolerance)
        vectors[f"{OUTPUT_PREFIX}{name}"] = _on_grid(expected, tolerances[-1])
    return vectors, SelfTest(samples=len(chosen), tolerances=tuple(tolerances))


def _stack(results: list[npt.NDArray[Any]], name: str, model: str) -> npt.NDArray[Any]:
    if any(r.ndim == 0 or r.shape[0] != 1 or r.shape != results[0].shape for r in results):
        shapes = sorted({r.shape for r in results})
        raise ModelError(
            f"cannot make a self-test for {model}: output {name!r} has the shapes {shapes} for "
            "single samples; wanted one shape with the batch first"
        )
    stacked = np.concatenate(results)
    if not np.isfinite(stacked).all():
        raise ModelError(f"cannot make a self-test for {model}: output {name!r} is not finite")
    return stacked


def _noise(graph: Graph) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(_SEED)
    return {tensor.name: _noise_for(tensor, rng, graph.name) for tensor in graph.inputs}


def _noise_for(tensor: TensorDecl, rng: np.random.Generator, model: str) -> npt.NDArray[Any]:
    dimensions = tensor.shape[1:]
    if not tensor.shape or tensor.shape[0] not in (None, 1) or None in dimensions:
        raise ModelError(
            f"cannot make a self-test for {model}: input {tensor.name!r} has the shape "
            f"{list(tensor.shape)}; wanted a batch of 1 or open, and either all other dimensions "
            "or calibration samples that give them"
        )
    shape = (_SAMPLES, *(d for d in dimensions if d is not None))
    dtype = np.dtype(str(tensor.dtype))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    high = 2 if dtype.kind == "b" else min(np.iinfo(dtype).max, 255) + 1
    return rng.integers(0, high, shape).astype(dtype)


def _most_decided(outputs: Mapping[str, npt.NDArray[Any]], count: int) -> list[int]:
    spread = np.zeros(count)
    for array in outputs.values():
        flat = array.reshape(count, -1).astype(np.float64)
        whole = float(np.ptp(flat)) or 1.0
        spread += np.round(np.ptp(flat, axis=1) / whole, 6)
    return sorted(np.argsort(-spread, kind="stable")[:_SAMPLES].tolist())


def _tolerance(expected: npt.NDArray[Any]) -> float:
    if expected.dtype.kind != "f":
        return 0.5  # exact, for integers
    values = expected.astype(np.float64)
    sums = values.sum(axis=-1)
    if values.min() >= 0 and values.max() <= 1 and np.abs(sums - 1).max() < 1e-2:
        return _PROBABILITY_TOLERANCE
    tolerance = max(float(np.ptp(values)) * _RANGE_TOLERANCE, _SMALLEST_TOLERANCE)
    return float(f"{tolerance:.2g}")


def _on_grid(expected: npt.NDArray[Any], tolerance: float) -> npt.NDArray[Any]:
    if expected.dtype.kind != "f":
        return expected
    step = 2.0 ** math.floor(math.log2(tolerance * _GRID))
    rounded: npt.NDArray[Any] = (np.round(expected / step) * step).astype(expected.dtype)
    return rounded
