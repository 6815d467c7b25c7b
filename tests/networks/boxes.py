"""From what detectors compute to boxes in pixels of the picture, each as its authors read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from networks.pictures import DATA

from edged.detection import Epilogue, EpilogueName, decode, suppress

__all__ = ["Box", "areas", "blazeface", "coco_names", "fastestdet", "picodet", "yolox", "yunet"]

Box = tuple[str, float, tuple[float, float, float, float]]
"""Class, score, and left, top, right, bottom in pixels."""

Outputs = Mapping[str, npt.NDArray[Any]]
Scale = tuple[float, float]
_Float = npt.NDArray[np.float32]

_SAME = 0.45
"""Two boxes of a class that share more than this of what they cover together are one."""


@cache
def coco_names() -> tuple[str, ...]:
    """Of the 80 classes."""
    return tuple((DATA / "networks" / "coco80.txt").read_text().split("\n")[:80])


def yolox(outputs: Outputs, scale: Scale) -> list[Box]:
    """[1, 3549, 85]: centre, size, whether there is anything, and 80 classes, at three strides."""
    rows = outputs["output"][0]
    grid, stride = _grid(416, (8, 16, 32))
    centres = (rows[:, :2] + grid) * stride
    half = np.exp(rows[:, 2:4]) * stride / 2
    corners = np.concatenate([centres - half, centres + half], axis=1)
    return _best(corners, rows[:, 4:5] * rows[:, 5:], 0.35, coco_names(), scale)


def fastestdet(outputs: Outputs, scale: Scale) -> list[Box]:
    """[1, 85, 22, 22]: whether there is anything, a box, and 80 classes, in parts of the side."""
    (output,) = outputs.values()
    rows = output[0].reshape(85, -1).T
    grid, _ = _grid(22, (1,))
    centres = (np.tanh(rows[:, 1:3]) + grid) * 16
    half = _sigmoid(rows[:, 3:5]) * 352 / 2
    corners = np.concatenate([centres - half, centres + half], axis=1)
    return _best(corners, rows[:, :1] ** 0.6 * rows[:, 5:] ** 0.4, 0.5, coco_names(), scale)


def picodet(outputs: Outputs, scale: Scale) -> list[Box]:
    """Four of [1, n, 80], scores; four of [1, n, 32], for each side a distribution over 8 bins."""
    values = [value[0] for value in outputs.values()]
    scores, sides = np.concatenate(values[:4]), np.concatenate(values[4:])
    grid, stride = _grid(320, (8, 16, 32, 64))
    bins = np.exp(sides.reshape(-1, 4, 8))
    reach = (bins / bins.sum(axis=2, keepdims=True)) @ np.arange(8, dtype=np.float32) * stride
    centres = (grid + 0.5) * stride
    corners = np.concatenate([centres - reach[:, :2], centres + reach[:, 2:]], axis=1)
    return _best(np.clip(corners, 0, 320), scores, 0.4, coco_names(), scale)


def yunet(outputs: Outputs, scale: Scale) -> list[Box]:
    """For each of three strides: class, object, box and five points."""
    (found,) = decode(outputs, Epilogue(EpilogueName.YUNET, threshold=0.6, overlap=_SAME))
    x, y = (320 * factor for factor in scale)
    return [
        ("face", each.score, (left * x, top * y, right * x, bottom * y))
        for each in found
        for top, left, bottom, right in [each.box]
    ]


def blazeface(outputs: Outputs, scale: Scale) -> list[Box]:
    """[1, 896, 16], a box and six points; [1, 896, 1], scores."""
    offsets = outputs["regressors"][0]
    fine, coarse = (_grid(128, (stride,))[0] + 0.5 for stride in (8, 16))
    centres = np.concatenate([fine.repeat(2, axis=0) * 8, coarse.repeat(6, axis=0) * 16])
    centres = centres + offsets[:, :2]
    half = offsets[:, 2:4] / 2
    corners = np.concatenate([centres - half, centres + half], axis=1)
    return _best(corners, _sigmoid(outputs["classificators"][0]), 0.5, ("face",), scale)


def areas(outputs: Outputs) -> list[Box]:
    """[1, 1, H, W], how likely a pixel is text: the boxes around what hangs together above 0.3.

    The score of a box is the mean of what is in it.
    """
    (output,) = outputs.values()
    likely = output[0, 0]
    found = []
    for rows, columns in _hanging_together(likely > 0.3):
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        box = (float(left), float(top), float(right), float(bottom))
        found.append(("text", float(likely[top:bottom, left:right].mean()), box))
    return sorted(found, key=lambda each: (each[2][1], each[2][0]))


def _hanging_together(
    mask: npt.NDArray[np.bool_],
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """The areas of *mask* whose pixels touch by their sides: their rows and columns."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        border = [left.pop()]
        area = []
        while border:
            y, x = border.pop()
            area.append((y, x))
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= near
            border += near
        ys, xs = np.array(area, np.intp).T
        found.append((ys, xs))
    return found


def _grid(side: int, strides: Sequence[int]) -> tuple[_Float, _Float]:
    """Of each cell, stride by stride, row by row: [n, 2] its column and row, [n, 1] its stride."""
    cells, sizes = [], []
    for stride in strides:
        count = side // stride
        rows, columns = np.divmod(np.arange(count * count), count)
        cells.append(np.stack([columns, rows], axis=1))
        sizes.append(np.full((count * count, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def _best(
    corners: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    least: float,
    names: Sequence[str],
    scale: Scale,
) -> list[Box]:
    """Boxes whose best class scores more than *least*, the best first, each once.

    Args:
        corners: [n, 4]: left, top, right, bottom in pixels of the input.
        scores: [n, classes].
        scale: from there to pixels of the picture.
    """
    classes, best = scores.argmax(axis=1), scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] > least]
    corners = (corners[order] * np.array(scale * 2)).astype(np.float32)
    kept = suppress(corners[:, [1, 0, 3, 2]], classes[order].astype(np.int64), _SAME)
    return [
        (names[classes[order[row]]], float(best[order[row]]), tuple(corners[row].tolist()))
        for row in kept
    ]


def _sigmoid(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-values))
