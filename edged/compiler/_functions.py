"""Functions of one tensor: operators on elements that depend, all together, on one computed value.

SiLU is x · sigmoid(x), hard-swish is written as Add, Clip, Mul and Div, GELU with Erf or Tanh, a
parametric ReLU as Relu, Neg, Mul and Add. Whatever exporters write, it is a function of one number,
and of the channel where a constant is one number for each. The device has a table for those, and so
each such part of the graph becomes one node, whose body are the operators that it consists of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Names, Node

__all__ = [
    "BOUNDS",
    "ELEMENTWISE",
    "axis_of",
    "is_elementwise",
    "is_scalar_function",
    "with_functions",
    "with_sums_for_differences",
]

BOUNDS: Final = frozenset({"Clip", "Relu"})
"""They cost nothing in the layer before them."""

ELEMENTWISE: Final = BOUNDS | frozenset(
    [
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BatchNormalization",
        "Ceil",
        "Celu",
        "Cos",
        "Cosh",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "Max",
        "Mean",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
    ]
)
"""Operators whose every output element depends on one element of each input, and is a float."""

_INSIDE: Final = ELEMENTWISE | frozenset(
    [
        "And",
        "Cast",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Mod",
        "Not",
        "Or",
        "Where",
        "Xor",
    ]
)
_AFFINE: Final = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})
_MULTIPLIERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_BOUNDED: Final = frozenset({"Add", "Conv", "Gemm", "MatMul", "Sum"})
"""Operators whose layer takes the bounds behind them."""

_MOST: Final = 64
"""Operators of one function: what is longer becomes several."""


def axis_of(constant: npt.NDArray[Any], shape: tuple[int, ...]) -> int | None:
    """The one axis of *shape* along which *constant* differs when it is broadcast to it.

    0 for one number; None if it does not broadcast, or differs along several.
    """
    full = (1,) * (len(shape) - constant.ndim) + constant.shape
    axes = [axis for axis, size in enumerate(full) if size > 1]
    if len(full) > len(shape) or len(axes) > 1:
        return None
    axis = axes[0] if axes else 0
    return axis if full[axis] in (1, shape[axis]) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """Operators from the value *source* to the last of *nodes*, in order.

    Attributes:
        shared: outputs of all but the last that others read as well.
    """

    source: str
    nodes: tuple[Node, ...]
    shared: frozenset[str]


def with_functions(graph: Graph) -> Graph:
    """Join operators on elements that compute from one tensor in all into one function of it."""
    search = _Search(graph)
    names = Names((*graph.values, *graph.constants))
    values = dict(graph.values)
    functions: dict[str, Node] = {}
    inner: set[str] = set()  # values that nobody reads but the function that computes them
    for node in reversed(graph.nodes):
        region = search.region(node) if node.output not in inner else None
        if region is None or (region.nodes == (node,) and len(graph.operands(node)) == 1):
            continue  # It is a function as it stands.
        inner |= {n.output for n in region.nodes[:-1]} - region.shared
        renamed = {name: names.fresh(name) for name in sorted(region.shared)}
        values |= {new: values[name] for name, new in renamed.items()}
        functions[node.output] = _joined(graph, region, renamed)
    nodes = [functions.get(n.output, n) for n in graph.nodes if n.output not in inner]
    return replace(graph, nodes=tuple(nodes), values=values).pruned()


def with_sums_for_differences(graph: Graph) -> Graph:
    """Write a difference of two computed tensors as a sum of the one and the negative other."""
    names = Names((*graph.values, *graph.constants))
    values = dict(graph.values)
    behind = _behind(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        a, b = graph.operands(node) if len(graph.operands(node)) == 2 else ("", "")
        if node.op != "Sub" or a not in behind or b not in behind:
            nodes.append(node)
            continue
        negative = names.fresh(f"{node.output}/negative")
        values[negative] = values[b]
        nodes.append(Node("Neg", negative, (b,), (negative,), {}))
        nodes.append(replace(node, op="Add", inputs=(a, negative)))
    return replace(graph, nodes=tuple(nodes), values=values)


def _joined(graph: Graph, region: _Region, renamed: Mapping[str, str]) -> Node:
    body = [
        replace(
            node,
            inputs=tuple(renamed.get(name, name) for name in node.inputs),
            outputs=tuple(renamed.get(name, name) for name in node.outputs),
        )
        for node in region.nodes
    ]
    constants = dict.fromkeys(n for node in body for n in node.inputs if n in graph.constants)
    last = region.nodes[-1]
    inputs = (region.source, *constants)
    return Node("Function", last.name, inputs, last.outputs, {}, tuple(body))


class _Search:
    """Looks for functions in a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._uses = graph.uses() + Counter([graph.features] if graph.features else [])
        self._producers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._position = {id(node): i for i, node in enumerate(graph.nodes)}
        self._roots = self._all_roots()
        self._behind = _behind(graph)

    def region(self, node: Node) -> _Region | None:
        """What *node* is the last operator of, if that is for a table; else None.

        The region reaches as far back as nobody else reads a value in it. Where two ways that fork
        at a value of several readers meet, what is between is computed once more: a table for the
        whole is no more work than the operator in which they meet.
        """
        if node.op not in _INSIDE or node.op in BOUNDS or node.output not in self._roots:
            return None
        if self._graph.values[node.output].dtype != np.float32:
            return None
        roots = [name for name in self._roots[node.output][1:] if self._is_source(name)]
        between = (self._between(root, node) for root in roots)
        found = [region for region in between if region is not None]
        whole = [region for region in found if not region.shared]
        if not whole and not found:
            return None
        region = self._without_first_bounds(whole[-1] if whole else found[0])
        return None if self._is_affine(region) else region

    def _all_roots(self) -> dict[str, tuple[str, ...]]:
        """For each value, what it is a function of alone, the nearest first: itself."""
        graph = self._graph
        roots: dict[str, tuple[str, ...]] = {}
        for node in graph.nodes:
            if not is_elementwise(graph, node) or node.output == graph.features:
                continue  # What depends on the features has to read them.
            ways = [roots.get(name, (name,)) for name in dict.fromkeys(graph.operands(node))]
            shared = set(ways[0]).intersection(*ways[1:])
            common = [name for name in ways[0] if name in shared]
            roots[node.output] = (node.output, *common[: _MOST - 1])
        return roots

    def _is_source(self, name: str) -> bool:
        value = self._graph.values[name]
        return name in self._behind and value.dtype == np.float32

    def _between(self, source: str, last: Node) -> _Region | None:
        nodes: dict[int, Node] = {}
        ends = [last]
        while ends:
            if len(nodes) == _MOST:
                return None
            node = ends.pop()
            nodes[self._position[id(node)]] = node
            names = (name for name in self._graph.operands(node) if name != source)
            ends += [
                n for name in names if self._position[id(n := self._producers[name])] not in nodes
            ]
        ordered = tuple(nodes[position] for position in sorted(nodes))
        reads = Counter(name for node in ordered for name in node.inputs)
        inside = {node.output for node in ordered[:-1]}
        shared = frozenset(name for name in inside if reads[name] < self._uses[name])
        return _Region(source, ordered, shared)

    def _without_first_bounds(self, region: _Region) -> _Region:
        """*region* behind the bounds at its beginning, where they are for the layer before it."""
        first, *rest = region.nodes
        before = self._producers.get(region.source)
        if (
            first.op not in BOUNDS
            or not rest
            or self._uses[region.source] > 1
            or first.output in region.shared
            or before is None
            or before.op not in _BOUNDED
        ):
            return region
        return replace(region, source=first.output, nodes=tuple(rest))

    def _is_affine(self, region: _Region) -> bool:
        """Whether it is a factor and an offset for each channel of an image: a 1 × 1 convolution.

        Bounds in front of it do not count.
        """
        return (
            len(self._graph.shape(region.source)) == 4
            and all(node.op in _AFFINE for node in region.nodes)
            and all(len(self._graph.operands(node)) == 1 for node in region.nodes)
        )


def is_elementwise(graph: Graph, node: Node) -> bool:
    """Whether an element of its output is a function of one element of each computed input."""
    operands = graph.operands(node)
    shape = graph.values[node.output].shape
    if node.op not in _INSIDE or not operands or shape is None or any(node.outputs[1:]):
        return False
    if any(graph.values[name].shape != shape for name in operands):
        return False
    constants = [graph.constants[name] for name in node.inputs if name in graph.constants]
    if node.op == "BatchNormalization":
        channels = (shape[1],) if len(shape) > 1 else ()
        return (
            node.inputs[0] not in graph.constants
            and not node.attributes.get("training_mode")
            and [constant.shape for constant in constants] == [channels] * 4
        )
    axes = [axis_of(constant, shape) for constant in constants]
    return None not in axes and len({axis for axis in axes if axis}) <= 1


def is_scalar_function(graph: Graph, node: Node) -> bool:
    """Whether *node* computes one function of each element, whichever its place."""
    return all(
        is_elementwise(graph, step)
        and step.op != "BatchNormalization"
        and all(graph.constants[n].size == 1 for n in step.inputs if n in graph.constants)
        for step in node.steps
    )


def _behind(graph: Graph) -> set[str]:
    """Values that depend on a product with weights: what is before them is mere preprocessing."""
    behind: set[str] = set()
    for node in graph.nodes:
        if node.op in _MULTIPLIERS or not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
    return behind
