"""Boxes: from offsets and back, how much they overlap, and which of them to keep."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["decode_boxes", "encode_boxes", "overlaps", "suppress"]

Floats = npt.NDArray[np.float32]

_CENTRE_SCALE: Final = np.float32(0.1)
_SIZE_SCALE: Final = np.float32(0.2)


def decode_boxes(offsets: Floats, priors: Floats) -> Floats:
    """Boxes from what the network says of its priors.

    ::

        centre = prior centre + offset · 0.1 · prior size
        size   = prior size · exp(offset · 0.2)

    Args:
        offsets: float32 [k, 4]: x, y, width, height.
        priors: float32 [k, 4]: centre y, centre x, height, width.

    Returns:
        float32 [k, 4]: ymin, xmin, ymax, xmax, as parts of the image's sides; they may reach beyond
        it, without bound where an exponential overflows.
    """
    size = priors[:, 2:]
    with np.errstate(over="ignore"):
        centre = priors[:, :2] + offsets[:, 1::-1] * _CENTRE_SCALE * size
        half = size * np.exp(offsets[:, :1:-1] * _SIZE_SCALE) / 2
        return np.concatenate([centre - half, centre + half], axis=1)


def encode_boxes(boxes: Floats, priors: Floats) -> Floats:
    """The offsets that `decode_boxes` makes *boxes* of; for boxes of some height and width.

    Args:
        boxes: float32 [k, 4]: ymin, xmin, ymax, xmax.
        priors: float32 [k, 4]: centre y, centre x, height, width.

    Returns:
        float32 [k, 4]: x, y, width, height.
    """
    size = priors[:, 2:]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    moved = (centre - priors[:, :2]) / size / _CENTRE_SCALE
    grown = np.log((boxes[:, 2:] - boxes[:, :2]) / size) / _SIZE_SCALE
    return np.concatenate([moved[:, ::-1], grown[:, ::-1]], axis=1)


def overlaps(boxes: Floats) -> Floats:
    """For each pair of boxes, their common area over that of both together.

    Args:
        boxes: float32 [k, 4]: ymin, xmin, ymax, xmax, finite.

    Returns:
        float32 [k, k]; 0 where neither box has an area.
    """
    ymin, xmin, ymax, xmax = boxes.T
    common = _shared(ymin, ymax) * _shared(xmin, xmax)
    area = (ymax - ymin) * (xmax - xmin)
    together = area[:, np.newaxis] + area - common
    shares = np.zeros_like(common)
    np.divide(common, together, out=shares, where=together > 0)
    return shares


def suppress(boxes: Floats, classes: npt.NDArray[np.int64], most: float) -> npt.NDArray[np.intp]:
    """Non-maximum suppression within each class.

    The first box is kept; every later one of its class that overlaps it by *most* or more is not;
    and so on with the next one that is left.

    Args:
        boxes: float32 [k, 4]: ymin, xmin, ymax, xmax, finite; the best first.
        classes: int64 [k].
        most: 0 to 1.

    Returns:
        the indices of those that are kept, in order.
    """
    rivals = (overlaps(boxes) >= most) & (classes[:, np.newaxis] == classes)
    kept = np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        if kept[index]:
            kept[index + 1 :] &= ~rivals[index, index + 1 :]
    return np.flatnonzero(kept)


def _shared(low: Floats, high: Floats) -> Floats:
    """For each pair of intervals, the length that they have in common."""
    common = np.minimum.outer(high, high)
    common -= np.maximum.outer(low, low)
    return np.maximum(common, 0, out=common)
