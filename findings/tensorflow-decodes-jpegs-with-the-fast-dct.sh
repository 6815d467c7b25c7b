#!/bin/sh
# TensorFlow and Pillow make different pixels of the same JPEG, by up to a dozen levels and more.
#
# tensorflow 2.21.0 (tf.io.decode_jpeg, and decode_image and decode_png for JPEGs) decodes by default
# with libjpeg's fast integer DCT; its documentation calls the default "a system-specific default".
# pillow 13.0.0 has the exact integer DCT and no option for the other. A network that was trained
# behind the one and is served behind the other sees other pixels in most places of a photograph.
#
# Seen: with the default dct_method 93 % of the pixels differ, by up to 10 levels, and TensorFlow's
# are exactly those of simplejpeg 1.9.0 with fastdct=True; with dct_method="INTEGER_ACCURATE" they
# are exactly Pillow's.
#
# Ends with 0 as long as that is so, and with another status when it changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow==2.21.0 pillow==13.0.0 simplejpeg==1.9.0
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 "$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || {
import io
import sys

import numpy as np
import simplejpeg
import tensorflow as tf
from PIL import Image

coarse = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
image = Image.fromarray(coarse).resize((480, 320), Image.Resampling.BICUBIC)
file = io.BytesIO()
image.save(file, "JPEG", quality=95, subsampling=0)
data = file.getvalue()

pillow = np.asarray(Image.open(io.BytesIO(data))).astype(int)
default = tf.io.decode_jpeg(data, 3).numpy()
accurate = tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE").numpy()
fast = simplejpeg.decode_jpeg(data, "RGB", fastdct=True)

off = np.abs(default - pillow)
share = (off > 0).any(axis=-1).mean()
print(f"default: {share:.0%} of the pixels differ from Pillow's, by up to {off.max()} levels")
print(f"default, from simplejpeg with fastdct=True: up to {np.abs(fast.astype(int) - default).max()}")
print(f"INTEGER_ACCURATE: by up to {np.abs(accurate - pillow).max()} levels")
same = np.array_equal(fast, default) and np.array_equal(accurate, pillow)
sys.exit(0 if same and share > 0.3 and off.max() > 3 else 1)
PYTHON
    tail -5 "$folder/log" >&2
    exit 1
}
