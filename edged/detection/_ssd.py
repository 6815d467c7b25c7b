"""The twelve outputs of SSD-VGG-300 to detections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.detection._boxes import Floats, decode_boxes, suppress
from edged.detection._detections import TENSORS, Detections, from_tensors
from edged.detection._epilogue import Epilogue, EpilogueName
from edged.detection._priors import SSD_300, SSD_300_PAPER, SSD_OUTPUTS, FeatureMap, priors
from edged.errors import RequestError

__all__ = ["are_readable", "check_outputs", "decode", "read"]

_DEFAULT: Final = Epilogue(EpilogueName.SSD)


def decode(
    outputs: Mapping[str, npt.NDArray[Any]], epilogue: Epilogue = _DEFAULT
) -> list[Detections]:
    """What the raw outputs of SSD-VGG-300 say of N images.

    For each image: softmax over the classes; of every prior and every class but 0, the background,
    those whose score is above the threshold; of these the best ``top``; their boxes, cut off at the
    image's edges; and non-maximum suppression within each class.

    Args:
        outputs: by the names of the original service, for blocks 4, 7, 8, 9, 10 and 11:
            ``ssd_300_vgg/block4_box/Reshape_1:0``, class logits [N, n, n, a, classes], and
            ``ssd_300_vgg/block4_box/Reshape:0``, box offsets [N, n, n, a, 4]; floats. Others are
            ignored. The first n is 37, or 38 for the network as published. All of them without the
            batch, as `PredictionClient.score_file` gives them, are of one image.
        epilogue: threshold, top and overlap.

    Returns:
        one for each image, the best first.

    Raises:
        RequestError: an output is missing, of another shape, no float, or has a NaN or an infinity.
    """
    if all(np.ndim(outputs.get(name, 0)) == 4 for name in SSD_OUTPUTS):
        outputs = {name: np.asarray(outputs[name])[np.newaxis] for name in SSD_OUTPUTS}
    maps = check_outputs({name: np.shape(array) for name, array in outputs.items()})
    logits = _joined(outputs, [each.logits for each in maps])
    offsets = _joined(outputs, [each.offsets for each in maps])
    return [
        _of_image(one, other, priors(maps), epilogue)
        for one, other in zip(logits, offsets, strict=True)
    ]


def read(
    outputs: Mapping[str, npt.NDArray[Any]], epilogue: Epilogue = _DEFAULT
) -> list[Detections]:
    """Detections of an answer, whether the server has made them or is to be done here.

    Args:
        outputs: the tensors that `from_tensors` reads, or else those that `decode` does.
        epilogue: for `decode` only.

    Raises:
        RequestError: they are neither.
    """
    if any(name in outputs for name in TENSORS):
        return from_tensors(outputs)
    return decode(outputs, epilogue)


def are_readable(names: Collection[str]) -> bool:
    """Whether outputs of these names are for `read`: those of a detector, of either kind."""
    return any(name in names for name in (*TENSORS, SSD_300[0].logits))


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
                raise _bad(f"there is no output {name!r}; found {there}")
            found = shapes[name]
            wanted = (batch, each.side, each.side, each.anchors, last or classes)
            if len(found) != 5 or not all(
                size in (None, other) or other is None
                for size, other in zip(found, wanted, strict=True)
            ):
                raise _bad(f"output {name!r} is {_written(found)}; wanted {_written(wanted)}")
            batch = found[0] if batch is None else batch
            if last is None:
                classes = found[4] if classes is None else classes
    if classes is not None and classes < 2:
        raise _bad(f"there are {classes} classes; wanted the background and at least one more")
    return maps


def _joined(outputs: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> Floats:
    """[N, n, n, a, c] of each map → float32 [N, priors, c], all of them finite."""
    parts = []
    for name in names:
        array = np.asarray(outputs[name])
        if array.dtype.kind != "f":
            raise _bad(f"output {name!r} is {array.dtype}; wanted float32")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        wrong = array.size - int(np.isfinite(array).sum())
        if wrong:
            raise _bad(f"output {name!r} has {wrong} values that are no finite numbers")
        images, side, _, anchors, last = array.shape
        parts.append(array.reshape(images, side * side * anchors, last))
    return np.concatenate(parts, axis=1)


def _of_image(logits: Floats, offsets: Floats, priors: Floats, epilogue: Epilogue) -> Detections:
    scores = _softmax(logits)[:, 1:]
    where, classes = np.nonzero(scores > epilogue.threshold)
    scores = scores[where, classes]
    best = np.argsort(-scores, kind="stable")[: epilogue.top]
    where, classes, scores = where[best], classes[best] + 1, scores[best]
    boxes = np.clip(decode_boxes(offsets[where], priors[where]), 0, 1)
    kept = suppress(boxes, classes, epilogue.overlap)
    return Detections(boxes[kept], scores[kept], classes[kept])


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


def _bad(problem: str) -> RequestError:
    return RequestError(f"cannot decode detections: {problem}")
