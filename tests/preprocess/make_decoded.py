"""Writes what TensorFlow makes of images: ``python make_decoded.py`` (not a test).

The images are the JPEGs in ``decoded/`` and the photographs in ``tests/data/images``. Of each,
``decoded/tensorflow.json`` has the SHA-256 of the pixels, uint8 [H, W, 3], and of the photographs
those of the tensors that the preprocessing of TensorFlow 1's networks makes of them, float32. Last
made with TensorFlow 2.21.0. With ``--jpegs``, by an interpreter that has Pillow and simplejpeg, the
JPEGs are written first: encoders differ from version to version, so they are kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent / "decoded"
PHOTOS = Path(__file__).parents[1] / "data" / "images"
MEANS = (123.68, 116.779, 103.939)


def main() -> None:
    if "--jpegs" in sys.argv:
        write_jpegs()
        return
    import tensorflow as tf

    found = {"tensorflow": tf.__version__, "pixels": {}, "imagenet": {}, "ssd": {}}
    for path in sorted([*HERE.glob("*.jpg"), *PHOTOS.glob("*.jp*g")]):
        found["pixels"][path.name] = digest(tf.io.decode_jpeg(path.read_bytes(), 3).numpy())
    for path in sorted(PHOTOS.glob("*.jp*g")):
        pixels = tf.cast(tf.io.decode_jpeg(path.read_bytes(), 3), tf.float32)
        found["imagenet"][path.name] = digest(imagenet(tf, pixels))
        found["ssd"][path.name] = digest(minus_means(tf, resized(tf, pixels, (300, 300))))
    text = json.dumps(found, indent=1, sort_keys=True)
    if "--print" in sys.argv:
        sys.stdout.write(text)
    else:
        (HERE / "tensorflow.json").write_text(text + "\n")


def digest(values) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def resized(tf, pixels, size):
    return tf.compat.v1.image.resize_bilinear(pixels[None], size).numpy()


def imagenet(tf, pixels):
    """As the ``vgg_preprocessing`` of TensorFlow 1's networks has it for evaluation."""
    height, width = (tf.cast(side, tf.float32) for side in pixels.shape[:2])
    scale = tf.constant(256, tf.float32) / tf.minimum(height, width)
    tall, wide = int(tf.cast(height * scale, tf.int32)), int(tf.cast(width * scale, tf.int32))
    whole = resized(tf, pixels, (tall, wide))
    top, left = (tall - 224) // 2, (wide - 224) // 2
    return minus_means(tf, whole[:, top : top + 224, left : left + 224])


def minus_means(tf, values):
    return (tf.constant(values) - MEANS).numpy()


def write_jpegs() -> None:
    import numpy as np
    import simplejpeg
    from PIL import Image

    with Image.open(PHOTOS / "parrot.jpg") as photo:
        image = photo.convert("RGB").resize((53, 37))
    pixels = np.ascontiguousarray(image)
    for sampling in ("444", "422", "420", "440", "411"):
        data = simplejpeg.encode_jpeg(pixels, 85, "RGB", sampling)
        (HERE / f"{sampling}.jpg").write_bytes(data)

    def saved(kind=image, **options) -> bytes:
        file = io.BytesIO()
        kind.save(file, "JPEG", **options)
        return file.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    inks = image.convert("CMYK")
    cmyk = saved(inks)
    marker = cmyk.index(b"\xff\xee")
    length = 2 + int.from_bytes(cmyk[marker + 2 : marker + 4], "big")
    before, adobe, after = cmyk[:marker], cmyk[marker : marker + length], cmyk[marker + length :]
    for name, data in {
        "grey": saved(image.convert("L")),
        "progressive": saved(progressive=True, quality=60),
        "restarts": saved(restart_marker_blocks=3),
        "rgb": saved(keep_rgb=True),
        "turned": saved(exif=turned),
        "one_pixel": saved(image.resize((1, 1))),
        "narrow": saved(image.resize((1, 40)), subsampling=2),
        "flat": saved(image.resize((61, 1)), subsampling=2),
        "coarse": saved(quality=1),
        "fine": saved(quality=100, subsampling=0),
        "cmyk": cmyk,
        "cmyk_progressive": saved(inks, progressive=True),
        # The same samples, taken for inks that are not inverted, and for YCCK.
        "cmyk_plain": before + after,
        "ycck": before + adobe[:-1] + b"\2" + after,
    }.items():
        (HERE / f"{name}.jpg").write_bytes(data)


if __name__ == "__main__":
    main()
