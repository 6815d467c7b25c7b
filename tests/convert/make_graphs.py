"""Makes the graphs in ``graphs/`` with TensorFlow: ``python make_graphs.py graphs`` (not a test).

A string of encoded images is mapped over by a function that decodes, resizes, crops and scales; a
small network follows. ``tf1`` graphs have the loops and branches of TensorFlow 1, ``tf2`` ones
those that TensorFlow 2 makes of its functions. Last made with TensorFlow 2.21.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
MEANS = (123.68, 116.779, 103.939)
OUTPUT = "classifier/predictions/Softmax"


def short_side(image, short):
    """Sizes that make the short side *short*, as TensorFlow 1's examples compute them."""
    size = tf.shape(image)
    height, width = tf.cast(size[0], tf.float32), tf.cast(size[1], tf.float32)
    factor = v1.cond(
        tf.greater(height, width), lambda: float(short) / width, lambda: float(short) / height
    )
    return [tf.cast(height * factor, tf.int32), tf.cast(width * factor, tf.int32)]


def resized(image, size, **options):
    return tf.squeeze(v1.image.resize_bilinear(tf.expand_dims(image, 0), size, **options))


def cropped(image, side):
    size = tf.shape(image)
    offset = tf.stack([(size[0] - side) / 2, (size[1] - side) / 2, 0])
    check = v1.Assert(tf.greater_equal(tf.minimum(size[0], size[1]), side), ["too small"])
    with tf.control_dependencies([check]):
        shape = tf.stack([side, side, 3])
    return tf.reshape(tf.slice(image, tf.cast(offset, tf.int32), shape), shape)


def minus_means(image, side, order=(0, 1, 2)):
    image = tf.expand_dims(image, 0)
    planes = [tf.slice(image, [0, 0, 0, c], [1, side, side, 1]) - MEANS[c] for c in range(3)]
    return tf.squeeze(tf.concat([planes[c] for c in order], 3))


def decoded(data, channels=3):
    return tf.cast(tf.image.decode_png(data, channels), tf.float32)


def imagenet(data):
    image = decoded(data)
    return minus_means(cropped(resized(image, short_side(image, 256)), 224), 224)


def modern(data):
    image = decoded(data) / 255.0
    image = cropped(resized(image, short_side(image, 48)), 32)
    return (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def random_crop(data):
    image = decoded(data)
    image = resized(image, short_side(image, 48))
    left = v1.random_uniform([], maxval=4, dtype=tf.int32)
    return minus_means(tf.slice(image, tf.stack([0, left, 0]), [32, 32, 3]), 32)


def caffe(reordered):
    """Blue first, then the means in the order of the tensor: *reordered* swaps the channels."""

    def preprocess(data):
        image = reordered(resized(decoded(data), [32, 24]))
        return image - MEANS[::-1]

    return preprocess


KINDS = {
    "imagenet": imagenet,
    "ssd": lambda data: minus_means(resized(decoded(data), [300, 300]), 300),
    "unit": lambda data: resized(decoded(data), [32, 24]) * (1 / 127.5) - 1.0,
    "modern": modern,
    "bgr": lambda data: minus_means(resized(decoded(data), [32, 32]), 32, (2, 1, 0)),
    "bgr_reverse": caffe(lambda image: tf.reverse(image, [-1])),
    "bgr_slice": caffe(lambda image: image[..., ::-1]),
    "bgr_split": caffe(lambda image: tf.concat(tf.split(image, 3, 2)[::-1], 2)),
    "bgr_split_at": caffe(lambda image: tf.concat(tf.split(image, [1, 1, -1], 2)[::-1], 2)),
    "bgr_unstack": caffe(lambda image: tf.stack(tf.unstack(image, 3, 2)[::-1], 2)),
    "bgr_gather": caffe(lambda image: tf.gather(image, [2, 1, 0], axis=2)),
    "bgr_bias": caffe(lambda image: tf.nn.bias_add(image[..., ::-1], [1.0, 2.0, 3.0])),
    "bgr_imagenet": lambda data: minus_means(
        cropped(resized(decoded(data), short_side(decoded(data), 256)), 224), 224, (2, 1, 0)
    ),
    "gbr": caffe(lambda image: tf.gather(image, [1, 2, 0], axis=2)),
    "nearest": lambda data: tf.squeeze(
        v1.image.resize_nearest_neighbor(tf.expand_dims(decoded(data), 0), [32, 32])
    ),
    "half_pixel": lambda data: resized(decoded(data), [32, 32], half_pixel_centers=True),
    "contrast": lambda data: tf.image.adjust_contrast(resized(decoded(data), [32, 32]), 2.0),
    "grey": lambda data: resized(decoded(data, 1), [32, 32])[..., None],
    "random": random_crop,
    "gamma": lambda data: minus_means(tf.minimum(resized(decoded(data), [32, 32]), 200.0), 32),
}


def dropped_out(x):
    """What training notebooks leave in a graph: two switches that are fed in training only."""
    phase = v1.placeholder_with_default(False, (), "keras_learning_phase")
    training = v1.placeholder_with_default(False, (), "is_training")
    x = v1.cond(phase, lambda: tf.nn.dropout(x, rate=0.5), lambda: tf.identity(x))
    return tf.where(training, x * 2.0, x)


def build(preprocess, single, folder, training):
    """The graph with variables, saved into *folder*, and frozen."""
    graph = tf.Graph()
    with graph.as_default(), v1.Session() as session:
        source = v1.placeholder(tf.string, [] if single else None)
        if single:
            images = tf.expand_dims(preprocess(source), 0)
        else:
            images = v1.map_fn(preprocess, source, tf.float32, name="map")
        channels = images.shape[-1] or 3
        rng = np.random.default_rng(3)
        kernel = rng.normal(0, 0.02, (3, 3, channels, 8)).astype(np.float32)
        weights = rng.normal(0, 0.5, (8, 5)).astype(np.float32)
        x = tf.nn.conv2d(
            images, v1.get_variable("kernel", initializer=kernel), [1, 2, 2, 1], "SAME"
        )
        x = tf.reduce_mean(tf.nn.relu(x), [1, 2], name="features")
        if training:
            x = dropped_out(x)
        x = tf.matmul(x, v1.get_variable("weights", initializer=weights))
        output = tf.nn.softmax(x, name=OUTPUT)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(
            session, str(folder), inputs={"images": source}, outputs={"output_alias": output}
        )
        definition = graph.as_graph_def()
        return v1.graph_util.convert_variables_to_constants(session, definition, [OUTPUT])


def main(kind, style, output, saved):
    v1.disable_eager_execution()
    if style != "tf2":
        v1.disable_v2_behavior()
    training = kind == "training"
    frozen = build(KINDS["imagenet" if training else kind], style == "single", saved, training)
    if style == "tf2":  # frozen by the worker: its functions become Switch and Merge
        worker = Path(__file__).parents[2] / "edged" / "convert" / "_tensorflow.py"
        job = {"do": "freeze", "model": str(saved), "output": str(output)}
        job |= {"signature": "serving_default", "outputs": []}
        command = [sys.executable, str(worker)]
        subprocess.run(command, input=json.dumps([job]), text=True, check=True)
    else:
        output.write_bytes(frozen.SerializeToString())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        for kind, style in [
            *((kind, "tf1") for kind in KINDS),
            ("training", "tf1"),
            ("imagenet", "tf2"),
            ("bgr_slice", "tf2"),
            ("unit", "single"),
        ]:
            file = Path(sys.argv[1]) / f"{kind}-{style}.pb"
            with tempfile.TemporaryDirectory() as folder:
                saved = str(Path(folder) / "saved")
                subprocess.run(
                    [sys.executable, __file__, kind, style, str(file), saved], check=True
                )
    else:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
