"""JPEGs as TensorFlow decodes them, to the bit: against what a real TensorFlow made of them.

``decoded/tensorflow.json`` has its results; ``EDGED_TENSORFLOW_PYTHON`` names an interpreter to
make them anew: docs/from-tensorflow.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edged.errors import LimitError, RequestError
from edged.preprocess import (
    IMAGENET,
    SSD_300,
    PixelType,
    Preprocess,
    Sampling,
    image_to_array,
)

HERE = Path(__file__).parent
DECODED = HERE / "decoded"
PHOTOS = HERE.parent / "data" / "images"
EXPECTED: dict[str, Any] = json.loads((DECODED / "tensorflow.json").read_text())
TENSORFLOW = os.environ.get("EDGED_TENSORFLOW_PYTHON", "")


def path_of(name: str) -> Path:
    return next(path for path in (DECODED / name, PHOTOS / name) if path.exists())


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def as_it_is(data: bytes, **options: Any) -> Preprocess:
    """A recipe of TensorFlow 1 that hands the pixels of *data* through."""
    width, height = Image.open(io.BytesIO(data)).size
    given = {"dtype": PixelType.FLOAT32, "sampling": Sampling.TF1, **options}
    return Preprocess(input="x", height=height, width=width, **given)


def test_there_is_a_result_for_each_image() -> None:
    images = {path.name for folder in (DECODED, PHOTOS) for path in folder.glob("*.jpg")}
    assert set(EXPECTED["pixels"]) == images
    assert (
        set(EXPECTED["ssd"]) == set(EXPECTED["imagenet"]) == {p.name for p in PHOTOS.glob("*.jpg")}
    )


@pytest.mark.parametrize("name", sorted(EXPECTED["pixels"]))
def test_the_pixels_are_tensorflows(name: str) -> None:
    data = path_of(name).read_bytes()
    found = image_to_array(data, as_it_is(data))[0]
    assert digest(found.astype(np.uint8)) == EXPECTED["pixels"][name]


@pytest.mark.parametrize("name", sorted(EXPECTED["ssd"]))
@pytest.mark.parametrize("recipe", ["imagenet", "ssd"])
def test_the_tensors_are_tensorflows(recipe: str, name: str) -> None:
    spec = {"imagenet": IMAGENET, "ssd": SSD_300}[recipe]
    assert digest(image_to_array(path_of(name).read_bytes(), spec)) == EXPECTED[recipe][name]


def test_other_recipes_have_the_pixels_of_pillow() -> None:
    data = (PHOTOS / "parrot.jpg").read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    plain = as_it_is(data, sampling=Sampling.ANTIALIAS)
    np.testing.assert_array_equal(image_to_array(data, plain)[0], pixels)
    # What all of this is about.
    off = np.abs(image_to_array(data, as_it_is(data))[0] - pixels)
    assert off.max() > 10 and (off > 0).any(axis=-1).mean() > 0.3


@pytest.mark.skipif(not TENSORFLOW, reason="EDGED_TENSORFLOW_PYTHON names no interpreter")
def test_tensorflow_still_makes_the_same() -> None:
    command = [TENSORFLOW, str(HERE / "make_decoded.py"), "--print"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {**found, "tensorflow": ""} == {**EXPECTED, "tensorflow": ""}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["420.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg"])
def test_what_is_cut_short_is_refused(name: str, share: float) -> None:
    whole = (DECODED / name).read_bytes()
    with pytest.raises(RequestError, match=r"the JPEG of \d+ bytes is damaged or cut short"):
        image_to_array(whole[: int(len(whole) * share)], SSD_300)


def test_wrong_bits_are_decoded_as_they_are() -> None:
    """As TensorFlow and Pillow do: photographs with a few of them are common."""
    whole = bytearray((DECODED / "restarts.jpg").read_bytes())
    start = whole.index(b"\xff\xd0")
    whole[start + 12 : start + 16] = b"\0\0\0\0"
    found = image_to_array(bytes(whole), as_it_is(bytes(whole)))
    good = image_to_array((DECODED / "restarts.jpg").read_bytes(), as_it_is(bytes(whole)))
    assert 0 < (found != good).any(axis=-1).mean() < 0.9


def resized_header(data: bytes, height: int, width: int) -> bytes:
    """*data* with another size in its frame header (SOF0)."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def test_the_size_is_bounded_before_anything_is_decoded() -> None:
    data = resized_header((DECODED / "444.jpg").read_bytes(), 60_000, 60_000)
    with pytest.raises(LimitError, match="60000 × 60000 = 3600000000 pixels, at most 40000000"):
        image_to_array(data, IMAGENET)
    with pytest.raises(LimitError, match="at most 1960"):
        image_to_array((DECODED / "444.jpg").read_bytes(), IMAGENET, max_pixels=1960)


def test_colours_subsampled_in_a_way_that_is_not_known_are_refused_by_name() -> None:
    data = bytearray((DECODED / "420.jpg").read_bytes())
    at = data.index(b"\xff\xc0") + 11
    assert data[at] == 0x22
    data[at] = 0x31
    with pytest.raises(RequestError, match="subsampled in an unusual way; save it with 4:4:4"):
        image_to_array(bytes(data), IMAGENET)


def test_bytes_of_any_kind() -> None:
    data = (DECODED / "420.jpg").read_bytes()
    spec = as_it_is(data)
    expected = image_to_array(data, spec)
    for given in (memoryview(data), memoryview(bytearray(data)), bytearray(data)):
        np.testing.assert_array_equal(image_to_array(given, spec), expected)
