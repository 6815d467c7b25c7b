"""The outputs of YuNet to faces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.detection._boxes import Floats
from edged.detection._detections import Detections
from edged.detection._epilogue import Epilogue
from edged.detection._outputs import bad, best, joined

__all__ = ["YUNET_CLASSES", "YUNET_OUTPUTS", "check_yunet", "decode_yunet"]

_STRIDES: Final = (8, 16, 32)
_CHANNELS: Final = {"cls": 1, "obj": 1, "bbox": 4}

YUNET_OUTPUTS: Final = tuple(f"{kind}_{stride}" for stride in _STRIDES for kind in _CHANNELS)
"""The names of those outputs that boxes are made of."""

YUNET_CLASSES: Final = 2
"""The background and faces."""


def decode_yunet(outputs: Mapping[str, npt.NDArray[Any]], epilogue: Epilogue) -> list[Detections]:
    """What the raw outputs of YuNet say of N images: class 1 is a face.

    The formulas are those of YuNet's authors (github.com/ShiqiYu/libfacedetection.train), and of
    OpenCV's FaceDetectorYN::

        score  = √(cls · obj), each cut off at 0 and 1
        centre = (cell + (x, y)) · stride
        size   = exp(width, height) · stride

    Args:
        outputs: at strides 8, 16 and 32, with a cell for each *stride* pixels of each side:
            ``cls_8`` and ``obj_8`` [N, cells, 1], ``bbox_8`` [N, cells, 4]: x, y, width, height;
            floats.
        epilogue: threshold, top and overlap.

    Raises:
        RequestError: an output is missing, of another shape, no float, or has a NaN or an infinity.
    """
    side = check_yunet({name: np.shape(array) for name, array in outputs.items()})
    cls, obj, bbox = (
        joined(outputs, [f"{kind}_{stride}" for stride in _STRIDES]) for kind in _CHANNELS
    )
    scores = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))
    return [
        best(one, partial(_boxes, other, side), epilogue)
        for one, other in zip(scores, bbox, strict=True)
    ]


def check_yunet(shapes: Mapping[str, Sequence[int | None]]) -> int:
    """Whether a model with outputs of these shapes, ``None`` for any size, is a YuNet.

    Returns:
        the height and width of its input, in pixels.

    Raises:
        RequestError: an output is missing or does not fit, and which.
    """
    for name in YUNET_OUTPUTS:
        if name not in shapes:
            there = ", ".join(sorted(shapes)) or "none"
            raise bad(f"there is no output {name!r}; found {there}")
    first = tuple(shapes["cls_8"])
    cells = first[1] if len(first) == 3 else None
    side = _STRIDES[0] * math.isqrt(cells or 0)
    if not side or side % _STRIDES[-1] or (side // _STRIDES[0]) ** 2 != cells:
        raise bad(
            f"output 'cls_8' is {_written(first)}; wanted [N, cells, 1], with the cells of a square"
            f" input whose sides are multiples of {_STRIDES[-1]}, as 1600 for 320 x 320"
        )
    for stride in _STRIDES:
        for kind, channels in _CHANNELS.items():
            found = tuple(shapes[f"{kind}_{stride}"])
            wanted = (first[0], (side // stride) ** 2, channels)
            if found[1:] != wanted[1:] or found[0] not in (None, first[0]):
                raise bad(
                    f"output '{kind}_{stride}' is {_written(found)}; wanted {_written(wanted)}"
                )
    return side


def _boxes(bbox: Floats, side: int, where: npt.NDArray[np.intp]) -> Floats:
    """[k, 4] of cells, those of *where* → ymin, xmin, ymax, xmax as parts of the sides."""
    cell, part = (each[where] for each in _grid(side))
    with np.errstate(over="ignore"):
        centre = (cell + bbox[where, 1::-1]) * part
        half = np.exp(bbox[where, :1:-1]) * part / 2
    return np.concatenate([centre - half, centre + half], axis=1)


@cache
def _grid(side: int) -> tuple[Floats, Floats]:
    """Of each cell, stride by stride, row by row: [k, 2] row and column, [k, 1] its own side."""
    cells, parts = [], []
    for stride in _STRIDES:
        count = side // stride
        cells.append(np.stack(np.divmod(np.arange(count * count), count), axis=1))
        parts.append(np.full((count * count, 1), stride / side))
    return np.concatenate(cells).astype(np.float32), np.concatenate(parts).astype(np.float32)


def _written(shape: Sequence[int | None]) -> str:
    """*shape* for people; the first dimension is the batch."""
    sizes = ["N" if at == 0 and size is None else str(size) for at, size in enumerate(shape)]
    return f"[{', '.join(sizes)}]"
