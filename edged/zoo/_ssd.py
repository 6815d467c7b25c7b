"""SSD300 on VGG-16: Liu et al., "SSD: Single Shot MultiBox Detector", 2016.

fc6 and fc7 of VGG-16 became convolutions (the first dilated), pool5 keeps the size, and four
blocks follow; boxes and classes come from six of the maps. Names are those of the TensorFlow
network that the original service took.
"""

from __future__ import annotations

import enum

from edged.zoo._skeleton import RECTIFIED, Image, Skeleton, Sketch
from edged.zoo._vgg import stage

__all__ = ["Grid", "ssd300"]

_ANCHORS = {4: 4, 7: 6, 8: 6, 9: 6, 10: 4, 11: 4}
"""Boxes that are predicted at each pixel of a block's map."""


class Grid(enum.StrEnum):
    """How many pixels the first of the six maps has: how pool3 rounds 75 / 2."""

    SERVICE = "service"
    """37, down: 8,432 boxes, the original service's shapes."""
    PAPER = "paper"
    """38, up: 8,732 boxes."""


def ssd300(scope: str, grid: Grid, classes: int) -> Skeleton:
    """SSD for images of 300×300; *classes* with the background.

    Outputs are the logits of the classes of all six maps, then the boxes.
    """
    sketch = Sketch(300, 300)
    x = sketch.image()
    maps: dict[int, Image] = {}
    for number in range(1, 6):
        x = stage(sketch, x, scope, number)
        maps[number] = x
        if number == 5:
            x = sketch.max_pool(x, f"{scope}/pool5", 3, 1)
        else:
            down = number == 3 and grid is Grid.SERVICE
            x = sketch.max_pool(x, f"{scope}/pool{number}", 2, 2, (0, 0) if down else None)
    x = _convolved(sketch, x, f"{scope}/conv6", 1024, 3, dilation=6)
    x = maps[7] = _convolved(sketch, x, f"{scope}/conv7", 1024, 1)
    for number, narrow, wide, stride in ((8, 256, 512, 2), (9, 128, 256, 2)):
        x = _convolved(sketch, x, f"{scope}/block{number}/conv1x1", narrow, 1)
        name = f"{scope}/block{number}/conv3x3"
        x = maps[number] = _convolved(sketch, x, name, wide, 3, stride=stride, pad=(1, 1))
    for number in (10, 11):
        x = _convolved(sketch, x, f"{scope}/block{number}/conv1x1", 128, 1)
        name = f"{scope}/block{number}/conv3x3"
        x = maps[number] = _convolved(sketch, x, name, 256, 3, pad=(0, 0))
    # conv4_3 has larger values than the other maps, so it is normalised (section 3.1).
    maps[4] = sketch.normalised(maps[4], f"{scope}/block4_box/L2Normalization")
    logits: dict[str, tuple[int, ...]] = {}
    boxes: dict[str, tuple[int, ...]] = {}
    for number, anchors in _ANCHORS.items():
        box = f"{scope}/block{number}_box"
        boxes |= _head(sketch, maps[number], f"{box}/conv_loc", f"{box}/Reshape:0", anchors, 4)
        logits |= _head(
            sketch, maps[number], f"{box}/conv_cls", f"{box}/Reshape_1:0", anchors, classes
        )
    return sketch.finish(logits | boxes)


def _convolved(
    sketch: Sketch,
    x: Image,
    name: str,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    pad: tuple[int, int] | None = None,
) -> Image:
    y = sketch.conv(
        x, name, channels, kernel, stride=stride, dilation=dilation, pad=pad, bias=RECTIFIED
    )
    return sketch.relu(y, name)


def _head(
    sketch: Sketch, x: Image, scope: str, output: str, anchors: int, each: int
) -> dict[str, tuple[int, ...]]:
    """*each* values for every anchor of every pixel: the output's name and shape."""
    y = sketch.conv(x, scope, anchors * each, 3, bias=(0.0, 0.2))
    name, (height, width, _) = sketch.channels_last(y, f"{scope}/nhwc:0")
    shape = (height, width, anchors, each)
    sketch.reshape(name, output, shape)
    return {output: shape}
