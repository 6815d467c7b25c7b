"""How weights are handed to ONNX Runtime's integer convolutions."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["WeightEncoding", "WeightEncodings"]

_PAIR: Final = 32767 // 255


class WeightEncoding(enum.Enum):
    """How weights are handed to a convolution; which one is exact depends on CPU and kernel."""

    SIGNED = "u8×s8"
    """Half again as fast. Without a dot-product instruction its partial sums saturate at 16 bits,
    and the results are wrong."""
    UNSIGNED = "u8×u8"
    """With zero point 128. Exact everywhere."""


@dataclass(frozen=True, slots=True)
class WeightEncodings:
    """One encoding for each kind of convolution that ONNX Runtime has a kernel for."""

    dense: WeightEncoding
    """Ordinary and grouped ones, as matrix products."""
    depthwise: WeightEncoding
    """One filter per channel: these never add pairs in 16 bits, and u8×s8 is exact so far."""
    small: WeightEncoding
    """Dense ones with weights so small that pairs of products fit into 16 bits, which the bound on
    accumulators sees to where sums are long."""

    def __str__(self) -> str:
        return (
            f"{self.dense.value}, depthwise {self.depthwise.value},"
            f" small weights {self.small.value}"
        )

    def of(self, weights: npt.NDArray[np.int8], depthwise: bool) -> WeightEncoding:
        """The one for *weights*, [C_out, C_in / groups, kh, kw]."""
        if depthwise:
            return self.depthwise
        return self.small if _pairs_fit(weights) else self.dense


def _pairs_fit(weights: npt.NDArray[np.int8]) -> bool:
    """Whether 255 · (|a| + |b|) stays below 2^15 for all neighbours a and b of a channel.

    ONNX Runtime multiplies matrices of [kh, kw, C_in / groups] in that order, in pairs.
    """
    rows = np.abs(weights.transpose(0, 2, 3, 1).reshape(len(weights), -1).astype(np.int16))
    return bool((rows[:, 1:] + rows[:, :-1]).max(initial=0) <= _PAIR)
