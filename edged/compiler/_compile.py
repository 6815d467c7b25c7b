"""The compiler as a whole: one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Final

from edged._compiledfiles import PROGRAM_FILE, host_file
from edged.compiler._calibrate import (
    Calibration,
    Samples,
    calibrate,
    checked_samples,
    supplemented,
    synthetic_samples,
)
from edged.compiler._emit import emit
from edged.compiler._fold import fold
from edged.compiler._graph import Graph
from edged.compiler._import import load_graph
from edged.compiler._lower import lower
from edged.compiler._measure import layer_errors, output_error
from edged.compiler._partition import Partition, partition
from edged.compiler._quantise import Quantised, quantise
from edged.compiler._report import Code, Report, report
from edged.compiler._stretch import stretch
from edged.compiler._techniques import Techniques
from edged.compiler._version import COMPILER_VERSION
from edged.compiler._wide import between, tabled, wide
from edged.errors import ImageError, ModelError
from edged.npu import Array, ProgramImage, Target, parse_image, serialize_image, weights_bytes
from edged.remarks import FILE_NAME, serialize
from edged.scheduler import scheduled
from edged.scheduler.timing import measure

__all__ = ["CompiledModel", "Progress", "compile_model"]

Progress = Callable[[float, str], None]
"""Called with the fraction done, 0 … 1, and what is being done now."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledModel:
    """A model in the parts that a container runs one after the other.

    Attributes:
        image: the device's part, its digest set.
        program: the same, serialised.
        host: ONNX, what runs before each entry of the image and behind the last one.
    """

    image: ProgramImage
    program: bytes
    host: tuple[bytes, ...]
    report: Report

    def write(self, folder: Path) -> None:
        """Write ``program.img``, ``host-0.onnx``, ``host-1.onnx``, …, ``report.json``,
        ``remarks.json``.

        Raises:
            OSError: *folder* does not exist or cannot be written.
        """
        (folder / PROGRAM_FILE).write_bytes(self.program)
        for number, part in enumerate(self.host):
            (folder / host_file(number)).write_bytes(part)
        (folder / "report.json").write_text(self.report.json(), encoding="utf-8")
        (folder / FILE_NAME).write_bytes(serialize(self.report.remarks))


_COMPARED: Final = 2
"""Samples on which two choices of formats are compared."""

_MOST_COMPARED: Final = 32
_BUDGET: Final = 1 << 30
"""Multiply-accumulates that comparing outputs may take, where that is more than two samples."""

_LOST: Final = 0.2
"""A measured error of the outputs, relative, up to which 8 bits are enough: 16 take the array two
passes, and the emulator longer than that; the host takes a round trip."""

_WORTH_IT: Final = 0.75
"""Of that error: more has to go for tensors to be s16, or the host's."""


def _silent(_fraction: float, _step: str) -> None:
    pass


def compile_model(
    model: bytes,
    *,
    target: Target = Target(),  # noqa: B008  (frozen: one is as good as another)
    calibration: Samples | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = _silent,
    measured: int = 0,
    techniques: Techniques = Techniques(),  # noqa: B008  (frozen as well)
) -> CompiledModel:
    """Compile an ONNX file for the NPU.

    Args:
        model: the file; floats of 16, 32 or 64 bits, opset 7 or newer, all in one file, every
            dimension but the batch fixed.
        target: the MAC array to compile for, and the buffers that the image has code for.
        calibration: typical inputs, name → [N, …] of the input's dtype; up to 256 evenly chosen
            ones are used. None: seeded synthetic inputs, with a warning in the report.
        shapes: sizes of inputs that the model leaves open, by name, with a batch of 1 first.
        progress: told of each step as it begins, and of calibration as it goes.
        measured: on how many of the samples the error of every layer is measured for the report;
            each takes seconds on a large network.
        techniques: what to do for accuracy.

    Raises:
        InputError: *shapes* contradict the model.
        ModelError: the model or the calibration data cannot be used: what was found, where, and
            what was wanted.
        LimitError: the model is too large.
    """
    progress(0.0, "reading the model")
    graph = fold(load_graph(model, shapes))
    del model  # The caller may keep it; here it would be in memory a second time.
    progress(0.1, "partitioning")
    samples = (
        synthetic_samples(graph, techniques)
        if calibration is None
        else checked_samples(graph, calibration)
    )
    trial = _Trial(graph, target.array, techniques, samples, made_up=calibration is None)
    cut = partition(graph)
    seen, written, widened = trial.program(cut, progress)
    read = tabled(cut) if techniques.wide and not widened else set()
    before = written.output_error(samples) if read else 0.0
    if before > _LOST:
        progress(0.93, "measuring what the host brings")
        other_cut = partition(graph, _with_bounds(graph, read))
        found = trial.program(
            other_cut,
            lambda part, _step: progress(0.93 + 0.02 * part, "measuring what the host brings"),
            fine=True,
        )
        if found[1].output_error(samples) < _WORTH_IT * before:
            seen, written, widened = found
    cut = written.cut
    errors: Mapping[str, float] = {}
    if measured:
        progress(0.95, "measuring errors")
        errors = written.errors(samples, measured)
    progress(0.97, "scheduling")
    code = _scheduled(written, target)
    made = report(
        compiler=COMPILER_VERSION,
        graph=graph,
        cut=cut,
        seen=seen,
        quantised=written.quantised,
        widened=widened,
        code=code,
        weights=weights_bytes(code.image.layers),
        calibration="synthetic" if calibration is None else "samples",
        samples=len(next(iter(samples.values()))),
        errors=errors,
    )
    progress(1.0, "compiled")
    return CompiledModel(code.image, code.program, written.host, made)


def _with_bounds(graph: Graph, outputs: Collection[str]) -> dict[str, str]:
    """The nodes that give *outputs*, and those before mere bounds: a layer has them in it."""
    by_output = {name: node for node in graph.nodes for name in node.outputs}
    left: dict[str, str] = {}
    for name in outputs:
        node = by_output.get(name)
        while node is not None:
            left[node.output] = _COARSE
            node = by_output.get(node.inputs[0]) if node.op in ("Clip", "Relu") else None
    return left


_COARSE: Final = "8 bits are too few for what it gives, and tables read no 16"


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """What is the same in each way to cut the model."""

    graph: Graph
    array: Array
    techniques: Techniques
    samples: Samples
    made_up: bool

    def program(
        self, cut: Partition, progress: Progress, *, fine: bool = False
    ) -> tuple[Calibration, _Written, dict[str, float]]:
        """Calibrate, quantise and write *cut*; with the tensors that are s16 for what 8 bits lose.

        Args:
            fine: what goes to the host and back between segments is s16 in any case.
        """
        graph, samples, techniques = self.graph, self.samples, self.techniques
        if techniques.stretch:
            cut = stretch(cut)
        progress(0.15, "calibrating")
        seen = calibrate(
            graph,
            cut,
            supplemented(graph, samples) if techniques.supplemented else samples,
            techniques,
            lambda part: progress(0.15 + 0.65 * part, "calibrating"),
            own=0 if self.made_up else len(next(iter(samples.values()))),
        )
        progress(0.8, "quantising")
        given = between(cut, seen) if fine else set()
        quantised = quantise(cut, seen, techniques, given)
        progress(0.9, "writing the program")
        written = _write(graph, cut, quantised, self.array)
        widened = wide(cut, seen, quantised) if techniques.wide else {}
        narrow = written.error(samples) if widened else 0.0
        if narrow > _LOST:
            progress(0.92, "measuring what 16 bits bring")
            both = quantise(cut, seen, techniques, given | widened.keys())
            other = _write(graph, cut, both, self.array)
            if other.error(samples) < _WORTH_IT * narrow:
                return seen, other, widened
        return seen, written, {}


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """A program and the host's parts around it, by one choice of formats."""

    graph: Graph
    cut: Partition
    quantised: Quantised
    image: ProgramImage
    program: bytes
    host: tuple[bytes, ...]

    def errors(self, samples: Samples, count: int) -> dict[str, float]:
        """Of every layer, on some of the samples."""
        return layer_errors(
            self.graph, self.cut, self.quantised, self.image, self.host, samples, count
        )

    def error(self, samples: Samples) -> float:
        """Of what leaves the device, on average."""
        errors = self.errors(samples, _COMPARED)
        return mean(errors.get(name, 0.0) for name in self.cut.leaving)

    def output_error(self, samples: Samples) -> float:
        """Of the model's outputs, on average."""
        return output_error(self.graph, self.image, self.host, samples, self.affordable)

    @property
    def affordable(self) -> int:
        """On how many samples errors are measured in a second or two."""
        count = _BUDGET // max(self.image.macs(), 1)
        return min(max(count, _COMPARED), _MOST_COMPARED)


def _scheduled(written: _Written, target: Target) -> Code:
    """The program with code for *target*, if it wants any and there is such code."""
    image, program = written.image, written.program
    if not target.activation_buffer:
        return Code(image, program)
    try:
        found = scheduled(image, target.activation_buffer, target.weight_buffer)
        program, image = _serialized(found.image)
    except ModelError as error:
        return Code(image, program, missing=str(error))
    cycles = tuple(measure(image, found.layers, entry) for entry in range(len(image.entries)))
    return Code(image, program, cycles)


def _write(graph: Graph, cut: Partition, quantised: Quantised, array: Array) -> _Written:
    program, image = _serialized(lower(cut, quantised, array))
    host = emit(graph, cut, image, {name: quantised.real(name) for name in cut.leaving})
    return _Written(graph, cut, quantised, image, program, host)


def _serialized(image: ProgramImage) -> tuple[bytes, ProgramImage]:
    """The file, and the image with its digest.

    Raises:
        ModelError: the format cannot hold it.
    """
    try:
        program = serialize_image(image)
        return program, replace(image, digest=parse_image(program).digest)
    except ImageError as error:
        raise ModelError(f"cannot compile model: it does not fit the device: {error}") from error
