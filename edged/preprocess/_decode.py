"""JPEG and PNG to pixels, with every size bounded before memory is taken."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from edged.errors import LimitError, RequestError

__all__ = ["MAX_PIXELS", "MAX_SIDE_PIXELS", "decode"]

MAX_PIXELS: Final = 40_000_000
"""The most pixels that are decoded unless the caller says otherwise: about 120 MB as RGB."""

MAX_SIDE_PIXELS: Final = 65_535
"""The longest side of an image: what a JPEG can have; PNG could say 2³¹."""

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


def decode(data: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A JPEG or PNG, decoded to RGB at its full size.

    JPEGs are not decoded at a fraction of their size (libjpeg's "draft"), though that is three
    times as fast: it moves results by more than decoders differ (docs/adr/0006).

    Raises:
        RequestError: the bytes are no JPEG or PNG, or are damaged.
        LimitError: it has more than *max_pixels*, or a side is longer than a JPEG's may be.
    """
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
        _check_size(image.width, image.height, max_pixels)
        return _rgb(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise RequestError(
            f"cannot decode the image: the {name} of {len(data)} bytes is damaged or cut short "
            f"({error})"
        ) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise LimitError(
            f"cannot decode the image: it has {width} × {height} = {width * height} pixels, at "
            f"most {max_pixels} are taken; scale it down before sending it"
        )
    if max(width, height) > MAX_SIDE_PIXELS:
        raise LimitError(
            f"cannot decode the image: it has {width} × {height} pixels, a side may have at most "
            f"{MAX_SIDE_PIXELS}"
        )


def _describe(head: bytes) -> str:
    if not head:
        return "no bytes at all"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    return f"bytes that start with {head.hex(' ')}"


def _rgb(image: ImageFile) -> Image.Image:
    if image.mode == "RGB":
        # Not `convert`, which would copy it; a half of the time of decoding is copies.
        image.load()
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow would clip 16-bit greys at 255 instead of scaling them.
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
