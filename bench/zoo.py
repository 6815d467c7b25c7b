"""The table of docs/zoo.md: what the classic networks take, and how fast the emulator runs them.

    PYTHONPATH=tests python bench/zoo.py [--networks NAME…] [--calls N] [--write docs/zoo.md]

One network at a time. Times of the emulator's executor and of ONNX Runtime in float32 are medians
of calls made in turn, batch 1, so that a drift of the machine's speed reaches both. Both have one
thread, the caller's, and what counts is its processor time: what the clock shows when nobody else
computes. Mismatches are against the integer reference, over every element of every tensor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# The reference's products of matrices: one thread, so that it does not wait for itself.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from stopwatch import in_turn

from edged import zoo
from edged._compiledfiles import host_file
from edged._onnxruntime import InferenceSession, SessionOptions
from edged._pipeline import Pipeline
from edged.emulator import Executor, exact_weight_encodings
from edged.npu import numerics, parse_image

SAMPLES = 8
BEGIN, END = "<!-- bench/zoo.py writes from here -->", "<!-- to here -->"
COLUMNS = (
    *("network", "parameters", "GMACs", "image", "activations", "compile", "memory"),
    *("float32", "emulator", "ratio", "mismatches"),
)


@dataclass(frozen=True)
class Row:
    """What was found of one network; bytes, seconds."""

    name: str
    parameters: int
    macs: int
    on_device: float
    image: int
    activations: int
    compile_seconds: float
    """Processor time."""
    compile_peak: int
    float_seconds: float
    emulator_seconds: float
    elements: int
    mismatches: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=list(zoo.NETWORKS), metavar="NAME")
    parser.add_argument("--calls", type=int, default=30, help="of each side, after three")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table into it")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(asdict(measure(options.one, options.calls))) + "\n")
        return
    rows = []
    for name in options.networks:
        # A process for each: what one leaves in memory is not counted for the next.
        command = [sys.executable, __file__, "--one", name, "--calls", str(options.calls)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        rows.append(Row(**json.loads(done.stdout)))
        show(rows[-1:])
    show(rows)
    if options.write is not None:
        write(rows, options.write)


def measure(name: str, calls: int) -> Row:
    """Build, compile, check and time one network."""
    with tempfile.TemporaryDirectory() as folder:
        job, output = Path(folder, "job"), Path(folder, "output")
        job.mkdir()
        output.mkdir()
        model = zoo.build(name)
        samples = model.samples(SAMPLES)
        (job / "model.onnx").write_bytes(model.onnx())
        np.savez(job / "calibration.npz", **samples)  # type: ignore[arg-type]
        skeleton = model.skeleton
        del model
        seconds, peak = compiled(job, output)
        report = json.loads((output / "report.json").read_text())
        image = parse_image((output / "program.img").read_bytes())
        files = [output / host_file(number) for number in range(len(image.entries) + 1)]
        feeds = {key: array[:1] for key, array in samples.items()}
        weights = exact_weight_encodings()
        compared = differing = 0
        runs: list[Callable[[], object]] = []

        def device(entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            nonlocal compared, differing
            given = [each[0] for each in inputs]
            exposed = Executor(image, entry, weights=weights, expose_all=True)
            found, wanted = exposed.run_all(given), numerics.run_all(image, given, entry)
            compared += sum(value.size for value in wanted.values())
            differing += sum(int((found[i] != value).sum()) for i, value in wanted.items())
            runs.append(partial(Executor(image, entry, weights=weights).run, given))
            return [found[index][None] for index in image.entries[entry].outputs]

        Pipeline(image, [file.read_bytes() for file in files]).run(feeds, device)
        floats = session(job / "model.onnx")
        times = in_turn([lambda: floats.run(None, feeds), lambda: [run() for run in runs]], calls)
        return Row(
            name,
            skeleton.trainable,
            skeleton.macs,
            report["macs"] / (report["macs"] + report["host_macs"]),
            (output / "program.img").stat().st_size,
            report["activations_bytes"],
            seconds,
            peak,
            times[0],
            times[1],
            compared,
            differing,
        )


def compiled(job: Path, output: Path) -> tuple[float, int]:
    """Seconds of processor time and bytes that the compiler's process took."""
    command = [sys.executable, "-m", "edged.compiler", str(job), "--output", str(output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the compiler ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def session(path: Path) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.parameters / 1e6:.2f} M",
        f"{row.macs / 1e9:.2f}, {row.on_device:.1%} on the device",
        f"{row.image / 1e6:.1f} MB",
        f"{row.activations / 1e6:.2f} MB",
        f"{row.compile_seconds:.1f} s",
        f"{row.compile_peak / 1e9:.2f} GB",
        f"{row.float_seconds * 1e3:.1f} ms",
        f"{row.emulator_seconds * 1e3:.1f} ms",
        f"{row.float_seconds / row.emulator_seconds:.2f}",
        f"{row.mismatches} of {row.elements / 1e6:.1f} M",
    )


def show(rows: Sequence[Row]) -> None:
    table = Table(*COLUMNS, box=None)
    for row in rows:
        table.add_row(*cells(row))
    console = Console()
    console.width = max(console.width, 200)
    console.print(table)


def write(rows: Sequence[Row], path: Path) -> None:
    """Replace what stands between the two marks of *path*."""
    lines = [
        BEGIN,
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
        f"On {processor()}, ONNX Runtime {version('onnxruntime')}, weights as "
        f"{exact_weight_encodings()}. Times are processor time, of one thread each. Random weights,"
        f" seed 0; {SAMPLES} samples to calibrate on.",
        "",
        END,
    ]
    text = path.read_text(encoding="utf-8")
    marks = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    path.write_text(marks.sub(lambda _: "\n".join(lines), text), encoding="utf-8")


def processor() -> str:
    """The processor's name, and the instructions that decide on the speed of 8-bit products."""
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.*)", text)
    flags = set(re.findall(r"\b(avx2|avx512f|avx_vnni|avx512_vnni|amx_int8)\b", text))
    return f"{found.group(1) if found else platform.processor()} ({', '.join(sorted(flags))})"


if __name__ == "__main__":
    main()
