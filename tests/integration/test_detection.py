"""A detector from the folder to boxes: the epilogue in the container, the raw outputs beside it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from integration.appliance import Appliance, pack
from onnx import TensorProto, helper, numpy_helper
from patience import PATIENCE
from PIL import Image

from edged import wire
from edged.client import PredictionClient
from edged.detection import (
    SSD_300,
    SSD_OUTPUTS,
    TENSORS,
    VOC_LABELS,
    Detections,
    decode,
    from_tensors,
    read,
)
from edged.preprocess import SSD_300 as WARP
from edged.preprocess import image_to_array

CLASSES = len(VOC_LABELS)
DOG = VOC_LABELS.index("dog")
RAW = [name for each in SSD_300 for name in (each.logits, each.offsets)]


def detector() -> bytes:
    """SSD-VGG-300's inputs and outputs on a small network that takes what is red for a dog."""
    rng = np.random.default_rng(5)
    constants: dict[str, np.ndarray] = {}
    nodes = [helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2])]
    outputs = []

    def convolve(source: str, target: str, kernel: np.ndarray, bias: np.ndarray, **how: object):
        constants[f"{target} kernel"] = kernel.astype(np.float32)
        constants[f"{target} bias"] = bias.astype(np.float32)
        names = [source, f"{target} kernel", f"{target} bias"]
        nodes.append(helper.make_node("Conv", names, [target], **how))

    def head(source: str, target: str, each, kernel: np.ndarray, bias: np.ndarray) -> None:
        convolve(source, f"{target} planes", kernel, bias)
        last = len(bias) // each.anchors
        shape = [-1, each.side, each.side, each.anchors, last]
        constants[f"{target} shape"] = np.array(shape, np.int64)
        nodes.append(
            helper.make_node(
                "Transpose", [f"{target} planes"], [f"{target} last"], perm=[0, 2, 3, 1]
            )
        )
        nodes.append(helper.make_node("Reshape", [f"{target} last", f"{target} shape"], [target]))
        outputs.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, ["N", *shape[1:]]))

    # Redness of a patch of 8 × 8 pixels, 37 × 37 of them; then means of 3 × 3 on ever smaller maps.
    red = rng.normal(0, 1e-4, (4, 3, 8, 8))
    red[0] = np.array([1, -0.5, -0.5])[:, None, None] / (64 * 255)
    convolve("planes", "patches", red, np.zeros(4), strides=[8, 8])
    nodes.append(helper.make_node("Relu", ["patches"], ["map 37"]))
    source = "map 37"
    for each in SSD_300:
        if each.side < 37:
            mean = rng.normal(0, 0.02, (4, 4, 3, 3))
            mean[0] = 0
            mean[0, 0] = 1 / 9
            how = {"pads": [1] * 4, "strides": [2, 2]} if each.side > 1 else {}
            convolve(source, f"means {each.side}", mean, np.zeros(4), **how)
            source = f"map {each.side}"
            nodes.append(helper.make_node("Relu", [f"means {each.side}"], [source]))
        kernel = rng.normal(0, 0.02, (each.anchors * CLASSES, 4, 1, 1))
        bias = np.zeros((each.anchors, CLASSES))
        bias[:, 0] = 5
        if each.block == 7:
            kernel[DOG, 0], bias[0, DOG] = 20, -8
        head(source, each.logits, each, kernel, bias.reshape(-1))
        slight = rng.normal(0, 0.1, (each.anchors * 4, 4, 1, 1))
        head(source, each.offsets, each, slight, np.zeros(each.anchors * 4))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 300, 300, 3])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def photo(*squares: tuple[int, int], size: tuple[int, int] = (600, 450)) -> bytes:
    """A grey picture with red squares, an eighth of it wide, about the places given in percent."""
    width, height = size
    pixels = np.full((height, width, 3), 128, np.uint8)
    for x, y in squares:
        left, top = int(width * (x / 100 - 1 / 12)), int(height * (y / 100 - 1 / 12))
        pixels[top : top + height // 6, left : left + width // 6] = (255, 0, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    (folder / "detector.onnx").write_bytes(detector())
    (folder / "labels.txt").write_text("\n".join(VOC_LABELS))
    for index in range(4):
        (folder / f"{index}.png").write_bytes(photo((20 + 20 * index, 50)))
    options = ["--preprocess", "ssd", "--epilogue", "ssd,top=50", "--calibration", str(folder)]
    options += ["--labels", str(folder / "labels.txt")]
    output = folder / "detector-1.0.0.edgemodel"
    return pack(output, str(folder / "detector.onnx"), "detector", *options)


@pytest.fixture(scope="module")
def serving(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One appliance with the detector for the tests here, which only ask."""
    appliance = Appliance(tmp_path_factory.mktemp("detection"))
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        assert appliance.put(bundle).startswith("serving since")
        yield appliance
    finally:
        appliance.close()


def ask(appliance: Appliance, images: list[bytes], *names: str) -> dict[str, np.ndarray]:
    request = wire.PredictRequest(inputs={"images": wire.from_array(images)}, output_filter=names)
    call = appliance.channel.unary_unary(f"/{wire.PREDICT}")
    answer = wire.PredictResponse.FromString(call(request.SerializeToString(), timeout=PATIENCE))
    return {name: np.asarray(wire.to_array(tensor)) for name, tensor in answer.outputs.items()}


def overlap(found: Detections, x: int, y: int) -> float:
    """Of the best detection with the square at *x*, *y* percent: intersection over union."""
    ymin, xmin, ymax, xmax = found.boxes[0].tolist()
    left, top = x / 100 - 1 / 12, y / 100 - 1 / 12
    height = min(ymax, top + 1 / 6) - max(ymin, top)
    width = min(xmax, left + 1 / 6) - max(xmin, left)
    common = max(0, height) * max(0, width)
    return common / ((ymax - ymin) * (xmax - xmin) + 1 / 36 - common)


def test_detections_are_answered_unasked(serving: Appliance) -> None:
    answer = ask(serving, [photo((30, 60)), photo(), photo((70, 25), size=(300, 900))])
    assert {name: array.shape for name, array in answer.items()} == {
        "detection_boxes": (3, 50, 4),
        "detection_scores": (3, 50),
        "detection_classes": (3, 50),
        "num_detections": (3,),
    }
    assert all(array.dtype == np.float32 for array in answer.values())
    one, nothing, other = from_tensors(answer)
    assert len(nothing) == 0
    for found, place in ((one, (30, 60)), (other, (70, 25))):
        assert set(found.classes.tolist()) == {DOG}
        assert found.scores[0] > 0.9
        assert overlap(found, *place) > 0.5


def test_raw_outputs_are_answered_by_name(serving: Appliance) -> None:
    """As the original clients want them; decoding them here gives what the container gives."""
    images = [photo((30, 60)), photo((20, 20), (80, 80))]
    raw = ask(serving, images, *RAW)
    assert {name: array.shape[1:] for name, array in raw.items()} == {
        name: (each.side, each.side, each.anchors, last)
        for each in SSD_300
        for name, last in ((each.logits, CLASSES), (each.offsets, 4))
    }
    served = from_tensors(ask(serving, images))
    for here, there in zip(decode(raw), served, strict=True):
        assert len(here) > 0
        np.testing.assert_array_equal(here.boxes, there.boxes)
        np.testing.assert_array_equal(here.scores, there.scores)
        np.testing.assert_array_equal(here.classes, there.classes)


def test_both_kinds_in_one_answer(serving: Appliance) -> None:
    answer = ask(serving, [photo((50, 50))], RAW[0], "num_detections")
    assert set(answer) == {RAW[0], "num_detections"}
    assert answer["num_detections"].tolist() >= [1]


def test_prepared_tensors_are_taken_too(serving: Appliance) -> None:
    data = photo((40, 40), size=(512, 384))
    tensor = image_to_array(data, WARP)
    answer = serving.predict({"image": wire.from_array(tensor)}).outputs
    assert set(answer) == set(TENSORS)
    for name, expected in ask(serving, [data]).items():
        np.testing.assert_array_equal(np.asarray(wire.to_array(answer[name])), expected)


def test_the_metadata_names_both(serving: Appliance) -> None:
    request = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
    call = serving.channel.unary_unary(f"/{wire.GET_MODEL_METADATA}")
    answer = wire.GetModelMetadataResponse.FromString(call(request.SerializeToString()))
    signatures = wire.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    outputs = signatures.signature_def["serving_default"].outputs
    assert set(outputs) == {*TENSORS, *RAW}
    assert [dim.size for dim in outputs["detection_boxes"].tensor_shape.dim] == [-1, 50, 4]


def test_another_name_is_refused_with_those_that_there_are(serving: Appliance) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(serving, [photo()], "boxes")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no output 'boxes'; it has 'detection_boxes'" in caught.value.details()


def score(serving: Appliance, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edged.cli", "score", "--address", f"unix:{serving.socket}"]
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_edgectl_prints_and_draws_boxes(serving: Appliance, bundle: Path, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(photo((30, 60)))
    target = tmp_path / "out.png"
    done = score(serving, tmp_path / "one.png", "--bundle", bundle, "--draw", target)
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.splitlines()[1].split()
    assert first[1] == "dog" and float(first[0]) > 0.9 and len(first) == 6
    top, left = (float(first[2]) * 450, float(first[3]) * 600)
    with Image.open(target) as drawn:
        colour = np.array(drawn.getpixel((round(left), round(top) + 20)))
    assert np.abs(colour - 128).max() > 60 and np.abs(colour - (255, 0, 0)).max() > 60

    folder = tmp_path / "drawn"
    folder.mkdir()
    done = score(serving, *sorted(tmp_path.glob("*e.png")), "--draw", folder, "--json")
    (found,) = json.loads(done.stdout)
    assert (folder / "one.png").exists()
    assert found["detections"][0]["class"] == DOG and found["detections"][0]["label"] == "dog"
    assert len(found["detections"][0]["box"]) == 4


def test_edgectl_inspect_says_what_is_made_of_the_outputs(bundle: Path) -> None:
    command = [sys.executable, "-m", "edged.cli", "inspect", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["epilogue"] == (
        "ssd,threshold=0.5,top=50,overlap=0.45 gives detection_boxes, detection_scores, "
        "detection_classes, num_detections"
    )
    assert lines["images"].startswith("ssd to 300x300 into image, tf1, (x · 1 - (123.68, ")


def test_the_client_reads_what_it_is_answered(serving: Appliance) -> None:
    with PredictionClient(f"unix:{serving.socket}") as client:
        outputs = client.score_arrays({"images": np.array([photo((30, 60)), photo()], object)})
    somebody, nobody = read(outputs)
    assert {found.index for found in somebody} == {DOG} and len(nobody) == 0


def test_the_client_asks_for_the_twelve_as_the_original_did(
    serving: Appliance, tmp_path: Path
) -> None:
    (tmp_path / "one.png").write_bytes(photo((30, 60)))
    with PredictionClient(f"unix:{serving.socket}") as client:
        arrays = client.score_file(str(tmp_path / "one.png"), outputs=list(SSD_OUTPUTS))
    (found,) = read(dict(zip(SSD_OUTPUTS, arrays, strict=True)))
    assert {each.index for each in found} == {DOG}


def test_edgectl_shows_raw_outputs_when_asked(serving: Appliance, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(photo((30, 60)))
    done = score(serving, tmp_path / "one.png", "--output", "detection_scores", "--top", "1")
    assert done.returncode == 0 and float(done.stdout.splitlines()[1].split()[0]) > 0.9
    done = score(serving, tmp_path / "one.png", "--draw", tmp_path / "out.gif")
    assert done.returncode == 65
    assert "wanted a name that ends in .jpg" in done.stderr
