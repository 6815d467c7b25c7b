"""From the bytes of a photograph to the tensor that a model wants.

A `Preprocess` says how; `image_to_array` does it, with the decoder held to JPEG and PNG and to a
bounded number of pixels, because the bytes may come from anyone; `apply` does it to pixels that are
decoded already, for people who prepare their tensors themselves. docs/preprocessing.md lists the
transforms.
"""

from edged.preprocess._apply import apply, image_to_array
from edged.preprocess._decode import MAX_PIXELS, MAX_SIDE_PIXELS, decode
from edged.preprocess._spec import (
    IMAGENET,
    SSD_300,
    Channels,
    ImageInput,
    Layout,
    PixelType,
    Preprocess,
    Recipe,
    Sampling,
    Transform,
)

__all__ = [
    "IMAGENET",
    "MAX_PIXELS",
    "MAX_SIDE_PIXELS",
    "SSD_300",
    "Channels",
    "ImageInput",
    "Layout",
    "PixelType",
    "Preprocess",
    "Recipe",
    "Sampling",
    "Transform",
    "apply",
    "decode",
    "image_to_array",
]
