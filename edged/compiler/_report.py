"""What the compiler did, for a person who reads ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, TypedDict

import numpy as np
import numpy.typing as npt
from msgspec import to_builtins

from edged.compiler._calibrate import Calibration
from edged.compiler._graph import Graph, abridged
from edged.compiler._macs import macs
from edged.compiler._partition import HostNode, Partition
from edged.compiler._quantise import Quantised
from edged.compiler._remarks import (
    calibration_remarks,
    code_remarks,
    output_remarks,
    share_remark,
    trips_remark,
)
from edged.npu import ProgramImage, weights_bytes
from edged.remarks import Remark
from edged.scheduler.timing import LayerCycles

__all__ = ["Code", "HostRow", "LayerRow", "OutputRow", "Report", "host_rows", "report"]

_Float = npt.NDArray[np.float64]

_COARSE: Final = 1.0
"""Steps above this multiple of a column's standard deviation are said to be coarse: rounding alone
then adds an error of at least 29 % of it (a step has a standard deviation of 1/√12)."""


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """The program, with code or without.

    Attributes:
        program: *image*, serialised.
        cycles: of each entry, what each of its layers takes; empty without code.
        missing: why there is no code though it was wanted.
    """

    image: ProgramImage
    program: bytes
    cycles: tuple[Sequence[LayerCycles], ...] = ()
    missing: str = ""

    @property
    def total(self) -> int | None:
        """Cycles of a run of every entry; None without code."""
        return sum(layer.cycles for entry in self.cycles for layer in entry) or None

    def of_output(self, tensor: int) -> _Cycles:
        """What the layers take that write *tensor*."""
        timed = zip(self.image.layers, (x for entry in self.cycles for x in entry), strict=True)
        parts = [cycles for layer, cycles in timed if layer.output == tensor]
        longest = max(parts, key=lambda part: part.cycles)
        return {
            "cycles": sum(part.cycles for part in parts),
            "array_cycles": sum(part.array for part in parts),
            "dram_traffic": sum(part.read + part.written for part in parts),
            "bound": longest.bound if longest.cycles else "",
        }


class _Cycles(TypedDict):
    cycles: int
    array_cycles: int
    dram_traffic: int
    bound: str


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer of the device.

    Attributes:
        shape: of its output, (H, W, C).
        dtype, exponent: of its output, whose real values are ``q · 2**exponent / scale``; of one
            that leaves with a step for each column, these are multiplied by the step.
        finest: the lowest of its channels' exponents, where each has its own; *exponent* is the
            highest then.
        weight_exponents: CONV: the lowest and the highest over the output channels.
        accumulator: CONV: the largest magnitude proven possible; the bound is 2^24, of s16 2^31.
        coarser_channels: CONV: channels with coarser weights than they would have without it.
        weight_bytes: of weights, biases, shifts and tables.
        activation_bytes: of its output.
        address: of its output in the bank; tensors that never live together share theirs.
        entry: number of the program's entry that it is in.
        wide: where its output is s16 for that: the part of the outputs' squared error that its
            rounding to 8 bits was estimated to bring. What goes to the host and back may be s16
            without.
        cycles: in which the device makes it, by the model of :mod:`edged.scheduler.timing`, what
            is made of it on chip included; None without code.
        array_cycles: of these, those in which the array multiplies.
        dram_traffic: bytes that it reads and writes in DRAM.
        bound: what takes most of its cycles: array, elements (the unit for them), dram, banks
            (their port), or dependencies between the units.
        error: of its output against the float model, what came before included: the root mean
            square of the difference over that of the float values. None when it was not measured.
    """

    name: str
    op: str
    shape: tuple[int, int, int]
    macs: int
    dtype: str
    exponent: int
    lo: int
    hi: int
    scale: float = 1.0
    finest: int | None = None
    weight_exponents: tuple[int, int] | None = None
    accumulator: int | None = None
    coarser_channels: int | None = None
    weight_bytes: int = 0
    activation_bytes: int = 0
    address: int = 0
    entry: int = 0
    wide: float | None = None
    cycles: int | None = None
    array_cycles: int | None = None
    dram_traffic: int | None = None
    bound: str = ""
    error: float | None = None


@dataclass(frozen=True, slots=True)
class HostRow:
    """An operator that the host runs, and why.

    Attributes:
        where: in the prologue, in the epilogue, or between which entries of the program.
        part: the same as a number: 0 runs in front of entry 0.
        shape: of its output, as ONNX has it; None where it is not known.
        macs: multiply-accumulates of one run; None where they are not known.
        weight_bytes: of its float constants.
    """

    name: str
    op: str
    where: str
    reason: str
    part: int
    shape: tuple[int, ...] | None = None
    macs: int | None = 0
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OutputRow:
    """How finely a value leaves the device: its worst column, by steps to spread.

    A column is a channel: the last dimension of a row, the class of a segmentation. Columns that do
    not vary on the calibration inputs are passed over.

    Attributes:
        name: of the value in the model.
        outputs: the model's outputs that are computed from it, itself included.
        column: the worst one.
        step: the distance between two values that this column can have.
        spread: the standard deviation of the column on the calibration inputs; 0 if no column
            varies.
        coarse: a sentence if the step is large beside the spread, else "".
    """

    name: str
    outputs: tuple[str, ...]
    column: int
    step: float
    spread: float
    coarse: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one compilation.

    Attributes:
        calibration: "samples", or "synthetic" where the inputs were made up for want of samples.
        samples: how many of them were used.
        macs: multiply-accumulates of one run on the device.
        dram_bytes: DRAM that a bank needs.
        weights_bytes: of these, weights and biases.
        activations_bytes: of these, activations: the peak, since addresses are used again.
        code_bytes: of code and of what it loads; 0 without code.
        cycles: of one run of every entry, by the model; None without code.
        activations_total_bytes: what activations would take if each had an address of its own.
        host_macs: multiply-accumulates of one run on the host, as far as they are known.
        outputs: how coarse what leaves the device is.
        remarks: what a user should know of it.
    """

    compiler: str
    array: str
    calibration: str
    samples: int
    macs: int
    dram_bytes: int
    weights_bytes: int
    activations_bytes: int
    activations_total_bytes: int
    code_bytes: int
    cycles: int | None
    host_macs: int
    outputs: tuple[OutputRow, ...]
    layers: tuple[LayerRow, ...]
    host: tuple[HostRow, ...]
    remarks: tuple[Remark, ...]

    def json(self) -> str:
        """As indented JSON, keys as the attributes; the same report gives the same text."""
        facts = asdict(self) | {"remarks": [to_builtins(each) for each in self.remarks]}
        return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def report(
    *,
    compiler: str,
    graph: Graph,
    cut: Partition,
    seen: Calibration,
    quantised: Quantised,
    widened: Mapping[str, float],
    code: Code,
    weights: int,
    calibration: str,
    samples: int,
    errors: Mapping[str, float],
) -> Report:
    """The report on the image of *code*.

    Args:
        widened: tensors that are s16, each with what its 8 bits would have brought.
        weights: the length of its weights section in bytes.
        errors: of kernels' outputs by their names, where they were measured.
    """
    rows = []
    image = code.image
    entries = [number for number, each in enumerate(cut.segments) for _ in each.kernels]
    for number, kernel in enumerate(cut.kernels, len(cut.entering)):
        parts = [layer for layer in image.layers if layer.output == number]
        layer, tensor = parts[0], image.tensors[number]
        form = quantised.formats[kernel.output]
        convolution = quantised.convolutions.get(kernel.output)
        row = LayerRow(
            layer.name,
            kernel.op.name,
            kernel.plane,
            kernel.macs,
            tensor.dtype.name,
            tensor.exponent,
            layer.lo,
            layer.hi,
            scale=cut.scales.get(kernel.output, 1.0),
            finest=None if form.even else int(form.exponents.min()),
            weight_bytes=weights_bytes(parts),
            activation_bytes=tensor.nbytes,
            address=tensor.address,
            entry=entries[number - len(cut.entering)],
            wide=round(widened[kernel.output], 3) if kernel.output in widened else None,
            error=errors.get(kernel.output),
        )
        if code.cycles:
            row = replace(row, **code.of_output(number))
        if convolution is not None:
            exponents = convolution.exponents
            row = replace(
                row,
                weight_exponents=(int(exponents.min()), int(exponents.max())),
                accumulator=int(convolution.bound.max()),
                coarser_channels=convolution.coarser,
            )
        rows.append(row)
    host = host_rows(graph, cut)
    outputs = tuple(
        _output_row(graph, cut, seen, name, quantised.real(name).step, calibration)
        for name in cut.leaving
    )
    return Report(
        compiler=compiler,
        array=str(image.array),
        calibration=calibration,
        samples=samples,
        macs=image.macs(),
        dram_bytes=image.dram_bytes,
        weights_bytes=weights,
        activations_bytes=image.dram_bytes - weights,
        activations_total_bytes=sum(tensor.nbytes for tensor in image.tensors),
        code_bytes=len(image.code) + len(image.packed),
        cycles=code.total,
        host_macs=_known(host),
        outputs=outputs,
        layers=tuple(rows),
        host=host,
        remarks=(
            *calibration_remarks(calibration, samples),
            *share_remark(graph, image.macs(), host),
            *trips_remark(cut),
            *output_remarks(outputs),
            *code_remarks(code.missing),
        ),
    )


def _output_row(
    graph: Graph, cut: Partition, seen: Calibration, name: str, steps: _Float, calibration: str
) -> OutputRow:
    spreads = seen.channels[name].spreads
    ratios = np.divide(steps, spreads, out=np.zeros_like(spreads), where=spreads > 0)
    column = int(np.argmax(ratios))
    step, spread = (float(f"{values[column]:.4g}") for values in (steps, spreads))
    coarse = ""
    if ratios[column] > _COARSE:
        inputs = "calibration" if calibration == "samples" else "made-up"
        where = f"column {column} of " if len(spreads) > 1 else ""
        coarse = (
            f"{where}{abridged(name)!r} is coarse: it comes in steps of {step:.3g}, and on the"
            f" {inputs} inputs it varies by only {spread:.3g} (standard deviation)"
        )
    return OutputRow(name, _fed(graph, cut, name), column, step, spread, coarse)


def _fed(graph: Graph, cut: Partition, name: str) -> tuple[str, ...]:
    """The model's outputs that the host computes from *name*."""
    reached = {name}
    for node in (node for part in cut.parts for node in part.nodes):
        if not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
    return tuple(output for output in graph.outputs if output in reached)


def host_rows(graph: Graph, cut: Partition) -> tuple[HostRow, ...]:
    """Every operator of the host."""
    return tuple(_host_row(graph, entry) for entry in cut.host)


def _host_row(graph: Graph, entry: HostNode) -> HostRow:
    node = entry.node
    constants = [graph.constants[name] for name in node.inputs if name in graph.constants]
    shape = graph.values[node.output].shape
    return HostRow(
        node.name or node.output,
        node.op,
        entry.where,
        entry.reason,
        entry.part,
        shape,
        macs(graph, node),
        sum(int(array.nbytes) for array in constants if array.dtype.kind == "f"),
    )


def _known(rows: Sequence[HostRow]) -> int:
    return sum(row.macs or 0 for row in rows)
