"""What every detector's outputs go through: checked and joined, and the best boxes kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.detection._boxes import Floats, suppress
from edged.detection._detections import Detections
from edged.detection._epilogue import Epilogue
from edged.errors import RequestError

__all__ = ["bad", "best", "joined"]


def joined(outputs: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> Floats:
    """The outputs of these names, each [N, …, c], as one float32 [N, k, c], all of it finite.

    Raises:
        RequestError: one is no float, or has a NaN or an infinity.
    """
    parts = []
    for name in names:
        array = np.asarray(outputs[name])
        if array.dtype.kind != "f":
            raise bad(f"output {name!r} is {array.dtype}; wanted float32")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        wrong = array.size - int(np.isfinite(array).sum())
        if wrong:
            raise bad(f"output {name!r} has {wrong} values that are no finite numbers")
        images, *places, last = array.shape
        parts.append(array.reshape(images, math.prod(places), last))
    return np.concatenate(parts, axis=1)


def best(
    scores: Floats, boxes_of: Callable[[npt.NDArray[np.intp]], Floats], epilogue: Epilogue
) -> Detections:
    """Those of one image that score above the threshold, the best first, each once.

    Args:
        scores: float32 [k, classes], without the background.
        boxes_of: from rows of *scores* to their boxes, float32 [m, 4]: ymin, xmin, ymax, xmax, as
            parts of the image's sides. They are cut off at its edges here.
        epilogue: threshold, top and overlap.
    """
    where, classes = np.nonzero(scores > epilogue.threshold)
    scores = scores[where, classes]
    order = np.argsort(-scores, kind="stable")[: epilogue.top]
    where, classes, scores = where[order], classes[order] + 1, scores[order]
    boxes = np.clip(boxes_of(where), 0, 1)
    kept = suppress(boxes, classes, epilogue.overlap)
    return Detections(boxes[kept], scores[kept], classes[kept])


def bad(problem: str) -> RequestError:
    return RequestError(f"cannot decode detections: {problem}")
