"""Transfer learning: a classifier of one's own on the features that a bundle's network computes.

`Featurizer` runs photographs through a network up to its feature tensor, quantised as on the
device; `train_head` fits a classifier to what comes out; `pack_head` packs the same network with
that classifier, so that the device's part of the new bundle is the same to the byte.
"""

from edged.transfer._cut import HEAD_OUTPUT, feature_tensor, featurizer_model, model_with_head
from edged.transfer._features import Features
from edged.transfer._featurize import Featurizer
from edged.transfer._head import Head, train_head
from edged.transfer._pack import pack_head

__all__ = [
    "HEAD_OUTPUT",
    "Features",
    "Featurizer",
    "Head",
    "feature_tensor",
    "featurizer_model",
    "model_with_head",
    "pack_head",
    "train_head",
]
