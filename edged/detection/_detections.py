"""What was found in an image, and how it crosses the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.errors import RequestError

__all__ = [
    "BOXES",
    "CLASSES",
    "COUNT",
    "SCORES",
    "TENSORS",
    "Detection",
    "Detections",
    "from_tensors",
    "shapes_of_tensors",
    "to_tensors",
]

BOXES: Final = "detection_boxes"
SCORES: Final = "detection_scores"
CLASSES: Final = "detection_classes"
COUNT: Final = "num_detections"
TENSORS: Final = (BOXES, SCORES, CLASSES, COUNT)
"""The names, shapes and float32 of TensorFlow's Object Detection API, which clients know."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One thing in an image.

    Attributes:
        box: ymin, xmin, ymax, xmax, as parts of the image's sides, 0 to 1.
        score: 0 to 1.
        index: of its class; 0 would be the background.
    """

    box: tuple[float, float, float, float]
    score: float
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """All that was found in an image, the best first.

    Attributes:
        boxes: float32 [k, 4]: ymin, xmin, ymax, xmax, as parts of the image's sides, 0 to 1.
        scores: float32 [k], 0 to 1, falling.
        classes: int64 [k]; 0, the background, is never there.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, index in zip(
            self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), strict=True
        ):
            ymin, xmin, ymax, xmax = box
            yield Detection((ymin, xmin, ymax, xmax), score, index)


def shapes_of_tensors(room: int) -> dict[str, tuple[int, ...]]:
    """Of what `to_tensors` gives for one image: name → shape without the batch."""
    return {BOXES: (room, 4), SCORES: (room,), CLASSES: (room,), COUNT: ()}


def to_tensors(found: Sequence[Detections], room: int) -> dict[str, npt.NDArray[np.float32]]:
    """The detections of N images as tensors of one shape, filled up with zeros.

    Args:
        found: at most *room* for each image.
        room: detections that there is place for.

    Returns:
        ``detection_boxes`` float32 [N, room, 4], ``detection_scores`` and ``detection_classes``
        float32 [N, room], ``num_detections`` float32 [N].
    """
    boxes = np.zeros((len(found), room, 4), np.float32)
    scores, classes = np.zeros((2, len(found), room), np.float32)
    for row, each in enumerate(found):
        boxes[row, : len(each)] = each.boxes
        scores[row, : len(each)] = each.scores
        classes[row, : len(each)] = each.classes
    count = np.array([len(each) for each in found], np.float32)
    return {BOXES: boxes, SCORES: scores, CLASSES: classes, COUNT: count}


def from_tensors(outputs: Mapping[str, npt.NDArray[Any]]) -> list[Detections]:
    """What `to_tensors` was given, one for each image.

    All four without the batch, as `PredictionClient.score_file` gives them, are of one image.

    Raises:
        RequestError: a tensor is missing, or they are no such tensors.
    """
    missing = [name for name in TENSORS if name not in outputs]
    if missing:
        raise _bad(f"there is no output {missing[0]!r}; found {', '.join(sorted(outputs))}")
    boxes, scores, classes, count = (np.asarray(outputs[name]) for name in TENSORS)
    if (boxes.ndim, scores.ndim, classes.ndim, count.ndim) == (2, 1, 1, 0):
        boxes, scores, classes, count = (
            each[np.newaxis] for each in (boxes, scores, classes, count)
        )
    shape = scores.shape
    if len(shape) != 2 or not (
        boxes.shape == (*shape, 4) and classes.shape == shape and count.shape == shape[:1]
    ):
        shapes = ", ".join(f"{name} {list(np.shape(outputs[name]))}" for name in TENSORS)
        raise _bad(f"found {shapes}; wanted [N, k, 4], [N, k], [N, k] and [N]")
    for name, values in zip(TENSORS, (boxes, scores, classes, count), strict=True):
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise _bad(f"output {name!r} has values that are no finite numbers")
    if (count < 0).any() or (count > shape[1]).any():
        raise _bad(f"{COUNT} is {count.min():g} to {count.max():g}; wanted 0 to {shape[1]}")
    return [
        Detections(
            boxes[row, :number].astype(np.float32),
            scores[row, :number].astype(np.float32),
            classes[row, :number].astype(np.int64),
        )
        for row, number in enumerate(count.astype(np.int64).tolist())
    ]


def _bad(problem: str) -> RequestError:
    return RequestError(f"cannot read detections: {problem}")
