"""Classify and Regress of TensorFlow Serving: features in, classes or numbers out.

A feature is an input of the model by its name: a single string of bytes for an image, or the values
of one sample in row major order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edged.bundle import Manifest, TensorDecl
from edged.container.worker._classes import order
from edged.container.worker._json import given_of
from edged.container.worker._signature import STRING, Given, Signature
from edged.errors import RequestError

__all__ = ["Example", "Scored", "classes_of", "given_examples", "numbers_of", "scalar", "scores"]

Example = Mapping[str, Sequence[Any]]
"""Values by the name of the feature."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A class of one sample."""

    label: str
    score: float


def given_examples(examples: Sequence[Example], signature: Signature) -> list[tuple[str, Given]]:
    """The tensors that examples make up, a sample each.

    Raises:
        RequestError: no examples, or features that are not those of the first, or no input's.
    """
    if not examples:
        raise RequestError("cannot answer: the request has no examples")
    given: list[tuple[str, Given]] = []
    for key in examples[0]:
        declared = signature.input(key)
        columns = [example.get(key) for example in examples]
        if any(column is None for column in columns) or any(
            example.keys() != examples[0].keys() for example in examples
        ):
            raise RequestError("cannot answer: the examples differ in their features")
        given.append((key, _tensor(key, declared, [column or () for column in columns])))
    return given


def scores(manifest: Manifest, labels: Sequence[str]) -> TensorDecl:
    """The output that has a score for each of *labels*.

    Raises:
        RequestError: there are no labels.
    """
    if not labels:
        raise RequestError(
            f"cannot classify: {manifest.name!r} has no labels; pack it with --labels, or use"
            " Predict"
        )
    return next(
        tensor for tensor in manifest.outputs if _per_sample(tensor) == len(labels)
    )  # `edgectl pack` sees to it, and what was packed by hand is answered as an error inside


def scalar(manifest: Manifest) -> TensorDecl:
    """The output that has one number for each sample.

    Raises:
        RequestError: there is none.
    """
    found = next((tensor for tensor in manifest.outputs if _per_sample(tensor) == 1), None)
    if found is None:
        raise RequestError(
            f"cannot regress: no output of {manifest.name!r} is a single number; use Predict"
        )
    return found


def classes_of(values: Any, labels: Sequence[str]) -> list[list[Scored]]:
    """For each sample all classes, the highest score first."""
    rows = np.reshape(values, (len(values), -1))
    return [
        [Scored(labels[index], float(row[index])) for index in order(row, len(labels))]
        for row in rows
    ]


def numbers_of(values: Any) -> list[float]:
    """For each sample its number."""
    return [float(value) for value in np.reshape(values, -1)]


def _tensor(key: str, declared: TensorDecl, columns: list[Sequence[Any]]) -> Given:
    if all(len(column) == 1 and isinstance(column[0], bytes) for column in columns):
        strings = [column[0] for column in columns]
        return Given(STRING, (len(strings),), lambda: strings)
    wanted = _per_sample(declared)
    for column in columns:
        if wanted is None or len(column) != wanted:
            sizes = ["?" if size is None else str(size) for size in declared.shape[1:]]
            raise RequestError(
                f"cannot answer: feature {key!r} has {len(column)} values, wanted those of"
                f" {declared.dtype} [{', '.join(sizes)}]"
            )
    given = given_of([list(c) for c in columns], str(declared.dtype), f"cannot read {key!r}")
    shape = (len(columns), *(size or 1 for size in declared.shape[1:]))
    return Given(given.dtype, shape, lambda: np.reshape(given.read(), shape))


def _per_sample(tensor: TensorDecl) -> int | None:
    """How many elements a sample has; None where that is open."""
    sizes = [size for size in tensor.shape[1:] if size is not None]
    return math.prod(sizes) if len(sizes) == len(tensor.shape[1:]) else None
