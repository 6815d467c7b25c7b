"""Pixels to the tensor of a model."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from edged.errors import LimitError, RequestError
from edged.preprocess._decode import MAX_PIXELS, MAX_SIDE_PIXELS, decode
from edged.preprocess._spec import Layout, PixelType, Preprocess, Recipe, Sampling
from edged.preprocess._tf1 import Axis, bilinear, sizes

__all__ = ["apply", "image_to_array"]

_SPARSE: Final = 4
"""From so many source rows for each of the result on, rows are copied in pairs."""


def image_to_array(
    data: bytes | memoryview, spec: Preprocess, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[Any]:
    """The tensor that *spec* makes of a JPEG or PNG.

    Args:
        data: the encoded image. Its EXIF orientation is not applied; transparency is dropped.
        spec: what to make of it.
        max_pixels: images with more are refused after their header, before they are decoded.

    Returns:
        [1, height, width, 3] or [1, 3, height, width] of ``spec.dtype``, R, G, B, C-contiguous.

    Raises:
        RequestError: the bytes are no JPEG or PNG, or are damaged.
        LimitError: it has more than *max_pixels*, or a side is longer than a JPEG's may be.
    """
    return _tensor(decode(data, max_pixels), spec)


def apply(pixels: npt.NDArray[np.uint8], spec: Preprocess) -> npt.NDArray[Any]:
    """The tensor that *spec* makes of an image that is decoded already.

    It is what `image_to_array` makes of the same pixels, and so what edged itself would feed to the
    model if the image were sent to it as PNG.

    Args:
        pixels: uint8 [H, W, 3], R, G, B.
        spec: what to make of it.

    Returns:
        [1, height, width, 3] or [1, 3, height, width] of ``spec.dtype``, C-contiguous.

    Raises:
        RequestError: *pixels* is something else.
        LimitError: a side is longer than a JPEG's may be.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise RequestError(
            f"cannot preprocess the image: found {pixels.dtype} {list(pixels.shape)}; wanted uint8"
            " [H, W, 3], red, green and blue"
        )
    if max(pixels.shape) > MAX_SIDE_PIXELS:
        raise LimitError(
            f"cannot preprocess the image: it has {pixels.shape[1]} × {pixels.shape[0]} pixels, a"
            f" side may have at most {MAX_SIDE_PIXELS}"
        )
    return _tensor(Image.fromarray(np.ascontiguousarray(pixels)), spec)


def _tensor(image: Image.Image, spec: Preprocess) -> npt.NDArray[Any]:
    recipe = spec.recipe()
    pixels: npt.NDArray[Any]
    if recipe.sampling is Sampling.TF1:
        pixels = _tf1(image, spec, recipe)
    else:
        pixels = _antialiased(image, spec, recipe)
    if spec.dtype is PixelType.FLOAT32:
        pixels = _normalised(pixels, recipe)
    if spec.layout is Layout.NCHW:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis])


def _tf1(image: Image.Image, spec: Preprocess, recipe: Recipe) -> npt.NDArray[np.float32]:
    width, height = image.size
    if recipe.short_side is None:
        down = Axis.of(height, spec.height, 0, spec.height)
        across = Axis.of(width, spec.width, 0, spec.width)
    else:
        tall, wide = sizes(height, width, recipe.short_side)
        down = Axis.of(height, tall, (tall - spec.height) // 2, spec.height)
        across = Axis.of(width, wide, (wide - spec.width) // 2, spec.width)
    left, right = across.span()
    pixels, down = _rows(image, left, right, down)
    return bilinear(pixels, down, across.shifted(left))


def _rows(
    image: Image.Image, left: int, right: int, down: Axis
) -> tuple[npt.NDArray[np.uint8], Axis]:
    """Of *image*, from column *left* to *right*, the rows that *down* needs; and it for these.

    Copying a photograph of 12 megapixels out of Pillow takes as long as decoding it: rows that are
    passed over stay there, when they are the most.
    """
    top, bottom = down.span()
    count = len(down.lower)
    if bottom - top < _SPARSE * count:
        return np.asarray(image.crop((left, top, right, bottom))), down.shifted(top)
    strips = (image.crop((left, row, right, row + 2)) for row in down.lower.tolist())
    picked = np.frombuffer(b"".join(strip.tobytes() for strip in strips), np.uint8)
    even = np.arange(0, 2 * count, 2)
    return picked.reshape(2 * count, right - left, 3), Axis(even, even + 1, down.weight)


def _antialiased(image: Image.Image, spec: Preprocess, recipe: Recipe) -> npt.NDArray[np.uint8]:
    size = spec.width, spec.height
    if recipe.short_side is None:
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    # The part of the image that the crop of the resized image is: only that is computed.
    short = min(image.size)
    box = []
    for side, kept in zip(image.size, size, strict=True):
        resized = recipe.short_side * side // short
        offset = round((resized - kept) / 2)
        box.append((offset * side / resized, (offset + kept) * side / resized))
    (left, right), (top, bottom) = box
    part = image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return np.asarray(part)


def _normalised(pixels: npt.NDArray[Any], recipe: Recipe) -> npt.NDArray[np.float32]:
    """``(x · scale - mean) / std``, without the steps that change nothing."""
    result: npt.NDArray[np.float32] = pixels.astype(np.float32, copy=False)
    if recipe.scale != 1:
        result = np.multiply(result, np.float32(recipe.scale))
    if any(recipe.mean):
        result = np.subtract(result, np.array(recipe.mean, np.float32))
    if recipe.std != (1, 1, 1):
        result = np.divide(result, np.array(recipe.std, np.float32))
    return result
