"""An appliance per test, and the bundles that are dropped into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from integration.appliance import DATA, Appliance, keywords, pack
from integration.sample import FEATURES, LABELS, SCORES, SIDE, packed


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    """Running, and empty."""
    # A UNIX socket's path is short; pytest's own folders are long.
    appliance = Appliance(tmp_path)
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        yield appliance
    finally:
        appliance.close()


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2 as a bundle that takes images."""
    output = tmp_path_factory.mktemp("bundles") / "mobilenet-v2-1.0.0.edgemodel"
    labels = str(DATA / "imagenet_labels_1001.txt")
    return pack(
        output,
        "mobilenet_v2_imagenet.onnx",
        "mobilenet-v2",
        "--labels",
        labels,
        "--preprocess",
        "stretch",
        "--calibration",
        str(DATA / "images"),
    )


@pytest.fixture(scope="session")
def kws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DS-CNN keyword spotting as a bundle that takes tensors."""
    folder = tmp_path_factory.mktemp("bundles")
    calibration = folder / "calibration.npz"
    np.savez(calibration, input_1=keywords()[0][:128])
    output = folder / "kws-1.0.0.edgemodel"
    return pack(output, "kws_dscnn.onnx", "kws", "--calibration", str(calibration))


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One for all protocols: the sample, with labels, that takes tensors and images."""
    appliance = Appliance(tmp_path_factory.mktemp("a"))
    appliance.set("serving", "model_control = true\nchannelz = true")
    folder = tmp_path_factory.mktemp("b")
    labels = folder / "labels.txt"
    labels.write_text("\n".join(LABELS) + "\n")
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        images = ("--preprocess", f"stretch={SIDE}x{SIDE}", "--labels", str(labels))
        images += ("--calibration", str(DATA / "images"))
        bundle = packed(folder, (SCORES, FEATURES), *images)
        assert appliance.put(bundle).startswith("serving since")
        yield appliance
    finally:
        appliance.close()


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network by another name, to swap with."""
    images = ("--preprocess", f"stretch={SIDE}x{SIDE}", "--calibration", str(DATA / "images"))
    return packed(tmp_path_factory.mktemp("second"), (SCORES, FEATURES), *images, name="second")
