"""What the compiler did, for a person who reads ``report.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

from edged.compiler._partition import Partition
from edged.compiler._quantise import Quantised
from edged.npu import ProgramImage

__all__ = ["HostRow", "LayerRow", "Report", "report"]

_FEW_SAMPLES: Final = 8
_HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "MatMul"})


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer of the device.

    Attributes:
        shape: of its output, (H, W, C).
        dtype, exponent: of its output, whose real values are ``q · 2**exponent``.
        weight_exponents: CONV: the lowest and the highest over the output channels.
        accumulator: CONV: the largest magnitude proven possible; the bound is 2^24.
        coarser_channels: CONV: channels with coarser weights than they would have without it.
    """

    name: str
    op: str
    shape: tuple[int, int, int]
    macs: int
    dtype: str
    exponent: int
    lo: int
    hi: int
    weight_exponents: tuple[int, int] | None = None
    accumulator: int | None = None
    coarser_channels: int | None = None


@dataclass(frozen=True, slots=True)
class HostRow:
    """An operator that the host runs: in the prologue or epilogue, and why."""

    name: str
    op: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one compilation.

    Attributes:
        calibration: "samples" or "synthetic".
        samples: how many of them were used.
        macs: multiply-accumulates of one run on the device.
        dram_bytes: DRAM that a bank needs.
        weights_bytes: of these, weights and biases.
        warnings: what may cost accuracy or speed, a sentence each.
    """

    compiler: str
    array: str
    calibration: str
    samples: int
    macs: int
    dram_bytes: int
    weights_bytes: int
    layers: tuple[LayerRow, ...]
    host: tuple[HostRow, ...]
    warnings: tuple[str, ...]

    def json(self) -> str:
        """As indented JSON, keys as the attributes; the same report gives the same text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def report(
    *,
    compiler: str,
    cut: Partition,
    quantised: Quantised,
    image: ProgramImage,
    weights: int,
    calibration: str,
    samples: int,
) -> Report:
    """The report on *image*; *weights* is the length of its weights section in bytes."""
    rows = []
    for kernel, layer in zip(cut.kernels, image.layers, strict=True):
        tensor = image.tensors[layer.output]
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
        )
        if convolution is not None:
            exponents = convolution.exponents
            row = replace(
                row,
                weight_exponents=(int(exponents.min()), int(exponents.max())),
                accumulator=int(convolution.bound.max()),
                coarser_channels=convolution.coarser,
            )
        rows.append(row)
    return Report(
        compiler=compiler,
        array=str(image.array),
        calibration=calibration,
        samples=samples,
        macs=image.macs(),
        dram_bytes=image.dram_bytes,
        weights_bytes=weights,
        layers=tuple(rows),
        host=tuple(
            HostRow(entry.node.name or entry.node.output, entry.node.op, entry.where, entry.reason)
            for entry in cut.host
        ),
        warnings=(*_calibration_warnings(calibration, samples), *_host_warnings(cut)),
    )


def _calibration_warnings(calibration: str, samples: int) -> list[str]:
    if calibration == "synthetic":
        return [
            "no calibration data were given: the exponents come from synthetic inputs, and accuracy"
            " may be far below the float model's; pack the bundle with a few typical inputs"
        ]
    if samples < _FEW_SAMPLES:
        return [f"only {samples} calibration samples were given; {_FEW_SAMPLES} or more are better"]
    return []


def _host_warnings(cut: Partition) -> list[str]:
    heavy = [entry for entry in cut.host if entry.node.op in _HEAVY]
    return [
        f"{entry.node.place} runs on the host ({entry.where}): {entry.reason}" for entry in heavy
    ]
