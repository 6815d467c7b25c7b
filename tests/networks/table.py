"""The networks that are tried: fourteen of those on edge boxes today, and seven of before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from networks import answers, boxes, judges
from networks.network import Answers, Arrays, Cases, Judged, Network, float_run
from networks.pictures import (
    DATA,
    cropped,
    letterboxed,
    line_of_text,
    lines_of_page,
    luminance,
    nchw,
    opened,
    page_of_lines,
    placed,
    stretched,
)

from edged import zoo

__all__ = ["NETWORKS"]

_Input = npt.NDArray[Any]
_Pixels = npt.NDArray[np.uint8]

_NINE: Final = (
    *("cat_720p.jpg", "dog.jpg", "elephant.jpg", "hot_dog.jpg", "indian-elephant.jpg"),
    *("parrot.jpg", "schoolbus.jpg", "snowleopardgaze.jpg", "tiger.jpg"),
)
"""What MobileNetV2 has always been judged by."""

_PICTURES: Final = (
    *_NINE,
    *("bird.png", "couple.png", "face.jpg", "grace_hopper.png", "pets.jpg", "squat.png"),
)
_COCO: Final = ("dog.jpg", "pets.jpg", "schoolbus.jpg", "couple.png", "cat_720p.jpg", "hot_dog.jpg")
_FACES: Final = ("face.jpg", "grace_hopper.png", "cat_720p.jpg")
_CROPS: Final = ("face_crop_0.png", "face_crop_1.png", "face_crop_2.png")
_LINES: Final = tuple(f"text_line_{number}" for number in range(4))


def _network(
    name: str,
    aim: str,
    input_: str,
    judged: Iterable[str],
    prepare: Callable[[str], _Input],
    read: Callable[[str, Arrays], Any],
    judge: Callable[[Answers, Answers], Judged],
    *,
    folder: str = "networks",
    today: bool = True,
    calibration: tuple[str, Callable[[], _Input]] | None = None,
) -> Network:
    """A network that sees one picture at a time.

    Args:
        read: the answer of a case, from its name and outputs.
        calibration: what it is calibrated with, in words and as [N, …]; all pictures that it is
            not judged by, where nothing is said.
    """
    names = tuple(judged)
    others = [each for each in _PICTURES if each not in names]
    words, samples = calibration or (
        f"{len(others)} other photographs",
        lambda: np.concatenate([prepare(each) for each in others]),
    )
    return Network(
        name=name,
        aim=aim,
        model=(DATA / folder / f"{name}.onnx").read_bytes,
        cases=lambda: {each: {input_: prepare(each)} for each in names},
        read=lambda outputs: {case: read(case, each) for case, each in outputs.items()},
        judge=judge,
        calibration=lambda: {input_: samples()},
        calibrated_with=words,
        quantised=folder == "quantised",
        today=today,
    )


def _detector(
    name: str,
    input_: str,
    judged: Sequence[str],
    prepare: Callable[[str], _Input],
    read: Callable[[Arrays, tuple[float, float]], list[boxes.Box]],
    side: int,
    *,
    letterbox: bool,
) -> Network:
    return _network(
        name,
        "each box of float's, and no other",
        input_,
        judged,
        prepare,
        lambda case, outputs: read(outputs, placed(case, side, letterbox=letterbox)),
        judges.boxes,
    )


def _of_zoo(name: str, least: float) -> Network:
    """A classic network with random weights, on made-up photographs."""
    size = zoo.network(name).skeleton()

    def images(count: int, seed: int) -> _Input:
        return zoo.made_up_images(size.height, size.width, count, seed)

    return Network(
        name=name,
        aim=f"cosine of each output at least {least}",
        model=lambda: zoo.build(name).onnx(),
        cases=lambda: {f"image {seed}": {zoo.INPUT: images(1, seed)} for seed in (1, 2, 3)},
        read=lambda outputs: outputs,
        judge=judges.alike(least),
        calibration=lambda: {zoo.INPUT: images(8, 0)},
        calibrated_with="8 other made-up images",
        today=False,
    )


def _unit(pixels: _Pixels) -> _Input:
    """NHWC, 0 to 1."""
    return pixels[np.newaxis] / np.float32(255)


def _signed(pixels: _Pixels) -> _Input:
    """NHWC, -1 to 1."""
    return pixels[np.newaxis] / np.float32(127.5) - np.float32(1)


def _bgr(pixels: _Pixels) -> _Input:
    """NCHW, 0 to 255, blue first."""
    return nchw(pixels[..., ::-1])


def _normalised(pixels: _Pixels, mean: Sequence[float], std: Sequence[float]) -> _Input:
    """NCHW, blue first, (x - mean) / std."""
    mean_, std_ = (np.array(each, np.float32)[:, np.newaxis, np.newaxis] for each in (mean, std))
    return (_bgr(pixels) - mean_) / std_


def _picodet_input(name: str) -> _Input:
    return _normalised(stretched(name, 320), (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))


def _page(pixels: _Pixels) -> _Input:
    """As PP-OCR has it: blue first, and the means of red first."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return _normalised(pixels, mean * 255, std * 255)


def _judged_page(name: str) -> _Input:
    """The page that the model came with, or one of the lines that the other model came with."""
    if name == "text_page.png":
        return _page(stretched(name, 480, 640))
    lines = [opened(f"{line}.png") for line in _LINES]
    return _page(page_of_lines(lines, int(name.removeprefix("page "))))


def _other_pages() -> _Input:
    """The lines of the page elsewhere and in other sizes, and photographs."""
    lines = lines_of_page()[:3]
    pages = [page_of_lines(lines, seed) for seed in range(11, 17)]
    pages += [stretched(name, 480, 640) for name in _COCO]
    return np.concatenate([_page(pixels) for pixels in pages])


_OTHER_FACES: Final = (
    ("face.jpg", (-18, 85, 74, 177)),
    ("face.jpg", (418, 105, 510, 197)),
    ("couple.png", (220, 95, 284, 159)),
    ("couple.png", (330, 110, 394, 174)),
    ("squat.png", (250, 160, 350, 260)),
)


def _other_faces() -> _Input:
    """Other faces than the judged ones, as they are and mirrored."""
    faces = [cropped(name, box, 192) for name, box in _OTHER_FACES]
    return np.concatenate([_unit(each) for face in faces for each in (face, face[:, ::-1])])


def _array(file: str, name: str) -> npt.NDArray[Any]:
    with np.load(DATA / file) as arrays:
        return np.asarray(arrays[name])


def _windows() -> npt.NDArray[np.float32]:
    return _array("networks/oww_windows.npz", "input_1")


_WINDOWS: Final = tuple(f"window {number}" for number in range(50))
_FIRST_OTHER: Final = 60
"""A window has 76 frames and begins 8 behind the one before: these share none with the judged."""


def _speech() -> Network:
    """One chunk after the other, each with the state of the one before."""

    def cases() -> Cases:
        zeros = np.zeros((1, 1, 128), np.float32)
        chunks = _array("networks/vad_chunks.npz", "input")
        return {
            f"chunk {number}": {"input": chunk[np.newaxis], "h": zeros, "c": zeros}
            for number, chunk in enumerate(chunks)
        }

    def calibration() -> Arrays:
        """Each eighth chunk with the state that float has there."""
        inputs = cases()
        found = list(network.outputs(float_run(network.model()), inputs).values())
        return {
            "input": np.concatenate([each["input"] for each in list(inputs.values())[8::8]]),
            "h": np.concatenate([each["hn"] for each in found[7:-1:8]]),
            "c": np.concatenate([each["cn"] for each in found[7:-1:8]]),
        }

    network = Network(
        name="silero_vad_16k",
        aim="each chunk on float's side of one half",
        model=(DATA / "networks" / "silero_vad_16k.onnx").read_bytes,
        cases=cases,
        read=answers.speech,
        judge=judges.sides,
        calibration=calibration,
        calibrated_with="each eighth of the judged chunks: there is no other recording",
        shapes={"input": (1, 576)},
        state={"hn": "h", "cn": "c"},
    )
    return network


def _keywords() -> Network:
    """The thousand of the benchmark: each tenth to calibrate, the others to judge."""

    def inputs() -> npt.NDArray[np.float32]:
        raw = _array("kws01_accuracy_set.npz", "x").astype(np.float32)
        return ((raw - 83) * 0.5847029089927673).astype(np.float32)

    def read(outputs: Cases) -> Answers:
        wanted = _array("kws01_accuracy_set.npz", "y")
        right = sum(
            int(next(iter(each.values())).argmax() == wanted[int(number)])
            for number, each in outputs.items()
        )
        return {"right": [right, len(outputs)]}

    return Network(
        name="kws_dscnn",
        aim="at least 808 of 900 right, as with compiler 10",
        model=(DATA / "models" / "kws_dscnn.onnx").read_bytes,
        cases=lambda: {
            str(i): {"input_1": each[np.newaxis]} for i, each in enumerate(inputs()) if i % 10
        },
        read=read,
        judge=judges.right(808),
        calibration=lambda: {"input_1": inputs()[::10]},
        calibrated_with="100 others of the benchmark's inputs",
        today=False,
    )


NETWORKS: Final[Sequence[Network]] = (
    _detector(
        "yunet",
        "input",
        _FACES,
        lambda name: _bgr(letterboxed(name, 320, 0)),
        boxes.yunet,
        320,
        letterbox=True,
    ),
    _detector(
        "blazeface",
        "input",
        _FACES,
        lambda name: _signed(letterboxed(name, 128, 0)),
        boxes.blazeface,
        128,
        letterbox=True,
    ),
    _network(
        "face_landmark",
        "points within 2 of 192 pixels",
        "input_1",
        _CROPS,
        lambda name: _unit(stretched(name, 192)),
        lambda _, outputs: answers.mesh(outputs),
        judges.numbers(2.0),
        calibration=("5 other faces, and mirrored", _other_faces),
    ),
    _detector(
        "yolox_nano",
        "images",
        _COCO,
        lambda name: _bgr(letterboxed(name, 416, 114)),
        boxes.yolox,
        416,
        letterbox=True,
    ),
    _detector(
        "fastestdet",
        "input.1",
        [name for name in _COCO if name != "cat_720p.jpg"],
        lambda name: _bgr(stretched(name, 352)) / np.float32(255),
        boxes.fastestdet,
        352,
        letterbox=False,
    ),
    _detector("picodet_s", "image", _COCO, _picodet_input, boxes.picodet, 320, letterbox=False),
    _network(
        "ppocr_det",
        "each area of float's, and no other",
        "x",
        ("text_page.png", *(f"page {seed}" for seed in range(1, 7))),
        _judged_page,
        lambda _, outputs: boxes.areas(outputs),
        judges.boxes,
        calibration=("6 pages of other lines, 6 photographs", _other_pages),
    ),
    _network(
        "ppocr_cls",
        "each line as float has it, probability within 0.12",
        "x",
        [f"{line}{turned}.png" for line in _LINES for turned in ("", "_rot180")],
        lambda name: line_of_text(opened(name)),
        lambda _, outputs: answers.best(outputs, ("0", "180"), 1),
        judges.classes(0.12),
        calibration=(
            "3 other lines, both ways",
            lambda: np.concatenate([line_of_text(line) for line in lines_of_page()]),
        ),
    ),
    _network(
        "selfie_seg",
        "share of the person within 0.01",
        "input_1",
        ("grace_hopper.png", "couple.png", "face.jpg", "cat_720p.jpg"),
        lambda name: _unit(stretched(name, 256)),
        lambda _, outputs: answers.foreground(outputs),
        judges.numbers(0.01),
    ),
    _network(
        "movenet_lightning_qdq",
        "key points within 0.01 of the picture's sides",
        "serving_default_input:0",
        # Not by couple.png: one grey level in one pixel moves points there by 0.03, in float too.
        ("squat.png",),
        lambda name: stretched(name, 192)[np.newaxis],
        lambda _, outputs: answers.pose(outputs),
        judges.places(0.01),
        folder="quantised",
    ),
    _network(
        "mobilenet_v2_birds_qdq",
        "the same bird first, probability within 0.12",
        "map/TensorArrayStack/TensorArrayGatherV3",
        ("bird.png", "parrot.jpg"),
        lambda name: stretched(name, 224)[np.newaxis],
        lambda _, outputs: answers.best(outputs, answers.labels("networks/inat_bird_labels.txt")),
        judges.classes(0.12),
        folder="quantised",
    ),
    _network(
        "super_resolution",
        "mean within half a grey level of 255",
        "input",
        ("cat_720p.jpg", "parrot.jpg"),
        lambda name: luminance(name, 224),
        lambda _, outputs: answers.mean(outputs),
        judges.numbers(0.5 / 255),
    ),
    _network(
        "oww_embedding",
        "numbers within 5 % of the embedding's length",
        "input_1",
        _WINDOWS,
        lambda name: _windows()[int(name.removeprefix("window "))][np.newaxis],
        lambda _, outputs: answers.embedding(outputs),
        judges.numbers(0.05, share=True),
        calibration=("66 other windows", lambda: _windows()[_FIRST_OTHER:]),
    ),
    _speech(),
    _keywords(),
    _network(
        "mobilenet_v2_imagenet",
        "the same class first, probability within 0.063, within 0.032 on the mean: compiler 10",
        "input",
        _NINE,
        lambda name: stretched(name, 224)[np.newaxis],
        lambda _, outputs: answers.best(outputs, answers.labels("imagenet_labels_1001.txt")),
        judges.classes(0.063, mean=0.032),
        folder="models",
        today=False,
    ),
    # As with compiler 10, the last before ABI 2, where it is more than 0.99.
    _of_zoo("resnet-50", 0.998),
    _of_zoo("resnet-152", 0.99),
    _of_zoo("densenet-121", 0.998),
    _of_zoo("vgg-16", 0.99),
    _of_zoo("ssd-vgg-300", 0.99),
)
