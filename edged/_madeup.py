"""Made-up inputs for a model that comes without samples, as near to real ones as its graph tells.

Packing tests a model with them and the compiler calibrates with them. What a graph tells:

- a Gather or OneHot that an integer input indexes has so many rows;
- a Sub, Div, Mul, Add or BatchNormalization in front of everything else takes the mean and the
  scale of the inputs away;
- the first layer was trained so that what comes out of it varies by about 1, around 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Hint", "Step", "Wanted", "hints", "made_up", "to_scale"]

Arrays = Mapping[str, npt.NDArray[Any]]
_Float = npt.NDArray[np.float64]

_MAX_SCALE: Final = 256.0
_FAR: Final = 32.0
"""Inputs are made smaller only where the first layer would give more than this; a network without
batch norm may well have a first layer that gives 10."""

_EXPLAINED: Final = 0.5
"""A mean of the inputs is assumed where it explains this part of the first layer's biases."""

_LARGE_BIAS: Final = 1.0
"""Smaller biases tell of no mean that matters."""

_SEVERAL: Final = 8
"""A mean always explains the bias of a single channel, and says something where it does of many."""

_WIDEST: Final = 2.0
_MASK: Final = "mask"
_SAME: Final = frozenset(
    {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
_TABLE: Final = frozenset({"Cast", "DequantizeLinear", "Identity"})


@dataclass(frozen=True, slots=True)
class Step:
    """An operator of the graph, in the graph's order."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """An input of the model; *shape* is that of one sample, the batch of 1 first."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Hint:
    """What the graph tells of an input.

    Attributes:
        mean, deviation: of a float input, broadcast to its shape; None where nothing tells.
        rows: an integer input is below this; None where nothing tells.
    """

    mean: _Float | None = None
    deviation: _Float | None = None
    rows: int | None = None


def hints(
    inputs: Sequence[Wanted],
    steps: Sequence[Step],
    constants: Arrays,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Hint]:
    """What *steps* tell of *inputs*, by name.

    Args:
        constants: the small ones; large ones may be left out.
        shapes: of all constants.
    """
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    sizes = dict(shapes)
    for step in steps:
        if step.op in _TABLE and step.inputs and step.inputs[0] in sizes:
            sizes[step.outputs[0]] = sizes[step.inputs[0]]
    found = {}
    for wanted in inputs:
        if wanted.dtype.kind in "iu":
            found[wanted.name] = Hint(rows=_rows(wanted.name, readers, constants, sizes))
        elif wanted.dtype.kind == "f":
            found[wanted.name] = _normalisation(wanted, readers, constants)
        else:
            found[wanted.name] = Hint()
    return found


def _rows(
    name: str,
    readers: Mapping[str, Sequence[Step]],
    constants: Arrays,
    sizes: Mapping[str, tuple[int, ...]],
) -> int | None:
    """The size of the smallest table that *name* indexes."""
    found: list[int] = []
    open_names = [name]
    while open_names:
        name = open_names.pop()
        for step in readers.get(name, ()):
            if step.op in _SAME and step.inputs[0] == name:
                open_names.append(step.outputs[0])
            elif step.op == "Gather" and step.inputs[1] == name and step.inputs[0] in sizes:
                table = sizes[step.inputs[0]]
                found.append(table[step.attributes.get("axis", 0)] if table else 1)
            elif step.op == "OneHot" and step.inputs[0] == name and step.inputs[1] in constants:
                found.append(int(constants[step.inputs[1]].reshape(-1)[0]))
    return min(found) if found else None


def _normalisation(
    wanted: Wanted, readers: Mapping[str, Sequence[Step]], constants: Arrays
) -> Hint:
    """The inputs that operators in front of everything else bring to mean 0 and deviation 1."""
    name, rank, told = wanted.name, len(wanted.shape), False
    scale, offset = np.ones((1,) * rank), np.zeros((1,) * rank)
    order: list[int] | None = list(range(rank))  # Which axis of the input each axis is; or unknown.
    while True:
        steps = [step for step in readers.get(name, ()) if step.op != "Shape"]
        if len(steps) != 1:
            break
        (step,) = steps
        if step.op in _SAME and step.inputs[0] == name:
            order = _reordered(step, order)
        else:
            change = _change(step, name, constants, rank)
            if change is None:
                break
            parts = [_along_input(part, order, rank) for part in change]
            if any(part is None for part in parts):
                break
            factor, term = (np.asarray(part) for part in parts)
            scale, offset, told = scale * factor, offset * factor + term, True
            if step.op == "BatchNormalization":
                break
        name = step.outputs[0]
    if not told or not np.isfinite(scale).all() or not scale.all():
        return Hint()
    deviation = 1.0 / np.abs(scale)
    if not offset.any() and (deviation > 1.0).all():
        # Nothing but a division, as of bytes by 255: from 0 to what it divides by.
        return Hint(deviation / 2, deviation / 4)
    return Hint(-offset / scale, deviation)


def _reordered(step: Step, order: list[int] | None) -> list[int] | None:
    if step.op in ("Cast", "Dropout", "Identity"):
        return order
    axes = step.attributes.get("perm")
    if step.op != "Transpose" or order is None or axes is None or len(axes) != len(order):
        return None
    return [order[axis] for axis in axes]


def _change(step: Step, name: str, constants: Arrays, rank: int) -> tuple[_Float, _Float] | None:
    """By what *step* multiplies its input *name*, and what it adds."""
    if step.op == "BatchNormalization" and step.inputs[0] == name:
        given = [constants.get(other) for other in step.inputs[3:5]]
        if any(array is None or array.ndim != 1 for array in given):
            return None
        shape = (-1, *(1,) * (rank - 2))
        mean, variance = (np.asarray(array, np.float64).reshape(shape) for array in given)
        deviation = np.sqrt(variance + step.attributes.get("epsilon", 1e-5))
        return 1.0 / deviation, -mean / deviation
    if step.op not in ("Add", "Div", "Mul", "Sub") or len(step.inputs) != 2:
        return None
    first = step.inputs[0] != name
    constant = constants.get(step.inputs[0 if first else 1])
    if constant is None or constant.dtype.kind not in "fiu":
        return None
    value = constant.astype(np.float64)
    one, zero = np.ones(()), np.zeros(())
    match step.op:
        case "Add":
            return one, value
        case "Sub":
            return (-one, value) if first else (one, -value)
        case "Mul":
            return value, zero
    return None if first or not value.all() else (1.0 / value, zero)


def _along_input(value: _Float, order: list[int] | None, rank: int) -> _Float | None:
    """*value* as it broadcasts to the input; None unless it varies along one axis at most."""
    if value.size == 1:
        return value.reshape((1,) * rank)
    if order is None or value.ndim > rank or value.size != max(value.shape):
        return None
    full = value.reshape((1,) * (rank - value.ndim) + value.shape)
    return np.asarray(full.transpose(np.argsort(order)))


def made_up(
    inputs: Sequence[Wanted], told: Mapping[str, Hint], count: int, rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """*count* samples of each input, [count, …].

    Images are made of smooth noise at several scales, as photographs are, rather than of white
    noise, which the first layers would average away. 8-bit integers span their whole range, or the
    rows of the table that they index, as other integers do; integers of which nothing is known are
    0 or 1, and 1 in a mask. Floats are normally distributed, with the mean and the deviation that
    *told* has, or 0 and 1.
    """
    return {
        wanted.name: np.stack(
            [_sample(rng, wanted, told.get(wanted.name, Hint())) for _ in range(count)]
        )
        for wanted in inputs
    }


def _sample(rng: np.random.Generator, wanted: Wanted, hint: Hint) -> npt.NDArray[Any]:
    shape, dtype = wanted.shape[1:], wanted.dtype
    if dtype.kind in "iu" and hint.rows is not None:
        most = min(max(hint.rows, 1), np.iinfo(dtype).max)
        return np.asarray(rng.integers(0, most, shape), dtype)
    if dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize > 1):
        if _MASK in wanted.name.lower():
            return np.ones(shape, dtype)
        return np.asarray(rng.integers(0, 2, shape), dtype)
    field = _field(rng, shape)
    if dtype.kind == "f":
        if hint.mean is not None and hint.deviation is not None:
            field = (hint.mean + hint.deviation * field[np.newaxis])[0]
        return np.asarray(field, dtype)
    if dtype.kind not in "iu":
        return np.zeros(shape, dtype)
    limits = np.iinfo(dtype)
    middle = (limits.min + limits.max + 1) / 2
    pixels = np.clip(np.rint(middle + 64.0 * field), limits.min, limits.max)
    return np.asarray(pixels, dtype)


def _field(rng: np.random.Generator, shape: tuple[int, ...]) -> _Float:
    """Noise of mean 0 and deviation 1; smooth, and rough, where it can be a picture."""
    field = rng.standard_normal(shape)
    if len(shape) != 3:
        # Of rows nothing is known but this, and few numbers do not show how far others go.
        return field * rng.uniform(0.5, _WIDEST)
    # The two larger dimensions are the picture, whichever the layout.
    spatial = sorted(range(3), key=lambda axis: -shape[axis])[:2]
    for coarse in (2, 4, 8, 16, 32):
        small = [min(coarse, n) if axis in spatial else n for axis, n in enumerate(shape)]
        patch = rng.standard_normal(small) * 2.0
        for axis in spatial:
            patch = _stretched(patch, axis, shape[axis])
        field = field + patch
    return np.asarray((field - field.mean()) / (field.std() + 1e-9))


def _stretched(patch: _Float, axis: int, size: int) -> _Float:
    """*patch* interpolated linearly to *size* along *axis*."""
    places = np.linspace(0.0, patch.shape[axis] - 1, size)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, patch.shape[axis] - 1)
    part = (places - low).reshape([-1 if a == axis else 1 for a in range(patch.ndim)])
    between = patch.take(low, axis) * (1.0 - part) + patch.take(high, axis) * part
    return np.asarray(between, np.float64)


def to_scale(
    samples: Arrays,
    told: Mapping[str, Hint],
    first_layer: Callable[[Arrays], npt.NDArray[Any] | None],
) -> dict[str, npt.NDArray[Any]]:
    """*samples* with float inputs of which nothing is told as the first layer expects them.

    Most networks were trained with batch norm, which is folded into the weights: what comes out of
    a convolution, before its bounds, has a standard deviation around 1 and a mean around 0,
    whatever the inputs.

    Args:
        first_layer: what the first layer with weights gives on one sample, [1, C, …]; None if there
            is none.
    """
    untold = [
        name
        for name, array in samples.items()
        if array.dtype.kind == "f" and told.get(name, Hint()).deviation is None
    ]
    given = _on_all(samples, first_layer) if untold else None
    if given is None:
        return dict(samples)
    axes = (0, *range(2, given.ndim))
    spread = float(np.median(given.std(axis=axes, dtype=np.float64)))
    factor = 1.0
    if np.isfinite(spread) and spread > 0:
        factor = min(1.0 / spread, _MAX_SCALE)
        factor = factor if factor >= 1.0 or factor < 1.0 / _FAR else 1.0
    mean = _expected_mean(samples, untold[0], first_layer) if len(untold) == 1 else 0.0
    return {
        name: np.asarray(array * array.dtype.type(factor) + array.dtype.type(mean), array.dtype)
        if name in untold
        else array
        for name, array in samples.items()
    }


def _on_all(
    samples: Arrays, first_layer: Callable[[Arrays], npt.NDArray[Any] | None]
) -> npt.NDArray[Any] | None:
    count = len(next(iter(samples.values())))
    results = []
    for index in range(count):
        result = first_layer({name: a[index : index + 1] for name, a in samples.items()})
        if result is None or result.ndim < 2 or not result.size:
            return None
        results.append(result)
    return np.concatenate(results)


def _expected_mean(
    samples: Arrays, name: str, first_layer: Callable[[Arrays], npt.NDArray[Any] | None]
) -> float:
    """The mean of input *name* with which the first layer gives 0 on average, if there is one.

    Biases that make up for a mean are proportional to what a layer gives on inputs of 1: the mean
    is fitted to that by least squares, and is 0 where it explains little.
    """
    constant = {n: a[:1] for n, a in samples.items()}
    level = {}
    for value in (0.0, 1.0):
        result = first_layer({**constant, name: np.full_like(constant[name], value)})
        if result is None or not np.isfinite(result).all():
            return 0.0
        level[value] = np.median(result.reshape(*result.shape[:2], -1), axis=2)[0].astype(float)
    biases, gains = level[0.0], level[1.0] - level[0.0]
    size = float((biases**2).mean())
    if len(biases) < _SEVERAL or size < _LARGE_BIAS**2 or not gains.any():
        return 0.0
    mean = -float((gains * biases).sum() / (gains**2).sum())
    left = float(((biases + gains * mean) ** 2).mean())
    return mean if left < (1.0 - _EXPLAINED) * size else 0.0
