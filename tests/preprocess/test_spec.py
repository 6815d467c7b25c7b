"""The preprocessing as text and as data."""

from __future__ import annotations

import msgspec
import pytest

from edged.errors import InputError
from edged.preprocess import ImageInput, Layout, PixelType, Preprocess, Transform

RGB8 = ImageInput("input", "uint8", (1, 224, 224, 3))
PLANES = ImageInput("data", "float32", (None, 3, None, None))
SOUND = ImageInput("sound", "float32", (None, 49, 10, 1))


def test_size_layout_and_type_come_from_the_model() -> None:
    expected = Preprocess(input="input", height=224, width=224)
    assert Preprocess.parse("stretch", [SOUND, RGB8]) == expected
    assert Preprocess.parse("resize=224x224", [RGB8]) == expected


def test_every_option() -> None:
    text = "stretch=320x240, input=data, scale=1/255, mean=0.5, std=0.1:0.2:0.3"
    assert Preprocess.parse(text, [RGB8, PLANES]) == Preprocess(
        input="data",
        height=240,
        width=320,
        layout=Layout.NCHW,
        dtype=PixelType.FLOAT32,
        scale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.1, 0.2, 0.3),
    )


def test_imagenet() -> None:
    spec = Preprocess.parse("imagenet=224x224", [PLANES])
    assert (spec.transform, spec.height, spec.width) == (Transform.IMAGENET, 224, 224)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("strech", "did you mean stretch"),
        ("crop=224x224", "none of stretch, imagenet"),
        ("stretch=224", "'224' is no size; wanted WIDTHxHEIGHT"),
        ("stretch=320x240", "gives 320x240; input 'input' wants 224x224"),
        ("stretch=0x224", "gives 0x224"),
        ("stretch,scale=one", "scale is 'one'; wanted a number"),
        ("stretch,scale=1/0", "scale is '1/0'; wanted a number"),
        ("stretch,mean=1:2", "wanted one number, or three"),
        ("stretch,colour=red", "'colour=red' is no option"),
        ("stretch,mean=1,mean=2", "gives an option twice"),
        ("stretch,input=image", "no input 'image' for images; it has 'input' uint8"),
        ("stretch,scale=1/255", "takes uint8"),
        ("imagenet", "takes uint8"),
    ],
)
def test_bad_text_says_what_is_good(text: str, says: str) -> None:
    with pytest.raises(InputError, match="cannot use the preprocessing: ") as caught:
        Preprocess.parse(text, [RGB8])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stretch", "leaves its size open"),
        ("stretch=5000x10", "width is 5000; wanted 1 to 4096"),
        ("imagenet=299x299", "imagenet gives 224x224"),
        ("imagenet=224x224,scale=2", "brings its own means"),
        ("stretch=9x9,std=0", "std has a zero"),
        ("stretch=9x9,scale=1e999", "scale"),
    ],
)
def test_bad_for_a_float_input(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Preprocess.parse(text, [PLANES])
    assert says in str(caught.value)


def test_a_model_without_or_with_several_images() -> None:
    with pytest.raises(InputError, match="has no input for images; it has 'sound' float32"):
        Preprocess.parse("stretch", [SOUND])
    with pytest.raises(InputError, match=r"several inputs take images.*add input=NAME"):
        Preprocess.parse("stretch", [RGB8, PLANES])


def test_data_and_back() -> None:
    spec = Preprocess.parse("stretch=9x8,scale=1/255", [PLANES])
    assert msgspec.convert(msgspec.to_builtins(spec), Preprocess) == spec


def test_unknown_data_is_refused() -> None:
    data = {"input": "x", "height": 2, "width": 2, "crop": True}
    with pytest.raises(msgspec.ValidationError, match="crop"):
        msgspec.convert(data, Preprocess)
