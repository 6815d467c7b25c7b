"""VGG-16: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, configuration D; its fully connected layers as convolutions (section 3.2).
"""

from __future__ import annotations

from edged.zoo._skeleton import RECTIFIED, Image, Skeleton, Sketch

__all__ = ["STAGES", "stage", "vgg16"]

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions in each stage, and their channels."""


def vgg16(scope: str, classes: int, output: str) -> Skeleton:
    """VGG-16 for images of 224×224.

    Args:
        output: name of the tensor of logits; there is no softmax, as in TF-slim.
    """
    sketch = Sketch(224, 224)
    x = sketch.image()
    for number in range(1, len(STAGES) + 1):
        x = stage(sketch, x, scope, number)
        x = sketch.max_pool(x, f"{scope}/pool{number}", 2, 2, (0, 0))
    x = sketch.conv(x, f"{scope}/fc6", 4096, x.height, pad=(0, 0), bias=RECTIFIED)
    x = sketch.relu(x, f"{scope}/fc6")
    x = sketch.relu(sketch.conv(x, f"{scope}/fc7", 4096, 1, bias=RECTIFIED), f"{scope}/fc7/nchw")
    features = sketch.channels_last(x, f"{scope}/fc7/Relu:0")
    sketch.classifier(features, f"{scope}/fc8", output, classes)
    return sketch.finish({output: (classes,)}, features)


def stage(sketch: Sketch, x: Image, scope: str, number: int) -> Image:
    """The convolutions of a stage, counted from 1."""
    count, channels = STAGES[number - 1]
    for index in range(1, count + 1):
        name = f"{scope}/conv{number}/conv{number}_{index}"
        x = sketch.relu(sketch.conv(x, name, channels, 3, bias=RECTIFIED), name)
    return x
