"""``edgectl evaluate``: a real data set, photographs, a detector, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from integration.test_detection import detector, photo
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edged._onnxruntime import session
from edged.bundle import State, StatePair, pack
from edged.cli._app import app
from edged.detection import VOC_LABELS, Detections
from edged.errors import EdgedError
from edged.evaluation import Boxes, compare_values

DATA = Path(__file__).parents[1] / "data"
KEYWORDS = DATA / "models" / "kws_dscnn.onnx"
WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "other")
HOSTILE = "<script>alert('x')</script> & [red]"


def evaluate(*words: str | Path) -> str:
    """What it prints; an error of edged's is raised."""
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})
    done = runner.invoke(app, ["evaluate", *map(str, words)])
    if isinstance(done.exception, EdgedError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def measured(*words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(evaluate(*words, "--json"))
    return found


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    """The thousand inputs of the keyword benchmark, and their classes."""
    with np.load(DATA / "kws01_accuracy_set.npz") as arrays:
        raw, labels = arrays["x"].astype(np.float32), arrays["y"]
    (declared,) = onnx.load(KEYWORDS).graph.input
    return {declared.name: (raw - 83) * np.float32(0.5847029089927673), "labels": labels}


@pytest.fixture(scope="module")
def keywords(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("keywords")
    np.savez(folder / "all.npz", **inputs)  # type: ignore[arg-type]
    samples = {name: array[:100] for name, array in inputs.items() if name != "labels"}
    np.savez(folder / "calibration.npz", **samples)  # type: ignore[arg-type]
    (folder / "labels.txt").write_text("\n".join(WORDS))
    pack(
        KEYWORDS,
        name="kws",
        version="1.0.0",
        labels=folder / "labels.txt",
        calibration=[folder / "calibration.npz"],
        output=folder / "kws.edgemodel",
    )
    return folder


def test_both_models_are_measured_on_a_data_set(
    keywords: Path, inputs: dict[str, np.ndarray]
) -> None:
    found = measured(keywords / "kws.edgemodel", keywords / "all.npz")
    assert found["model"] == "kws 1.0.0" and re.fullmatch("[0-9a-f]{64}", found["program"])
    name, labels = next(iter(inputs)), inputs["labels"]
    run = session(KEYWORDS.read_bytes())
    floats = np.concatenate([run.run(None, {name: x[None]})[0] for x in inputs[name]])
    best = np.argsort(-floats, axis=1, kind="stable")
    counted = found["classification"]
    assert counted["float"]["top1"] == pytest.approx((best[:, 0] == labels).mean())
    assert counted["float"]["top5"] == pytest.approx((best[:, :5] == labels[:, None]).any(1).mean())
    assert 0.895 < counted["device"]["top1"] < 0.915
    # All numbers belong together: each is counted again from the list of the examples.
    examples = found["compared"]
    device = np.array([each["device"][0]["class"] for each in examples])
    assert [each["float"][0]["class"] for each in examples] == best[:, 0].tolist()
    assert counted["device"]["top1"] == pytest.approx((device == labels).mean())
    assert found["agreement"] == pytest.approx((device == best[:, 0]).mean())
    assert found["differing"] == sum(each["differs"] for each in examples) > 0
    lost = ((best[:, 0] == labels) & (device != labels)).sum()
    gained = ((best[:, 0] != labels) & (device == labels)).sum()
    assert (counted["only_float_right"], counted["only_device_right"]) == (lost, gained)
    confusion = {(c["label"], c["answer"]): c["count"] for c in counted["device"]["confusion"]}
    assert sum(confusion.values()) == 1000
    assert confusion[4, 11] == ((labels == 4) & (device == 11)).sum()


def test_the_table_says_it_to_people(keywords: Path) -> None:
    said = evaluate(keywords / "kws.edgemodel", keywords / "all.npz", "--limit", "250")
    assert "250 of " in said and "to the bit" in said
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert any(re.fullmatch(r"top 1 right \d\d\.\d % \d\d\.\d %", line) for line in lines)
    assert any(re.fullmatch(r"same class first \d+ of 250, \d\d\.\d %", line) for line in lines)
    assert "LABEL TAKEN FOR FLOAT DEVICE" in lines
    unlabelled = evaluate(
        *(keywords / "kws.edgemodel", keywords / "all.npz", "--limit", "9", "--no-labels")
    )
    assert "without labels" in unlabelled and "right" not in unlabelled


def test_a_script_may_ask_how_much_agrees(keywords: Path) -> None:
    words = (keywords / "kws.edgemodel", keywords / "all.npz", "--limit", "250")
    assert 0.9 < measured(*words)["agreement"] < 0.999
    evaluate(*words, "--agree", "90")
    with pytest.raises(
        EdgedError, match=r"cannot accept kws 1\.0\.0: 9.* wanted 99\.9 %"
    ) as refused:
        evaluate(*words, "--agree", "99.9")
    assert refused.value.exit_status == 65


def test_a_mask_is_judged_by_its_area(tmp_path: Path) -> None:
    """A picture's left half is bright, and so the mask of what is bright is its left half."""
    kernel = np.full((1, 3, 1, 1), 4.0, np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["mask"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mask",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.array([-6], np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "mask.onnx")
    images = np.zeros((3, 3, 8, 8), np.float32)
    images[..., :4] = 1
    images[2, :, :, 4] = 0.48  # nearly
    np.savez(tmp_path / "images.npz", image=images)
    pack(
        tmp_path / "mask.onnx",
        name="mask",
        version="1.0.0",
        calibration=[tmp_path / "images.npz"],
        output=tmp_path / "mask.edgemodel",
    )
    found = measured(tmp_path / "mask.edgemodel", tmp_path / "images.npz")
    page = tmp_path / "page.html"
    evaluate(tmp_path / "mask.edgemodel", tmp_path / "images.npz", "--html", page)
    # Each example, and below it where the two say that it is bright.
    assert page.read_text().count("data:image/jpeg;base64,") == 2 * 3
    assert "float alone" in page.read_text()
    mask = found["outputs"]["mask"]["mask"]
    assert (mask["float"], found["agreement"]) == (0.5, None)
    assert mask["device"] == pytest.approx(0.5, abs=0.05)
    assert 0.7 < mask["overlap_lowest"] <= mask["overlap"] <= 1
    said = evaluate(tmp_path / "mask.edgemodel", tmp_path / "images.npz")
    assert "area of mask" in said and "overlap of mask" in said and "FARTHEST" in said
    with pytest.raises(EdgedError, match="it gives neither classes nor boxes"):
        evaluate(tmp_path / "mask.edgemodel", tmp_path / "images.npz", "--agree", "9")


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mobilenet") / "mobilenet.edgemodel"
    pack(
        DATA / "models" / "mobilenet_v2_imagenet.onnx",
        name="mobilenet",
        version="1.0.0",
        labels=DATA / "imagenet_labels_1001.txt",
        preprocess="stretch",
        calibration=[DATA / "images"],
        output=output,
    )
    return output


def test_photographs_in_folders_have_labels_and_the_page_has_pictures(
    mobilenet: Path, tmp_path: Path
) -> None:
    photographs = tmp_path / "photographs"
    for label, name in (
        ("beagle", "dog.jpg"),
        ("Tiger", "tiger.jpg"),
        ("386", "indian-elephant.jpg"),
        ("macaw", f"{HOSTILE.replace('/', ':')}.jpg"),
    ):
        (photographs / label).mkdir(parents=True)
        source = name if (DATA / "images" / name).exists() else "parrot.jpg"
        (photographs / label / name).write_bytes((DATA / "images" / source).read_bytes())
    page = tmp_path / "page.html"
    found = measured(mobilenet, photographs, "--html", page)
    names = (DATA / "imagenet_labels_1001.txt").read_text().splitlines()
    labels = {each["name"].partition("/")[0]: each["label"] for each in found["compared"]}
    assert (
        labels["beagle"] == names.index("beagle")
        and names[labels["Tiger"]] == "tiger, Panthera tigris"
    )
    assert labels["386"] == 386
    assert found["classification"]["float"]["top5"] == 1
    text = page.read_text()
    assert text.count("<figure>") == text.count("data:image/jpeg;base64,") == 4
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=\"(?!data:image/jpeg)", text)
    sizes = [int(size) for size in re.findall(r'(?:width|height)="(\d+)"', text)]
    assert max(sizes) <= 240 and page.stat().st_size < 200_000


def test_a_folder_without_folders_is_compared_without_labels(mobilenet: Path) -> None:
    found = measured(mobilenet, DATA / "images", "--limit", "3")
    assert (found["examples"], found["labelled"], found["differing"]) == (3, False, 0)
    assert (found["agreement"], found["classification"]) == (1, {})
    (output,) = found["outputs"].values()
    assert 0.98 < output["cosine_lowest"] <= output["cosine"] <= 1.0001


def test_a_detector_is_held_against_its_float_boxes(tmp_path: Path) -> None:
    (tmp_path / "detector.onnx").write_bytes(detector())
    (tmp_path / "labels.txt").write_text("\n".join(VOC_LABELS))
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index in range(2):
        (photographs / f"{index}.png").write_bytes(photo((30 + 40 * index, 50)))
    pack(
        tmp_path / "detector.onnx",
        name="detector",
        version="1.0.0",
        labels=tmp_path / "labels.txt",
        preprocess="ssd",
        epilogue="ssd,top=50",
        calibration=[photographs],
        output=tmp_path / "detector.edgemodel",
    )
    page = tmp_path / "page.html"
    found = measured(tmp_path / "detector.edgemodel", photographs, "--html", page)
    boxes = found["detection"]
    assert boxes["float_boxes"] >= 2 and boxes["matched"] >= 2
    assert boxes["recall"] == boxes["matched"] / boxes["float_boxes"]
    assert boxes["precision"] == boxes["matched"] / boxes["device_boxes"]
    assert 0.5 <= boxes["overlap"] <= 1
    dog = found["compared"][0]["matched"][0]
    assert dog["float"]["class"] == dog["device"]["class"] == VOC_LABELS.index("dog")
    assert page.read_text().count("data:image/jpeg;base64,") == 2
    assert "recall" in evaluate(tmp_path / "detector.edgemodel", photographs)


def some(*boxes: tuple[int, float, float]) -> Detections:
    """Boxes of a tenth of the picture's height: class, left, right."""
    corners = [(0.0, left, 0.1, right) for _, left, right in boxes]
    return Detections(
        np.array(corners, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
        np.array([index for index, _, _ in boxes], np.int64),
    )


def test_each_box_has_one_partner_at_most_the_best_first() -> None:
    floats = some((1, 0.0, 0.4), (1, 0.05, 0.45), (2, 0.5, 0.9))
    device = some((1, 0.05, 0.45), (3, 0.5, 0.9))
    boxes = Boxes.of(floats, device)
    ((pair,), (first, third), (other,)) = boxes.pairs, boxes.only_floats, boxes.only_device
    assert pair.overlap == pytest.approx(1) and pair.floats.box[1] == pytest.approx(0.05)
    assert (first.index, third.index, other.index) == (1, 2, 3) and boxes.differ
    assert not Boxes.of(some(), some()).differ
    assert len(Boxes.of(some(), device).only_device) == 2
    assert len(Boxes.of(floats, some()).only_floats) == 3


def test_a_mask_of_nothing_is_a_mask() -> None:
    nothing, little = np.zeros((2, 1, 1, 8, 8), np.float32)
    little[..., :2, :4] = 0.75
    empty, found = compare_values(nothing, nothing), compare_values(nothing, little)
    assert empty.mask is not None and found.mask is not None
    assert (empty.cosine, empty.mask.overlap, empty.distance) == (None, 1, 0)
    assert (found.mask.floats, found.mask.device, found.distance) == (0, 0.125, 1)


def test_what_cannot_be_evaluated(
    keywords: Path, mobilenet: Path, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    name = next(iter(inputs))
    few = inputs[name][:2]
    files: dict[str, dict[str, Any]] = {
        "numbers.npz": {name: few, "labels": np.array([0, 12])},
        "negative.npz": {name: few, "labels": np.array([0, -1])},
        "words.npz": {name: few, "labels": np.array(["yes", "maybe"])},
        "shape.npz": {name: few, "labels": np.zeros((2, 12), np.int64)},
        "other.npz": {"x": few},
    }
    for file, arrays in files.items():
        np.savez(tmp_path / file, **arrays)
    (tmp_path / "noise.npz").write_bytes(b"noise")
    mixed = tmp_path / "mixed"
    (mixed / "tiger").mkdir(parents=True)
    content = (DATA / "images" / "tiger.jpg").read_bytes()
    (mixed / "tiger" / "1.jpg").write_bytes(content)
    (mixed / "2.jpg").write_bytes(content)
    folders = {"unicorn": "unicorn", "crane": "twice"}
    for label, folder in folders.items():
        (tmp_path / folder / label).mkdir(parents=True)
        (tmp_path / folder / label / "1.jpg").write_bytes(content)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "1.jpg").write_bytes(content[:2000])
    (tmp_path / "empty").mkdir()
    kws = keywords / "kws.edgemodel"
    for words, status, problem in (
        ((kws, tmp_path / "gone.npz"), 66, "there is no such file or folder"),
        ((KEYWORDS, DATA / "images"), 65, f"edgectl pack {KEYWORDS} --name NAME"),
        ((kws, KEYWORDS), 65, "wanted a folder of photographs, or an .npz"),
        ((kws, tmp_path / "noise.npz"), 65, "it is no whole .npz"),
        ((kws, tmp_path / "other.npz"), 65, f"wanted the model's inputs ['{name}']"),
        (
            (kws, tmp_path / "numbers.npz"),
            65,
            "'12' is no class of the model; wanted one of 'down'",
        ),
        ((kws, tmp_path / "negative.npz"), 65, "'-1' is no class of the model"),
        ((kws, tmp_path / "words.npz"), 65, "'maybe' is no class of the model"),
        ((kws, tmp_path / "shape.npz"), 65, "is int64 [2, 12]; wanted the number or the label"),
        ((kws, DATA / "images"), 65, "it takes the tensors"),
        ((kws, keywords / "all.npz", "--output", "logits"), 65, "it has no output 'logits'"),
        ((kws, keywords / "all.npz", "--html", "no/page.html"), 65, "in a folder that exists"),
        ((mobilenet, tmp_path / "empty"), 65, "cannot find photographs"),
        ((mobilenet, mixed), 65, "some are in folders and some are not"),
        ((mobilenet, tmp_path / "unicorn"), 65, "'unicorn' is no class of the model"),
        ((mobilenet, tmp_path / "twice"), 65, "are all called 'crane'"),
        ((mobilenet, damaged), 65, f"cannot evaluate on {damaged / '1.jpg'}"),
    ):
        with pytest.raises(EdgedError, match=re.escape(problem)) as refused:
            evaluate(*words)
        assert str(refused.value).startswith("cannot ")
        assert refused.value.exit_status == status, words


def test_a_model_with_a_state_is_run_through_a_sequence(tmp_path: Path) -> None:
    chunks = DATA / "recurrent" / "vad_chunks.npz"
    model = DATA / "recurrent" / "silero_vad_16k.onnx"
    pack(
        model,
        name="vad",
        version="1.0.0",
        calibration=[chunks],
        state=State((StatePair("h", "hn"), StatePair("c", "cn"))),
        output=tmp_path / "vad.edgemodel",
    )
    found = measured(tmp_path / "vad.edgemodel", chunks, "--limit", "60")
    assert found["examples"] == 60 and found["differing"] is None
    # Both hand on what they have made: the first answers are those from zeros, the others are not.
    inputs = np.load(chunks)["input"][:60]
    states = dict.fromkeys(("h", "c"), np.zeros((60, 1, 128), np.float32))
    np.savez(tmp_path / "alone.npz", input=inputs, **states)
    alone = measured(tmp_path / "vad.edgemodel", tmp_path / "alone.npz")
    first, second = (
        np.array([each["outputs"]["speech_probs"]["numbers"] for each in one["compared"]])
        for one in (found, alone)
    )
    np.testing.assert_array_equal(first[0], second[0])
    run = session(model.read_bytes())
    h = c = np.zeros((1, 1, 128), np.float32)
    for chunk, (floats, _) in zip(inputs, first, strict=True):
        probability, h, c = run.run(None, {"input": chunk[None], "h": h, "c": c})
        assert floats == pytest.approx(float(probability[0]), abs=1e-6)
    assert (first[1:, 1] != second[1:, 1]).mean() > 0.9
    assert 0.5 < found["outputs"]["speech_probs"]["cosine"] < 1
