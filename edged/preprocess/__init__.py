"""From the bytes of a photograph to the tensor that a model wants.

A `Preprocess` says how; `image_to_array` does it, with the decoder held to JPEG and PNG and to a
bounded number of pixels, because the bytes may come from anyone.
"""

from edged.preprocess._image import MAX_PIXELS, image_to_array
from edged.preprocess._spec import ImageInput, Layout, PixelType, Preprocess, Transform

__all__ = [
    "MAX_PIXELS",
    "ImageInput",
    "Layout",
    "PixelType",
    "Preprocess",
    "Transform",
    "image_to_array",
]
