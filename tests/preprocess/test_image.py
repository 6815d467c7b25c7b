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
from edged.preprocess import Layout, PixelType, Preprocess, Transform, image_to_array

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


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (224, 224), (100, 531), (257, 1023)])
def test_imagenet_is_the_slow_reference(size: tuple[int, int]) -> None:
    spec = Preprocess(
        input="x",
        height=224,
        width=224,
        dtype=PixelType.FLOAT32,
        transform=Transform.IMAGENET,
    )
    pixels = noise(*size)
    found = image_to_array(png(pixels), spec)
    assert found.shape == (1, 224, 224, 3) and found.dtype == np.float32
    for y, x in [(0, 0), (0, 223), (223, 0), (223, 223), (100, 37), (5, 210), (180, 111)]:
        np.testing.assert_allclose(found[0, y, x], reference_pixel(pixels, y, x), atol=1e-3)


def reference_pixel(pixels: npt.NDArray[np.uint8], y: int, x: int) -> list[float]:
    """One pixel, by the definition: resize, then crop, then subtract."""
    height, width, _ = pixels.shape
    if height > width:
        scale = np.float32(256) / np.float32(width)
    else:
        scale = np.float32(256) / np.float32(height)
    new_height = int(np.float32(height) * scale)
    new_width = int(np.float32(width) * scale)
    y += int((new_height - 224) / 2)
    x += int((new_width - 224) / 2)
    in_y = float(np.float32(y) * (np.float32(height) / np.float32(new_height)))
    in_x = float(np.float32(x) * (np.float32(width) / np.float32(new_width)))
    y0, x0 = int(in_y), int(in_x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = in_y - y0, in_x - x0
    result = []
    for channel, mean in enumerate((123.68, 116.779, 103.939)):
        corner = pixels[:, :, channel].astype(float)
        top = corner[y0, x0] * (1 - dx) + corner[y0, x1] * dx
        bottom = corner[y1, x0] * (1 - dx) + corner[y1, x1] * dx
        result.append(top * (1 - dy) + bottom * dy - mean)
    return result


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
