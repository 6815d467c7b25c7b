"""Scores as classes: the highest first, by their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.errors import RequestError

__all__ = ["order", "ranked"]


def order(scores: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """The indices of the *count* highest of ``scores[classes]``, the highest first."""
    return np.argsort(-scores.astype(np.float64), kind="stable")[:count]


def ranked(scores: npt.NDArray[Any], count: int, labels: Sequence[str]) -> npt.NDArray[np.object_]:
    """``SCORE:INDEX:LABEL`` for the *count* highest classes of each sample, as Triton has it.

    Args:
        scores: [N, …]; all but the first dimension is flattened.
        labels: of the classes; where they do not fit in number, there is no third part.

    Returns:
        [N, count] of bytes.

    Raises:
        RequestError: *scores* has no batch dimension.
    """
    if not scores.ndim:
        raise RequestError("cannot answer: a single value has no classes")
    flat = scores.reshape(len(scores), -1)
    named = len(labels) == flat.shape[1]
    result = np.empty((len(flat), min(count, flat.shape[1])), np.object_)
    for row, values in enumerate(flat):
        for column, index in enumerate(order(values, count)):
            text = f"{values[index]:f}:{index}" + (f":{labels[index]}" if named else "")
            result[row, column] = text.encode()
    return result
