"""From a detector's outputs to detections: which arithmetic it takes is its epilogue's name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.detection._detections import TENSORS, Detections, from_tensors
from edged.detection._epilogue import Epilogue, EpilogueName
from edged.detection._priors import SSD_300, SSD_OUTPUTS
from edged.detection._ssd import check_outputs, decode_ssd
from edged.detection._yunet import YUNET_CLASSES, YUNET_OUTPUTS, check_yunet, decode_yunet

__all__ = ["are_readable", "check_epilogue", "count_classes", "decode", "read"]

_CHECKS: Final = {EpilogueName.SSD: check_outputs, EpilogueName.YUNET: check_yunet}
_DECODERS: Final = {EpilogueName.SSD: decode_ssd, EpilogueName.YUNET: decode_yunet}
_DIMENSIONS: Final = dict.fromkeys(SSD_OUTPUTS, 5) | dict.fromkeys(YUNET_OUTPUTS, 3)
"""Of the outputs that are decoded, with the batch."""


def decode(
    outputs: Mapping[str, npt.NDArray[Any]], epilogue: Epilogue | None = None
) -> list[Detections]:
    """What the raw outputs of a detector say of N images.

    Args:
        outputs: by the model's own names, as docs/detection.md lists them; floats. Others are
            ignored. All of them without the batch, as `PredictionClient.score_file` gives them, are
            of one image.
        epilogue: whose outputs they are, with threshold, top and overlap. By default what their
            names say, with its defaults.

    Returns:
        one for each image, the best first.

    Raises:
        RequestError: an output is missing, of another shape, no float, or has a NaN or an infinity.
    """
    epilogue = epilogue or Epilogue(_told_by(outputs))
    known = {name: np.asarray(outputs[name]) for name in _DIMENSIONS if name in outputs}
    if known and all(array.ndim == _DIMENSIONS[name] - 1 for name, array in known.items()):
        known = {name: array[np.newaxis] for name, array in known.items()}
    return _DECODERS[epilogue.name](dict(outputs) | known, epilogue)


def read(
    outputs: Mapping[str, npt.NDArray[Any]], epilogue: Epilogue | None = None
) -> list[Detections]:
    """Detections of an answer, whether the server has made them or is to be done here.

    Args:
        outputs: the tensors that `from_tensors` reads, or else those that `decode` does.
        epilogue: for `decode` only.

    Raises:
        RequestError: they are neither.
    """
    if any(name in outputs for name in TENSORS):
        return from_tensors(outputs)
    return decode(outputs, epilogue)


def are_readable(names: Collection[str]) -> bool:
    """Whether outputs of these names are for `read`: those of a detector, of any kind."""
    return any(name in names for name in (*TENSORS, SSD_OUTPUTS[0])) or _is_yunet(names)


def check_epilogue(name: EpilogueName, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Whether the epilogue can do something with outputs of these shapes, ``None`` for any size.

    Raises:
        RequestError: an output is missing or does not fit, and which.
    """
    _CHECKS[name](shapes)


def count_classes(name: EpilogueName, shapes: Mapping[str, Sequence[int | None]]) -> int | None:
    """Classes that the epilogue tells apart, the background among them; ``None``: not known.

    Args:
        shapes: of the model's outputs, by name.
    """
    if name is EpilogueName.YUNET:
        return YUNET_CLASSES
    logits = shapes.get(SSD_300[0].logits)
    return logits[-1] if logits else None


def _told_by(names: Collection[str]) -> EpilogueName:
    return EpilogueName.YUNET if _is_yunet(names) else EpilogueName.SSD


def _is_yunet(names: Collection[str]) -> bool:
    return all(name in names for name in YUNET_OUTPUTS)
