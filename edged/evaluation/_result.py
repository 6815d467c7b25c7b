"""What all comparisons come to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edged.detection import Detection
from edged.evaluation._answers import TOP, Classes, Comparison, Values, compare_values

__all__ = ["Accuracy", "Result"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often a classifier is right, 0 … 1.

    Attributes:
        top1, top5: the label is the most likely class, or among the five most likely.
        confusion: (label, answer) → how many, for the most likely class.
    """

    top1: float
    top5: float
    confusion: Counter[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Result:
    """An evaluation.

    Attributes:
        compared: every example, in order.
        labelled: whether each has a label.
    """

    compared: tuple[Comparison, ...]
    labelled: bool

    @property
    def differing(self) -> tuple[Comparison, ...]:
        """The examples that the device answers otherwise, those that are farthest apart first."""
        found = [each for each in self.compared if each.differs]
        return tuple(sorted(found, key=lambda each: -each.distance))

    @property
    def classifies(self) -> bool:
        return self.compared[0].classes is not None

    @property
    def detects(self) -> bool:
        return self.compared[0].boxes is not None

    def agreement(self) -> float | None:
        """How far the two answer the same, 0 … 1; None where that is no question of yes and no.

        Of a classifier the share of examples whose most likely class is the same, of a detector
        that of the boxes of either which both have.
        """
        if self.classifies:
            return 1 - len(self.differing) / len(self.compared)
        if self.detects:
            both, lost, extra = self.box_counts()
            return both / (both + lost + extra) if both + lost + extra else 1.0
        return None

    def farthest(self) -> tuple[Comparison, ...]:
        """All examples, those first whose answers are the farthest apart."""
        return tuple(sorted(self.compared, key=lambda each: -each.distance))

    def accuracy(self) -> tuple[Accuracy, Accuracy]:
        """Float's and the device's, of a classifier whose examples have labels."""
        return self._accuracy(0), self._accuracy(1)

    def _accuracy(self, which: int) -> Accuracy:
        answers: list[tuple[int, Classes]] = [
            (each.label, each.classes[which])
            for each in self.compared
            if each.label is not None and each.classes is not None
        ]
        return Accuracy(
            sum(answer.has(label, 1) for label, answer in answers) / len(answers),
            sum(answer.has(label, TOP) for label, answer in answers) / len(answers),
            Counter((label, answer.best[0]) for label, answer in answers),
        )

    def changed(self) -> tuple[int, int]:
        """How many examples only float has right, and how many only the device."""
        pairs = [
            (each.classes[0].has(each.label, 1), each.classes[1].has(each.label, 1))
            for each in self.compared
            if each.label is not None and each.classes is not None
        ]
        return pairs.count((True, False)), pairs.count((False, True))

    def box_counts(self) -> tuple[int, int, int]:
        """How many boxes both have, float alone has, and the device alone has."""
        boxes = [each.boxes for each in self.compared if each.boxes is not None]
        return (
            sum(len(each.pairs) for each in boxes),
            sum(len(each.only_floats) for each in boxes),
            sum(len(each.only_device) for each in boxes),
        )

    def outputs(self) -> dict[str, dict[str, Any]]:
        """For each output, means and worst values over all examples, where there are any."""
        names = self.compared[0].values
        return {name: _over([each.values[name] for each in self.compared]) for name in names}

    def json(self) -> dict[str, Any]:
        """All of it, as JSON has it. A box is ymin, xmin, ymax, xmax as parts of the sides."""
        found: dict[str, Any] = {
            "examples": len(self.compared),
            "labelled": self.labelled,
            "agreement": self.agreement(),
            "differing": len(self.differing) if self.classifies or self.detects else None,
            "outputs": self.outputs(),
        }
        if self.classifies:
            found["classification"] = self._classification()
        if self.detects:
            found["detection"] = self.detection()
        found["compared"] = [_one(each) for each in self.compared]
        return found

    def _classification(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.labelled:
            for name, accuracy in zip(("float", "device"), self.accuracy(), strict=True):
                found[name] = {
                    "top1": accuracy.top1,
                    "top5": accuracy.top5,
                    "confusion": [
                        {"label": label, "answer": answer, "count": count}
                        for (label, answer), count in sorted(accuracy.confusion.items())
                    ],
                }
            found["only_float_right"], found["only_device_right"] = self.changed()
        return found

    def detection(self) -> dict[str, Any]:
        """The device's boxes, held against float's as if these were the truth."""
        both, lost, extra = self.box_counts()
        pairs = [pair for e in self.compared if e.boxes is not None for pair in e.boxes.pairs]
        differences = [abs(pair.floats.score - pair.device.score) for pair in pairs]
        return {
            "float_boxes": both + lost,
            "device_boxes": both + extra,
            "matched": both,
            "recall": both / (both + lost) if both + lost else None,
            "precision": both / (both + extra) if both + extra else None,
            "overlap": sum(p.overlap for p in pairs) / both if both else None,
            "score_difference": max(differences, default=None),
        }


def _over(values: list[Values]) -> dict[str, Any]:
    cosines = [each.cosine for each in values]
    errors = [each.error for each in values]
    largest = [each.largest for each in values if each.largest is not None]
    masks = [each.mask for each in values if each.mask is not None]
    numbers = [each.numbers for each in values if each.numbers is not None]
    if len(numbers) == len(values):
        # One number has no angle and no spread: those of all examples have, as a vector.
        floats, device = np.array(numbers).T
        whole = compare_values(floats, device)
        cosines, errors = [whole.cosine], [whole.error]
    found: dict[str, Any] = {
        "cosine": _mean(cosines),
        "cosine_lowest": min(_there(cosines), default=None),
        "error": _mean(errors),
        "error_largest": max(_there(errors), default=None),
        "difference_largest": max(largest, default=None),
        "unequal": _mean([each.unequal for each in values]),
    }
    if len(masks) == len(values):
        found["mask"] = {
            "float": _mean([each.floats for each in masks]),
            "device": _mean([each.device for each in masks]),
            "overlap": _mean([each.overlap for each in masks]),
            "overlap_lowest": min(each.overlap for each in masks),
        }
    return found


def _mean(numbers: Sequence[float | None]) -> float | None:
    there = _there(numbers)
    return sum(there) / len(there) if there else None


def _there(numbers: Sequence[float | None]) -> list[float]:
    return [number for number in numbers if number is not None]


def _one(each: Comparison) -> dict[str, Any]:
    found: dict[str, Any] = {"name": each.name, "label": each.label, "differs": each.differs}
    if each.classes is not None:
        for name, answer in zip(("float", "device"), each.classes, strict=True):
            found[name] = [
                {"class": index, "value": value if math.isfinite(value) else None}
                for index, value in zip(answer.best, answer.values, strict=True)
            ]
    if each.boxes is not None:
        found["matched"] = [
            {"float": _box(p.floats), "device": _box(p.device), "overlap": p.overlap}
            for p in each.boxes.pairs
        ]
        found["only_float"] = [_box(box) for box in each.boxes.only_floats]
        found["only_device"] = [_box(box) for box in each.boxes.only_device]
    found["outputs"] = {
        name: {
            "cosine": values.cosine,
            "error": values.error,
            "difference_largest": values.largest,
            "unequal": values.unequal,
        }
        | ({"numbers": values.numbers} if values.numbers else {})
        for name, values in each.values.items()
    }
    return found


def _box(found: Detection) -> dict[str, Any]:
    return {"class": found.index, "score": found.score, "box": list(found.box)}
