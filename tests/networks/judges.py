"""Whether the device's answers are those of the float model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from networks.boxes import Box
from networks.network import Answers, Cases, Judged

from edged.detection import overlaps

__all__ = ["alike", "boxes", "classes", "cosine", "numbers", "places", "right", "sides"]

_SAME_PLACE = 0.5
"""Boxes of a class are the same when they share at least this of what they cover together: COCO's
and PASCAL VOC's."""


def boxes(float_: Answers, device: Answers) -> Judged:
    """Each box of float's is found, in its class, and no other."""
    total = missed = false = 0
    said = []
    for case, wanted in float_.items():
        left = list(device[case])
        total += len(wanted)
        for box in wanted:
            match = max(left, key=lambda each, box=box: _shared(each, box), default=None)
            if match is not None and _shared(match, box) >= _SAME_PLACE:
                left.remove(match)
            else:
                missed += 1
                said.append(f"no {box[0]} {box[1]:.2f} in {case}")
        false += len(left)
        said += [f"false {box[0]} {box[1]:.2f} in {case}" for box in left]
    found = f"{total - missed} of {total}, {false} false"
    return Judged("; ".join([found, *said]), missed == false == 0)


def _shared(one: Box, other: Box) -> float:
    """What two boxes share; nothing where their classes differ."""
    if one[0] != other[0]:
        return 0.0
    return float(overlaps(np.array([one[2], other[2]], np.float32))[0, 1])


def numbers(within: float, *, share: bool = False) -> Callable[[Answers, Answers], Judged]:
    """Every number is at most *within* from float's, or that share of the largest of its case."""

    def judge(float_: Answers, device: Answers) -> Judged:
        most, place = 0.0, ""
        for case, wanted in float_.items():
            theirs, ours = _flat(wanted), _flat(device[case])
            whole = max(map(abs, theirs.values())) if share else 1.0
            for name, value in theirs.items():
                apart = abs(ours[name] - value) / whole
                if not math.isfinite(apart):
                    apart = math.inf
                if apart > most:
                    most, place = apart, f"{name} of {case}".strip()
        shown = f"{most:.2%}" if share else f"{most:.4g}"
        return Judged(f"at most {shown} apart" + (f" ({place})" if place else ""), most <= within)

    return judge


def places(within: float) -> Callable[[Answers, Answers], Judged]:
    """Both coordinates of each point are at most *within* from float's; scores do not count.

    A point is y, x and score.
    """

    def judge(float_: Answers, device: Answers) -> Judged:
        return numbers(within)(*(_without_scores(each) for each in (float_, device)))

    return judge


def _without_scores(answers: Answers) -> Answers:
    return {
        case: {name: point[:2] for name, point in points.items()}
        for case, points in answers.items()
    }


def _flat(value: Any, name: str = "") -> dict[str, float]:
    """Every number in *value*, by the way to it."""
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, Sequence):
        parts = ((str(place), each) for place, each in enumerate(value))
    else:
        return {name: float(value)}
    return {
        way: number
        for key, part in parts
        for way, number in _flat(part, f"{name} {key}".strip()).items()
    }


def classes(within: float, mean: float = 1.0) -> Callable[[Answers, Answers], Judged]:
    """The first of the labels is float's, in each case, its probability at most *within* away.

    On the mean over the cases it is at most *mean* away.

    An answer is a list of pairs, label and probability, the best first.
    """

    def judge(float_: Answers, device: Answers) -> Judged:
        apart, said = [], []
        for case, ((label, probability), *_) in float_.items():
            (found, likely), *_ = device[case]
            if found == label:
                apart.append(abs(likely - probability))
            else:
                said.append(f"{case}: {found} {likely:.2f}, not {label} {probability:.2f}")
        middle, most = (float(np.mean(apart)), max(apart)) if apart else (1.0, 1.0)
        found = f"{len(apart)} of {len(float_)}, probability {middle:.3f} apart, at most {most:.3f}"
        met = not said and most <= within and middle <= mean
        return Judged("; ".join([found, *said]), met)

    return judge


def sides(float_: Answers, device: Answers) -> Judged:
    """Each probability is on float's side of one half."""
    pairs = [
        (theirs, ours)
        for case, values in float_.items()
        for theirs, ours in zip(values, device[case], strict=True)
    ]
    same = sum((theirs > 0.5) == (ours > 0.5) for theirs, ours in pairs)
    most = max(abs(theirs - ours) for theirs, ours in pairs)
    return Judged(f"{same} of {len(pairs)}, at most {most:.3f} apart", same == len(pairs))


def right(least: int) -> Callable[[Answers, Answers], Judged]:
    """At least so many are right. An answer is how many are, and of how many."""

    def judge(float_: Answers, device: Answers) -> Judged:
        (ours, total), (theirs, _) = device["right"], float_["right"]
        return Judged(f"{ours} of {total}, float {theirs}", ours >= least)

    return judge


def alike(least: float) -> Callable[[Answers, Answers], Judged]:
    """The cosine of each output is at least that. Answers are the outputs themselves."""

    def judge(float_: Answers, device: Answers) -> Judged:
        found, output = cosine(float_, device)
        return Judged(f"{found:.5f} ({output})", found >= least)

    return judge


def cosine(float_: Cases, device: Cases) -> tuple[float, str]:
    """Of all cases together, in the output that is worst, and the output's name."""
    return min(
        (
            _cosine(
                *(
                    np.concatenate([np.ravel(case[name]) for case in side.values()])
                    for side in (float_, device)
                )
            ),
            name,
        )
        for name in next(iter(float_.values()))
    )


def _cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float((one == other).all())
