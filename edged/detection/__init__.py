"""From what a detection network computes to boxes, classes and scores.

`decode` turns the outputs of SSD-VGG-300 or YuNet into `Detections`, one for each image: for
clients of a bundle that answers with raw outputs. The container does the same for a bundle whose
manifest names an `Epilogue`, and answers with four padded tensors, which `from_tensors` reads.
`read` takes either. docs/detection.md has the formulas.
"""

from edged.detection._boxes import decode_boxes, encode_boxes, overlaps, suppress
from edged.detection._decode import are_readable, check_epilogue, count_classes, decode, read
from edged.detection._detections import (
    BOXES,
    CLASSES,
    COUNT,
    SCORES,
    TENSORS,
    Detection,
    Detections,
    from_tensors,
    shapes_of_tensors,
    to_tensors,
)
from edged.detection._epilogue import Epilogue, EpilogueName
from edged.detection._priors import SSD_300, SSD_300_PAPER, SSD_OUTPUTS, FeatureMap, priors
from edged.detection._ssd import check_outputs
from edged.detection._voc import VOC_LABELS
from edged.detection._yunet import YUNET_OUTPUTS

__all__ = [
    "BOXES",
    "CLASSES",
    "COUNT",
    "SCORES",
    "SSD_300",
    "SSD_300_PAPER",
    "SSD_OUTPUTS",
    "TENSORS",
    "VOC_LABELS",
    "YUNET_OUTPUTS",
    "Detection",
    "Detections",
    "Epilogue",
    "EpilogueName",
    "FeatureMap",
    "are_readable",
    "check_epilogue",
    "check_outputs",
    "count_classes",
    "decode",
    "decode_boxes",
    "encode_boxes",
    "from_tensors",
    "overlaps",
    "priors",
    "read",
    "shapes_of_tensors",
    "suppress",
    "to_tensors",
]
