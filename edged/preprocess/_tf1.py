"""Bilinear resizing as TensorFlow 1 did it, bit for bit in float32.

``tf.image.resize_bilinear`` with ``align_corners=False`` and ``half_pixel_centers=False``, which is
what networks of that time were trained and served with: pixel i of the result is read at place
``i · (size / resized)`` of the image, from the two pixels around it on each axis, and nothing is
averaged however much smaller the result is. (The kernel is ``resize_bilinear_op.cc``: LegacyScaler,
compute_interpolation_weights, compute_lerp.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

__all__ = ["Axis", "bilinear", "sizes"]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a resize: for each pixel of the result that is kept, where it comes from.

    Attributes:
        lower, upper: indices of the two source pixels, intp [n].
        weight: of the upper one, 0 to 1, float32 [n].
    """

    lower: npt.NDArray[np.intp]
    upper: npt.NDArray[np.intp]
    weight: npt.NDArray[np.float32]

    @classmethod
    def of(cls, size: int, resized: int, first: int, count: int) -> Self:
        """*size* pixels made *resized*, of which *count* are kept from *first* on."""
        kept = np.arange(first, first + count, dtype=np.int64).astype(np.float32)
        place = kept * (np.float32(size) / np.float32(resized))
        lower = np.minimum(place.astype(np.intp), size - 1)
        return cls(lower, np.minimum(lower + 1, size - 1), place - lower.astype(np.float32))


def sizes(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width when the short side becomes *short_side*.

    In float32 and truncated, as ``vgg_preprocessing`` had it: the short side itself comes out one
    less for some sizes (256 becomes 255).
    """
    scale = np.float32(short_side) / np.float32(min(height, width))
    return int(np.float32(height) * scale), int(np.float32(width) * scale)


def bilinear(pixels: npt.NDArray[np.uint8], down: Axis, across: Axis) -> npt.NDArray[np.float32]:
    """uint8 [H, W, 3] → float32 [n, m, 3] for the n rows of *down* and m columns of *across*.

    Only pixels that the result is mixed from are touched, and they are picked as bytes, whole rows
    first: a float copy of a large photograph would cost more than the mixing.
    """
    flat = pixels.reshape(pixels.shape[0], -1)
    left, right = _channels(across.lower), _channels(across.upper)
    rightward = np.repeat(across.weight, 3)

    def mixed(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        picked = flat.take(rows, axis=0)
        return _lerp(picked.take(left, axis=1), picked.take(right, axis=1), rightward)

    result = _lerp(mixed(down.lower), mixed(down.upper), down.weight[:, np.newaxis])
    return result.reshape(len(down.lower), len(across.lower), 3)


def _channels(columns: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The places of R, G, B of *columns* in a row of bytes."""
    return (columns[:, np.newaxis] * 3 + np.arange(3)).reshape(-1)


def _lerp(
    low: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    high: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """``low + (high - low) · weight``, in this order."""
    base, step = low.astype(np.float32, copy=False), high.astype(np.float32, copy=False)
    step = step - base
    step *= weight
    step += base
    return step
