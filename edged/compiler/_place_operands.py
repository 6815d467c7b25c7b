"""What several rules of placement want of an operator's inputs."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Node
from edged.compiler._kernel import Limit
from edged.compiler._layout import Layout

__all__ = ["image", "parameters"]

_CONSTANT_WEIGHTS: Final = Limit(
    "Weights and bias are constants.", "its weights are computed, not constant"
)
_ONE_INPUT: Final = Limit(
    "It computes from one input; whatever else it reads is constant.",
    "its weights are computed, not constant",
)
_FLOAT_WEIGHTS: Final = Limit(
    "Weights and bias are float32.", "its weights are {dtype}, not float32"
)
_IMAGE: Final = Limit(
    "The input is an image [1, C, H, W] or a signal [1, C, L].",
    "its input has {rank} dimensions, not 3 or 4",
)
_NATURAL_ORDER: Final = Limit(
    "The input lies in natural order, or up to five loops in each other bring it there.",
    "its input was reshaped or transposed on the device",
)


def image(operands: list[Layout]) -> Layout:
    """The one operand, an image [1, C, H, W] that lies naturally."""
    if len(operands) != 1:
        raise _ONE_INPUT()
    (source,) = operands
    if len(source.shape) != 4:
        raise _IMAGE(rank=len(source.shape))
    if source.order is not None:
        raise _NATURAL_ORDER()
    return source


def parameters(
    graph: Graph, node: Node
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """The weights and the bias of *node*, if it has one."""
    weights = graph.constants.get(node.operand(1))
    bias = graph.constants.get(node.operand(2))
    if weights is None or (node.operand(2) and bias is None):
        raise _CONSTANT_WEIGHTS()
    if weights.dtype != np.float32 or (bias is not None and bias.dtype != np.float32):
        raise _FLOAT_WEIGHTS(dtype=weights.dtype)
    return weights, bias
