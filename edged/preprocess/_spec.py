"""What is done to an image before the model sees it, as a value."""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import msgspec

from edged.errors import InputError

__all__ = ["ImageInput", "Layout", "PixelType", "Preprocess", "Transform"]

MAX_SIDE: Final = 4096
IMAGENET_SIDE: Final = 224
_EXAMPLES: Final = "try 'stretch', 'stretch=224x224', 'stretch,scale=1/255,std=0.229:0.224:0.225'"


class Transform(enum.StrEnum):
    """How the pixels get to the model's size.

    ``stretch`` resizes to width × height with Pillow's bilinear filter, whatever the aspect.
    ``imagenet`` is the transform of the TensorFlow 1 networks: short side to 256 without
    half-pixel centres or antialiasing, centre crop 224, minus the ImageNet means.
    """

    STRETCH = "stretch"
    IMAGENET = "imagenet"


class Layout(enum.StrEnum):
    """The order of the dimensions of the tensor."""

    NHWC = "NHWC"
    NCHW = "NCHW"


class PixelType(enum.StrEnum):
    """The element type of the tensor."""

    UINT8 = "uint8"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An input of a model, as far as it matters here.

    Attributes:
        name: the tensor's name.
        dtype: numpy's name of the element type.
        shape: dimensions; ``None`` where the model leaves them open.
    """

    name: str
    dtype: str
    shape: Sequence[int | None]

    def layout(self) -> Layout | None:
        """The place of the three channels, or ``None`` when this is no input for an image."""
        if len(self.shape) != 4 or self.dtype not in list(PixelType):
            return None
        if self.shape[3] == 3:
            return Layout.NHWC
        return Layout.NCHW if self.shape[1] == 3 else None


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an image becomes one input of a model; an invalid one cannot be made.

    A pixel x of 0…255 in channel c (R, G, B) becomes ``(x · scale - mean[c]) / std[c]``.

    Attributes:
        input: the name of the model's input that it feeds.
        height, width: of the tensor, in pixels.
        transform: how the image gets to that size.
        layout: ``NHWC`` gives [1, height, width, 3], ``NCHW`` gives [1, 3, height, width].
        dtype: with ``uint8`` the pixels are passed as they are.
        scale, mean, std: only with ``stretch`` and ``float32``; ``imagenet`` brings its own means.

    Raises:
        InputError: a field is out of its range, or two of them contradict each other.
    """

    input: str
    height: int
    width: int
    transform: Transform = Transform.STRETCH
    layout: Layout = Layout.NHWC
    dtype: PixelType = PixelType.UINT8
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not 1 <= side <= MAX_SIDE:
                raise _bad(f"{name} is {side}; wanted 1 to {MAX_SIDE}")
        if not all(math.isfinite(x) for x in (self.scale, *self.mean, *self.std)):
            raise _bad("scale, mean and std must be finite numbers")
        if 0.0 in self.std:
            raise _bad("std has a zero; wanted three numbers to divide by")
        if self.dtype is PixelType.UINT8 and (
            self.scaled or self.transform is not Transform.STRETCH
        ):
            raise _bad(
                f"input {self.input!r} takes uint8, so pixels go in as they are; "
                "leave out scale, mean, std and imagenet"
            )
        if self.transform is Transform.IMAGENET:
            if self.scaled:
                raise _bad("imagenet brings its own means; leave out scale, mean and std")
            if (self.height, self.width) != (IMAGENET_SIDE, IMAGENET_SIDE):
                raise _bad(f"imagenet gives 224x224, the input wants {self.width}x{self.height}")

    @property
    def scaled(self) -> bool:
        """Whether any of scale, mean and std changes a pixel."""
        return (self.scale, self.mean, self.std) != (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the tensor that comes out."""
        if self.layout is Layout.NCHW:
            return (1, 3, self.height, self.width)
        return (1, self.height, self.width, 3)

    @classmethod
    def parse(cls, text: str, inputs: Sequence[ImageInput]) -> Preprocess:
        """Read ``TRANSFORM[=WIDTHxHEIGHT][,input=NAME][,scale=S][,mean=R:G:B][,std=R:G:B]``.

        ``resize`` is another word for ``stretch``. Numbers may be fractions (``1/255``). Layout and
        element type, and the size when it is left out, come from the model's input.

        Args:
            text: what the user wrote.
            inputs: the model's inputs; one is picked by name, or because it is the only image.

        Raises:
            InputError: the text or the choice cannot be understood; says what can.
        """
        head, *rest = (part.strip() for part in text.split(","))
        name, _, size = (part.strip() for part in head.partition("="))
        options = dict(_option(part) for part in rest)
        if len(options) != len(rest):
            raise _bad(f"{text!r} gives an option twice")
        chosen = _choose(options.get("input"), inputs)
        layout = chosen.layout()
        assert layout is not None  # _choose takes images only
        rows, columns = chosen.shape[1:3] if layout is Layout.NHWC else chosen.shape[2:4]
        width, height = _size(size) if size else (columns, rows)
        if width is None or height is None:
            raise _bad(
                f"input {chosen.name!r} leaves its size open; say it, as in 'stretch=224x224'"
            )
        if (columns or width, rows or height) != (width, height):
            raise _bad(f"it gives {width}x{height}; input {chosen.name!r} wants {columns}x{rows}")
        return cls(
            input=chosen.name,
            height=height,
            width=width,
            transform=_transform(name),
            layout=layout,
            dtype=PixelType(chosen.dtype),
            scale=_number("scale", options.get("scale", "1")),
            mean=_triple("mean", options.get("mean", "0")),
            std=_triple("std", options.get("std", "1")),
        )


def _bad(problem: str) -> InputError:
    return InputError(f"cannot use the preprocessing: {problem}")


def _transform(name: str) -> Transform:
    if name == "resize":
        return Transform.STRETCH
    try:
        return Transform(name)
    except ValueError:
        close = difflib.get_close_matches(name, list(Transform), n=1)
        hint = f"did you mean {close[0]}?" if close else _EXAMPLES
        raise _bad(f"{name!r} is none of {', '.join(Transform)} ({hint})") from None


def _option(part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or key not in ("input", "scale", "mean", "std"):
        raise _bad(f"{part!r} is no option; wanted input=, scale=, mean= or std= ({_EXAMPLES})")
    return key, value


def _size(text: str) -> tuple[int, int]:
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise _bad(f"{text!r} is no size; wanted WIDTHxHEIGHT, such as 224x224")
    return int(width), int(height)


def _number(key: str, text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise _bad(f"{key} is {text!r}; wanted a number such as 0.5 or 1/255") from None


def _triple(key: str, text: str) -> tuple[float, float, float]:
    numbers = [_number(key, part) for part in text.split(":")]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise _bad(f"{key} is {text!r}; wanted one number, or three as in 123.68:116.779:103.939")
    return numbers[0], numbers[1], numbers[2]


def _choose(name: str | None, inputs: Sequence[ImageInput]) -> ImageInput:
    images = [candidate for candidate in inputs if candidate.layout() is not None]
    if name is not None:
        images = [candidate for candidate in images if candidate.name == name]
    if len(images) == 1:
        return images[0]
    there = ", ".join(f"{i.name!r} {i.dtype} {list(i.shape)}" for i in inputs)
    if name is None and images:
        raise _bad(f"several inputs take images: {there}; add input=NAME")
    named = "" if name is None else f" {name!r}"
    raise _bad(f"the model has no input{named} for images; it has {there}")
