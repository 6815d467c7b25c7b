"""Decoding, with every size bounded before memory is taken, and the transforms."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from edged.errors import LimitError, RequestError
from edged.preprocess._spec import IMAGENET_SIDE, Layout, PixelType, Preprocess, Transform

__all__ = ["MAX_PIXELS", "image_to_array"]

MAX_PIXELS: Final = 40_000_000
"""The most pixels that are decoded unless the caller says otherwise: about 120 MB as RGB."""

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_OTHERS: Final = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"RIFF", "a WebP or another RIFF file"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"<", "XML, HTML or SVG"),
)
_IMAGENET_SHORT_SIDE: Final = 256
_IMAGENET_MEANS: Final = np.array([123.68, 116.779, 103.939], np.float32)


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
        LimitError: it has more than *max_pixels*.
    """
    image = _decode(data, max_pixels)
    if spec.transform is Transform.IMAGENET:
        pixels = _imagenet(np.asarray(image))
    else:
        resized = image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
        if spec.dtype is PixelType.FLOAT32:
            pixels = pixels.astype(np.float32)
            if spec.scaled:
                mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
                pixels = (pixels * np.float32(spec.scale) - mean) / std
    if spec.layout is Layout.NCHW:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis])


def _decode(data: bytes | memoryview, max_pixels: int) -> Image.Image:
    head = bytes(data[:16])
    # The two decoders by their class: `Image.open` would warn about large images by a global
    # setting before our own bound, which is smaller and names the numbers, is looked at.
    kind: type[ImageFile]
    if head.startswith(_JPEG):
        name, kind = "JPEG", JpegImageFile
    elif head.startswith(_PNG):
        name, kind = "PNG", PngImageFile
    else:
        raise RequestError(f"cannot decode the image: found {_describe(head)}; wanted JPEG or PNG")
    try:
        image = kind(io.BytesIO(data))
        if image.width * image.height > max_pixels:
            raise LimitError(
                f"cannot decode the image: it has {image.width} × {image.height} = "
                f"{image.width * image.height} pixels, at most {max_pixels} are taken; "
                "scale it down before sending it"
            )
        return _rgb(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise RequestError(
            f"cannot decode the image: the {name} of {len(data)} bytes is damaged or cut short "
            f"({error})"
        ) from error


def _describe(head: bytes) -> str:
    if not head:
        return "no bytes at all"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    return f"bytes that start with {head.hex(' ')}"


def _rgb(image: ImageFile) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow would clip 16-bit greys at 255 instead of scaling them.
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _imagenet(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """[H, W, 3] to [224, 224, 3], as ``vgg_preprocessing`` in TensorFlow 1 did when evaluating.

    Only the rows and columns that the crop keeps are computed.
    """
    height, width = pixels.shape[:2]
    scale = np.float32(_IMAGENET_SHORT_SIDE) / np.float32(min(height, width))
    top, bottom, down = _tf1_axis(height, int(np.float32(height) * scale))
    left, right, across = _tf1_axis(width, int(np.float32(width) * scale))
    down, across = down[:, np.newaxis, np.newaxis], across[np.newaxis, :, np.newaxis]
    upper, lower = pixels[top].astype(np.float32), pixels[bottom].astype(np.float32)
    above = upper[:, left] + (upper[:, right] - upper[:, left]) * across
    below = lower[:, left] + (lower[:, right] - lower[:, left]) * across
    cropped: npt.NDArray[np.float32] = above + (below - above) * down - _IMAGENET_MEANS
    return cropped


def _tf1_axis(
    size: int, resized: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Of one axis, for each kept pixel: the two source pixels, and the weight of the second.

    TensorFlow 1 put pixel i of the result at ``i · size / resized``, in float32.
    """
    offset = (resized - IMAGENET_SIDE) // 2
    kept = np.arange(offset, offset + IMAGENET_SIDE, dtype=np.float32)
    place = kept * (np.float32(size) / np.float32(resized))
    first = np.minimum(place.astype(np.intp), size - 1)
    return first, np.minimum(first + 1, size - 1), place - first.astype(np.float32)
