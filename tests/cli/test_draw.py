"""Boxes drawn into photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edged.cli._draw import check_target, draw, target_of
from edged.detection import Detections
from edged.errors import InputError, RequestError


def photo(width: int = 400, height: int = 300) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (40, 40, 40)).save(file, "PNG")
    return file.getvalue()


def found(*boxes: tuple[float, float, float, float]) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.arange(1, count + 1),
    )


def changed(path: Path, width: int = 400, height: int = 300) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape == (height, width, 3)
    return np.abs(pixels - 40).max(axis=2) > 60


def test_the_box_is_where_it_was_found(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    draw(photo(), found((0.5, 0.25, 0.75, 0.5)), ["background", "cat"], target)
    drawn = changed(target)
    assert drawn[150:225, 100].all() and drawn[150:225, 199].all()  # left and right
    assert drawn[150, 100:200].all() and drawn[224, 100:200].all()  # top and bottom
    assert not drawn[155:220, 105:195].any()  # nothing inside of it
    assert drawn[135:149, 100:130].any()  # the label above it
    assert not drawn[230:].any() and not drawn[:, 210:].any() and not drawn[:, :99].any()


def test_labels_stay_in_the_picture(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    draw(photo(), found((0, 0.95, 0.2, 1.0)), [], target)
    drawn = changed(target)
    assert drawn[5:15, 330:360].any()  # "class 1 0.90" would not fit to the right of 0.95


def test_every_box_of_a_jpeg_is_drawn_in_the_colour_of_its_class(tmp_path: Path) -> None:
    target = tmp_path / "out.jpg"
    draw(photo(), found((0.2, 0.1, 0.5, 0.3), (0.2, 0.6, 0.5, 0.8)), ["", "a", "b"], target)
    with Image.open(target) as picture:
        pixels = np.asarray(picture).astype(int)
    one, other = pixels[100, 40], pixels[100, 240]
    assert np.abs(one - 40).max() > 60 and np.abs(other - 40).max() > 60
    assert np.abs(one - other).max() > 60


def test_a_picture_of_one_pixel_and_a_box_without_area(tmp_path: Path) -> None:
    draw(photo(1, 1), found((0, 0, 1, 1), (1, 1, 1, 1)), [], tmp_path / "out.png")
    assert changed(tmp_path / "out.png", 1, 1).all()


def test_where_the_pictures_go(tmp_path: Path) -> None:
    assert target_of(tmp_path, Path("a/cat.jpg")) == tmp_path / "cat.jpg"
    assert target_of(tmp_path, Path("cat.bin")) == tmp_path / "cat.bin.jpg"
    assert target_of(tmp_path / "out.png", Path("cat.jpg")) == tmp_path / "out.png"
    check_target(tmp_path, 3)
    check_target(tmp_path / "out.JPG", 1)
    with pytest.raises(InputError, match=r"cannot draw 2 images into .*: give a folder"):
        check_target(tmp_path / "out.jpg", 2)
    with pytest.raises(InputError, match=r"wanted a name that ends in .jpg, .jpeg, .png, or a"):
        check_target(tmp_path / "out.gif", 1)


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot decode the image"):
        draw(b"no image", found(), [], tmp_path / "out.png")
    with pytest.raises(InputError, match=r"cannot write .*: No such file or directory"):
        draw(photo(), found(), [], tmp_path / "nowhere" / "out.png")
