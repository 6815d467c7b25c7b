"""Pictures of tests/data as the networks want them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = [
    "DATA",
    "cropped",
    "image_file",
    "letterboxed",
    "line_of_text",
    "lines_of_page",
    "luminance",
    "nchw",
    "opened",
    "page_of_lines",
    "placed",
    "stretched",
]

Pixels = npt.NDArray[np.uint8]

DATA = Path(__file__).parent.parent / "data"
_FOLDERS = ("images", "networks", "quantised")
_LINE = (48, 192)


@cache
def image_file(name: str) -> Path:
    """The picture *name*, wherever it is in tests/data."""
    return next(DATA / folder / name for folder in _FOLDERS if (DATA / folder / name).exists())


def opened(name: str) -> Image.Image:
    """The picture *name*, RGB."""
    with Image.open(image_file(name)) as image:
        return image.convert("RGB")


def stretched(name: str, side: int, width: int | None = None) -> Pixels:
    """RGB, uint8 [side, width or side, 3]."""
    size = (width or side, side)
    return np.asarray(opened(name).resize(size, Image.Resampling.BILINEAR))


def cropped(name: str, box: tuple[int, int, int, int], side: int) -> Pixels:
    """What is within *box* (left, top, right, bottom), RGB, uint8 [side, side, 3]."""
    part = opened(name).crop(box)
    return np.asarray(part.resize((side, side), Image.Resampling.BILINEAR))


def letterboxed(name: str, side: int, filling: int) -> Pixels:
    """Resized as a whole, at the top left of *filling*: RGB, uint8 [side, side, 3]."""
    image = opened(name)
    factor = _factor(image.size, side)
    size = (int(image.width * factor), int(image.height * factor))
    pixels = np.full((side, side, 3), filling, np.uint8)
    resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    pixels[: size[1], : size[0]] = resized
    return pixels


def placed(name: str, side: int, *, letterbox: bool) -> tuple[float, float]:
    """What x and y in the input are multiplied by, to be pixels of the picture."""
    with Image.open(image_file(name)) as image:
        if letterbox:
            return (1 / _factor(image.size, side),) * 2
        return image.width / side, image.height / side


def _factor(size: tuple[int, int], side: int) -> float:
    return min(side / size[0], side / size[1])


def luminance(name: str, side: int) -> npt.NDArray[np.float32]:
    """Y of YCbCr, 0 to 1, float32 [1, 1, side, side]."""
    y = opened(name).convert("YCbCr").split()[0]
    resized = y.resize((side, side), Image.Resampling.BICUBIC)
    return (np.asarray(resized, np.float32) / np.float32(255))[np.newaxis, np.newaxis]


def line_of_text(image: Image.Image) -> npt.NDArray[np.float32]:
    """48 pixels high and as wide as that makes it, up to 192: BGR, -1 to 1, zeros to the right."""
    height, most = _LINE
    width = min(most, int(np.ceil(height * image.width / image.height)))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    line = np.zeros((1, 3, height, most), np.float32)
    line[..., :width] = nchw(np.asarray(resized)[..., ::-1]) / np.float32(127.5) - 1
    return line


def lines_of_page() -> list[Image.Image]:
    """The three lines of text_page.png, cut out, and turned by 180 degrees."""
    page = opened("text_page.png")
    lines = [page.crop((30, top, right, top + 48)) for top, right in _LINES_OF_PAGE]
    return [*lines, *(line.rotate(180) for line in lines)]


_LINES_OF_PAGE = ((47, 307), (137, 328), (227, 328))


def page_of_lines(lines: Sequence[Image.Image], seed: int) -> Pixels:
    """*lines* at places and in sizes of their own, one below the other: RGB, [480, 640, 3]."""
    random = np.random.default_rng(seed)
    page = Image.new("RGB", (640, 480), lines[0].getpixel((0, 0)))
    room = 480 // len(lines)
    for row, line in enumerate(lines):
        factor = random.uniform(0.8, 1.4)
        size = (int(line.width * factor), int(line.height * factor))
        corner = (int(random.integers(8, 632 - size[0])), room * row + (room - size[1]) // 2)
        page.paste(line.resize(size, Image.Resampling.BILINEAR), corner)
    return np.asarray(page)


def nchw(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """[H, W, 3] as float32 [1, 3, H, W]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis], np.float32)
