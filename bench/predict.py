"""What a Predict costs over the same work in-process, and what the emulator costs over float32.

    python bench/predict.py [--calls N]

Everything is measured in one run, the sides of each ratio in turn, so that a drift of the machine's
speed reaches both. Times are medians in milliseconds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from integration.appliance import DATA, Appliance
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edged import wire
from edged._onnxruntime import InferenceSession, SessionOptions
from edged.emulator import Executor, exact_weight_encodings
from edged.npu import parse_image
from edged.preprocess import Preprocess, image_to_array

MODEL = DATA / "models" / "mobilenet_v2_imagenet.onnx"
PHOTO = DATA / "images" / "cat_720p.jpg"


def float_input(model: Path, output: Path) -> None:
    """The same network for float32 pixels, so that a tensor of one image has 600 KB."""
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(proto, output)


class InProcess:
    """The work of a container without edged: decode, prologue, executor, epilogue."""

    def __init__(self, compiled: Path) -> None:
        image = parse_image((compiled / "program.img").read_bytes())
        self._executor = Executor(image, weights=exact_weight_encodings())
        self._prologue = session(compiled / "prologue.onnx")
        self._epilogue = session(compiled / "epilogue.onnx")
        self._into = [tensor.name for tensor in image.input_tensors]
        self._out_of = [tensor.name for tensor in image.output_tensors]
        self._input = self._prologue.get_inputs()[0].name

    def tensor(self, x: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        device_inputs = self._prologue.run(self._into, {self._input: x})
        outputs = self._executor.run([value[0] for value in device_inputs])
        feeds = {name: value[None] for name, value in zip(self._out_of, outputs, strict=True)}
        return np.asarray(self._epilogue.run(None, feeds)[0])

    def photo(self, data: bytes, spec: Preprocess) -> npt.NDArray[np.float32]:
        return self.tensor(image_to_array(data, spec))


def session(model: Path) -> InferenceSession:
    """On one thread, as everything here is: two would spin for the cores they share."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(str(model), options)


def medians(calls: int, *sides: Callable[[], object]) -> list[float]:
    """Median milliseconds of each side, called in turn."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(5):
        for side in sides:
            side()
    for _ in track(range(calls), "measuring", transient=True, disable=not sys.stdout.isatty()):
        for side, taken in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            taken.append((time.perf_counter() - start) * 1000)
    return [statistics.median(taken) for taken in times]


def compile_model(model: Path, folder: Path) -> Path:
    """As the daemon does it, by the compiler's own command."""
    job, output = folder / "job", folder / "compiled"
    job.mkdir()
    output.mkdir()
    shutil.copy(model, job / "model.onnx")
    command = [sys.executable, "-m", "edged.compiler", str(job), "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=200, help="calls per figure (default 200)")
    calls = parser.parse_args().calls
    console = Console()
    table = Table("what", "edged", "in-process", "ratio", title="p50, ms")
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        folder = Path(name)
        floats = folder / "mobilenet_float.onnx"
        float_input(MODEL, floats)
        appliance = Appliance(folder)
        try:
            appliance.start_emulator()
            appliance.start_daemon()
            for model, row in ((MODEL, photo_row), (floats, tensor_row)):
                work = folder / model.stem
                work.mkdir()
                bundle = pack(model, work / f"{model.stem}-1.0.0.edgemodel")
                status = appliance.put(bundle)
                if not status.startswith("serving"):
                    raise SystemExit(status)
                local = InProcess(compile_model(model, work))
                label, sides = row(appliance, local)
                over, bare = medians(calls, *sides)
                table.add_row(label, f"{over:.2f}", f"{bare:.2f}", f"{over / bare:.2f}")
        finally:
            appliance.close()
        console.print(table)
        console.print(emulator_table(calls, folder / MODEL.stem / "compiled"))
    return 0


def pack(model: Path, output: Path) -> Path:
    command = [sys.executable, "-m", "edged.cli", "pack", str(model), "--name", model.stem]
    command += ["--version", "1.0.0", "--preprocess", "stretch", "-o", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return output


Sides = tuple[Callable[[], object], Callable[[], object]]


def photo_row(appliance: Appliance, local: InProcess) -> tuple[str, Sides]:
    data = PHOTO.read_bytes()
    spec = Preprocess("input", 224, 224)
    return f"JPEG, {len(data) / 1000:.0f} KB", (
        lambda: appliance.score_images(data),
        lambda: local.photo(data, spec),
    )


def tensor_row(appliance: Appliance, local: InProcess) -> tuple[str, Sides]:
    x = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.float32)
    request = {"input": wire.TensorProto(dtype=wire.DataType.DT_FLOAT, tensor_content=x.tobytes())}
    request["input"].tensor_shape.dim.extend(
        wire.TensorShapeProto(dim=[{"size": n} for n in x.shape]).dim
    )
    return f"tensor, {x.nbytes / 1000:.0f} KB", (
        lambda: appliance.predict(request),
        lambda: local.tensor(x),
    )


def emulator_table(calls: int, compiled: Path) -> Table:
    """The integer executor beside ONNX Runtime on the float model, one thread each."""
    weights = exact_weight_encodings()
    image = parse_image((compiled / "program.img").read_bytes())
    executor = Executor(image, weights=weights, threads=1)
    floats = session(MODEL)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    into = session(compiled / "prologue.onnx").run(None, {"input": x})[0][0]
    ours, theirs = medians(
        calls, lambda: executor.run([into]), lambda: floats.run(None, {"input": x})
    )
    table = Table("MobileNetV2, one thread", "ms", "times as fast", title="the emulator")
    table.add_row("ONNX Runtime, float32", f"{theirs:.2f}", "1.00")
    table.add_row(f"emulator, {weights}", f"{ours:.2f}", f"{theirs / ours:.2f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
