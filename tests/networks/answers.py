"""From what networks other than detectors compute to what it says, as their authors read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from networks.network import Answers, Arrays, Cases
from networks.pictures import DATA

__all__ = [
    *("best", "embedding", "foreground", "labels", "mean", "mesh", "pose"),
    "speech",
]

_KEY_POINTS: Final = {
    "nose": 0, "l shoulder": 5, "r wrist": 10, "l hip": 11, "l knee": 13, "l ankle": 15,
}  # fmt: skip
_MESH: Final = {"nose": 1, "left eye": 33, "chin": 152}


@cache
def labels(file: str) -> tuple[str, ...]:
    """One a line, in a file of tests/data."""
    return tuple((DATA / file).read_text(encoding="utf-8").splitlines())


def best(outputs: Arrays, names: Sequence[str], count: int = 3) -> list[list[Any]]:
    """[1, classes]: the best labels and their probabilities."""
    (output,) = outputs.values()
    order = np.argsort(-output[0], kind="stable")[:count]
    return [[names[index], float(output[0, index])] for index in order]


def pose(outputs: Arrays) -> dict[str, list[float]]:
    """[1, 1, 17, 3]: y, x and score of key points, as parts of the picture's sides."""
    points = _only(outputs)[0, 0]
    return {name: points[index].tolist() for name, index in _KEY_POINTS.items()}


def mesh(outputs: Arrays) -> dict[str, Any]:
    """Whether there is a face, and x and y of three of its points, in pixels of 192."""
    points = outputs["conv2d_21"].reshape(468, 3)
    flag = 1 / (1 + np.exp(-float(outputs["conv2d_31"].item())))
    return {"face": flag} | {name: points[index, :2].tolist() for name, index in _MESH.items()}


def foreground(outputs: Arrays) -> dict[str, float]:
    """The share of the pixels that are person."""
    return {"foreground": float((_only(outputs) > 0.5).mean())}


def mean(outputs: Arrays) -> dict[str, float]:
    """How bright the picture is."""
    return {"mean": float(_only(outputs).mean(dtype=np.float64))}


def embedding(outputs: Arrays) -> list[float]:
    """The first four of the numbers, and the length of all."""
    values = _only(outputs).ravel()
    return [*values[:4].tolist(), float(np.linalg.norm(values))]


def speech(outputs: Cases) -> Answers:
    """The probability of speech in each chunk."""
    return {"vad_chunks": [each["speech_probs"].item() for each in outputs.values()]}


def _only(outputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    (output,) = outputs.values()
    return output
