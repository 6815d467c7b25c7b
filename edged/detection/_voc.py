"""The classes of PASCAL VOC, in the order that SSD's networks have them."""

from __future__ import annotations

from typing import Final

__all__ = ["VOC_LABELS"]

VOC_LABELS: Final = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""By class; 0 is never detected."""
