"""The two models that are dropped, small enough to be compiled where everything is slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

__all__ = ["LABELS", "PHOTO", "kws", "mobilenet"]

_DATA = Path(__file__).parent.parent / "data"
PHOTO = _DATA / "images" / "snowleopardgaze.jpg"
LABELS = _DATA / "imagenet_labels_1001.txt"


def kws(folder: Path) -> Path:
    """Keyword spotting, which takes a tensor."""
    calibration = folder / "calibration.npz"
    with np.load(_DATA / "kws01_accuracy_set.npz") as data:
        inputs = (data["x"][:64].astype(np.float32) - 83) * np.float32(0.5847029089927673)
    np.savez(calibration, input_1=inputs)
    return _pack(folder, "kws_dscnn.onnx", "kws", "--calibration", calibration)


def mobilenet(folder: Path) -> Path:
    """ImageNet's classes, from photographs."""
    words = ("--labels", LABELS, "--preprocess", "stretch", "--calibration", _DATA / "images")
    return _pack(folder, "mobilenet_v2_imagenet.onnx", "mobilenet-v2", *words)


def _pack(folder: Path, model: str, name: str, *words: str | Path) -> Path:
    made = folder / f"{name}-1.0.0.edgemodel"
    command = [sys.executable, "-m", "edged.cli", "pack", _DATA / "models" / model]
    command += ["--name", name, "--version", "1.0.0", *words, "-o", made]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return made
