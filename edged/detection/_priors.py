"""The boxes that SSD-VGG-300 starts from: a few on each cell of six feature maps."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["SSD_300", "SSD_300_PAPER", "SSD_OUTPUTS", "FeatureMap", "priors"]

_IMAGE: Final = 300
_OFFSET: Final = 0.5


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """One of the maps that a detector looks at.

    Attributes:
        block: the number in the names of its two outputs.
        side: cells in a row, and in a column.
        size: side of its square prior, in pixels of the image.
        next_size: that of the next map; there is a square between the two as well.
        step: pixels from one cell to the next.
        ratios: width to height, of the priors that are no squares.
    """

    block: int
    side: int
    size: int
    next_size: int
    step: int
    ratios: tuple[float, ...]

    @property
    def anchors(self) -> int:
        """Priors on a cell."""
        return 2 + len(self.ratios)

    @property
    def logits(self) -> str:
        """The name of the output of class logits, [N, side, side, anchors, classes]."""
        return f"ssd_300_vgg/block{self.block}_box/Reshape_1:0"

    @property
    def offsets(self) -> str:
        """The name of the output of box offsets, [N, side, side, anchors, 4]."""
        return f"ssd_300_vgg/block{self.block}_box/Reshape:0"


_FEW: Final = (2.0, 1 / 2)
_MANY: Final = (2.0, 1 / 2, 3.0, 1 / 3)

SSD_300: Final = (
    FeatureMap(4, 37, 21, 45, 8, _FEW),
    FeatureMap(7, 19, 45, 99, 16, _MANY),
    FeatureMap(8, 10, 99, 153, 32, _MANY),
    FeatureMap(9, 5, 153, 207, 64, _MANY),
    FeatureMap(10, 3, 207, 261, 100, _FEW),
    FeatureMap(11, 1, 261, 315, 300, _FEW),
)
"""The maps of SSD-VGG-300, as the original service had it: 8,432 priors."""

SSD_300_PAPER: Final = (dataclasses.replace(SSD_300[0], side=38), *SSD_300[1:])
"""As published, where a pooling rounds up: 8,732 priors."""


SSD_OUTPUTS: Final = (
    *(each.logits for each in SSD_300),
    *(each.offsets for each in SSD_300),
)
"""The names of the twelve outputs, in the order in which the original clients list them."""


@functools.cache
def priors(maps: tuple[FeatureMap, ...] = SSD_300) -> npt.NDArray[np.float32]:
    """The priors of all maps, read-only.

    Returns:
        float32 [P, 4]: centre y, centre x, height, width, as parts of the image's sides; in the
        order of the maps, then rows, columns and anchors, as the outputs have them. The anchors are
        the square, the square of the geometric mean with the next map's, and one for each ratio.
    """
    found = np.concatenate([_of_map(each) for each in maps]).astype(np.float32)
    found.setflags(write=False)
    return found


def _of_map(each: FeatureMap) -> npt.NDArray[np.float64]:
    shapes = np.empty((each.anchors, 2))
    shapes[0] = each.size
    shapes[1] = math.sqrt(each.size * each.next_size)
    for index, ratio in enumerate(each.ratios, 2):
        shapes[index] = each.size / math.sqrt(ratio), each.size * math.sqrt(ratio)
    centres = (np.arange(each.side) + _OFFSET) * each.step
    boxes = np.empty((each.side, each.side, each.anchors, 4))
    boxes[..., 0] = centres[:, np.newaxis, np.newaxis]
    boxes[..., 1] = centres[np.newaxis, :, np.newaxis]
    boxes[..., 2:] = shapes
    return boxes.reshape(-1, 4) / _IMAGE
