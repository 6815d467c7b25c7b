"""A small network that takes photographs, as a bundle; and photographs of two kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edged.bundle import VerifiedBundle, pack, verify_bundle

SIDE, WIDTH = 16, 24


def network(features: str | None) -> onnx.ModelProto:
    """uint8 [N, 16, 16, 3] → features [N, 24] → three classes."""
    rng = np.random.default_rng(3)
    constants = {
        "scale": np.float32(1 / 64),
        "kernel": rng.normal(0, 0.3, (WIDTH, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.1, WIDTH).astype(np.float32),
        "weights": rng.normal(0, 2, (WIDTH, 3)).astype(np.float32),
        "offset": rng.normal(0, 0.1, 3).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sample",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if features is not None:
        helper.set_model_props(model, {"edged.features": features, "edged.weights": "random"})
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``red`` and ``blue`` with eight noisy photographs each, in one folder."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(8)
    for label, channel in (("red", 0), ("blue", 2)):
        (folder / label).mkdir()
        for index in range(8):
            pixels = rng.integers(0, 120, (40, 30, 3), np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> MakeBundle:
    def make(features: str | None = None, preprocess: str | None = None, **more: object) -> Path:
        folder = tmp_path_factory.mktemp("bundle")
        (folder / "model.onnx").write_bytes(network(features).SerializeToString())
        output = folder / "sample.edgemodel"
        pack(
            folder / "model.onnx",
            name="sample",
            version="1.0.0",
            preprocess=preprocess,
            calibration=[photographs / "red", photographs / "blue"],
            licence="MIT",
            output=output,
            **more,  # type: ignore[arg-type]  # whatever the test wants to be different
        )
        return output

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: MakeBundle) -> Path:
    """It names its features in its metadata, as those of the zoo do."""
    return make_bundle("features")


@pytest.fixture
def verified(tmp_path: Path) -> Callable[[Path], VerifiedBundle]:
    def verify(path: Path) -> VerifiedBundle:
        folder = tmp_path / f"verified-{path.parent.name}-{path.name}"
        folder.mkdir()
        return verify_bundle(path, folder)

    return verify
