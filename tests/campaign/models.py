"""Two small models that answer the same question differently, as bundles."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

DATA = Path(__file__).parent.parent / "data"
_MODEL = DATA / "models" / "kws_dscnn.onnx"

__all__ = ["Models", "make_models"]


@dataclass(frozen=True)
class Models:
    """Bundles by the name of their model, and what to ask them.

    Attributes:
        a, b: keyword spotting, and the same network up to its features.
    """

    a: Path
    b: Path
    inputs: dict[str, np.ndarray]


def make_models(folder: Path) -> Models:
    with np.load(DATA / "kws01_accuracy_set.npz") as data:
        inputs = (data["x"][:33].astype(np.float32) - 83) * np.float32(0.5847029089927673)
    calibration = folder / "calibration.npz"
    np.savez(calibration, input_1=inputs[:32])
    cut = folder / "cut.onnx"
    features = next(n.input[0] for n in onnx.load(_MODEL).graph.node if n.op_type == "MatMul")
    onnx.utils.extract_model(str(_MODEL), str(cut), ["input_1"], [features], check_model=False)
    bundles = []
    for name, model in (("a", _MODEL), ("b", cut)):
        bundle = folder / f"{name}-1.0.0.edgemodel"
        command = [sys.executable, "-m", "edged.cli", "pack", str(model), "--name", name]
        command += ["--version", "1.0.0", "--calibration", str(calibration), "-o", str(bundle)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        bundles.append(bundle)
    return Models(bundles[0], bundles[1], {"input_1": inputs[32:]})
