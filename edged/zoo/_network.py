"""The five networks by name, and making one of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx

from edged.errors import InputError, NotFoundError
from edged.zoo._densenet import densenet
from edged.zoo._files import read_weights
from edged.zoo._random import made_up_images, random_weights
from edged.zoo._resnet import Halving, resnet
from edged.zoo._skeleton import Skeleton
from edged.zoo._ssd import Grid, ssd300
from edged.zoo._vgg import vgg16

__all__ = ["FEATURES_KEY", "NETWORKS", "WEIGHTS_KEY", "Network", "ZooModel", "build", "network"]

FEATURES_KEY: Final = "edged.features"
"""Key of the ONNX metadata whose value names the tensor between featurizer and classifier."""
WEIGHTS_KEY: Final = "edged.weights"
"""Key of the ONNX metadata that says where the weights are from."""
_MAX_CLASSES: Final = 100_000

Progress = Callable[[float, str], None]
_Draw = Callable[[str, int], Skeleton]


@dataclass(frozen=True, slots=True)
class Network:
    """One of the classic networks.

    Attributes:
        name: as in ``edgectl zoo NAME``.
        paper: where it was published.
        classes: how many by default.
        variants: the versions there are of it; the first is the default.
        preprocess: what makes its input of a photograph, as ``edgectl pack --preprocess`` takes it.
    """

    name: str
    paper: str
    classes: int
    variants: tuple[str, ...]
    preprocess: str
    draw: _Draw

    def skeleton(self, *, classes: int | None = None, variant: str | None = None) -> Skeleton:
        """The network without weights.

        Raises:
            InputError: no such variant, or no possible number of classes.
        """
        if variant is not None and variant not in self.variants:
            raise InputError(
                f"cannot build {self.name} {variant!r}: its variants are {', '.join(self.variants)}"
            )
        if classes is not None and not 2 <= classes <= _MAX_CLASSES:
            raise InputError(
                f"cannot build {self.name} for {classes} classes: wanted 2 to {_MAX_CLASSES}"
            )
        return self.draw(variant or self.variants[0], classes or self.classes)


@dataclass(frozen=True, slots=True, eq=False)
class ZooModel:
    """A network with weights.

    Attributes:
        weights: where they are from: "random weights, seed 7", or the name of a file.
        proto: the ONNX model; its metadata say the same.
    """

    network: Network
    skeleton: Skeleton
    weights: str
    proto: onnx.ModelProto

    def onnx(self) -> bytes:
        """The model as a file."""
        return bytes(self.proto.SerializeToString(deterministic=True))

    def samples(self, count: int = 16) -> dict[str, npt.NDArray[np.float32]]:
        """Made-up inputs in the range of photographs, by input: for calibration without any."""
        (declared,) = self.proto.graph.input
        size = self.skeleton.height, self.skeleton.width
        return {declared.name: made_up_images(*size, count)}


def build(
    name: str,
    *,
    weights: Path | None = None,
    seed: int = 0,
    classes: int | None = None,
    variant: str | None = None,
    progress: Progress = lambda _fraction, _step: None,
) -> ZooModel:
    """Make one of :data:`NETWORKS`.

    Args:
        name: of the network.
        weights: an ``.npz`` or ``.onnx`` with them; by default they are random, from *seed*.
        classes: by default those of the data set it was published for.
        variant: one of the network's.
        progress: told the fraction done and the step.

    Raises:
        NotFoundError: no such network, or no such file.
        InputError: *classes* or *variant* cannot be.
        ModelError: the weights do not fit; says which.
        LimitError: the file of weights is too large.
    """
    chosen = network(name)
    skeleton = chosen.skeleton(classes=classes, variant=variant)
    if weights is not None:
        progress(0.0, "reading weights")
        arrays, origin = read_weights(weights, skeleton), weights.name
    else:
        progress(0.0, "drawing random weights")
        arrays, origin = random_weights(skeleton, seed), f"random weights, seed {seed}"
    progress(0.8, "building the network")
    metadata = {WEIGHTS_KEY: origin, "edged.zoo": f"{chosen.name} {variant or chosen.variants[0]}"}
    if skeleton.features is not None:
        metadata[FEATURES_KEY] = skeleton.features[0]
    proto = skeleton.model(arrays, chosen.name, metadata)
    proto.doc_string = f"{chosen.paper}. Weights: {origin}."
    progress(1.0, "built")
    return ZooModel(chosen, skeleton, origin, proto)


def network(name: str) -> Network:
    """The network called *name*; case and dashes do not matter.

    Raises:
        NotFoundError: there is none; lists those there are.
    """
    known = {_plain(known): found for known, found in NETWORKS.items()}
    if _plain(name) in known:
        return known[_plain(name)]
    close = difflib.get_close_matches(_plain(name), known, n=1)
    hint = f" (did you mean {known[close[0]].name}?)" if close else ""
    raise NotFoundError(f"cannot build {name!r}: the networks are {', '.join(NETWORKS)}{hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _resnet50(variant: str, classes: int) -> Skeleton:
    output = "classifier_1/resnet_v1_50/predictions/Softmax:0"
    return resnet("resnet_v1_50", (3, 4, 6, 3), Halving(variant), classes, output)


def _resnet152(variant: str, classes: int) -> Skeleton:
    output = "classifier/resnet_v1_152/predictions/Softmax:0"
    return resnet("resnet_v1_152", (3, 8, 36, 3), Halving(variant), classes, output)


def _densenet121(_variant: str, classes: int) -> Skeleton:
    output = "classifier/densenet121/predictions/Softmax:0"
    return densenet("densenet121", (6, 12, 24, 16), classes, output)


def _vgg16(_variant: str, classes: int) -> Skeleton:
    return vgg16("vgg_16", classes, "classifier/vgg_16/fc8/squeezed:0")


def _ssd300(variant: str, classes: int) -> Skeleton:
    return ssd300("ssd_300_vgg", Grid(variant), classes)


_HE = 'He et al., "Deep Residual Learning for Image Recognition", 2015'
_ALL: Final = (
    Network("resnet-50", _HE, 1000, tuple(Halving), "imagenet", _resnet50),
    Network("resnet-152", _HE, 1000, tuple(Halving), "imagenet", _resnet152),
    Network(
        "densenet-121",
        'Huang et al., "Densely Connected Convolutional Networks", 2016',
        1000,
        ("paper",),
        "imagenet",
        _densenet121,
    ),
    Network(
        "vgg-16",
        'Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image'
        ' Recognition", 2014',
        1000,
        ("paper",),
        "imagenet",
        _vgg16,
    ),
    Network(
        "ssd-vgg-300",
        'Liu et al., "SSD: Single Shot MultiBox Detector", 2016',
        21,
        tuple(Grid),
        "ssd",
        _ssd300,
    ),
)
NETWORKS: Final[Mapping[str, Network]] = {network.name: network for network in _ALL}
"""The networks by name."""
