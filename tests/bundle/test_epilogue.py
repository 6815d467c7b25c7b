"""A manifest that asks for post-processing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edged.bundle import (
    BundleFile,
    Digest,
    ElementType,
    FileName,
    Manifest,
    MediaType,
    TensorDecl,
    Version,
    pack,
)
from edged.detection import SSD_300, Epilogue, EpilogueName
from edged.errors import BundleError

FLOAT = ElementType.FLOAT32
NETWORKS = Path(__file__).parents[1] / "data" / "networks"


def manifest(**changes: Any) -> Manifest:
    outputs = []
    for each in SSD_300:
        shape = (None, each.side, each.side, each.anchors)
        outputs.append(TensorDecl(each.logits, FLOAT, (*shape, 21)))
        outputs.append(TensorDecl(each.offsets, FLOAT, (*shape, 4)))
    fields: dict[str, Any] = {
        "name": "ssd",
        "version": Version.parse("1.0.0"),
        "serial": 1,
        "inputs": (TensorDecl("image", FLOAT, (None, 300, 300, 3)),),
        "outputs": tuple(outputs),
        "files": (BundleFile(FileName.MODEL, MediaType.WEIGHT, Digest.of(b"model"), 5),),
        "epilogue": Epilogue(EpilogueName.SSD, top=100),
    }
    return Manifest(**{**fields, **changes})


def document(**epilogue: Any) -> bytes:
    """The manifest's bytes, with other words for the epilogue."""
    config = json.loads(manifest().serialize())
    config["edged"]["epilogue"] = epilogue
    return json.dumps(config).encode()


def test_an_epilogue_is_written_and_read() -> None:
    data = manifest().serialize()
    assert json.loads(data)["edged"]["epilogue"] == {"name": "ssd", "top": 100}
    assert Manifest.parse(data) == manifest()


def test_a_manifest_without_one_is_as_it_was() -> None:
    plain = manifest(epilogue=None)
    assert "epilogue" not in json.loads(plain.serialize())["edged"]
    assert Manifest.parse(plain.serialize()).epilogue is None
    assert plain.answers == plain.outputs


def test_what_is_answered_unasked() -> None:
    assert [(each.name, each.dtype, each.shape) for each in manifest().answers] == [
        ("detection_boxes", FLOAT, (None, 100, 4)),
        ("detection_scores", FLOAT, (None, 100)),
        ("detection_classes", FLOAT, (None, 100)),
        ("num_detections", FLOAT, (None,)),
    ]


@pytest.mark.parametrize(
    ("epilogue", "says"),
    [
        ({"name": "sdd"}, r"edged.epilogue.name: .* one of ssd, yunet \(did you mean ssd\?\)"),
        ({"name": "ssd", "thresh": 0.5}, r"edged.epilogue: .*did you mean threshold\?"),
        ({"name": "ssd", "top": 0}, "epilogue: top is 0; wanted 1 to 1000"),
        ({"name": "ssd", "threshold": 1}, "threshold is 1.0"),
        ({"name": "ssd", "overlap": "half"}, "edged.epilogue.overlap: expected `float`"),
        ({}, "edged.epilogue: .*name"),
    ],
)
def test_other_words_are_refused(epilogue: dict[str, Any], says: str) -> None:
    with pytest.raises(BundleError, match=says):
        Manifest.parse(document(**epilogue))


def test_a_model_that_is_no_detector() -> None:
    scores = (TensorDecl("scores", FLOAT, (None, 1001)),)
    with pytest.raises(BundleError, match=r"ssd does not fit the model: .* found scores"):
        manifest(outputs=scores)


@pytest.mark.parametrize(
    ("place", "changes", "says"),
    [
        (0, {"shape": (None, 36, 36, 4, 21)}, r"is \[N, 36, 36, 4, 21\]; wanted \[N, 37, 37, 4, "),
        (1, {"shape": (None, 37, 37, 4, 5)}, r"wanted \[N, 37, 37, 4, 4\]"),
        (2, {"dtype": ElementType.INT8}, "there is no output 'ssd_300_vgg/block7_box/Reshape_1:0'"),
        (3, {"alias": "detection_boxes"}, "has the name of one of its own"),
    ],
)
def test_a_detector_of_another_kind(place: int, changes: dict[str, Any], says: str) -> None:
    outputs = list(manifest().outputs)
    fields = {
        key: getattr(outputs[place], key) for key in ("name", "dtype", "shape", "alias")
    } | changes
    outputs[place] = TensorDecl(**fields)
    with pytest.raises(BundleError, match=says):
        manifest(outputs=tuple(outputs))


def test_it_is_part_of_what_makes_two_manifests_equal() -> None:
    assert dataclasses.replace(manifest(), epilogue=None) != manifest()


def test_labels_are_as_many_as_the_epilogue_tells_apart(tmp_path: Path) -> None:
    """YuNet's outputs have 1, 4 and 10 columns; boxes are of the background or a face."""
    labels = tmp_path / "labels.txt"
    labels.write_text("face\n")
    order: dict[str, Any] = {"name": "yunet", "version": "1.0.0", "epilogue": "yunet"}
    with pytest.raises(BundleError, match=r"labels.txt: it has 1 lines; wanted 2, one for each"):
        pack(NETWORKS / "yunet.onnx", output=tmp_path, labels=labels, **order)
    assert list(tmp_path.iterdir()) == [labels]
    labels.write_text("background\nface\n")
    pack(NETWORKS / "yunet.onnx", output=tmp_path, labels=labels, **order)
    assert (tmp_path / "yunet-1.0.0.edgemodel").exists()
