"""SSD's post-processing against what its paper says, written down slowly once more."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.detection import (
    SSD_300,
    SSD_300_PAPER,
    SSD_OUTPUTS,
    VOC_LABELS,
    Detections,
    Epilogue,
    EpilogueName,
    check_outputs,
    decode,
    decode_boxes,
    encode_boxes,
    from_tensors,
    overlaps,
    priors,
    read,
    suppress,
    to_tensors,
)
from edged.errors import InputError, RequestError

CLASSES = 21
BLOCKS = {4: (37, 4), 7: (19, 6), 8: (10, 6), 9: (5, 6), 10: (3, 4), 11: (1, 4)}
"""Of the original service, as its clients have it."""

Outputs = dict[str, npt.NDArray[Any]]


def logits_of(block: int) -> str:
    return f"ssd_300_vgg/block{block}_box/Reshape_1:0"


def offsets_of(block: int) -> str:
    return f"ssd_300_vgg/block{block}_box/Reshape:0"


def nothing(images: int = 1, classes: int = CLASSES) -> Outputs:
    """Outputs that see background everywhere."""
    outputs: Outputs = {}
    for block, (side, anchors) in BLOCKS.items():
        logits = np.zeros((images, side, side, anchors, classes), np.float32)
        logits[..., 0] = 10
        outputs[logits_of(block)] = logits
        outputs[offsets_of(block)] = np.zeros((images, side, side, anchors, 4), np.float32)
    return outputs


def scalar_prior(block: int, row: int, column: int, anchor: int) -> tuple[float, ...]:
    """Centre y, x, height and width, in pixels of 300, by the design's numbers."""
    index = list(BLOCKS).index(block)
    sizes = [21, 45, 99, 153, 207, 261, 315]
    steps = [8, 16, 32, 64, 100, 300]
    ratios = [1, 1, 2, 1 / 2, 3, 1 / 3]
    size = sizes[index]
    if anchor == 1:
        size = math.sqrt(sizes[index] * sizes[index + 1])
    root = math.sqrt(ratios[anchor])
    centre = [(cell + 0.5) * steps[index] for cell in (row, column)]
    return (*centre, size / root, size * root)


def test_there_are_8432_priors() -> None:
    assert priors().shape == (8432, 4)
    assert {each.block: (each.side, each.anchors) for each in SSD_300} == BLOCKS
    assert not priors().flags.writeable


def test_every_prior_is_the_formula() -> None:
    expected = [
        scalar_prior(block, row, column, anchor)
        for block, (side, anchors) in BLOCKS.items()
        for row in range(side)
        for column in range(side)
        for anchor in range(anchors)
    ]
    np.testing.assert_allclose(priors(), np.array(expected) / 300, rtol=1e-6)


def test_some_priors_as_numbers() -> None:
    """Computed by hand: the first cell of block 4, the last of 7, the second of 11."""
    found = priors() * 300
    np.testing.assert_allclose(found[0], [4, 4, 21, 21], rtol=1e-5)
    np.testing.assert_allclose(found[1], [4, 4, 30.7408, 30.7408], rtol=1e-5)
    np.testing.assert_allclose(found[2], [4, 4, 14.8492, 29.6985], rtol=1e-5)
    np.testing.assert_allclose(found[5476 + 2166 - 1], [296, 296, 77.9423, 25.9808], rtol=1e-5)
    np.testing.assert_allclose(found[-3], [150, 150, 286.7315, 286.7315], rtol=1e-5)


finite = st.floats(-8, 8, width=32)


@given(offsets=arrays.arrays(np.float32, (16, 4), elements=finite), first=st.integers(0, 8416))
@settings(max_examples=60, deadline=None)
def test_encode_is_the_inverse_of_decode(offsets: npt.NDArray[np.float32], first: int) -> None:
    some = priors()[first : first + 16]
    back = encode_boxes(decode_boxes(offsets, some), some)
    np.testing.assert_allclose(back, offsets, atol=2e-3)


def test_a_box_by_hand() -> None:
    """Moved right by a tenth of its width and down by a fifth of its height, twice as wide."""
    prior = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    offsets = np.array([[1, 2, 5 * math.log(2), 0]], np.float32)
    found = decode_boxes(offsets, prior)
    np.testing.assert_allclose(found, [[0.44, 0.14, 0.64, 0.94]], rtol=1e-5)


def corner_boxes(seed: int, count: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * 0.4
    return np.concatenate([low, low + 0.1 + rng.random((count, 2)) * 0.3], 1).astype(np.float32)


def scalar_overlap(one: list[float], other: list[float]) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    common = max(height, 0) * max(width, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common) if sum(areas) > common else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_the_slow_one(seed: int) -> None:
    rng = np.random.default_rng(seed + 100)
    boxes, classes = corner_boxes(seed, 120), rng.integers(1, 4, 120)
    boxes[::9] = boxes[1::9][: len(boxes[::9])]  # some of them twice
    kept: list[int] = []
    for index in range(120):
        if all(
            classes[index] != classes[other]
            or scalar_overlap(boxes[index].tolist(), boxes[other].tolist()) < 0.45
            for other in kept
        ):
            kept.append(index)
    assert 10 < len(kept) < 110
    assert suppress(boxes, classes, 0.45).tolist() == kept


def test_overlaps_of_boxes_with_and_without_area() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0.5, 1, 1], [0.5, 0.5, 0.5, 0.5]], np.float32)
    expected = [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(overlaps(boxes), expected)
    assert suppress(boxes[:0], np.zeros(0, np.int64), 0.45).tolist() == []


def test_background_everywhere_is_nothing() -> None:
    (found,) = decode(nothing())
    assert len(found) == 0 and list(found) == []
    assert found.boxes.shape == (0, 4)


def test_what_one_prior_sees() -> None:
    outputs = nothing(images=2)
    logits, offsets = outputs[logits_of(8)], outputs[offsets_of(8)]
    logits[1, 3, 4, 2, VOC_LABELS.index("dog")] = 13
    offsets[1, 3, 4, 2] = [1, -2, 0.5, -0.5]
    nobody, somebody = decode(outputs)
    assert len(nobody) == 0
    (found,) = somebody
    assert VOC_LABELS[found.index] == "dog"
    assert found.score == pytest.approx(math.exp(3) / (1 + math.exp(3) + 19 * math.exp(-10)))
    y, x, height, width = (value / 300 for value in scalar_prior(8, 3, 4, 2))
    y, x = y - 0.2 * height, x + 0.1 * width
    height, width = height * math.exp(-0.1), width * math.exp(0.1)
    expected = (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
    assert found.box == pytest.approx(expected, abs=1e-6)


def test_the_network_as_published_has_a_larger_first_map() -> None:
    outputs = nothing()
    outputs[offsets_of(4)] = np.zeros((1, 38, 38, 4, 4), np.float32)
    outputs[logits_of(4)] = np.zeros((1, 38, 38, 4, 21), np.float32)
    outputs[logits_of(4)][..., 0] = 10
    outputs[logits_of(4)][0, 37, 20, 0, 1] = 20
    outputs[logits_of(7)][0, 2, 3, 0, 2] = 19
    assert len(priors(SSD_300_PAPER)) == 8732
    (found,) = decode(outputs)
    low, next_map = (np.array(each.box) * 300 for each in found)
    assert low.tolist() == pytest.approx([289.5, 153.5, 300, 174.5], abs=1e-3)
    assert next_map.tolist() == pytest.approx([17.5, 33.5, 62.5, 78.5], abs=1e-3)


def test_boxes_end_at_the_edges_of_the_image() -> None:
    outputs = nothing()
    outputs[logits_of(11)][0, 0, 0, 1, 7] = 30
    outputs[offsets_of(11)][0, 0, 0, 1] = [0, 0, 20, 20]
    (found,) = decode(outputs)[0]
    assert found.box == (0, 0, 1, 1)


def test_the_best_of_those_that_overlap_is_kept_in_each_class() -> None:
    outputs = nothing()
    for column, logit in ((10, 12.0), (11, 14.0), (12, 13.0), (30, 11.5)):
        outputs[logits_of(4)][0, 5, column, 1, 3] = logit
    # Another class, in a box that overlaps the first by 0.467.
    outputs[logits_of(4)][0, 5, 11, 0, 4] = 13.5
    (found,) = decode(outputs)
    assert [each.index for each in found] == [3, 4, 3]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    columns = [(box[1] + box[3]) / 2 * 300 / 8 - 0.5 for box in found.boxes.tolist()]
    assert columns == pytest.approx([11, 11, 30], abs=1e-3)


def test_threshold_top_and_overlap() -> None:
    outputs = nothing()
    rng = np.random.default_rng(1)
    for block in BLOCKS:
        outputs[logits_of(block)] = rng.normal(0, 1, outputs[logits_of(block)].shape).astype("f4")
    everything = Epilogue(EpilogueName.SSD, threshold=0.0, top=1000, overlap=1.0)
    assert len(decode(outputs, everything)[0]) == 1000
    few = decode(outputs, Epilogue(EpilogueName.SSD, threshold=0.0, top=7, overlap=1.0))[0]
    np.testing.assert_array_equal(few.scores, decode(outputs, everything)[0].scores[:7])
    high = decode(outputs, Epilogue(EpilogueName.SSD, threshold=0.3))[0]
    assert len(high) > 0 and (high.scores > 0.3).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [logits_of(9), offsets_of(4)])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    outputs = nothing()
    outputs[name][0, 0, 0, 1, 2:4] = value
    with pytest.raises(RequestError, match=f"output '{name}' has 2 values that are no finite"):
        decode(outputs)


def test_the_largest_floats_do_no_harm() -> None:
    outputs = nothing()
    most = np.finfo(np.float32).max
    for block in BLOCKS:
        outputs[logits_of(block)][..., 0] = -most
        outputs[logits_of(block)][..., 5] = most
        outputs[offsets_of(block)][..., :2] = [most, -most]
        outputs[offsets_of(block)][:, ::2, :, :, 2:] = most
        outputs[offsets_of(block)][:, 1::2, :, :, 2:] = -most
    (found,) = decode(outputs)
    assert len(found) > 0
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()
    assert (found.boxes >= 0).all() and (found.boxes <= 1).all()


def test_doubles_too_large_for_floats_are_refused() -> None:
    outputs = nothing()
    outputs[offsets_of(4)] = outputs[offsets_of(4)].astype(np.float64)
    outputs[offsets_of(4)][0, 0, 0, 0, 0] = 1e300
    with pytest.raises(RequestError, match="no finite numbers"):
        decode(outputs)


def without(name: str) -> Outputs:
    return {key: array for key, array in nothing().items() if key != name}


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({}, f"there is no output '{logits_of(4)}'; found none"),
        (without(offsets_of(10)), f"there is no output '{offsets_of(10)}'; found ssd_300_vgg/"),
        (
            nothing() | {logits_of(4): np.zeros((1, 36, 36, 4, 21), "f4")},
            f"output '{logits_of(4)}' is [1, 36, 36, 4, 21]; wanted [N, 37, 37, 4, classes]",
        ),
        (
            nothing() | {logits_of(4): np.zeros((1, 38, 38, 4, 21), "f4")},
            f"output '{offsets_of(4)}' is [1, 37, 37, 4, 4]; wanted [1, 38, 38, 4, 4]",
        ),
        (
            nothing() | {offsets_of(7): np.zeros((1, 19, 19, 6, 5), "f4")},
            f"output '{offsets_of(7)}' is [1, 19, 19, 6, 5]; wanted [1, 19, 19, 6, 4]",
        ),
        (
            nothing() | {logits_of(8): np.zeros((2, 10, 10, 6, 21), "f4")},
            "is [2, 10, 10, 6, 21]; wanted [1, 10, 10, 6, 21]",
        ),
        (
            nothing() | {logits_of(8): np.zeros((1, 10, 10, 6, 20), "f4")},
            "is [1, 10, 10, 6, 20]; wanted [1, 10, 10, 6, 21]",
        ),
        (nothing() | {logits_of(11): np.zeros((4, 21), "f4")}, "is [4, 21]; wanted"),
        (nothing(classes=1), "there are 1 classes; wanted the background and at least one more"),
        (
            nothing() | {logits_of(9): np.zeros((1, 5, 5, 6, 21), np.int8)},
            f"output '{logits_of(9)}' is int8; wanted float32",
        ),
    ],
)
def test_other_outputs_are_refused_by_name(outputs: Outputs, says: str) -> None:
    with pytest.raises(RequestError, match="cannot decode detections: ") as caught:
        decode(outputs)
    assert says in str(caught.value)


def test_shapes_with_an_open_batch_fit() -> None:
    shapes = {name: (None, *array.shape[1:]) for name, array in nothing().items()}
    check_outputs(shapes)
    shapes[logits_of(10)] = (None, 3, 3, 4, 22)
    with pytest.raises(RequestError, match=r"is \[N, 3, 3, 4, 22\]; wanted \[N, 3, 3, 4, 21\]"):
        check_outputs(shapes)


def some(count: int, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(count).astype(np.float32))[::-1]
    return Detections(corner_boxes(seed, count), scores, rng.integers(1, 21, count))


def test_over_the_wire_and_back() -> None:
    images = [some(3), some(0), some(5, seed=2)]
    tensors = to_tensors(images, 5)
    assert {name: array.shape for name, array in tensors.items()} == {
        "detection_boxes": (3, 5, 4),
        "detection_scores": (3, 5),
        "detection_classes": (3, 5),
        "num_detections": (3,),
    }
    assert all(array.dtype == np.float32 for array in tensors.values())
    assert tensors["num_detections"].tolist() == [3, 0, 5]
    assert not tensors["detection_boxes"][1].any() and not tensors["detection_scores"][0, 3:].any()
    for back in (from_tensors(tensors), read(tensors)):
        for found, each in zip(back, images, strict=True):
            np.testing.assert_array_equal(found.boxes, each.boxes)
            np.testing.assert_array_equal(found.scores, each.scores)
            np.testing.assert_array_equal(found.classes, each.classes)


def test_raw_outputs_are_read_as_well() -> None:
    outputs = nothing()
    outputs[logits_of(11)][0, 0, 0, 0, 9] = 20
    (found,) = read(outputs)
    assert [each.index for each in found] == [9]


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("detection_boxes", np.zeros((1, 5, 3), "f4"), "detection_boxes [1, 5, 3]"),
        ("detection_scores", np.zeros((1, 6), "f4"), "wanted [N, k, 4], [N, k], [N, k] and [N]"),
        ("num_detections", np.array([6], "f4"), "num_detections is 6 to 6; wanted 0 to 5"),
        ("num_detections", np.array([-1], "f4"), "num_detections is -1 to -1; wanted 0 to 5"),
        ("num_detections", np.array([np.nan], "f4"), "'num_detections' has values that are no"),
        ("detection_boxes", np.full((1, 5, 4), np.inf), "'detection_boxes' has values that are no"),
        ("detection_classes", np.array([["cat"] * 5]), "'detection_classes' has values that are"),
    ],
)
def test_tensors_that_are_no_detections(name: str, array: npt.NDArray[Any], says: str) -> None:
    with pytest.raises(RequestError, match="cannot read detections: ") as caught:
        from_tensors({**to_tensors([some(3)], 5), name: array})
    assert says in str(caught.value)


def test_outputs_without_the_batch_are_of_one_image() -> None:
    outputs = nothing()
    outputs[logits_of(11)][0, 0, 0, 0, 9] = 20
    assert set(SSD_OUTPUTS) == set(outputs)
    (found,) = read({name: array[0] for name, array in outputs.items()})
    assert [each.index for each in found] == [9]
    (back,) = read({name: array[0] for name, array in to_tensors([found], 5).items()})
    np.testing.assert_array_equal(back.boxes, found.boxes)


def test_a_missing_tensor_is_named() -> None:
    tensors = to_tensors([some(1)], 1)
    del tensors["detection_classes"]
    with pytest.raises(RequestError, match="there is no output 'detection_classes'; found"):
        read(tensors)


def test_the_epilogue_as_text() -> None:
    assert Epilogue.parse("ssd") == Epilogue(EpilogueName.SSD, 0.5, 400, 0.45)
    spec = Epilogue.parse("ssd, threshold=0.25, top=100, overlap=0.5")
    assert spec == Epilogue(EpilogueName.SSD, 0.25, 100, 0.5)
    assert Epilogue.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yolo", "'yolo' is none of ssd, yunet (try 'ssd'"),
        ("ssd,treshold=1", "did you mean threshold=?"),
        ("ssd,top", "'top' is no option"),
        ("ssd,top=many", "top is 'many'; wanted a whole number"),
        ("ssd,top=1.5", "top is '1.5'; wanted a whole number"),
        ("ssd,top=0", "top is 0; wanted 1 to 1000"),
        ("ssd,top=5,top=6", "gives an option twice"),
        ("ssd,threshold=1", "threshold is 1.0; wanted 0 up to, not including, 1"),
        ("ssd,threshold=nan", "threshold is nan"),
        ("ssd,overlap=0", "overlap is 0.0; wanted more than 0"),
    ],
)
def test_a_bad_epilogue_says_what_is_good(text: str, says: str) -> None:
    with pytest.raises(InputError, match="cannot use the epilogue: ") as caught:
        Epilogue.parse(text)
    assert says in str(caught.value)
