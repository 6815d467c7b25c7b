"""The preprocessing as text and as data."""

from __future__ import annotations

import msgspec
import pytest

from edged.errors import InputError
from edged.preprocess import (
    IMAGENET,
    SSD_300,
    Channels,
    ImageInput,
    Layout,
    PixelType,
    Preprocess,
    Recipe,
    Sampling,
    Transform,
)

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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1/127.5", 1 / 127.5),
        ("2.5/255", 2.5 / 255),
        ("1/255", 1 / 255),
        ("0.0078125", 0.0078125),
        ("1e-3", 1e-3),
        ("1/1e3", 1e-3),
    ],
)
def test_fractions_of_any_numbers(text: str, number: float) -> None:
    assert Preprocess.parse(f"stretch=9x9,scale={text}", [PLANES]).scale == number


def test_imagenet() -> None:
    spec = Preprocess.parse("imagenet=224x224", [PLANES])
    assert (spec.transform, spec.height, spec.width) == (Transform.IMAGENET, 224, 224)


def test_the_presets_bring_their_size() -> None:
    assert Preprocess.parse("imagenet", [PLANES]).shape == (1, 3, 224, 224)
    assert Preprocess.parse("ssd", [PLANES]).shape == (1, 3, 300, 300)
    means = (123.68, 116.779, 103.939)
    assert IMAGENET.recipe() == Recipe(256, Sampling.TF1, mean=means)
    assert SSD_300.recipe() == Recipe(None, Sampling.TF1, mean=means)


def test_a_crop_is_seven_eighths_of_the_short_side_unless_said_otherwise() -> None:
    assert Preprocess.parse("crop", [RGB8]).short == 256
    spec = Preprocess.parse("crop=299x299,short=320,sampling=tf1", [PLANES])
    assert spec.recipe() == Recipe(320, Sampling.TF1)


def test_what_older_bundles_say_is_still_understood() -> None:
    data = {
        "input": "x",
        "height": 224,
        "width": 224,
        "transform": "imagenet",
        "dtype": "float32",
    }
    spec = msgspec.convert(data, Preprocess)
    assert spec.recipe() == IMAGENET.recipe()
    assert msgspec.to_builtins(spec) == data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("strech", "did you mean stretch"),
        ("squash=224x224", "none of stretch, crop, imagenet, ssd"),
        ("stretch=224", "'224' is no size; wanted WIDTHxHEIGHT"),
        ("stretch=320x240", "gives 320x240; input 'input' wants 224x224"),
        ("stretch=0x224", "gives 0x224"),
        ("stretch,scale=one", "scale is 'one'; wanted a number"),
        ("stretch,scale=1/0", "scale is '1/0'; wanted a number"),
        ("stretch,scale=1/", "scale is '1/'; wanted a number"),
        ("stretch,scale=1/2/3", "scale is '1/2/3'; wanted a number"),
        ("stretch,scale=nan", "scale is 'nan'; wanted a number"),
        ("stretch,scale=1/inf", "scale is '1/inf'; wanted a number"),
        ("stretch,channels=grb", "channels 'grb' is none of rgb, bgr"),
        ("stretch,mean=1:2", "wanted one number, or three"),
        ("stretch,colour=red", "'colour=red' is no option"),
        ("stretch,shorts=256", "did you mean short=?"),
        ("stretch,short=256", "short is of use with crop only; stretch has none"),
        ("crop,short=many", "short is 'many'; wanted a number of pixels"),
        ("crop,short=223", "short is 223; wanted 224 to 4096"),
        ("stretch,sampling=tf2", "sampling 'tf2' is none of antialias, tf1 (did you mean tf1?)"),
        ("stretch,sampling=tf1", "takes uint8"),
        ("ssd", "takes uint8"),
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
        ("imagenet=224x224,scale=2", "imagenet brings its own means"),
        ("ssd=300x300,sampling=tf1", "ssd brings its own means"),
        ("imagenet,short=300", "imagenet brings its own means"),
        ("ssd=224x224", "ssd gives 300x300, the input wants 224x224"),
        ("crop", "leaves its size open"),
        ("crop=9x9,short=9,sampling=tf1", "short is 9; wanted 10 to 4096"),
        ("stretch=9x9,std=1e-60", "float32"),
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
    spec = Preprocess.parse("stretch=9x8,scale=1/255,channels=bgr", [PLANES])
    assert spec.channels is Channels.BGR and "bgr" in str(spec.recipe())
    assert msgspec.convert(msgspec.to_builtins(spec), Preprocess) == spec


def test_unknown_data_is_refused() -> None:
    data = {"input": "x", "height": 2, "width": 2, "flip": True}
    with pytest.raises(msgspec.ValidationError, match="flip"):
        msgspec.convert(data, Preprocess)
