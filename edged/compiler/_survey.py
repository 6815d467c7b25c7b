"""Where the operators of a model would run, without compiling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edged.compiler._fold import fold
from edged.compiler._import import load_graph
from edged.compiler._partition import partition
from edged.compiler._remarks import calibration_remarks, share_remark, trips_remark
from edged.compiler._report import host_rows
from edged.remarks import Remark

__all__ = ["Survey", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """How a model would be placed.

    Attributes:
        macs: multiply-accumulates of the device in one run.
        host_macs: of the host, as far as they are known.
        layers: of the device.
        host: operators of the host.
        remarks: on calibration and on the share of the host, as a compilation makes them.
    """

    macs: int
    host_macs: int
    layers: int
    host: int
    remarks: tuple[Remark, ...]


def survey(
    model: bytes,
    samples: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Survey:
    """Place the operators of an ONNX file as :func:`edged.compiler.compile_model` does.

    Args:
        samples: how many typical inputs there are to calibrate on; None: nothing is said of that.
        shapes: as :func:`edged.compiler.compile_model` takes them.

    Raises:
        ModelError: the model cannot be compiled.
        LimitError: it is too large.
    """
    graph = fold(load_graph(model, shapes))
    cut = partition(graph)
    host = host_rows(graph, cut)
    device = sum(kernel.macs for kernel in cut.kernels)
    return Survey(
        device,
        sum(row.macs or 0 for row in host),
        len(cut.kernels),
        len(host),
        (
            *(() if samples is None else calibration_remarks(_kind(samples), samples)),
            *share_remark(graph, device, host),
            *trips_remark(cut),
        ),
    )


def _kind(samples: int) -> str:
    return "samples" if samples else "synthetic"
