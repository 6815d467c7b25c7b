"""Rules for functions of one tensor, which are tables on the device, and for products of two."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from edged.compiler._functions import axis_of, is_elementwise
from edged.compiler._graph import Graph, Node
from edged.compiler._kernel import Kernel, Limit
from edged.compiler._layout import Layout
from edged.compiler._tables import Function
from edged.npu import Op

__all__ = ["function", "product"]

_ONE_TENSOR: Final = Limit(
    "It computes from one tensor, alone or with the operators on elements around it: together they"
    " become one table.",
    "it computes from {count} tensors",
)
_PER_CHANNEL: Final = Limit(
    "Its constants are one number each, or one for each channel.",
    "its constants are not one number, or one for each channel",
)
_BETWEEN: Final = Limit(
    "A layer of the device gives an input of it, and one reads its output: elsewhere the host"
    " computes it, in float.",
    "it is not between layers of the device",
)
_BROADCAST: Final = Limit(
    "Two computed tensors have the same shape and lie in the same order, or one is repeated over"
    " the pixels ([1, C, 1, 1]) or the channels ([1, 1, H, W]) of the other.",
    "its operands {a} and {b} do not lie alike",
)


def function(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    """A table, whichever the function, and however the tensor lies."""
    if len(operands) != 1:
        raise _ONE_TENSOR(count=len(operands))
    (source,) = operands
    if not node.body and not is_elementwise(graph, node):
        raise _PER_CHANNEL()
    axes = {axis for step in node.steps for axis in _axes(graph, step, source.shape)}
    if len(axes) > 1:
        raise _PER_CHANNEL()
    axis, order = (axes.pop(), None) if axes else (0, [0])
    kernel = Kernel(
        Op.TABLE,
        node.name,
        (source.base,),
        node.output,
        source.plane,
        function=Function(graph, node, axis, order or _channels(source, axis)),
        between=_BETWEEN,
    )
    return kernel, replace(source, base=node.output)


def _axes(graph: Graph, step: Node, shape: tuple[int, ...]) -> set[int]:
    """The axes along which the constants of *step* differ."""
    constants = [graph.constants[name] for name in step.inputs if name in graph.constants]
    if step.op == "BatchNormalization":
        return {1}
    return {axis for constant in constants if (axis := axis_of(constant, shape))}


def _channels(source: Layout, axis: int) -> list[int]:
    """For each channel of the device, the index of *axis* of the value that it is."""
    count = source.plane[2]
    if source.order is None and axis == 1:
        return list(range(count))
    channels = np.moveaxis(source.indices() % count, axis, 0).reshape(source.shape[axis], -1)
    if source.shape[axis] != count or (channels != channels[:, :1]).any():
        raise _PER_CHANNEL()
    return [int(index) for index in np.argsort(channels[:, 0])]


def product(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    """A product element by element; the factor that is repeated comes second."""
    if len(operands) != 2:
        return function(graph, node, operands)
    a, b = operands
    if a.shape != graph.shape(node.output):
        a, b = b, a
    if a.shape != graph.shape(node.output) or not (a.same_order(b) or _is_repeated(a, b)):
        raise _BROADCAST(a=list(operands[0].shape), b=list(operands[1].shape))
    kernel = Kernel(Op.MUL, node.name, (a.base, b.base), node.output, a.plane, between=_BETWEEN)
    return kernel, replace(a, base=node.output)


def _is_repeated(a: Layout, b: Layout) -> bool:
    """Whether *b* is repeated over the pixels or the channels of *a*."""
    height, width, count = a.plane
    if b.plane not in ((1, 1, count), (height, width, 1)):
        return False
    if a.order is None and b.order is None and len(a.shape) == len(b.shape) == 4:
        return True
    places = a.indices()
    wanted = places % count if b.plane == (1, 1, count) else places // count
    return np.array_equal(np.broadcast_to(b.indices(), a.shape), wanted)
