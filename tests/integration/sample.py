"""A classifier so small that it is compiled in no time, as a bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES = 16, 5
LABELS = ("bus", "car", "tram", "ship", "kite")
SCORES, FEATURES = "classifier/predictions/Softmax:0", "features:0"


def network(path: Path, outputs: tuple[str, ...]) -> Path:
    """Placeholder:0 float32 [N, 16, 16, 3] → the *outputs*: [N, 5] and [N, 1, 1, 8]."""
    rng = np.random.default_rng(3)
    constants = {
        "kernel": rng.normal(0, 0.004, (8, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.1, 8).astype(np.float32),
        "weights": rng.normal(0, 2, (8, CLASSES)).astype(np.float32),
        "offset": rng.normal(0, 0.1, CLASSES).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["Placeholder:0"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Transpose", ["pooled"], [FEATURES], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [SCORES], axis=1),
    ]
    shapes = {SCORES: ["N", CLASSES], FEATURES: ["N", 1, 1, 8]}
    graph = helper.make_graph(
        nodes,
        "sample",
        [helper.make_tensor_value_info("Placeholder:0", TensorProto.FLOAT, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def packed(folder: Path, outputs: tuple[str, ...], *options: str, name: str = "sample") -> Path:
    source = network(folder / "sample.onnx", outputs)
    output = folder / f"{name}-1.0.0.edgemodel"
    command = [sys.executable, "-m", "edged.cli", "pack", str(source), "--name", name]
    command += ["--version", "1.0.0", *options, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output
