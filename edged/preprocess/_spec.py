"""What is done to an image before the model sees it, as a value."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from edged.errors import InputError
from edged.preprocess import _text

__all__ = [
    "IMAGENET",
    "SSD_300",
    "Channels",
    "ImageInput",
    "Layout",
    "PixelType",
    "Preprocess",
    "Recipe",
    "Sampling",
    "Transform",
]

MAX_SIDE: Final = 4096
# A crop of 224 out of 256, as most classifiers are evaluated.
_CROPPED_PART: Final = 0.875


class Transform(enum.StrEnum):
    """How the pixels get to the model's size.

    ``stretch`` resizes to width × height, whatever the aspect.
    ``crop`` resizes the short side to ``short`` pixels and keeps the middle width × height.
    ``imagenet`` is that of the TensorFlow 1 networks, to the letter: short side to 256 with TF1's
    bilinear, centre crop 224, minus the means 123.68, 116.779, 103.939.
    ``ssd`` is that of SSD-VGG-300: stretch to 300x300 with TF1's bilinear, minus the same means.
    """

    STRETCH = "stretch"
    CROP = "crop"
    IMAGENET = "imagenet"
    SSD = "ssd"


class Sampling(enum.StrEnum):
    """How resizing reads the image.

    ``antialias`` is Pillow's bilinear filter, which averages when it shrinks: what torchvision and
    most tools of today do. Sizes and offsets of a crop are those of torchvision, too.
    ``tf1`` is ``tf.image.resize_bilinear`` of TensorFlow 1: no half-pixel centres, no averaging.
    Sizes and offsets of a crop are truncated.
    """

    ANTIALIAS = "antialias"
    TF1 = "tf1"


class Layout(enum.StrEnum):
    """The order of the dimensions of the tensor."""

    NHWC = "NHWC"
    NCHW = "NCHW"


class Channels(enum.StrEnum):
    """The order of the colours in the tensor; ``bgr`` is that of Caffe and OpenCV."""

    RGB = "rgb"
    BGR = "bgr"


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


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a `Preprocess` comes down to, its presets resolved.

    Attributes:
        short_side: what the short side is resized to before the crop; ``None``: no crop.
        sampling: how it is resized.
        scale, mean, std: a pixel x becomes ``(x · scale - mean) / std``.
        channels: the order of the colours, in the tensor and so in mean and std.
    """

    short_side: int | None
    sampling: Sampling
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: Channels = Channels.RGB

    @property
    def scaled(self) -> bool:
        """Whether any of scale, mean and std changes a pixel."""
        return (self.scale, self.mean, self.std) != (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def __str__(self) -> str:
        """One line for people, such as ``short side 256, tf1, bgr``."""
        short = "" if self.short_side is None else f"short side {self.short_side}, "
        order = "" if self.channels is Channels.RGB else f", {self.channels}"
        scaled = f", (x · {self.scale:g} - {self.mean}) / {self.std}" if self.scaled else ""
        return f"{short}{self.sampling}{order}{scaled}"


_ALSO: Final = {"resize": "stretch"}
_KINDS: Final = {"sampling": Sampling, "channels": Channels}
_MEANS: Final = (123.68, 116.779, 103.939)
_PRESETS: Final = {
    Transform.IMAGENET: (224, Recipe(256, Sampling.TF1, mean=_MEANS)),
    Transform.SSD: (300, Recipe(None, Sampling.TF1, mean=_MEANS)),
}


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an image becomes one input of a model; an invalid one cannot be made.

    A pixel x of 0…255 in channel c of the tensor becomes ``(x · scale - mean[c]) / std[c]``, in
    float32 and in this order.

    Attributes:
        input: the name of the model's input that it feeds.
        height, width: of the tensor, in pixels.
        transform: how the image gets to that size.
        layout: ``NHWC`` gives [1, height, width, 3], ``NCHW`` gives [1, 3, height, width].
        dtype: with ``uint8`` the pixels are passed as they are.
        scale: only with ``float32``.
        mean, std: likewise; a number for each channel, in the order of the tensor's channels.
        short: with ``crop``, and only there: what the short side becomes, in pixels.
        sampling: how it is resized; ``tf1`` only with ``float32``.
        channels: ``rgb``, or ``bgr`` for a tensor whose first channel is blue.

    ``imagenet`` and ``ssd`` fix size, scale, mean, std, short and sampling. With ``bgr`` each mean
    stays with its colour: 103.939 is subtracted from blue, which then comes first.

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
    short: int | None = None
    sampling: Sampling = Sampling.ANTIALIAS
    channels: Channels = Channels.RGB

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not 1 <= side <= MAX_SIDE:
                raise _bad(f"{name} is {side}; wanted 1 to {MAX_SIDE}")
        if not all(_is_float32(number) for number in (self.scale, *self.mean, *self.std)):
            raise _bad("scale, mean and std must be finite numbers that float32 can hold")
        if 0.0 in self.std:
            raise _bad("std has a zero; wanted three numbers to divide by")
        self._check_dtype()
        self._check_preset()
        self._check_short()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the tensor that comes out."""
        if self.layout is Layout.NCHW:
            return (1, 3, self.height, self.width)
        return (1, self.height, self.width, 3)

    def recipe(self) -> Recipe:
        """The steps, whether they are given one by one or by the name of a preset."""
        if self.transform not in _PRESETS:
            return self._own()
        preset = _PRESETS[self.transform][1]
        if self.channels is Channels.RGB:
            return preset
        red, green, blue = preset.mean
        return replace(preset, channels=self.channels, mean=(blue, green, red))

    def _own(self) -> Recipe:
        """The recipe that the fields say, whatever the transform."""
        return Recipe(self.short, self.sampling, self.scale, self.mean, self.std, self.channels)

    def _check_dtype(self) -> None:
        recipe = self.recipe()
        if self.dtype is PixelType.UINT8 and (
            recipe.scaled or recipe.sampling is not Sampling.ANTIALIAS
        ):
            raise _bad(
                f"input {self.input!r} takes uint8, so pixels go in as they are; leave out scale, "
                "mean, std, sampling=tf1, imagenet and ssd"
            )

    def _check_preset(self) -> None:
        if self.transform not in _PRESETS:
            return
        side, _ = _PRESETS[self.transform]
        if self._own() != Recipe(None, Sampling.ANTIALIAS, channels=self.channels):
            raise _bad(
                f"{self.transform} brings its own means, short and sampling; leave out scale, mean,"
                " std, short and sampling, or use stretch or crop"
            )
        if (self.height, self.width) != (side, side):
            raise _bad(
                f"{self.transform} gives {side}x{side}, the input wants {self.width}x{self.height}"
            )

    def _check_short(self) -> None:
        if self.transform is not Transform.CROP:
            if self.short is not None:
                raise _bad(f"short is of use with crop only; {self.transform} has none")
            return
        # TensorFlow's float32 arithmetic may make the short side one pixel less than it was told.
        least = max(self.height, self.width) + (self.sampling is Sampling.TF1)
        if self.short is None or not least <= self.short <= MAX_SIDE:
            raise _bad(
                f"short is {self.short}; wanted {least} to {MAX_SIDE}, since "
                f"{self.width}x{self.height} is cut out of an image whose short side is that long"
            )

    @staticmethod
    def check(text: str) -> None:
        """Check of *text*, for `parse`, what can be checked without the model.

        Raises:
            InputError: as `parse`.
        """
        words = _text.split(text)
        _text.member("transform", words.name, Transform, _ALSO)
        if words.size:
            _text.size(words.size)
        for key, value in words.options.items():
            if key in ("mean", "std"):
                _text.triple(key, value)
            elif key == "scale":
                _text.number(key, value)
            elif key == "short":
                _text.pixels(key, value)
            elif key in _KINDS:
                _text.member(key, value, _KINDS[key])

    @classmethod
    def parse(cls, text: str, inputs: Sequence[ImageInput]) -> Preprocess:
        """Read ``TRANSFORM[=WIDTHxHEIGHT][,KEY=VALUE…]``.

        The keys are ``input`` (a name), ``short`` (pixels), ``sampling`` (``antialias`` or
        ``tf1``), ``channels`` (``rgb`` or ``bgr``), ``scale`` (a number) and ``mean`` and ``std``
        (a number, or three as in ``0.485:0.456:0.406``). Numbers may be fractions (``1/255``,
        ``1/127.5``). ``resize`` is another word for ``stretch``. Layout and element type, and the
        size when it is left out, come from the model's input; ``short``, when it is left out, is
        8/7 of the longer side of the crop.

        Args:
            text: what the user wrote.
            inputs: the model's inputs; one is picked by name, or because it is the only image.

        Raises:
            InputError: the text or the choice cannot be understood; says what can.
        """
        words = _text.split(text)
        transform = _text.member("transform", words.name, Transform, _ALSO)
        chosen = _choose(words.options.get("input"), inputs)
        layout = chosen.layout()
        assert layout is not None  # _choose takes images only
        rows, columns = chosen.shape[1:3] if layout is Layout.NHWC else chosen.shape[2:4]
        width, height = _text.size(words.size) if words.size else (columns, rows)
        if (width is None or height is None) and transform in _PRESETS:
            width = height = _PRESETS[transform][0]
        if width is None or height is None:
            raise _bad(
                f"input {chosen.name!r} leaves its size open; say it, as in 'stretch=224x224'"
            )
        if (columns or width, rows or height) != (width, height):
            raise _bad(f"it gives {width}x{height}; input {chosen.name!r} wants {columns}x{rows}")
        short = _text.pixels("short", words.options.get("short"))
        if short is None and transform is Transform.CROP:
            short = round(max(width, height) / _CROPPED_PART)
        sampling = words.options.get("sampling", Sampling.ANTIALIAS.value)
        channels = words.options.get("channels", Channels.RGB.value)
        return cls(
            input=chosen.name,
            height=height,
            width=width,
            transform=transform,
            layout=layout,
            dtype=PixelType(chosen.dtype),
            scale=_text.number("scale", words.options.get("scale", "1")),
            mean=_text.triple("mean", words.options.get("mean", "0")),
            std=_text.triple("std", words.options.get("std", "1")),
            short=short,
            sampling=_text.member("sampling", sampling, Sampling),
            channels=_text.member("channels", channels, Channels),
        )


def _bad(problem: str) -> InputError:
    return InputError(f"cannot use the preprocessing: {problem}")


def _is_float32(number: float) -> bool:
    """Whether it stays finite in float32, and does not vanish there."""
    if not abs(number) <= float(np.finfo(np.float32).max):
        return False
    return number == 0 or np.float32(number) != 0


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


IMAGENET: Final = Preprocess(
    input="images",
    height=224,
    width=224,
    transform=Transform.IMAGENET,
    dtype=PixelType.FLOAT32,
)
"""What the ResNets, DenseNet-121 and VGG-16 were served with: float32 [1, 224, 224, 3]."""

SSD_300: Final = Preprocess(
    input="images", height=300, width=300, transform=Transform.SSD, dtype=PixelType.FLOAT32
)
"""What SSD-VGG-300 was served with: float32 [1, 300, 300, 3]."""
