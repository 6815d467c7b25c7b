"""Two answers to one input, float's and the device's, and how far they are apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.detection import Detection, Detections, overlaps

__all__ = ["BoxPair", "Boxes", "Classes", "Comparison", "Mask", "Values", "compare_values"]

_Array = npt.NDArray[Any]

TOP: Final = 5
MATCHING: Final = 0.5
"""Two boxes are the same thing from this overlap on, as PASCAL VOC counts them."""

_DRAWN: Final = 128
_INSIDE: Final = 0.5
"""A value of a mask from here on says that the place belongs to it."""


@dataclass(frozen=True, slots=True)
class Classes:
    """What a classifier answers.

    Attributes:
        best: classes, the most likely first; at most five.
        values: of these, as the output has them.
    """

    best: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, output: _Array) -> Classes:
        """Those of an output with one value for each class; of equal ones the first."""
        flat = np.nan_to_num(output.reshape(-1).astype(np.float64), nan=-np.inf)
        best = np.argsort(-flat, kind="stable")[:TOP]
        return cls(tuple(best.tolist()), tuple(output.reshape(-1)[best].astype(float).tolist()))

    def has(self, label: int, top: int) -> bool:
        """Whether *label* is among the *top* most likely."""
        return label in self.best[:top]


@dataclass(frozen=True, slots=True)
class BoxPair:
    """A box of float and one of the device that are taken for the same thing."""

    floats: Detection
    device: Detection
    overlap: float


@dataclass(frozen=True, slots=True)
class Boxes:
    """A detector's boxes: those that both have, and those that one has alone."""

    pairs: tuple[BoxPair, ...]
    only_floats: tuple[Detection, ...]
    only_device: tuple[Detection, ...]

    @property
    def differ(self) -> bool:
        return bool(self.only_floats or self.only_device)

    @classmethod
    def of(cls, floats: Detections, device: Detections) -> Boxes:
        """Pair boxes of one class that overlap by a half, those that overlap most first."""
        first, second = list(floats), list(device)
        shares = overlaps(np.concatenate([floats.boxes, device.boxes]))[: len(first), len(first) :]
        shares = np.where(floats.classes[:, None] == device.classes, shares, 0)
        pairs = []
        left, right = dict(enumerate(first)), dict(enumerate(second))
        for flat in np.argsort(-shares, axis=None, kind="stable").tolist():
            row, column = divmod(flat, len(second))
            if shares[row, column] < MATCHING:
                break
            if row in left and column in right:
                pair = BoxPair(left.pop(row), right.pop(column), float(shares[row, column]))
                pairs.append(pair)
        return cls(tuple(pairs), tuple(left.values()), tuple(right.values()))


@dataclass(frozen=True, slots=True)
class Mask:
    """An output that says of each place how much it belongs to something.

    Attributes:
        floats, device: the share of all places that belong to it, 0 … 1.
        overlap: places that belong to it by both answers, over those that do by either; 1 where
            there are none.
        places: uint8 [h, w], at most 128 a side, to be drawn: 1 where float says so, 2 where the
            device does, 3 where both do.
    """

    floats: float
    device: float
    overlap: float
    places: npt.NDArray[np.uint8] = field(compare=False)

    @classmethod
    def of(cls, floats: _Array, device: _Array) -> Mask:
        first, second = floats >= _INSIDE, device >= _INSIDE
        either = int((first | second).sum())
        common = float((first & second).sum() / either) if either else 1.0
        places = (first + 2 * second.astype(np.uint8)).astype(np.uint8)
        places = places.reshape([size for size in places.shape if size > 1])
        step = -(-max(places.shape) // _DRAWN)
        return cls(float(first.mean()), float(second.mean()), common, places[::step, ::step].copy())


@dataclass(frozen=True, slots=True)
class Values:
    """How far an output of the device is from float's, as numbers.

    Attributes:
        cosine: of the angle between the two, as vectors; None where one is zero or not finite.
        error: root mean square of the difference over that of float's values; None likewise.
        largest: absolute difference of an element; None where a value is not finite.
        unequal: share of the elements that differ, 0 … 1: what counts for integers.
        mask: where the output is one.
        numbers: float's value and the device's, where the output is a single one.

    Where the two have different shapes, all are None and *unequal* is 1.
    """

    cosine: float | None
    error: float | None
    largest: float | None
    unequal: float
    mask: Mask | None = None
    numbers: tuple[float, float] | None = None

    @property
    def distance(self) -> float:
        """For order: the error; of masks the part of both areas that does not overlap; of a single
        number the difference.
        """
        if self.numbers is not None:
            return abs(self.numbers[0] - self.numbers[1])
        if self.mask is not None:
            return 1 - self.mask.overlap
        return self.unequal if self.error is None else self.error


def compare_values(floats: _Array, device: _Array) -> Values:
    """Compare one output."""
    if floats.shape != device.shape or not floats.size:
        return Values(None, None, None, float(floats.shape != device.shape))
    unequal = float((floats != device).mean())
    if floats.dtype.kind not in "fiub":
        return Values(None, None, None, unequal)
    first, second = (each.astype(np.float64).reshape(-1) for each in (floats, device))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return Values(None, None, None, unequal)
    largest = float(np.abs(first - second).max())
    numbers = (float(first[0]), float(second[0])) if first.size == 1 else None
    mask = Mask.of(floats, device) if _is_mask(floats) else None
    long, other = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if not (long and other and np.isfinite(long * other)):
        return Values(None, None, largest, unequal, mask, numbers)
    return Values(
        float(first @ second / (long * other)),
        float(np.linalg.norm(first - second) / long),
        largest,
        unequal,
        mask,
        numbers,
    )


def _is_mask(values: _Array) -> bool:
    """Whether it is one plane of numbers from 0 to 1."""
    plane = [size for size in values.shape if size > 1]
    return (
        len(plane) == 2
        and len(values.shape) > 2
        and values.dtype.kind == "f"
        and bool((values >= 0).all() and (values <= 1).all())
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both answers to one example.

    Attributes:
        name, label: of the example.
        values: by the name of the output.
        classes: float's and the device's, of a classifier.
        boxes: of a detector.
        states: outputs that are no answers; there are others.
    """

    name: str
    label: int | None
    values: Mapping[str, Values]
    classes: tuple[Classes, Classes] | None = None
    boxes: Boxes | None = None
    states: Collection[str] = ()

    @property
    def masks(self) -> dict[str, Mask]:
        """Of the outputs that are masks, by name."""
        return {name: v.mask for name, v in self.values.items() if v.mask is not None}

    @property
    def differs(self) -> bool:
        """Whether the device answers something else: another class, a box more or less."""
        if self.classes is not None:
            floats, device = self.classes
            return floats.best[:1] != device.best[:1]
        return self.boxes is not None and self.boxes.differ

    @property
    def distance(self) -> float:
        """How far the answers are apart, for order: the largest of an output that is no state."""
        return max(v.distance for name, v in self.values.items() if name not in self.states)
