"""Trying one network: ``python -m networks.measure NAME`` prints what was found, as JSON.

In a process of its own, so that none finds in memory what another one left, and one that fails
takes no other with it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy.typing as npt
from networks.judges import cosine
from networks.network import Arrays, Cases, Network, float_run
from networks.table import NETWORKS
from stopwatch import in_turn

from edged._onnxruntime import session
from edged._pipeline import Pipeline
from edged.compiler import COMPILER_VERSION, CompiledModel, compile_model
from edged.compiler._import import load_graph
from edged.emulator import in_process
from edged.errors import EdgedError

__all__ = ["Row", "measure"]

_SECONDS = 8.0
_LEAST, _MOST = 5, 300


@dataclass(frozen=True)
class Row:
    """What was found of one network.

    Attributes:
        compiler: its version.
        refused: why there are no results, or empty.
        failed: whether that was no answer of the compiler's, but a fault.
        macs, host_macs: multiply-accumulates of one run, on the device and on the host.
        host: how many operators the host runs, by their kinds.
        found: the device's answers beside float's, in words.
        met: whether they are what was aimed at.
        cosine: of all outputs of the judged cases with float's, in the output that is worst.
        worst_output: its name.
        compile_seconds: processor time.
        image_bytes: of the program image.
        worst, output = cosine(theirs, ours)
    float_seconds, device_seconds: processor time of one run, from inputs to outputs: of ONNX
            Runtime in float32, and of host and emulator.
        emulator_seconds: of the latter, the emulator's.
    """

    name: str
    compiler: str
    refused: str = ""
    failed: bool = False
    macs: int = 0
    host_macs: int = 0
    host: dict[str, int] = field(default_factory=dict)
    found: str = ""
    met: bool = False
    cosine: float | None = None
    worst_output: str = ""
    compile_seconds: float | None = None
    image_bytes: int | None = None
    float_seconds: float | None = None
    device_seconds: float | None = None
    emulator_seconds: float | None = None

    @property
    def share(self) -> float:
        """Of the multiply-accumulates, on the device; 0 where it cannot be compiled."""
        total = self.macs + self.host_macs
        return self.macs / total if total and not self.refused else 0.0

    @property
    def speed(self) -> float | None:
        """How many times as fast as float32 the emulator is, with the host's part."""
        if self.float_seconds is None or not self.device_seconds:
            return None
        return self.float_seconds / self.device_seconds


def measure(network: Network, seconds: float = _SECONDS) -> Row:
    """Compile *network*, ask device and float the same, and time both.

    Args:
        seconds: about how long both are timed.
    """
    model = network.model()
    cases = network.cases()
    begin = time.process_time()
    try:
        compiled = compile_model(model, calibration=network.calibration(), shapes=network.shapes)
    except EdgedError as error:
        return Row(network.name, COMPILER_VERSION, refused=str(error))
    spent = time.process_time() - begin
    device = _Device(compiled)
    theirs = network.outputs(float_run(model), cases)
    ours = network.outputs(device, cases)
    wanted = network.read(theirs)
    judged = network.judge(wanted, network.read(ours))
    float32 = _float_model(network, model)
    beside = ""
    if network.quantised:
        answers = network.read(network.outputs(float_run(float32), cases))
        beside = f"; without quantisers: {network.judge(wanted, answers).found}"
    worst, output = cosine(theirs, ours)
    float_seconds, device_seconds, emulator_seconds = _timed(float32, device, cases, seconds)
    report = compiled.report
    return Row(
        network.name,
        COMPILER_VERSION,
        macs=report.macs,
        host_macs=report.host_macs,
        host=dict(Counter(row.op for row in report.host).most_common()),
        found=judged.found + beside,
        met=judged.met,
        cosine=worst,
        worst_output=output,
        compile_seconds=spent,
        image_bytes=len(compiled.program),
        float_seconds=float_seconds,
        device_seconds=device_seconds,
        emulator_seconds=emulator_seconds,
    )


class _Device:
    """Runs a compiled model, and knows what each run took of the emulator's time in seconds."""

    def __init__(self, compiled: CompiledModel) -> None:
        self._pipeline = Pipeline(compiled.image, compiled.host)
        self._emulator = in_process(compiled.image)
        self.seconds: list[float] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.seconds.append(0.0)
        return self._pipeline.run(inputs, self._timed)

    def _timed(self, entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        begin = time.thread_time()
        found = self._emulator(entry, inputs)
        self.seconds[-1] += time.thread_time() - begin
        return found


def _float_model(network: Network, model: bytes) -> bytes:
    """*model* in float32: of a quantised one what it stands for, without rounding in between."""
    graph = load_graph(model, network.shapes)
    return graph.onnx(graph.outputs)


def _timed(model: bytes, device: _Device, cases: Cases, seconds: float) -> list[float]:
    """Seconds of *model*, of the device, and of the emulator in it, for the first case."""
    float32 = session(model)
    wanted = {each.name for each in float32.get_inputs()}
    inputs = dict(next(iter(cases.values())))
    feed = {name: value for name, value in inputs.items() if name in wanted}

    def both(calls: int) -> list[float]:
        return in_turn([lambda: float32.run(None, feed), lambda: device(inputs)], calls)

    once = sum(both(1))
    calls = max(_LEAST, min(_MOST, int(seconds / once)))
    return [*both(calls), statistics.median(device.seconds[-calls:])]


def main() -> None:
    """Measure the network that is named, and print it."""
    (network,) = (each for each in NETWORKS if each.name == sys.argv[1])
    sys.stdout.write(json.dumps(asdict(measure(network))) + "\n")


if __name__ == "__main__":
    main()
