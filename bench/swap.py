"""Two real models take turns on the device while clients keep calling.

    python bench/swap.py [--swaps 100 | --minutes 10] [--output FOLDER]

The classifier MobileNetV2 and its featurizer (the same network up to the pooled features) take the
same photographs and give different answers. A process of clients, one at full speed and eight at a
steady rate, checks each answer against what its model gives. Meanwhile memory, descriptors and
threads of daemon and container are sampled. Prints a table; with --output writes swap.json and
swap.png.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from integration.appliance import DATA, Appliance
from load import fingerprint, request
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edged import wire

MODEL = DATA / "models" / "mobilenet_v2_imagenet.onnx"
PHOTO = DATA / "images" / "schoolbus.jpg"
HELD = re.compile(r"serves; calls were held for (\d+) ms \(([^)]*)\)")
STEP = re.compile(r"([a-z-]+) (\d+)")


@dataclass(frozen=True)
class Sample:
    """What the processes take, at one moment: megabytes of PSS, and counts."""

    at: float
    daemon_mb: float
    containers_mb: float
    containers: int
    descriptors: int
    threads: int


class Watch:
    """Samples the daemon and the processes below it."""

    def __init__(self, daemon: int) -> None:
        self._daemon = daemon
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def sample(self) -> None:
        children = [pid for pid in _descendants(self._daemon) if _is_worker(pid)]
        daemon = Path("/proc", str(self._daemon))
        self.samples.append(
            Sample(
                round(time.monotonic() - self._began, 2),
                _pss(self._daemon),
                round(sum(_pss(pid) for pid in children), 1),
                len(children),
                len(list((daemon / "fd").iterdir())),
                len(list((daemon / "task").iterdir())),
            )
        )


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _is_worker(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"edged.container.worker" in words and b"bwrap" not in words[0]


def _pss(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    match = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    return round(int(match[1]) / 1024, 1) if match else 0.0


def featurizer(output: Path) -> None:
    """The network up to its pooled features."""
    graph = onnx.load(MODEL).graph
    pooled = next(node.output[0] for node in graph.node if node.op_type == "GlobalAveragePool")
    onnx.utils.extract_model(str(MODEL), str(output), ["input"], [pooled], check_model=False)


def pack(model: Path, name: str, folder: Path) -> Path:
    bundle = folder / f"{name}-1.0.0.edgemodel"
    command = [sys.executable, "-m", "edged.cli", "pack", str(model), "--name", name]
    command += ["--version", "1.0.0", "--preprocess", "stretch", "-o", str(bundle)]
    command += ["--calibration", str(DATA / "images")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return bundle


def answer_of(appliance: Appliance) -> str:
    call = appliance.channel.unary_unary(
        f"/{wire.PREDICT}", response_deserializer=wire.PredictResponse.FromString
    )
    return fingerprint(call(request(PHOTO.read_bytes()), timeout=30))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--swaps", type=int, default=100, help="how many swaps (default 100)")
    parser.add_argument("--minutes", type=float, help="swap for so long instead")
    parser.add_argument("--output", type=Path, help="folder for swap.json and swap.png")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        folder = Path(name)
        features = folder / "features.onnx"
        featurizer(features)
        bundles = [pack(MODEL, "classifier", folder), pack(features, "featurizer", folder)]
        appliance = Appliance(folder)
        try:
            appliance.start_emulator()
            appliance.start_daemon()
            report = run(appliance, bundles, options.swaps, options.minutes)
        finally:
            appliance.close()
    console.print(table(report))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "swap.json").write_text(json.dumps(report, indent=1))
        plot(report, options.output / "swap.png")
    load = report["load"]
    return 1 if load["failed"] or load["wrong"] else 0


def run(appliance: Appliance, bundles: list[Path], swaps: int, minutes: float | None) -> dict:
    expected = {}
    for bundle in bundles:
        status = appliance.put(bundle)
        if not status.startswith("serving"):
            raise SystemExit(status)
        expected[bundle.name.split("-")[0]] = answer_of(appliance)
    (appliance.folder / "expected.json").write_text(json.dumps(expected))
    assert appliance.daemon is not None
    watch = Watch(appliance.daemon.pid)
    watch.sample()
    command = [sys.executable, str(Path(__file__).with_name("load.py"))]
    command += [f"unix:{appliance.socket}", str(PHOTO), str(appliance.folder / "expected.json")]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    limit = 1 << 30 if minutes else swaps
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("swapping", total=None if minutes else swaps)
        done = 0
        while done < limit and time.monotonic() < end:
            status = appliance.put(bundles[done % 2])
            outcomes[status.split()[0]] += 1
            watch.sample()
            done += 1
            progress.advance(task)
    output, _ = load.communicate()
    # Without the first two, which were compiled.
    swaps = HELD.findall(appliance.log.read_text())[2:]
    steps: dict[str, list[int]] = {}
    for _, laps in swaps:
        for step, ms in STEP.findall(laps):
            steps.setdefault(step, []).append(int(ms))
    return {
        "swaps": dict(outcomes),
        "load": json.loads(output),
        "gate_closed_ms": [int(ms) for ms, _ in swaps],
        "steps_ms": steps,
        "samples": [asdict(sample) for sample in watch.samples],
    }


def table(report: dict) -> Table:
    load, held, samples = report["load"], report["gate_closed_ms"], report["samples"]
    result = Table("what", "value", title="swaps under load")
    result.add_row("swaps", ", ".join(f"{n} {what}" for what, n in report["swaps"].items()))
    result.add_row("calls answered", str(load["answered"]))
    result.add_row("calls failed", str(load["failed"] or 0))
    result.add_row("answers of the wrong model", str(load["wrong"]))
    if held:
        p50, p99, worst = np.percentile(held, [50, 99, 100])
        result.add_row("gate closed, ms", f"p50 {p50:.0f}, p99 {p99:.0f}, worst {worst:.0f}")
        steps = report["steps_ms"].items()
        result.add_row(
            "of it, p50 of each step",
            ", ".join(f"{step} {np.median(ms):.0f}" for step, ms in steps),
        )
    latency = f"p50 {load['p50_ms']:.0f}, p99 {load['p99_ms']:.0f}, worst {load['worst_ms']:.0f}"
    result.add_row("latency of a call, ms", latency)
    for key, label in (
        ("daemon_mb", "daemon, MB"),
        ("containers_mb", "containers, MB"),
        ("descriptors", "daemon, descriptors"),
        ("threads", "daemon, threads"),
    ):
        values = [sample[key] for sample in samples]
        tenth = max(1, len(values) // 10)
        result.add_row(
            label,
            f"before {values[0]:.0f}, first tenth {np.median(values[:tenth]):.0f}, last tenth"
            f" {np.median(values[-tenth:]):.0f}, peak {max(values):.0f}",
        )
    return result


def plot(report: dict, path: Path) -> None:
    """Memory, descriptors, threads over time, and the distribution of the gate's closed times."""
    from matplotlib.figure import Figure

    samples = report["samples"]
    at = [sample["at"] for sample in samples]
    figure = Figure(figsize=(9, 9), layout="constrained")
    memory, counts, gate = figure.subplots(3)
    for key, label in (("daemon_mb", "daemon"), ("containers_mb", "containers")):
        memory.plot(at, [sample[key] for sample in samples], label=label)
    memory.set(ylabel="PSS, MB", xlabel="s", ylim=(0, None))
    for key in ("descriptors", "threads"):
        counts.plot(at, [sample[key] for sample in samples], label=key)
    counts.set(ylabel="of the daemon", xlabel="s", ylim=(0, None))
    gate.hist(report["gate_closed_ms"], bins=40)
    gate.set(xlabel="gate closed, ms", ylabel="swaps")
    for axes in (memory, counts):
        axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
