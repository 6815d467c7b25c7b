"""YuNet's outputs to faces, against its authors' formulas written down cell by cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edged.detection import (
    SSD_300,
    YUNET_OUTPUTS,
    Epilogue,
    EpilogueName,
    are_readable,
    check_epilogue,
    count_classes,
    decode,
    read,
)
from edged.errors import RequestError

SIDE = 64
STRIDES = (8, 16, 32)
ALL = Epilogue(EpilogueName.YUNET, threshold=0.0, top=1000, overlap=1.0)

Outputs = dict[str, npt.NDArray[Any]]


def nothing(images: int = 1) -> Outputs:
    """Outputs that see no face anywhere in 64 × 64 pixels."""
    outputs: Outputs = {}
    for stride in STRIDES:
        cells = (SIDE // stride) ** 2
        for kind, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            outputs[f"{kind}_{stride}"] = np.zeros((images, cells, channels), np.float32)
    return outputs


def face(outputs: Outputs, stride: int, cell: int, *bbox: float, score: float, image: int = 0):
    outputs[f"cls_{stride}"][image, cell] = score
    outputs[f"obj_{stride}"][image, cell] = score
    outputs[f"bbox_{stride}"][image, cell] = bbox


def test_every_cell_is_the_formula() -> None:
    rng = np.random.default_rng(3)
    outputs = nothing()
    expected = []
    for stride in STRIDES:
        count = SIDE // stride
        for cell in range(count * count):
            x, y, w, h = rng.uniform(-0.5, 0.5, 4)
            cls, obj = rng.uniform(0.1, 1.2, 2)
            outputs[f"cls_{stride}"][0, cell] = cls
            outputs[f"obj_{stride}"][0, cell] = obj
            outputs[f"bbox_{stride}"][0, cell] = x, y, w, h
            middle_x = (cell % count + x) * stride
            middle_y = (cell // count + y) * stride
            wide, high = math.exp(w) * stride, math.exp(h) * stride
            corners = (
                *(middle_y - high / 2, middle_x - wide / 2),
                *(middle_y + high / 2, middle_x + wide / 2),
            )
            box = [min(max(corner / SIDE, 0), 1) for corner in corners]
            expected.append((math.sqrt(min(cls, 1) * min(obj, 1)), *box))
    (found,) = decode(outputs, ALL)
    got = sorted((each.score, *each.box) for each in found)
    np.testing.assert_allclose(got, sorted(expected), atol=1e-5)
    assert {each.index for each in found} == {1}, "0 is the background"


def test_a_face_that_several_cells_see_is_one_and_another_image_has_its_own() -> None:
    outputs = nothing(images=2)
    face(outputs, 8, 9, 0.5, 0.5, 1, 1, score=0.7)
    face(outputs, 8, 10, -0.5, 0.5, 1, 1, score=0.9)
    face(outputs, 32, 3, 0, 0, 0, 0, score=0.8, image=1)
    first, second = read(outputs)
    assert [round(each.score, 4) for each in first] == [0.9]
    assert [each.box for each in second] == [(0.25, 0.25, 0.75, 0.75)]
    (alone,) = read({name: array[1] for name, array in outputs.items()})
    assert [each.box for each in alone] == [each.box for each in second]


def test_a_size_without_bound_is_the_whole_image() -> None:
    outputs = nothing()
    face(outputs, 16, 5, 3e38, 0, 3e38, 3e38, score=1)
    ((found,),) = (list(each) for each in read(outputs))
    assert found.box == (0, 0, 1, 1)


def test_its_names_tell_it_from_other_detectors() -> None:
    assert are_readable(YUNET_OUTPUTS) and not are_readable(YUNET_OUTPUTS[1:])
    shapes = {name: array.shape for name, array in nothing().items()}
    assert count_classes(EpilogueName.YUNET, shapes) == 2
    assert count_classes(EpilogueName.SSD, shapes) is None
    assert count_classes(EpilogueName.SSD, {SSD_300[0].logits: (None, 37, 37, 4, 21)}) == 21


def gone(outputs: Outputs) -> None:
    del outputs["obj_16"]


def not_square(outputs: Outputs) -> None:
    outputs["cls_8"] = outputs["cls_8"][:, :48]


def not_whole(outputs: Outputs) -> None:
    outputs["cls_8"] = np.zeros((1, 81, 1), np.float32)


def of_another_size(outputs: Outputs) -> None:
    outputs["bbox_32"] = np.zeros((1, 9, 4), np.float32)


def whole_numbers(outputs: Outputs) -> None:
    outputs["cls_8"] = outputs["cls_8"].astype(np.int64)


def no_number(outputs: Outputs) -> None:
    outputs["bbox_8"][0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (gone, "there is no output 'obj_16'; found bbox_16"),
        (not_square, "output 'cls_8' is [1, 48, 1]; wanted [N, cells, 1]"),
        (not_whole, "output 'cls_8' is [1, 81, 1]; wanted [N, cells, 1]"),
        (of_another_size, "output 'bbox_32' is [1, 9, 4]; wanted [1, 4, 4]"),
        (whole_numbers, "output 'cls_8' is int64; wanted float32"),
        (no_number, "output 'bbox_8' has 1 values that are no finite numbers"),
    ],
)
def test_other_outputs_are_refused_by_name(spoil: Callable[[Outputs], None], says: str) -> None:
    outputs = nothing()
    spoil(outputs)
    with pytest.raises(RequestError, match="cannot decode detections: ") as caught:
        decode(outputs, ALL)
    assert says in str(caught.value)


def test_an_open_batch_fits_and_open_cells_do_not() -> None:
    shapes: dict[str, tuple[int | None, ...]] = {
        name: (None, *array.shape[1:]) for name, array in nothing().items()
    }
    check_epilogue(EpilogueName.YUNET, shapes)
    shapes["cls_8"] = (None, None, 1)
    with pytest.raises(RequestError, match=r"'cls_8' is \[N, None, 1\]; wanted \[N, cells, 1\]"):
        check_epilogue(EpilogueName.YUNET, shapes)
