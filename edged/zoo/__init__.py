"""The classic networks: ResNet-50 and -152, DenseNet-121, VGG-16, SSD-VGG-300, as ONNX models.

They are layer for layer as published, under the tensor names of the original service, which were
TensorFlow's::

    model = zoo.build("resnet-50", seed=7)          # or weights=Path("resnet_v1_50.npz")
    Path("resnet-50.onnx").write_bytes(model.onnx())

Every one takes ``Placeholder:0``, float32 [N, height, width, 3]: R, G, B in 0 … 255 minus their
means, as the manifest's preprocessing makes it (`Network.preprocess`). All but SSD are a featurizer
and a classifier; the tensor between them is `Skeleton.features`, a name and a shape such as
(1, 1, 2048), and the model's metadata have its name under `FEATURES_KEY`. The metadata under
`WEIGHTS_KEY` say where the weights are from: a file of the user's, or "random weights, seed 7".

``Network.skeleton()`` is the network without weights, in no time: tensor names, shapes,
parameters, multiply-accumulates.
"""

from edged.zoo._network import (
    FEATURES_KEY,
    NETWORKS,
    WEIGHTS_KEY,
    Network,
    ZooModel,
    build,
    network,
)
from edged.zoo._random import made_up_images
from edged.zoo._skeleton import INPUT, Kind, Parameter, Skeleton

__all__ = [
    "FEATURES_KEY",
    "INPUT",
    "NETWORKS",
    "WEIGHTS_KEY",
    "Kind",
    "Network",
    "Parameter",
    "Skeleton",
    "ZooModel",
    "build",
    "made_up_images",
    "network",
]
