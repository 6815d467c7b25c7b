"""Pixels to the tensor of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edged.errors import LimitError, RequestError
from edged.preprocess._decode import MAX_PIXELS, MAX_SIDE_PIXELS, decode, decode_as_tensorflow
from edged.preprocess._spec import Channels, Layout, PixelType, Preprocess, Recipe, Sampling
from edged.preprocess._tf1 import Axis, bilinear, sizes

__all__ = ["apply", "image_to_array"]


def image_to_array(
    data: bytes | memoryview, spec: Preprocess, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[Any]:
    """The tensor that *spec* makes of a JPEG or PNG.

    Recipes that sample as TensorFlow 1 did decode as it does, the others as Pillow does.

    Args:
        data: the encoded image. Its EXIF orientation is not applied; transparency is dropped.
        spec: what to make of it.
        max_pixels: images with more are refused after their header, before they are decoded.

    Returns:
        [1, height, width, 3] or [1, 3, height, width] of ``spec.dtype``, C-contiguous.

    Raises:
        RequestError: the bytes are no JPEG or PNG, or are damaged.
        LimitError: it has more than *max_pixels*, or a side is longer than a JPEG's may be.
    """
    if spec.recipe().sampling is Sampling.TF1:
        return _tensor(decode_as_tensorflow(data, max_pixels), spec)
    return _tensor(decode(data, max_pixels), spec)


def apply(pixels: npt.NDArray[np.uint8], spec: Preprocess) -> npt.NDArray[Any]:
    """The tensor that *spec* makes of an image that is decoded already.

    It is what `image_to_array` makes of the same pixels, and so what edged itself would feed to the
    model if the image were sent to it as PNG. Of a JPEG, decoders make different pixels: see
    `image_to_array`.

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
    return _tensor(np.ascontiguousarray(pixels), spec)


def _tensor(image: Image.Image | npt.NDArray[np.uint8], spec: Preprocess) -> npt.NDArray[Any]:
    recipe = spec.recipe()
    pixels: npt.NDArray[Any]
    if recipe.sampling is Sampling.TF1:
        pixels = _tf1(np.asarray(image), spec, recipe)
    else:
        whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
        pixels = _antialiased(whole, spec, recipe)
    if recipe.channels is Channels.BGR:
        pixels = pixels[..., ::-1]
    if spec.dtype is PixelType.FLOAT32:
        pixels = _normalised(pixels, recipe)
    if spec.layout is Layout.NCHW:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis])


def _tf1(
    pixels: npt.NDArray[np.uint8], spec: Preprocess, recipe: Recipe
) -> npt.NDArray[np.float32]:
    height, width, _ = pixels.shape
    if recipe.short_side is None:
        down = Axis.of(height, spec.height, 0, spec.height)
        across = Axis.of(width, spec.width, 0, spec.width)
    else:
        tall, wide = sizes(height, width, recipe.short_side)
        down = Axis.of(height, tall, (tall - spec.height) // 2, spec.height)
        across = Axis.of(width, wide, (wide - spec.width) // 2, spec.width)
    return bilinear(pixels, down, across)


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
