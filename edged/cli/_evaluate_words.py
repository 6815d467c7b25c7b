"""What ``edgectl evaluate`` says, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from edged.detection import Detection
    from edged.evaluation import Comparison, Evaluator, Examples, Result

__all__ = [
    "OUTPUT_TITLES",
    "accuracies",
    "agreements",
    "answers",
    "class_name",
    "confusions",
    "facts",
    "number",
    "output_rows",
    "percent",
]

_CONFUSIONS: Final = 10


def facts(evaluator: Evaluator, examples: Examples) -> dict[str, str]:
    """What was compared with what, in a line each."""
    report = evaluator.compiled.report
    total = report.macs + report.host_macs
    known = "with labels" if examples.labelled else "without labels"
    return {
        "examples": f"{len(examples)} of {examples.source}, {known}",
        "float": "ONNX Runtime, float32, the model of the bundle",
        "device": f"program {evaluator.compiled.image.digest.hex()[:12]}, run by the emulator's "
        "executor: the integers of a device, to the bit",
        "share": f"{percent(report.macs / total if total else 1)} of the multiply-accumulates are "
        "the device's, the rest is float on the host",
    }


def accuracies(result: Result) -> list[tuple[str, str, str]]:
    """What is measured, float's, and the device's."""
    rows: list[tuple[str, str, str]] = []
    if result.classifies and result.labelled:
        floats, device = result.accuracy()
        rows.append(("top 1 right", percent(floats.top1), percent(device.top1)))
        rows.append(("top 5 right", percent(floats.top5), percent(device.top5)))
    if result.detects:
        both, lost, extra = result.box_counts()
        rows.append(("boxes", str(both + lost), str(both + extra)))
    for name, output in result.outputs().items():
        if "mask" in output:
            mask = output["mask"]
            rows.append((f"area of {name}", percent(mask["float"]), percent(mask["device"])))
    return rows


def agreements(result: Result) -> dict[str, str]:
    """How the device's answers compare with float's, in a line each."""
    count = len(result.compared)
    found: dict[str, str] = {}
    if result.classifies:
        same = count - len(result.differing)
        found["same class first"] = f"{same} of {count}, {percent(result.agreement())}"
    if result.classifies and result.labelled:
        lost, gained = result.changed()
        found["only float right"] = str(lost)
        found["only device right"] = str(gained)
    if result.detects:
        boxes = result.detection()
        found["boxes of both"] = (
            f"{boxes['matched']}: recall {percent(boxes['recall'])}, precision "
            f"{percent(boxes['precision'])} against float, overlap {percent(boxes['overlap'])}"
        )
    for name, output in result.outputs().items():
        if "mask" in output:
            mask = output["mask"]
            found[f"overlap of {name}"] = (
                f"{percent(mask['overlap'])}, at the lowest {percent(mask['overlap_lowest'])}"
            )
    return found


def confusions(result: Result, labels: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Label, wrong answer, how often float's, how often the device's; changes first."""
    floats, device = (each.confusion for each in result.accuracy())
    pairs = [pair for pair in floats | device if pair[0] != pair[1]]
    pairs.sort(key=lambda p: (-abs(device[p] - floats[p]), -device[p], p))
    return [
        (
            class_name(label, labels),
            class_name(answer, labels),
            str(floats[pair]),
            str(device[pair]),
        )
        for pair in pairs[:_CONFUSIONS]
        for label, answer in [pair]
    ]


def output_rows(result: Result) -> list[tuple[str, ...]]:
    """Each output by its distance from float's."""
    return [
        (
            name,
            number(each["cosine"]),
            number(each["cosine_lowest"]),
            percent(each["error"]),
            percent(each["error_largest"]),
            number(each["difference_largest"]),
        )
        for name, each in result.outputs().items()
    ]


OUTPUT_TITLES: Final = (
    *("OUTPUT", "COSINE", "LOWEST", "RMS ERROR", "LARGEST", "LARGEST DIFFERENCE"),
)


def answers(each: Comparison, labels: Sequence[str]) -> tuple[str, str]:
    """Float's and the device's, of an example, in words."""
    if each.classes is not None:
        first, second = (
            f"{class_name(answer.best[0], labels)} {answer.values[0]:.3f}"
            for answer in each.classes
        )
        return first, second
    if each.boxes is None:
        return "–", "–"
    return (
        ", ".join(_box(box, labels) for box in each.boxes.only_floats) or "no other",
        ", ".join(_box(box, labels) for box in each.boxes.only_device) or "no other",
    )


def class_name(index: int | None, labels: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    if index is None:
        return "–"
    return labels[index] if index < len(labels) else f"class {index}"


def percent(share: Any) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def _box(found: Detection, labels: Sequence[str]) -> str:
    return f"{class_name(found.index, labels)} {found.score:.2f}"
