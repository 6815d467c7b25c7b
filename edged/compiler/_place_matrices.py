"""The rule for products of two computed tensors, as of attention."""

from __future__ import annotations

import math
from typing import Final

from edged.compiler._graph import Graph, Node
from edged.compiler._kernel import Kernel, Limit
from edged.compiler._layout import Layout, make, matrix_order
from edged.npu import ACCUMULATOR_BOUND, DType, Op

__all__ = ["product_of_matrices"]

_MAX_ELEMENTS: Final = 1 << 24
_MAX_DEPTH: Final = (ACCUMULATOR_BOUND - 1) // DType.S8.reach**2

_AS_MANY: Final = Limit(
    "Of two computed tensors, neither is broadcast: [.., N, K] and [.., K, M] have all dimensions"
    " but the last two in common, of which there is at least one.",
    "it multiplies {a} and {b}",
)
_DEPTH: Final = Limit(
    f"Of two computed tensors, each element of the product sums up at most {_MAX_DEPTH} products.",
    f"it sums up {{depth}} products of two computed tensors, accumulators hold {_MAX_DEPTH}",
)
_SMALL: Final = Limit(
    f"A product of two computed tensors has at most {_MAX_ELEMENTS >> 20} Mi elements.",
    "its output has {count} elements",
)
_SIDE_BY_SIDE: Final = Limit(
    "Two computed tensors lie with their matrices beside each other, or are copied so.",
    "its operands do not lie as matrices beside each other",
)


def product_of_matrices(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    """[1, G, N, K] · [1, G, K, M]: rows are pixels, and each group of channels is a matrix."""
    a, b = operands
    if len(a.shape) != 4 or a.shape[:2] != b.shape[:2]:
        raise _AS_MANY(a=list(a.shape), b=list(b.shape))
    _, groups, rows, depth = a.shape
    if depth > _MAX_DEPTH:
        raise _DEPTH(depth=depth)
    shape = (1, groups, rows, b.shape[3])
    if math.prod(shape) > _MAX_ELEMENTS:  # Before their order is written out.
        raise _SMALL(count=math.prod(shape))
    if not (a.is_matrices() and b.is_matrices()):
        raise _SIDE_BY_SIDE()
    kernel = Kernel(
        Op.MATMUL,
        node.name,
        (a.base, b.base),
        node.output,
        (*a.plane[:2], groups * shape[3]),
        groups=groups,
        depth=depth,
    )
    return kernel, make(node.output, kernel.plane, matrix_order(shape))
