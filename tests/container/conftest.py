"""A small compiled model, and the emulator that runs it."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edged._compiledfiles import host_file
from edged._pipeline import Pipeline
from edged.bundle import pack, verify_bundle
from edged.compiler import compile_model
from edged.container import Launcher, ProcessLauncher, SystemdLauncher
from edged.device import Device, vfio_user
from edged.npu import numerics, parse_image

SIDE = 16


@dataclass(frozen=True)
class Sample:
    """The model's folder, and what it answers by the integer reference."""

    folder: Path

    def reference(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """The host's parts and the reference, in this process; *pixels* is [1, 16, 16, 3]."""
        image = parse_image((self.folder / "program.img").read_bytes())
        names = map(host_file, range(len(image.entries) + 1))
        host = [(self.folder / name).read_bytes() for name in names]

        def device(entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            given = [each[0] for each in inputs]
            return [out[np.newaxis] for out in numerics.run(image, given, entry)]

        return Pipeline(image, host).run({"input": pixels}, device)


@dataclass(frozen=True)
class Emulator:
    """A running emulator with the sample's program active."""

    process: subprocess.Popen[str]
    socket: Path


def make_model(*, in_two: bool = False) -> bytes:
    """uint8 [N, 16, 16, 3] → ``scores:0`` [N, 5] and ``features:0`` [N, 8].

    Args:
        in_two: with an operator in the middle that the device does not have.
    """
    rng = np.random.default_rng(3)
    constants = {
        "scale": np.float32(1 / 64),
        "kernel": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.1, 8).astype(np.float32),
        "weights": rng.normal(0, 2, (8, 5)).astype(np.float32),
        "offset": rng.normal(0, 0.1, 5).astype(np.float32),
    }
    between = [helper.make_node("Softmax", ["relu"], ["between"], axis=1)]
    between += [helper.make_node("Conv", ["between", "square"], ["second"])]
    if in_two:
        constants["square"] = rng.normal(0, 1, (8, 8, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        *(between if in_two else ()),
        helper.make_node("GlobalAveragePool", ["second" if in_two else "relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features:0"]),
        helper.make_node("Gemm", ["features:0", "weights", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores:0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sample",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("scores:0", TensorProto.FLOAT, ["N", 5]),
            helper.make_tensor_value_info("features:0", TensorProto.FLOAT, ["N", 8]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A bundle of the small model, verified and compiled into one folder."""
    return make_sample(tmp_path_factory.mktemp("sample"), make_model())


@pytest.fixture(scope="session")
def sample_in_two(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """One whose program has two entries, with a part of the host between them."""
    return make_sample(tmp_path_factory.mktemp("two"), make_model(in_two=True))


def make_sample(place: Path, model: bytes) -> Sample:
    """A bundle of *model*, verified and compiled into a folder in *place*."""
    (place / "sample.onnx").write_bytes(model)
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)
    np.savez(place / "calibration.npz", input=pixels)
    pack(
        place / "sample.onnx",
        name="sample",
        version="1.2.3",
        serial=7,
        calibration=place / "calibration.npz",
        aliases={"scores:0": "output_alias"},
        output=place / "sample.edgemodel",
    )
    folder = place / "folder"
    folder.mkdir()
    verify_bundle(place / "sample.edgemodel", folder)
    compile_model(model, calibration={"input": pixels}).write(folder)
    return Sample(folder)


@pytest.fixture(scope="session")
def emulate(sample: Sample) -> Callable[..., AbstractContextManager[Emulator]]:
    """Starts an emulator in a folder, with the program of a model active; ends it afterwards."""

    @contextmanager
    def start(place: Path, model: Path = sample.folder) -> Iterator[Emulator]:
        socket = place / "device.sock"
        argv = [sys.executable, "-m", "edged.emulator", "--socket", str(socket), "--dram", "64"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            device = Device.open(vfio_user.VfioUserTransport(vfio_user.connect(socket)))
            try:
                device.load((model / "program.img").read_bytes(), 0)
                device.activate(0)
                yield Emulator(process, socket)
            finally:
                device.close()
                process.kill()

    return start


@pytest.fixture(scope="session")
def emulator(
    emulate: Callable[[Path], AbstractContextManager[Emulator]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Emulator]:
    """One for all tests that leave it alive."""
    with emulate(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """An encoded image: noise of a given size, as PNG or JPEG."""

    def encode(width: int = SIDE, height: int = SIDE, kind: str = "PNG", seed: int = 0) -> bytes:
        rng = np.random.default_rng(seed)
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, kind)
        return file.getvalue()

    return encode


@pytest.fixture
def open_descriptors() -> Callable[[], int]:
    return lambda: sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(scope="session")
def unit_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where something listens and starts a supervisor for each connection, as systemd does."""
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("systemd-socket-activate is not there (Debian: systemd)")
    socket = tmp_path_factory.mktemp("units") / "container.sock"
    argv = [program, "--accept", "--seqpacket", f"--listen={socket}"]
    argv += [sys.executable, "-I", "-m", "edged.container.supervisor"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "Listening on" in process.stderr.readline()
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        yield socket
        process.terminate()
        drain.join()


@pytest.fixture(params=["process", "systemd"])
def launch(request: pytest.FixtureRequest) -> Callable[..., Launcher]:
    """Makes a launcher, of each kind in turn."""
    if request.param == "process":
        return ProcessLauncher
    return partial(SystemdLauncher, request.getfixturevalue("unit_socket"))
