"""The twelve outputs of SSD-VGG-300 to detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.detection._boxes import Floats, decode_boxes
from edged.detection._detections import Detections
from edged.detection._epilogue import Epilogue
from edged.detection._outputs import bad, best, joined
from edged.detection._priors import SSD_300, SSD_300_PAPER, FeatureMap, priors

__all__ = ["check_outputs", "decode_ssd"]


def decode_ssd(outputs: Mapping[str, npt.NDArray[Any]], epilogue: Epilogue) -> list[Detections]:
    """What the raw outputs of SSD-VGG-300 say of N images.

    For each image: softmax over the classes; of every prior and every class but 0, the background,
    those whose score is above the threshold; of these the best ``top``; their boxes, cut off at the
    image's edges; and non-maximum suppression within each class.

    Args:
        outputs: for blocks 4, 7, 8, 9, 10 and 11, ``ssd_300_vgg/block4_box/Reshape_1:0``, class
            logits [N, n, n, a, classes], and ``ssd_300_vgg/block4_box/Reshape:0``, box offsets
            [N, n, n, a, 4]; floats. The first n is 37, or 38 for the network as published.
        epilogue: threshold, top and overlap.

    Raises:
        RequestError: an output is missing, of another shape, no float, or has a NaN or an infinity.
    """
    maps = check_outputs({name: np.shape(array) for name, array in outputs.items()})
    logits = joined(outputs, [each.logits for each in maps])
    offsets = joined(outputs, [each.offsets for each in maps])
    at = priors(maps)
    return [
        best(_softmax(one)[:, 1:], partial(_boxes, other, at), epilogue)
        for one, other in zip(logits, offsets, strict=True)
    ]


def check_outputs(shapes: Mapping[str, Sequence[int | None]]) -> tuple[FeatureMap, ...]:
    """Whether a model with outputs of these shapes, ``None`` for any size, is an SSD-VGG-300.

    Returns:
        its maps: those of the original service, or as published.

    Raises:
        RequestError: an output is missing or does not fit, and which.
    """
    first = shapes.get(SSD_300[0].logits, ())
    maps = SSD_300_PAPER if SSD_300_PAPER[0].side in first[1:2] else SSD_300
    batch: int | None = None
    classes: int | None = None
    for each in maps:
        for name, last in ((each.logits, None), (each.offsets, 4)):
            if name not in shapes:
                there = ", ".join(sorted(shapes)) or "none"
                raise bad(f"there is no output {name!r}; found {there}")
            found = shapes[name]
            wanted = (batch, each.side, each.side, each.anchors, last or classes)
            if len(found) != 5 or not all(
                size in (None, other) or other is None
                for size, other in zip(found, wanted, strict=True)
            ):
                raise bad(f"output {name!r} is {_written(found)}; wanted {_written(wanted)}")
            batch = found[0] if batch is None else batch
            if last is None:
                classes = found[4] if classes is None else classes
    if classes is not None and classes < 2:
        raise bad(f"there are {classes} classes; wanted the background and at least one more")
    return maps


def _boxes(offsets: Floats, at: Floats, where: npt.NDArray[np.intp]) -> Floats:
    return decode_boxes(offsets[where], at[where])


def _softmax(logits: Floats) -> Floats:
    # Of two finite floats the difference may still be too large for one: it is -inf then, and its
    # exponential 0, as it should be.
    with np.errstate(over="ignore", under="ignore"):
        powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
        powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _written(shape: Sequence[int | None]) -> str:
    """*shape* for people; the first dimension is the batch, the fifth the classes."""
    names = ("N", "?", "?", "?", "classes", *"?" * len(shape))
    sizes = (name if size is None else str(size) for name, size in zip(names, shape, strict=False))
    return f"[{', '.join(sizes)}]"
