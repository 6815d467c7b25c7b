"""TensorFlow 1's bilinear, against its formula written down once more, one value at a time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged._onnxruntime import InferenceSession
from edged.preprocess import IMAGENET, SSD_300, PixelType, Preprocess, Sampling, Transform, apply

F = np.float32
MEANS = (F(123.68), F(116.779), F(103.939))


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def resized_value(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], y: int, x: int, channel: int
) -> np.float32:
    """``resize_bilinear(pixels, size)[y, x, channel]``, every step in float32.

    From TensorFlow's ``resize_bilinear_op.cc`` (align_corners and half_pixel_centers false):
    CalculateResizeScale is in / out, LegacyScaler is i · scale, the lower pixel is its floor, the
    upper one its ceiling within the image, the weight what is between.
    """

    def place(i: int, length: int, resized: int) -> tuple[int, int, np.float32]:
        at = F(i) * (F(length) / F(resized))
        below = math.floor(at)
        return max(below, 0), min(math.ceil(at), length - 1), F(at - F(below))

    height, width, _ = pixels.shape
    top, bottom, down = place(y, height, size[0])
    left, right, across = place(x, width, size[1])

    def value(row: int, column: int) -> np.float32:
        return F(pixels[row, column, channel])

    upper = F(value(top, left) + F(F(value(top, right) - value(top, left)) * across))
    low, high = value(bottom, left), value(bottom, right)
    lower = F(low + F(F(high - low) * across))
    return F(upper + F(F(lower - upper) * down))


def sample(height: int, width: int, seed: int = 0) -> list[tuple[int, int]]:
    """Corners, and some places between."""
    rng = np.random.default_rng(seed)
    inner = [(int(y), int(x)) for y, x in rng.integers(0, (height, width), (40, 2))]
    return [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), *inner]


SIZES = [
    (300, 400),
    (400, 300),
    (224, 224),
    (256, 256),
    (100, 531),  # enlarged
    (257, 1023),
    (7, 9),  # enlarged very much
    (1, 1),
    (1, 37),
    (37, 1),
    (2, 5000),  # extreme aspects
    (3000, 3),
    (1300, 1250),  # large: rows are picked one by one
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ssd_is_the_formula_to_the_bit(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    found = apply(pixels, SSD_300)
    assert found.shape == (1, 300, 300, 3) and found.dtype == np.float32
    for y, x in sample(300, 300):
        for channel, mean in enumerate(MEANS):
            expected = F(resized_value(pixels, (300, 300), y, x, channel) - mean)
            assert found[0, y, x, channel] == expected


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_imagenet_is_resize_crop_and_means_to_the_bit(size: tuple[int, int]) -> None:
    height, width = size
    pixels = noise(height, width)
    # vgg_preprocessing: _smallest_size_at_least, then _central_crop, all truncated.
    scale = F(256) / F(width) if height > width else F(256) / F(height)
    resized = int(F(F(height) * scale)), int(F(F(width) * scale))
    top, left = int((resized[0] - 224) / 2), int((resized[1] - 224) / 2)
    found = apply(pixels, IMAGENET)
    assert found.shape == (1, 224, 224, 3) and found.dtype == np.float32
    for y, x in sample(224, 224):
        for channel, mean in enumerate(MEANS):
            expected = F(resized_value(pixels, resized, top + y, left + x, channel) - mean)
            assert found[0, y, x, channel] == expected


def test_the_short_side_may_come_out_one_pixel_less() -> None:
    """float32 has no exact 256 / n: TF1 made 255 of it for some n, and so the crop moved."""
    short = [n for n in range(1, 3000) if int(F(n) * (F(256) / F(n))) == 255]
    assert short
    pixels = noise(short[0], short[0])
    found = apply(pixels, IMAGENET)
    expected = resized_value(pixels, (255, 255), 15, 15, 0) - MEANS[0]
    assert found[0, 0, 0, 0] == F(expected)


@pytest.mark.parametrize("size", [(300, 400), (100, 531), (257, 1023), (7, 9), (1, 37)], ids=str)
def test_onnx_has_the_same_resize_under_another_name(size: tuple[int, int]) -> None:
    """``Resize``, linear and asymmetric: ONNX's word for what graphs of TensorFlow 1 become."""
    node = helper.make_node(
        "Resize",
        ["x", "", "", "sizes"],
        ["y"],
        mode="linear",
        coordinate_transformation_mode="asymmetric",
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 300, 300])],
        [numpy_helper.from_array(np.array([1, 3, 300, 300]), "sizes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pixels = noise(*size)
    planes = pixels.transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    (expected,) = InferenceSession(model.SerializeToString()).run(None, {"x": planes})
    found = apply(pixels, SSD_300) + np.array(MEANS)
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=0.02)


def test_nothing_is_averaged_and_no_centre_is_moved() -> None:
    """What sets it apart: of a half as large result, the values are those of every other pixel."""
    spec = Preprocess(input="x", height=8, width=10, dtype=PixelType.FLOAT32, sampling=Sampling.TF1)
    pixels = noise(16, 20)
    np.testing.assert_array_equal(apply(pixels, spec)[0], pixels[::2, ::2].astype(np.float32))


def test_any_size_scale_and_mean_with_a_crop() -> None:
    spec = Preprocess(
        input="x",
        height=40,
        width=50,
        transform=Transform.CROP,
        short=64,
        sampling=Sampling.TF1,
        dtype=PixelType.FLOAT32,
        scale=1 / 127.5,
        mean=(1.0, 1.0, 1.0),
    )
    pixels = noise(128, 200)
    found = apply(pixels, spec)[0]
    # 128 × 200 becomes 64 × 100, of which the middle is cut out.
    expected = pixels[::2, ::2][12:52, 25:75].astype(np.float32) * F(1 / 127.5) - F(1)
    np.testing.assert_array_equal(found, expected)


def test_the_same_size_is_the_same_pixels() -> None:
    pixels = noise(300, 300)
    np.testing.assert_array_equal(apply(pixels, SSD_300)[0], pixels.astype(F) - np.array(MEANS))
