"""DenseNet-BC: Huang et al., "Densely Connected Convolutional Networks", 2016.

Table 1 of the paper has the blocks, its section 3 the order in a layer: batch norm, ReLU,
convolution. Names are those of the TensorFlow network that the original service took.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.zoo._skeleton import Image, Skeleton, Sketch

__all__ = ["densenet"]

_GROWTH = 32
_BOTTLENECK = 4 * _GROWTH


def densenet(scope: str, layers: Sequence[int], classes: int, output: str) -> Skeleton:
    """A DenseNet with growth rate 32 and compression ½ for images of 224×224.

    Args:
        layers: in each of the four dense blocks.
        output: name of the tensor of probabilities.
    """
    sketch = Sketch(224, 224)
    x = sketch.conv(sketch.image(), f"{scope}/conv1", 2 * _GROWTH, 7, stride=2, pad=(3, 3))
    x = sketch.relu(sketch.batch_norm(x, scope), scope)
    x = sketch.max_pool(x, f"{scope}/pool1", 3, 2, (1, 1))
    for block, count in enumerate(layers, 1):
        for layer in range(1, count + 1):
            within = f"{scope}/dense_block{block}/conv_block{layer}"
            y = _convolved(sketch, x, f"{within}/x1", _BOTTLENECK, 1)
            y = _convolved(sketch, y, f"{within}/x2", _GROWTH, 3)
            x = sketch.concat(x, y, within)
        if block < len(layers):
            within = f"{scope}/transition_block{block}"
            x = _convolved(sketch, x, f"{within}/blk", x.channels // 2, 1)
            x = sketch.average_pool(x, within, 2)
    final = f"{scope}/final_block"
    x = sketch.relu(sketch.batch_norm(x, final), final)
    features = sketch.channels_last(
        sketch.global_average(x, f"{final}/global_avg_pool/nchw:0"), f"{final}/global_avg_pool:0"
    )
    logits = f"{scope}/logits/BiasAdd:0"
    sketch.classifier(features, f"{scope}/logits", logits, classes)
    sketch.softmax(logits, output)
    return sketch.finish({output: (classes,)}, features)


def _convolved(sketch: Sketch, x: Image, scope: str, channels: int, kernel: int) -> Image:
    x = sketch.relu(sketch.batch_norm(x, scope), scope)
    return sketch.conv(x, f"{scope}/Conv", channels, kernel)
