"""How far compiled networks are from float, and what each of the compiler's techniques brings.

    python bench/accuracy.py

MobileNetV2 on nine photographs: by how much the probability of the float model's first answer
differs, mean and largest. Keyword spotting on the 1000 inputs of its benchmark: how often it is
right. Calibrated with the same inputs, with others, and without any. Everything goes through the
compiler and the emulator's executor, which equals the integer reference to the bit. Prints
Markdown: the tables in docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edged._onnxruntime import session
from edged._pipeline import Pipeline
from edged.compiler import CompiledModel, Techniques, compile_model
from edged.emulator import in_process

DATA = Path(__file__).parent.parent / "tests" / "data"
PHOTOGRAPHS = sorted((DATA / "images").glob("*.jpg"))
ALL = Techniques()
NONE = Techniques(**{field.name: False for field in fields(Techniques)})
SHOWN = {
    "least_error": "exponents of least squared error",
    "expected_error": "expected error of weights in the bias",
    "stretch": "ReLU6 stretched to a byte",
    "compensated": "compensated rounding, depthwise",
    "scaled_input": "synthetic inputs to scale",
    "supplemented": "synthetic beside few images",
    "columns": "steps for each column of an output",
    "channels": "exponents for each channel",
    "wide": "16 bits where 8 lose most",
}


class Accelerated:
    """A compiled model as a container runs it: prologue, device, epilogue."""

    def __init__(self, compiled: CompiledModel) -> None:
        self._pipeline = Pipeline(compiled.image, compiled.host)
        self._device = in_process(compiled.image)

    def __call__(self, name: str, sample: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The first output for one sample, [1, …], of the input *name*."""
        outputs = self._pipeline.run({name: sample}, self._device)
        return np.asarray(next(iter(outputs.values()))[0], np.float32)


class Photographs:
    """MobileNetV2 on the nine photographs, stretched to 224×224."""

    def __init__(self) -> None:
        self._model = (DATA / "models" / "mobilenet_v2_imagenet.onnx").read_bytes()
        self.images = []
        for path in PHOTOGRAPHS:
            with Image.open(path) as image:
                self.images.append(image.convert("RGB"))
        self._pixels = [_stretched(image) for image in self.images]
        reference = session(self._model)
        self._expected = [reference.run(None, {"input": p[None]})[0][0] for p in self._pixels]
        self.seconds = 0.0

    def deviations(
        self,
        techniques: Techniques,
        calibrated: Sequence[int] | None,
        tested: Sequence[int],
        *,
        augmented: bool = False,
    ) -> list[float]:
        """Of the top-1 probability; 1 where another class is first."""
        samples = None
        if calibrated is not None:
            chosen = [self._pixels[index] for index in calibrated]
            if augmented:
                chosen += [view for index in calibrated for view in _views(self.images[index])]
            samples = {"input": np.stack(chosen)}
        begun = time.process_time()
        compiled = compile_model(self._model, calibration=samples, techniques=techniques)
        self.seconds = time.process_time() - begun
        run = Accelerated(compiled)
        found = []
        for index in tested:
            scores, wanted = run("input", self._pixels[index][None]), self._expected[index]
            top = wanted.argmax()
            found.append(abs(float(scores[top] - wanted[top])) if scores.argmax() == top else 1.0)
        return found

    def held_out(self, techniques: Techniques, folds: int) -> list[float]:
        """Each photograph by a network that was calibrated without it."""
        found = []
        for fold in range(folds):
            tested = [i for i in range(9) if i % folds == fold]
            rest = [i for i in range(9) if i % folds != fold]
            found += self.deviations(techniques, rest, tested)
        return found


class Keywords:
    """Keyword spotting on the inputs of its benchmark."""

    def __init__(self) -> None:
        self._model = (DATA / "models" / "kws_dscnn.onnx").read_bytes()
        with np.load(DATA / "kws01_accuracy_set.npz") as arrays:
            self._x = ((arrays["x"].astype(np.float32) - 83) * 0.5847029089927673).astype(
                np.float32
            )
            self._labels = arrays["y"]

    def right(self, techniques: Techniques, samples: int) -> str:
        """Of all, and of those that were not calibrated with if there are any, in per cent."""
        used = np.arange(0, 1000, 1000 // samples) if samples else np.arange(0)
        given = {"input_1": self._x[used]} if samples else None
        compiled = compile_model(self._model, calibration=given, techniques=techniques)
        run = Accelerated(compiled)
        correct = np.array(
            [run("input_1", x[None]).argmax() for x in self._x], np.int64
        ) == np.asarray(self._labels)
        others = np.delete(correct, used)
        every = f"{100 * correct.mean():.1f}"
        return f"{every} ({100 * others.mean():.1f})" if samples else every


def _stretched(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))


def _views(image: Image.Image) -> list[npt.NDArray[np.uint8]]:
    """A mirrored one, and two crops."""
    width, height = image.size
    crops = [(0.0, 0.0, 0.85, 0.85), (0.15, 0.15, 1.0, 1.0)]
    boxes = [(a * width, b * height, c * width, d * height) for a, b, c, d in crops]
    cropped = [image.crop(tuple(round(n) for n in box)) for box in boxes]
    return [_stretched(one) for one in (ImageOps.mirror(image), *cropped)]


def _shown(deviations: Sequence[float]) -> str:
    return f"{np.mean(deviations):.3f} / {max(deviations):.3f}"


def _stages() -> list[tuple[str, Techniques]]:
    stages = [("plain: exponents that cover everything", NONE)]
    for name, words in SHOWN.items():
        stages.append((f"+ {words}", replace(stages[-1][1], **{name: True})))
    stages += [(f"all but {words}", replace(ALL, **{name: False})) for name, words in SHOWN.items()]
    return stages


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    photographs, keywords = Photographs(), Keywords()
    nine = list(range(9))

    print("| | nine | held out | none | KWS: 100 | KWS: none | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for words, techniques in _stages():
        same = photographs.deviations(techniques, nine, nine)
        seconds = photographs.seconds
        held = photographs.held_out(techniques, 3)
        unaided = photographs.deviations(techniques, None, nine)
        right = [keywords.right(techniques, samples) for samples in (100, 0)]
        cells = [_shown(same), _shown(held), _shown(unaided), *right, f"{seconds:.1f}"]
        print(f"| {words} | {' | '.join(cells)} |", flush=True)

    print("\n| calibrated with | tested on | mean / largest | without supplement |")
    print("|---|---|---|---|")
    print(
        f"| the other eight | each of nine | {_shown(photographs.held_out(ALL, 9))} | – |",
        flush=True,
    )
    for count, augmented in ((1, False), (1, True), (3, False), (4, False), (4, True)):
        cells = []
        for techniques in (ALL, replace(ALL, supplemented=False)):
            found = []
            for first in range(0, 9, count):
                used = [(first + step) % 9 for step in range(count)]
                rest = [index for index in nine if index not in used]
                found += photographs.deviations(techniques, used, rest, augmented=augmented)
            cells.append(_shown(found))
        words = f"{count}{', with a mirrored one and two crops of each' if augmented else ''}"
        print(f"| {words} | the others | {' | '.join(cells)} |", flush=True)
    print("\n| KWS calibrated with | right on all (on the others) |\n|---|---|")
    for samples in (1, 4, 20, 100, 200):
        print(f"| {samples} | {keywords.right(ALL, samples)} |", flush=True)


if __name__ == "__main__":
    main()
