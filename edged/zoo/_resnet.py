"""ResNet v1 with bottlenecks: He et al., "Deep Residual Learning for Image Recognition", 2015.

Table 1 of the paper has the blocks. Implementations differ in where a block halves its image, and
the weights of one are wrong in another, though they fit; :class:`Halving` has the three that are
found.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from edged.zoo._skeleton import RECTIFIED, Image, Skeleton, Sketch

__all__ = ["Halving", "resnet"]

_DEPTHS = (64, 128, 256, 512)
_BRANCH = (0.35, 0.1)
"""Typical gammas of what is added to a shortcut: a unit changes little of what goes through it."""
_ADDED = (0.0, 0.2)
"""Typical offsets of terms, which would add up over the units."""


class Halving(enum.StrEnum):
    """Where three of the four blocks halve height and width."""

    SLIM = "slim"
    """In the 3×3 convolution of a block's last unit: TF-slim, which the original service had."""
    PAPER = "paper"
    """In the first 1×1 convolution of a block's first unit: the authors' own."""
    V1_5 = "v1.5"
    """In the 3×3 convolution of a block's first unit: torchvision and others since 2017."""


def resnet(
    scope: str, units: Sequence[int], halving: Halving, classes: int, output: str
) -> Skeleton:
    """A ResNet for images of 224×224.

    Args:
        scope: of TensorFlow's names, such as ``resnet_v1_50``.
        units: in each of the four blocks.
        output: name of the tensor of probabilities.
    """
    sketch = Sketch(224, 224)
    x = sketch.conv(sketch.image(), f"{scope}/conv1", 64, 7, stride=2, pad=(3, 3))
    x = sketch.relu(sketch.batch_norm(x, f"{scope}/conv1"), f"{scope}/conv1")
    pad = None if halving is Halving.SLIM else (1, 1)
    x = sketch.max_pool(x, f"{scope}/pool1", 3, 2, pad)
    for block, (count, depth) in enumerate(zip(units, _DEPTHS, strict=True), 1):
        for unit in range(1, count + 1):
            if halving is Halving.SLIM:
                halves = unit == count and block < 4
            else:
                halves = unit == 1 and block > 1
            x = _unit(sketch, x, f"{scope}/block{block}/unit_{unit}", depth, halves, halving)
    features = sketch.channels_last(
        sketch.global_average(x, f"{scope}/pool5/nchw:0"), f"{scope}/pool5:0"
    )
    logits = f"{scope}/logits/BiasAdd:0"
    sketch.classifier(features, f"{scope}/logits", logits, classes)
    sketch.softmax(logits, output)
    return sketch.finish({output: (classes,)}, features)


def _unit(
    sketch: Sketch, x: Image, scope: str, depth: int, halves: bool, halving: Halving
) -> Image:
    """1×1, 3×3 and 1×1 convolutions beside a shortcut."""
    scope += "/bottleneck_v1"
    stride = 2 if halves else 1
    first, second = (stride, 1) if halving is Halving.PAPER else (1, stride)

    def convolved(
        x: Image,
        name: str,
        channels: int,
        kernel: int,
        stride: int,
        gamma: tuple[float, float] = (1.0, 0.25),
        beta: tuple[float, float] = RECTIFIED,
    ) -> Image:
        # With a stride, too, as much before as after: slim's conv2d_same, and the others.
        pad = (kernel // 2, kernel // 2)
        y = sketch.conv(x, f"{scope}/{name}", channels, kernel, stride=stride, pad=pad)
        return sketch.batch_norm(y, f"{scope}/{name}", gamma, beta)

    if x.channels != 4 * depth:
        shortcut = convolved(x, "shortcut", 4 * depth, 1, stride, beta=_ADDED)
    elif halves:
        shortcut = sketch.max_pool(x, f"{scope}/shortcut", 1, stride)
    else:
        shortcut = x
    y = sketch.relu(convolved(x, "conv1", depth, 1, first), f"{scope}/conv1")
    y = sketch.relu(convolved(y, "conv2", depth, 3, second), f"{scope}/conv2")
    y = convolved(y, "conv3", 4 * depth, 1, 1, gamma=_BRANCH, beta=_ADDED)
    return sketch.relu(sketch.add(shortcut, y, scope), scope)
