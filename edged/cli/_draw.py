"""What was found in a photograph, drawn into it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from edged.detection import Detection, Detections
from edged.errors import InputError
from edged.preprocess import decode

__all__ = ["check_target", "draw", "draw_box", "label_of", "target_of"]

_FORMATS: Final = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_QUALITY: Final = 92
# Neighbours on the circle of hues that are this far apart never look alike.
_GOLDEN: Final = 0.618034
_THINNEST: Final = 2
_SMALLEST_TEXT: Final = 11


def check_target(target: Path, images: int) -> None:
    """Whether the pictures of that many images can be written to *target*.

    Raises:
        InputError: several into one file, or a file of another kind.
    """
    if target.is_dir():
        return
    if images > 1:
        raise InputError(
            f"cannot draw {images} images into {target}: give a folder that exists, or one image"
        )
    if target.suffix.lower() not in _FORMATS:
        raise InputError(
            f"cannot draw into {target}: wanted a name that ends in {', '.join(_FORMATS)}, or a "
            "folder that exists"
        )


def target_of(target: Path, image: Path) -> Path:
    """Where the picture of *image* goes: *target*, or a file of the image's name in it."""
    if not target.is_dir():
        return target
    return target / (image.name if image.suffix.lower() in _FORMATS else f"{image.name}.jpg")


def label_of(found: Detection, labels: Sequence[str]) -> str:
    """The name of its class, or its number when there is none."""
    return labels[found.index] if found.index < len(labels) else f"class {found.index}"


def draw(photo: bytes, found: Detections, labels: Sequence[str], target: Path) -> None:
    """Write *photo* with boxes, labels and scores to *target*; the best is drawn last.

    Args:
        photo: a JPEG or PNG.
        found: with boxes as parts of its sides.
        labels: by class.
        target: a ``.jpg``, ``.jpeg`` or ``.png``; one that exists is replaced.

    Raises:
        RequestError, LimitError: the photo cannot be decoded.
        InputError: *target* is of another kind, or cannot be written.
    """
    check_target(target, 1)
    picture = decode(photo)
    for each in reversed(list(found)):
        draw_box(picture, each, f"{label_of(each, labels)} {each.score:.2f}", _colour(each.index))
    try:
        picture.save(target, _FORMATS[target.suffix.lower()], quality=_QUALITY)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def draw_box(
    picture: Image.Image, found: Detection, text: str, colour: tuple[int, int, int]
) -> None:
    """Draw one box into *picture*, with *text* in black on *colour*."""
    pen, size = ImageDraw.Draw(picture), picture.size
    width = max(_THINNEST, round(min(size) / 200))
    font = ImageFont.load_default(max(_SMALLEST_TEXT, round(min(size) / 32)))
    (columns, rows), (ymin, xmin, ymax, xmax) = size, found.box
    left, right = _pixels(xmin, xmax, columns)
    top, bottom = _pixels(ymin, ymax, rows)
    pen.rectangle((left, top, right, bottom), outline=colour, width=width)
    # Above the box where there is room, else inside of it.
    x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
    high, long = y1 - y0 + 2 * width, x1 - x0 + 2 * width
    start = max(0, min(left, columns - long))
    above = top - high if top >= high else top
    pen.rectangle((start, above, start + long, above + high), fill=colour)
    pen.text((start + width - x0, above + width - y0), text, fill="black", font=font)


def _pixels(low: float, high: float, side: int) -> tuple[int, int]:
    """The first and the last pixel from *low* to *high* of a side; at least one."""
    first = min(max(round(low * side), 0), side - 1)
    return first, min(max(round(high * side) - 1, first), side - 1)


def _colour(index: int) -> tuple[int, int, int]:
    """Of a class: always the same, and light enough for black text."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN % 1, 0.65, 1)
    return round(red * 255), round(green * 255), round(blue * 255)
