"""JPEG and PNG to pixels, with every size bounded before memory is taken.

JPEGs have two decoders. Pillow's computes the slow, exact integer DCT, as most tools do.
TensorFlow's computes the fast one, which is off by up to 20 levels in single pixels: networks of
TensorFlow were trained on what comes out of it, and are served with it.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from edged.errors import LimitError, RequestError

__all__ = ["MAX_PIXELS", "MAX_SIDE_PIXELS", "decode", "decode_as_tensorflow"]

MAX_PIXELS: Final = 40_000_000
"""The most pixels that are decoded unless the caller says otherwise: about 120 MB as RGB."""

MAX_SIDE_PIXELS: Final = 65_535
"""The longest side of an image: what a JPEG can have; PNG could say 2³¹."""

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_REFUSALS: Final = (ValueError, KeyError)
"""What simplejpeg raises; KeyError where there is no frame header, but data that begin as one."""

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
        raise _damaged(name, data, error) from error


def decode_as_tensorflow(
    data: bytes | memoryview, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """A JPEG or PNG as ``tf.io.decode_jpeg`` and ``tf.io.decode_png`` decode it, to the bit.

    Of files that are damaged this is not promised: what is cut short is refused, and of wrong bits
    in a progressive JPEG, versions of libjpeg make different pixels.

    Returns:
        uint8 [H, W, 3], R, G, B.

    Raises:
        RequestError: the bytes are no JPEG or PNG, or are damaged; or the JPEG's colours are
            subsampled in a way that libjpeg-turbo's simple interface does not know.
        LimitError: as `decode`.
    """
    if bytes(data[: len(_JPEG)]) != _JPEG:
        return np.asarray(decode(data, max_pixels))
    try:
        # Of the decoder's own making: another parser could be shown another size.
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except _REFUSALS as error:
        if "subsampling" in str(error):
            raise RequestError(
                "cannot decode the image as TensorFlow does: the colours of the JPEG are subsampled"
                " in an unusual way; save it with 4:4:4, 4:2:2 or 4:2:0"
            ) from error
        raise _damaged("JPEG", data, error) from error
    _check_size(width, height, max_pixels)
    inks = colours in ("CMYK", "YCCK")
    pixels = _fast_dct(data, "CMYK" if inks else "RGB", max_pixels)
    return _printed(pixels, data) if inks else pixels


def _fast_dct(data: bytes | memoryview, colours: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, channels] in *colours*."""

    def decoded(strict: bool) -> npt.NDArray[np.uint8]:
        # Neither the upsampling of colours that is fast: TensorFlow's default is the other one.
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colours, fastdct=True, fastupsample=False, strict=strict
        )
        return pixels

    try:
        return decoded(strict=True)
    except _REFUSALS:
        # Something is wrong with it. Pillow and TensorFlow go on when bits are, and refuse what is
        # cut short; this decoder does not tell the one from the other.
        decode(data, max_pixels)
    try:
        return decoded(strict=False)
    except _REFUSALS as error:
        raise _damaged("JPEG", data, error) from error


def _printed(inks: npt.NDArray[np.uint8], data: bytes | memoryview) -> npt.NDArray[np.uint8]:
    """C, M, Y, K to R, G, B as TensorFlow's ``jpeg_mem.cc`` has it; Adobe's are inverted."""
    if "adobe" not in JpegImageFile(io.BytesIO(data)).info:
        inks = 255 - inks
    colours = inks[..., :3].astype(np.uint16) * inks[..., 3:]
    return (colours // 255).astype(np.uint8)


def _damaged(name: str, data: bytes | memoryview, error: Exception) -> RequestError:
    return RequestError(
        f"cannot decode the image: the {name} of {len(data)} bytes is damaged or cut short "
        f"({error})"
    )


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
