"""The epilogue inside the worker, on outputs that no sound model gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edged import wire
from edged.bundle import (
    BundleFile,
    Digest,
    ElementType,
    FileName,
    Manifest,
    MediaType,
    TensorDecl,
    Version,
)
from edged.container.worker._recall import Recall
from edged.container.worker._service import ModelService
from edged.container.worker._stages import Stages
from edged.detection import SSD_300, Epilogue, EpilogueName
from edged.errors import DeviceError

FLOAT = ElementType.FLOAT32
SHAPES = {
    name: (each.side, each.side, each.anchors, last)
    for each in SSD_300
    for name, last in ((each.logits, 21), (each.offsets, 4))
}


class Outputs:
    """In place of a model and its pipeline: outputs as they are told."""

    manifest = Manifest(
        name="ssd",
        version=Version.parse("1.0.0"),
        serial=1,
        inputs=(TensorDecl("x", FLOAT, (None, 3)),),
        outputs=tuple(TensorDecl(name, FLOAT, (None, *shape)) for name, shape in SHAPES.items()),
        files=(BundleFile(FileName.MODEL, MediaType.WEIGHT, Digest.of(b"model"), 5),),
        epilogue=Epilogue(EpilogueName.SSD, top=3),
    )

    takes_nan = False

    def __init__(self, value: float) -> None:
        self.value = value

    @property
    def pipeline(self) -> Outputs:
        return self

    def run(self, inputs: Any, device: Any) -> dict[str, Any]:
        return {
            name: np.full((1, *shape), self.value, np.float32) for name, shape in SHAPES.items()
        }


class NoDevice:
    attached = False

    def run(self, inputs: Any) -> list[Any]:
        return []


def ask(value: float, samples: int, *names: str) -> dict[str, Any]:
    service = ModelService(Outputs(value), NoDevice(), Stages(), Recall())  # type: ignore[arg-type]  # in their place
    x = wire.from_array(np.zeros((samples, 3), np.float32))
    request = wire.PredictRequest(inputs={"x": x}, output_filter=names)
    answer = service.answer(wire.PREDICT, request.SerializeToString(), math.inf)
    outputs = wire.PredictResponse.FromString(answer).outputs
    return {name: wire.to_array(tensor) for name, tensor in outputs.items()}


def test_every_sample_has_its_detections() -> None:
    found = ask(1.0, 4)
    assert {name: array.shape for name, array in found.items()} == {
        "detection_boxes": (4, 3, 4),
        "detection_scores": (4, 3),
        "detection_classes": (4, 3),
        "num_detections": (4,),
    }
    assert found["num_detections"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_gives_no_numbers_is_not_the_callers_fault(value: float) -> None:
    with pytest.raises(DeviceError, match=r"cannot trust the answer of the model: .* no finite"):
        ask(value, 1)


def test_raw_outputs_are_answered_whatever_they_are() -> None:
    (name, *_) = SHAPES
    assert np.isnan(ask(math.nan, 2, name)[name]).all()
