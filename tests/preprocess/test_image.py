"""Images to tensors: against Pillow, against a slow plain reference, and against bad input."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edged.errors import LimitError, RequestError
from edged.preprocess import (
    IMAGENET,
    SSD_300,
    Channels,
    ImageInput,
    Layout,
    PixelType,
    Preprocess,
    Transform,
    apply,
    image_to_array,
)

STRETCH = Preprocess(input="x", height=20, width=30)


def noise(height: int, width: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def png(pixels: npt.NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_stretch_is_pillows_bilinear() -> None:
    pixels = noise(47, 61)
    expected = Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR)
    found = image_to_array(png(pixels), STRETCH)
    assert found.shape == STRETCH.shape == (1, 20, 30, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], np.asarray(expected))


def test_same_size_passes_the_pixels_through_in_rgb_order() -> None:
    pixels = noise(20, 30)
    np.testing.assert_array_equal(image_to_array(png(pixels), STRETCH)[0], pixels)


def test_jpeg_is_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(file, "JPEG", quality=95)
    found = image_to_array(file.getvalue(), STRETCH)
    assert np.abs(found.astype(int) - [200, 100, 50]).max() <= 3


def test_scale_mean_and_std_per_channel_in_channels_first() -> None:
    spec = Preprocess(
        input="x",
        height=20,
        width=30,
        layout=Layout.NCHW,
        dtype=PixelType.FLOAT32,
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    pixels = noise(20, 30)
    found = image_to_array(png(pixels), spec)
    assert found.shape == spec.shape == (1, 3, 20, 30)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "share"),
    [
        ((300, 400), 0.0),
        ((480, 320), 0.01),
        ((720, 1280), 0.01),
        ((90, 613), 0.01),
        # Here weights are such fractions that many values lie on the half between two levels.
        ((1000, 50), 0.3),
    ],
    ids=str,
)
def test_crop_is_resize_then_crop(size: tuple[int, int], share: float) -> None:
    """What is cut away is not computed; Pillow takes the place of the crop in float32."""
    spec = Preprocess(input="x", height=64, width=80, transform=Transform.CROP, short=96)
    pixels = noise(*size)
    height, width = size
    resized = (96, 96 * height // width) if width < height else (96 * width // height, 96)
    whole = Image.fromarray(pixels).resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - 80) / 2), round((resized[1] - 64) / 2)
    expected = np.asarray(whole.crop((left, top, left + 80, top + 64)))
    off = np.abs(image_to_array(png(pixels), spec)[0].astype(int) - expected)
    assert off.max() <= 1
    assert (off > 0).mean() <= share


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 65_535)], ids=str)
def test_extreme_aspects_have_a_middle(size: tuple[int, int]) -> None:
    spec = Preprocess(input="x", height=224, width=224, transform=Transform.CROP, short=256)
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[size[0] // 2, size[1] // 2] = 255
    assert apply(pixels, spec).max() > 100


def test_crop_scale_mean_and_std_as_torchvision_has_them() -> None:
    text = "crop=32x32,short=36,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
    spec = Preprocess.parse(text, [ImageInput("data", "float32", (None, 3, None, None))])
    pixels = noise(36, 50)
    expected = (pixels[2:34, 9:41] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = apply(pixels, spec)
    assert found.shape == (1, 3, 32, 32) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        STRETCH,
        IMAGENET,
        SSD_300,
        Preprocess(input="x", height=20, width=30, transform=Transform.CROP, short=40),
    ],
    ids=lambda spec: str(spec.transform),
)
def test_pixels_give_what_their_png_gives(spec: Preprocess) -> None:
    pixels = noise(47, 161)
    found = apply(pixels, spec)
    assert found.shape == spec.shape and found.flags.c_contiguous
    np.testing.assert_array_equal(found, image_to_array(png(pixels), spec))
    np.testing.assert_array_equal(found, apply(pixels[::-1][::-1], spec))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((1, 9, 9, 3), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.dtype}{pixels.shape}",
)
def test_other_arrays_are_refused(pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(RequestError, match=r"wanted uint8 \[H, W, 3\], red, green and blue"):
        apply(pixels, STRETCH)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(20, 30)).convert(mode).save(file, "PNG")
    found = image_to_array(file.getvalue(), STRETCH)
    assert found.shape == (1, 20, 30, 3) and found.dtype == np.uint8


def test_palette_with_partial_transparency() -> None:
    image = Image.fromarray(noise(20, 30)).convert("P")
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(range(256)))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(image_to_array(file.getvalue(), STRETCH)[0], expected)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.full((20, 30), 0x8000, np.uint16)
    assert set(np.unique(image_to_array(png(grey), STRETCH))) == {0x80}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "no bytes at all"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"<svg/>", "XML, HTML or SVG"),
        (b"hello, world", "bytes that start with 68 65 6c 6c 6f"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, found: str) -> None:
    with pytest.raises(RequestError, match=f"cannot decode the image: found {found}") as caught:
        image_to_array(data, STRETCH)
    assert "wanted JPEG or PNG" in str(caught.value)


@pytest.mark.parametrize("fraction", [0.005, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_image(kind: str, fraction: float) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(200, 300)).save(file, kind)
    whole = file.getvalue()
    with pytest.raises(RequestError, match=f"the {kind} of .* damaged or cut short"):
        image_to_array(whole[: max(20, int(len(whole) * fraction))], STRETCH)


def test_damaged_png_header() -> None:
    whole = bytearray(png(noise(20, 30)))
    whole[18] ^= 0xFF
    with pytest.raises(RequestError, match="damaged"):
        image_to_array(bytes(whole), STRETCH)


def test_a_bomb_is_refused_by_its_header() -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    # No pixels follow: were they asked for, the error would be another one.
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    with pytest.raises(LimitError, match=r"20000 × 20000 = 400000000 pixels, at most 40000000"):
        image_to_array(bomb, STRETCH)


def test_the_bound_is_the_callers() -> None:
    with pytest.raises(LimitError, match="at most 599"):
        image_to_array(png(noise(20, 30)), STRETCH, max_pixels=599)
    assert image_to_array(png(noise(20, 30)), STRETCH, max_pixels=600).shape == (1, 20, 30, 3)


def test_a_side_longer_than_a_jpeg_may_have_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 70_000, 1, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    with pytest.raises(LimitError, match="70000 × 1 pixels, a side may have at most 65535"):
        image_to_array(data, STRETCH)
    with pytest.raises(LimitError, match="a side may have at most 65535"):
        apply(np.zeros((1, 70_000, 3), np.uint8), STRETCH)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("dtype", list(PixelType))
def test_blue_first(layout: Layout, dtype: PixelType) -> None:
    pixels = noise(20, 30)
    spec = Preprocess(
        input="x", height=20, width=30, layout=layout, dtype=dtype, channels=Channels.BGR
    )
    found = image_to_array(png(pixels), spec)
    assert found.flags.c_contiguous and found.dtype == dtype
    planes = found[0] if layout is Layout.NCHW else found[0].transpose(2, 0, 1)
    for channel, colour in enumerate((2, 1, 0)):
        np.testing.assert_array_equal(planes[channel], pixels[:, :, colour])


def test_means_and_deviations_are_in_the_order_of_the_tensor() -> None:
    spec = Preprocess(
        input="x",
        height=20,
        width=30,
        dtype=PixelType.FLOAT32,
        channels=Channels.BGR,
        mean=(103.939, 116.779, 123.68),
        std=(1.0, 2.0, 4.0),
    )
    pixels = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    found = image_to_array(png(pixels), spec)[0, 3, 4]
    expected = [50 - 103.939, (100 - 116.779) / 2, (200 - 123.68) / 4]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_means_of_a_preset_stay_with_their_colours() -> None:
    pixels = noise(300, 300)
    swapped = Preprocess.parse("ssd,channels=bgr", [ImageInput("x", "float32", (1, 300, 300, 3))])
    red_first = apply(pixels, SSD_300)
    np.testing.assert_array_equal(apply(pixels, swapped), red_first[..., ::-1])
