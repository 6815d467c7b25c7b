"""One-dimensional networks as two-dimensional ones of height 1.

Convolutions, pools and norms of [1, C, L], as PyTorch writes them, become those of [1, C, 1, L].
What acts on single elements, or on a whole column, moves in front of the transposes and squeezes
that tf2onnx writes behind each of Keras's layers, to where it can join the convolution. Nothing
that is computed changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Names, Node, Value

__all__ = ["with_elements_before_views", "with_two_dimensions"]

_WINDOWS: Final = frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool"})
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose"})
_WHOLE: Final = frozenset({"BatchNormalization", "Concat", "GlobalAveragePool", "GlobalMaxPool"})
_UNARY: Final = frozenset({"Clip", "Relu"})
_BINARY: Final = frozenset({"Add", "Div", "Mul", "Sub"})
_VIEWS: Final = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def with_two_dimensions(graph: Graph) -> Graph:
    """Write operators of [1, C, L] as those of [1, C, 1, L]."""
    names = Names((*graph.values, *graph.constants))
    constants, values = dict(graph.constants), dict(graph.values)
    tall: dict[str, str] = {}  # value [1, C, L] → the same as [1, C, 1, L]
    nodes: list[Node] = []

    def reshaped(source: str, output: str, shape: tuple[int, ...]) -> Node:
        name = names.fresh(f"{output}/shape")
        # The length is left open: where a pool rounds up, ONNX and ONNX Runtime may differ by one.
        constants[name] = np.array((*shape[:-1], -1), np.int64)
        return Node("Reshape", name, (source, name), (output,), {})

    for node in graph.nodes:
        attributes = _lifted_attributes(graph, node)
        if attributes is None:
            nodes.append(node)
            continue
        inputs = list(node.inputs)
        for position, name in enumerate(node.inputs):
            shape = values[name].shape if name else None
            if name in constants:
                if node.op in _WEIGHTED and position == 1:
                    inputs[1] = names.fresh(f"{node.output}/weights")
                    constants[inputs[1]] = constants[name][:, :, np.newaxis]
                continue
            if shape is None or name in tall:
                inputs[position] = tall.get(name, name)
                continue
            inputs[position] = tall[name] = names.fresh(f"{name}/tall")
            values[tall[name]] = Value(values[name].dtype, (*shape[:2], 1, *shape[2:]))
            nodes.append(reshaped(name, tall[name], (*shape[:2], 1, *shape[2:])))
        shape = graph.shape(node.output)
        output = names.fresh(f"{node.output}/tall")
        values[output] = Value(values[node.output].dtype, (*shape[:2], 1, *shape[2:]))
        if node.output != graph.features:  # What reads the features has to be seen to do so.
            tall[node.output] = output
        nodes.append(Node(node.op, node.name, tuple(inputs), (output,), attributes))
        nodes.append(reshaped(output, node.output, shape))
    return replace(graph, nodes=tuple(nodes), constants=constants, values=values)


def _lifted_attributes(graph: Graph, node: Node) -> dict[str, Any] | None:
    """The attributes of *node* in two dimensions, or None if it is not one of these operators."""
    value = graph.values.get(node.operand(0))
    if node.op not in _WINDOWS | _WHOLE or value is None or not value.placeable:
        return None
    if value.shape is None or len(value.shape) != 3 or len(node.outputs) > 1:
        return None
    if node.inputs[0] in graph.constants or graph.values[node.output].shape is None:
        return None
    attributes = dict(node.attributes)
    if node.op == "Concat":
        whole = all(name not in graph.constants for name in node.inputs)
        return {"axis": 1} if whole and attributes["axis"] % 3 == 1 else None
    if node.op in _WEIGHTED and not _has_weights(graph, node):
        return None
    for key in ("kernel_shape", "strides", "dilations", "output_padding", "output_shape"):
        if key in attributes:
            attributes[key] = [int(key != "output_padding"), *attributes[key]]
    if "pads" in attributes:
        before, after = attributes["pads"]
        attributes["pads"] = [0, before, 0, after]
    return attributes


def _has_weights(graph: Graph, node: Node) -> bool:
    weights = graph.constants.get(node.inputs[1])
    return weights is not None and weights.ndim == 3


def with_elements_before_views(graph: Graph) -> Graph:
    """Move operators on elements in front of transposes and squeezes."""
    names = Names((*graph.values, *graph.constants))
    constants, values = dict(graph.constants), dict(graph.values)
    producers: dict[str, Node] = {}
    nodes: list[Node] = []
    for original in graph.nodes:
        made = [original]
        while (
            graph.features not in made[0].inputs
            and (moved := _in_front(constants, values, producers, made[0], names)) is not None
        ):
            made[:1] = moved
        nodes += made
        producers |= {name: node for node in made for name in node.outputs}
    return replace(graph, nodes=tuple(nodes), constants=constants, values=values).pruned()


def _in_front(
    constants: dict[str, npt.NDArray[Any]],
    values: dict[str, Value],
    producers: Mapping[str, Node],
    node: Node,
    names: Names,
) -> tuple[Node, Node] | None:
    """*node* in front of the view that gives its operand, and that view behind it."""
    operands = [name for name in node.inputs if name and name not in constants]
    if node.op not in _UNARY | _BINARY or len(operands) != 1:
        return None
    view = producers.get(operands[0])
    if view is None or view.op not in _VIEWS or values[view.output] != values.get(node.output):
        return None
    source, seen = values[view.inputs[0]], values[view.output]
    if source.shape is None or seen.shape is None or source.dtype != seen.dtype:
        return None
    inputs = [view.inputs[0] if name == operands[0] else name for name in node.inputs]
    for position, name in enumerate(node.inputs):
        constant = constants.get(name)
        if constant is None or node.op in _UNARY:
            continue
        before = _before(constant, view, source.shape, seen.shape)
        if before is None:
            return None
        inputs[position] = names.fresh(f"{name}/before")
        constants[inputs[position]] = before
    output = names.fresh(f"{node.output}/before")
    values[output] = source
    moved = replace(node, inputs=tuple(inputs), outputs=(output,))
    behind = replace(view, inputs=(output, *view.inputs[1:]), outputs=node.outputs)
    return moved, behind


def _before(
    constant: npt.NDArray[Any], view: Node, source: tuple[int, ...], seen: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """*constant*, which broadcasts to a view's output, as it broadcasts to its input."""
    if constant.size == 1:
        return constant.reshape(())
    if constant.ndim > len(seen):
        return None
    full = constant.reshape((1,) * (len(seen) - constant.ndim) + constant.shape)
    if view.op == "Transpose":
        axes = view.attributes.get("perm", range(len(seen))[::-1])
        return full.transpose(np.argsort(axes))
    # Only dimensions of 1 come and go: those that are larger stay in their order.
    if [n for n in source if n > 1] != [n for n in seen if n > 1]:
        return None
    kept = iter([n for n, whole in zip(full.shape, seen, strict=True) if whole > 1])
    shape = tuple(next(kept) if n > 1 else 1 for n in source)
    return full.reshape(shape) if math.prod(shape) == full.size else None
