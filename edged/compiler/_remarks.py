"""What a user should know of what was compiled, in a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from edged.compiler._graph import Graph
from edged.compiler._partition import Partition, kinds_in_the_way, segment_macs
from edged.compiler._place import VIEWS
from edged.remarks import Code, Remark, remark

if TYPE_CHECKING:
    from edged.compiler._report import HostRow, OutputRow

__all__ = ["calibration_remarks", "code_remarks", "output_remarks", "share_remark", "trips_remark"]

_FEW_SAMPLES: Final = 8
_MUCH: Final = 0.05
"""A larger share of the work on the host is a warning."""

_WORTH_IT: Final = 0.01
"""What would move less than this share of the work is not looked for."""

_MOST_OF_IT: Final = 0.9
_MOST_KINDS: Final = 16
_NAMED: Final = 4
_MOST_OUTPUTS: Final = 8


def calibration_remarks(calibration: str, samples: int) -> Iterator[Remark]:
    """Whether ranges were measured on made-up inputs, or on too few.

    Args:
        calibration: as :class:`edged.compiler.Report` has it.
    """
    if calibration == "synthetic":
        yield remark(
            Code.MADE_UP_CALIBRATION,
            "calibrated on made-up inputs, because it brought none: answers may be far from"
            " the float model's; pack it with 16 or more typical inputs (edgectl pack"
            " --calibration)",
        )
    elif samples < _FEW_SAMPLES:
        yield remark(
            Code.FEW_SAMPLES,
            f"calibrated on only {samples} {'input' if samples == 1 else 'inputs'};"
            f" {_FEW_SAMPLES} or more are better (edgectl pack --calibration)",
            value=samples,
        )


def code_remarks(missing: str) -> Iterator[Remark]:
    """Why there is no code, if there should be."""
    if missing:
        yield remark(Code.NO_CODE, f"gateware cannot run it: {missing}")


def output_remarks(outputs: Sequence[OutputRow]) -> Iterator[Remark]:
    """Which outputs come in steps that are large beside what they vary by."""
    coarse = [row for row in outputs if row.coarse]
    for row in coarse[:_MOST_OUTPUTS]:
        yield remark(Code.COARSE_OUTPUT, row.coarse, value=round(row.step / row.spread, 3))


def share_remark(graph: Graph, device: int, host: Sequence[HostRow]) -> Iterator[Remark]:
    """How much of the work stays on the host, and which kinds of operators keep it there.

    Args:
        graph: that was partitioned.
        device: multiply-accumulates of the device in one run.
        host: what the host runs.
    """
    stays = sum(row.macs or 0 for row in host)
    total = device + stays
    unknown = Counter(row.op for row in host if row.macs is None)
    besides = f"; the cost of {_counted(unknown, '')} there is not known" if unknown else ""
    if not total:
        return
    share = stays / total
    if not stays:
        text = "all multiply-accumulates run on the device"
    else:
        text = f"{_percent(share)} of the multiply-accumulates stay on the host"
        if share > _WORTH_IT:
            text += _cause(graph, device, total)
    yield remark(
        Code.HOST_SHARE,
        text + besides,
        warning=share > _MUCH or bool(unknown),
        value=round(share, 4),
    )


def trips_remark(cut: Partition) -> Iterator[Remark]:
    """How often the host takes a turn between runs of the device, and which operators are why."""
    trips = len(cut.segments) - 1
    if trips:
        between = Counter(
            each.node.op
            for each in cut.host
            if 0 < each.part < trips + 1 and each.node.op not in VIEWS
        )
        because = f": of {_counted(dict(between.most_common()), '')}" if between else ""
        yield remark(
            Code.ROUND_TRIPS,
            f"the host takes {trips} {'turns' if trips > 1 else 'turn'} between runs of the"
            f" device{because}; each is a round trip in every call",
            value=trips,
        )


def _cause(graph: Graph, device: int, total: int) -> str:
    """The fewest kinds of operators without which most of the work would move."""
    counts = kinds_in_the_way(graph)
    kinds = list(counts)[:_MOST_KINDS]
    could = segment_macs(graph, kinds) - device
    if could < _WORTH_IT * total:
        return ""
    wanted = device + _MOST_OF_IT * could
    for kind in kinds[::-1]:
        rest = [each for each in kinds if each != kind]
        if segment_macs(graph, rest) >= wanted:
            kinds = rest
    if not kinds:  # The device could have it as it is, but for what is worth the way there.
        return ""
    moved = segment_macs(graph, kinds) - device
    named = _counted({kind: counts[kind] for kind in kinds}, " together")
    return (
        f" ({named}: {_percent(moved / total)} would move if the device could run"
        f" {'it' if sum(counts[kind] for kind in kinds) == 1 else 'them'})"
    )


def _counted(counts: Mapping[str, int], together: str) -> str:
    shown = [f"{kind} ×{count}" for kind, count in list(counts.items())[:_NAMED]]
    if more := len(counts) - len(shown):
        shown.append(f"{more} more {'kinds' if more > 1 else 'kind'}")
    if len(shown) == 1:
        return shown[0]
    return f"{', '.join(shown[:-1])} and {shown[-1]}{together}"


def _percent(share: float) -> str:
    if share < 0.01:
        return "less than 1 %"
    if share > 0.99 and share < 1:
        return "more than 99 %"
    return f"{share * 100:.0f} %"
