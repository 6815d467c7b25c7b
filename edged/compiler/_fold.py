"""Rewrites of the float graph that make it smaller and change nothing that it computes.

Identity and inference-time Dropout go; MatMul becomes Gemm; zero Pad moves into the window behind
it; batch norm and constant scales and offsets move into the Conv or Gemm before them, or become a
depthwise 1×1 Conv of their own; a long sum of products becomes a sum of four.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.compiler._forms import (
    with_convolutions_for_interpolation,
    with_convolutions_for_matrices,
    with_factors_before_products,
    with_matrices_side_by_side,
    with_pools_of_what_is_there,
    with_slices_for_splits,
)
from edged.compiler._functions import with_functions, with_sums_for_differences
from edged.compiler._graph import Graph, Names, Node, Value
from edged.compiler._one_dimensional import with_elements_before_views, with_two_dimensions
from edged.compiler._place import OPERATORS

__all__ = ["fold", "rewrites"]

_LONG_SUM: Final = 16_384
_Float = npt.NDArray[np.float64]


def fold(graph: Graph) -> Graph:
    """*graph*, rewritten as far as it goes."""
    # Nothing is folded across the feature tensor: what is read there counts as an output.
    watched = [graph.features] if graph.features and graph.features not in graph.outputs else []
    start = replace(graph, outputs=(*graph.outputs, *watched))
    end = functools.reduce(lambda done, step: step(done), _steps(), start)
    return replace(end, outputs=graph.outputs).pruned()


def rewrites() -> list[str]:
    """What each rewrite does, in a sentence; docs/operators.md lists them."""
    return [(step.__doc__ or "").partition("\n")[0] for step in _steps()]


def _steps() -> tuple[Callable[[Graph], Graph], ...]:
    return (
        with_pools_of_what_is_there,
        _without_identities,
        with_slices_for_splits,
        with_convolutions_for_interpolation,
        with_convolutions_for_matrices,
        with_factors_before_products,
        with_two_dimensions,
        with_elements_before_views,
        _with_plain_gemm,
        _with_padding_in_windows,
        with_sums_for_differences,
        _with_affine_in_weights,
        with_functions,
        _with_affine_as_weights,
        _with_matrices_on_images,
        _with_short_sums,
        with_matrices_side_by_side,
    )


def _without_identities(graph: Graph) -> Graph:
    """Drop Identity and Dropout, and Cast, Reshape, Concat, Sum and Pad that change nothing."""
    uses = graph.uses()
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for original in graph.nodes:
        node = replace(original, inputs=tuple(renamed.get(n, n) for n in original.inputs))
        spare = any(uses[name] for name in node.outputs[1:])
        if _is_identity(graph, node) and node.output not in graph.outputs and not spare:
            renamed[node.output] = node.inputs[0]
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _is_identity(graph: Graph, node: Node) -> bool:
    before, after = graph.values.get(node.operand(0)), graph.values[node.output]
    match node.op:
        case "Identity":
            return True
        case "Dropout":
            training = graph.constants.get(node.operand(2), np.False_)
            return not node.operand(2) or (node.operand(2) in graph.constants and not training)
        case "Cast" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
            known = before is not None and before.dtype is not None and before.shape is not None
            return known and before == after
        case "Concat" | "Sum":
            return len(node.inputs) == 1
        case "Pad":
            pads = graph.constants.get(node.operand(1))
            return pads is not None and not pads.any()
    return False


def _with_plain_gemm(graph: Graph) -> Graph:
    """Write MatMul of one row with a constant, and Gemm with whatever factors, as A·B + C."""
    names = Names((*graph.values, *graph.constants))
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        weights = constants.get(node.operand(1))
        source = graph.values.get(node.operand(0))
        if (
            node.op not in ("MatMul", "Gemm")
            or weights is None
            or weights.ndim != 2
            or weights.dtype != np.float32
            or source is None
            or source.shape is None
            or len(source.shape) != 2
            or node.attributes.get("transA")
            or (node.operand(2) and node.operand(2) not in constants)
        ):
            nodes.append(node)
            continue
        if node.attributes.get("transB"):
            weights = weights.T
        scaled = weights * np.float32(node.attributes.get("alpha", 1.0))
        bias = constants.get(node.operand(2), np.zeros((), np.float32))
        full = np.broadcast_to(
            np.squeeze(bias) * np.float32(node.attributes.get("beta", 1.0)), scaled.shape[1:]
        )
        inputs = _linear_inputs(node.inputs[0], node.output, names)
        constants |= {inputs[1]: np.ascontiguousarray(scaled), inputs[2]: np.array(full)}
        nodes.append(Node("Gemm", node.name, inputs, node.outputs, {}))
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _with_padding_in_windows(graph: Graph) -> Graph:
    """Move a Pad of zeros into the window of the Conv or pool behind it, where that is the same."""
    uses = graph.uses()
    producers = {name: node for node in graph.nodes for name in node.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        pad = producers.get(node.operand(0))
        if pad is not None and pad.op == "Pad" and uses[pad.output] == 1:
            node = _padded(graph, node, pad, producers.get(pad.inputs[0])) or node
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)).pruned()


def _padded(graph: Graph, node: Node, pad: Node, before: Node | None) -> Node | None:
    """*node* doing the work of *pad* as well, or None when it cannot."""
    added = _zero_padding(graph, pad)
    auto = node.attributes.get("auto_pad", b"NOTSET")
    if added is None or auto not in (b"NOTSET", b"VALID") or node.attributes.get("ceil_mode"):
        return None
    own = tuple(node.attributes.get("pads", (0, 0, 0, 0))) if auto == b"NOTSET" else (0, 0, 0, 0)
    changes: dict[str, Any] = {}
    if node.op == "MaxPool":
        # A pool sees nothing at all beyond the edge: as good as zeros if no value is below zero.
        if any(own) or before is None or not _never_negative(graph, before):
            return None
    elif node.op == "AveragePool":
        if any(own) and not node.attributes.get("count_include_pad"):
            return None
        changes["count_include_pad"] = 1
    elif node.op != "Conv":
        return None
    kernel = node.attributes.get("kernel_shape") or graph.shape(node.inputs[1])[2:]
    dilations = node.attributes.get("dilations", (1, 1))
    total = tuple(a + b for a, b in zip(own, added, strict=True))
    if any(p > d * (k - 1) for p, k, d in zip(total, kernel * 2, dilations * 2, strict=True)):
        return None
    attributes = {k: v for k, v in node.attributes.items() if k != "auto_pad"}
    attributes |= {"pads": list(total), **changes}
    return replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attributes=attributes)


def _zero_padding(graph: Graph, pad: Node) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a Pad that adds zeros around an image, else None."""
    amounts = graph.constants.get(pad.operand(1))
    shape = graph.values[pad.output].shape
    fill = graph.constants.get(pad.operand(2), np.zeros(())) if pad.operand(2) else np.zeros(())
    plain = pad.attributes.get("mode", b"constant") == b"constant" and not pad.operand(3)
    if not plain or amounts is None or shape is None or len(shape) != 4:
        return None
    if fill.size != 1 or fill.any() or (pad.operand(2) and pad.operand(2) not in graph.constants):
        return None
    if amounts.size != 8 or amounts.min() < 0 or amounts[[0, 1, 4, 5]].any():
        return None
    top, left, bottom, right = (int(n) for n in amounts[[2, 3, 6, 7]])
    return top, left, bottom, right


def _never_negative(graph: Graph, node: Node) -> bool:
    if node.op == "Clip":
        low = graph.constants.get(node.operand(1))
        return low is not None and bool(low >= 0)
    return node.op == "Relu"


@dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    """``source · scale[c] + offset[c]``."""

    source: str
    scale: _Float
    offset: _Float


def _with_affine_in_weights(graph: Graph) -> Graph:
    """Move BatchNormalization, Neg and a constant Mul, Div, Add or Sub per channel into weights."""
    uses = graph.uses()
    names = Names((*graph.values, *graph.constants))
    constants = dict(graph.constants)
    nodes: list[Node] = []
    linear: dict[str, int] = {}  # value → the position of the Conv or Gemm that gives it
    for node in graph.nodes:
        affine = _affine(graph, node)
        at = linear.get(affine.source) if affine else None
        if affine is not None and at is not None and uses[affine.source] == 1:
            nodes[at] = _absorbed(nodes[at], affine, node.output, constants, names)
        else:
            at = len(nodes) if _is_linear(graph, node) else None
            nodes.append(node)
        if at is not None:
            linear[node.output] = at
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _with_affine_as_weights(graph: Graph) -> Graph:
    """Write what is left of these on images as a depthwise 1×1 Conv."""
    names = Names((*graph.values, *graph.constants))
    constants = dict(graph.constants)
    nodes: list[Node] = []
    behind: set[str] = set()  # values that the device computes behind a Conv or Gemm
    for node in graph.nodes:
        affine = _affine(graph, node)
        image = len(graph.values[node.output].shape or ()) == 4 and node.op != "Neg"
        if affine is not None and affine.source in behind and image:
            # In front of the first Conv it stays float, on the host: it is mere preprocessing. So
            # it does behind operators that the device lacks.
            nodes.append(_depthwise(node, affine, constants, names))
        else:
            nodes.append(node)
        device = node.body or node.op in OPERATORS
        if _is_linear(graph, node) or (device and not behind.isdisjoint(node.inputs)):
            behind.update(node.outputs)
    absorbed = replace(graph, nodes=tuple(nodes), constants=constants)
    return _with_affine_in_weights(absorbed)


def _with_matrices_on_images(graph: Graph) -> Graph:
    """Write a long Gemm of a flattened image as the Conv that it is."""
    producers = {name: node for node in graph.nodes for name in node.outputs}
    names = Names((*graph.values, *graph.constants))
    constants = dict(graph.constants)
    values = dict(graph.values)
    nodes: list[Node] = []
    for node in graph.nodes:
        flat = producers.get(node.operand(0))
        image = graph.values.get(flat.operand(0)) if flat is not None else None
        weights = constants.get(node.operand(1))
        if (
            node.op != "Gemm"
            or node.attributes
            or weights is None
            or len(weights) < _LONG_SUM
            or flat is None
            or flat.op not in ("Flatten", "Reshape")
            or image is None
            or not image.placeable
            or image.shape is None
            or len(image.shape) != 4
        ):
            nodes.append(node)
            continue
        count = weights.shape[1]
        output = names.fresh(f"{node.output}/image")
        inputs = _linear_inputs(flat.inputs[0], output, names)
        shape = names.fresh(f"{node.output}/shape")
        constants[inputs[1]] = weights.T.reshape(count, *image.shape[1:])
        constants[inputs[2]] = (
            constants[node.operand(2)] if node.operand(2) else np.zeros(count, np.float32)
        )
        constants[shape] = np.array((1, count), np.int64)
        values[output] = Value(image.dtype, (1, count, 1, 1))
        nodes.append(Node("Conv", node.name, inputs, (output,), {}))
        nodes.append(Node("Reshape", shape, (output, shape), node.outputs, {}))
    return replace(graph, nodes=tuple(nodes), constants=constants, values=values)


def _with_short_sums(graph: Graph) -> Graph:
    """Split long sums of products in four parts, which 24 bits can hold without coarser weights.

    All of a sum has to stay below 2^24 in the device, whatever the activations. The first fully
    connected layer of VGG-16 adds up 25,088 products, and so few bits are left for its weights that
    an output is off by a tenth. A part of every second row and column adds up a quarter, with two
    bits more for each weight; adding the parts costs less than that brings.
    """
    names = Names((*graph.values, *graph.constants))
    constants = dict(graph.constants)
    values = dict(graph.values)
    nodes: list[Node] = []
    for node in graph.nodes:
        if not _sums_whole_image(graph, constants, node):
            nodes.append(node)
            continue
        weights = constants[node.inputs[1]]
        bias = node.operand(2)
        terms = [names.fresh(f"{node.output}/{part}") for part in range(4)]
        for term, (row, column) in zip(terms, np.ndindex(2, 2), strict=True):
            inputs = _linear_inputs(node.inputs[0], term, names)
            constants[inputs[1]] = np.pad(
                weights[:, :, row::2, column::2], ((0, 0), (0, 0), (row, 0), (column, 0))
            )
            # Row 1 is the second of a window that begins above the image.
            attributes = {
                "kernel_shape": constants[inputs[1]].shape[2:],
                "dilations": (2, 2),
                "strides": weights.shape[2:],
                "pads": (row, column, 0, 0),
            }
            first = bias and term == terms[0]
            part = (*inputs[:2], bias) if first else inputs[:2]
            nodes.append(Node("Conv", term, part, (term,), attributes))
            values[term] = values[node.output]
        halves = [names.fresh(f"{node.output}/{half}") for half in ("upper", "lower")]
        values |= dict.fromkeys(halves, values[node.output])
        for half, pair in zip(halves, (terms[:2], terms[2:]), strict=True):
            nodes.append(Node("Add", half, tuple(pair), (half,), {}))
        nodes.append(Node("Add", node.name, tuple(halves), node.outputs, {}))
    return replace(graph, nodes=tuple(nodes), constants=constants, values=values)


def _sums_whole_image(graph: Graph, constants: Mapping[str, npt.NDArray[Any]], node: Node) -> bool:
    """Whether *node* is a convolution of one window that is the image, and a long sum."""
    if node.op != "Conv" or node.inputs[1] not in constants:
        return False
    weights, source = constants[node.inputs[1]], graph.values[node.inputs[0]].shape
    window = tuple(int(n) for n in weights.shape[2:])
    return (
        weights.ndim == 4
        and min(window) >= 3
        and source is not None
        and source[2:] == window
        and graph.values[node.output].shape == (1, len(weights), 1, 1)
        and node.attributes.get("group", 1) == 1
        and not any(node.attributes.get("pads", ()))
        and weights[0].size >= _LONG_SUM
    )


def _is_linear(graph: Graph, node: Node) -> bool:
    if node.op == "Gemm" and (node.attributes or len(node.inputs) < 3):
        return False
    return node.op in ("Conv", "ConvTranspose", "Gemm") and all(
        name in graph.constants and graph.constants[name].dtype == np.float32
        for name in node.inputs[1:]
        if name
    )


def _absorbed(
    node: Node,
    affine: _Affine,
    output: str,
    constants: dict[str, npt.NDArray[Any]],
    names: Names,
) -> Node:
    weights = constants[node.inputs[1]].astype(np.float64)
    scale = affine.scale
    match node.op:
        case "Gemm":
            scale = scale.reshape(1, -1)
        case "Conv":
            scale = scale.reshape(-1, *(1,) * (weights.ndim - 1))
        case _:  # [C_in, C_out / groups, …]: each group of the inputs has its own outputs.
            by_group = scale.reshape(int(node.attributes.get("group", 1)), -1)
            scale = by_group.repeat(len(weights) // len(by_group), axis=0)
            scale = scale.reshape(*scale.shape, *(1,) * (weights.ndim - 2))
    bias = constants[node.operand(2)].astype(np.float64) if node.operand(2) else 0.0
    inputs = _linear_inputs(node.inputs[0], output, names)
    constants[inputs[1]] = (weights * scale).astype(np.float32)
    constants[inputs[2]] = (bias * affine.scale + affine.offset).astype(np.float32)
    return replace(node, inputs=inputs, outputs=(output,))


def _depthwise(
    node: Node, affine: _Affine, constants: dict[str, npt.NDArray[Any]], names: Names
) -> Node:
    inputs = _linear_inputs(affine.source, node.output, names)
    constants[inputs[1]] = affine.scale.astype(np.float32).reshape(-1, 1, 1, 1)
    constants[inputs[2]] = affine.offset.astype(np.float32)
    attributes = {"group": affine.scale.size, "kernel_shape": [1, 1]}
    return Node("Conv", node.name, inputs, (node.output,), attributes)


def _linear_inputs(source: str, output: str, names: Names) -> tuple[str, str, str]:
    """Names for the inputs of a Conv or Gemm that gives *output*."""
    return source, names.fresh(f"{output}/weights"), names.fresh(f"{output}/bias")


def _affine(graph: Graph, node: Node) -> _Affine | None:
    """What *node* does to each channel, if that is all it does."""
    if not graph.values[node.output].placeable or len(graph.shape(node.output)) not in (2, 4):
        return None
    channels = graph.shape(node.output)[1]
    if node.op == "BatchNormalization":
        return _batch_norm(graph, node, channels)
    if node.op not in ("Add", "Sub", "Mul", "Div", "Neg") or len(graph.operands(node)) != 1:
        return None
    (source,) = graph.operands(node)
    if graph.values[source].shape != graph.shape(node.output):
        return None
    if node.op == "Neg":
        return _Affine(source, -np.ones(channels), np.zeros(channels))
    first = node.inputs[0] in graph.constants
    constant = _per_channel(
        graph.constants[node.inputs[0 if first else 1]], channels, len(graph.shape(source))
    )
    if constant is None or (node.op == "Div" and (first or not constant.all())):
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    match node.op:
        case "Add":
            return _Affine(source, ones, constant)
        case "Sub":
            return _Affine(source, -ones, constant) if first else _Affine(source, ones, -constant)
        case "Mul":
            return _Affine(source, constant, zeros)
    return _Affine(source, 1.0 / constant, zeros)


def _batch_norm(graph: Graph, node: Node, channels: int) -> _Affine | None:
    parameters = [graph.constants.get(name) for name in node.inputs[1:5]]
    if node.attributes.get("training_mode") or len(parameters) != 4:
        return None
    doubles = [p.astype(np.float64) for p in parameters if p is not None and p.shape == (channels,)]
    if len(doubles) != 4:
        return None
    gamma, beta, mean, variance = doubles
    scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    return _Affine(node.inputs[0], scale, beta - mean * scale)


def _per_channel(constant: npt.NDArray[Any], channels: int, rank: int) -> _Float | None:
    """*constant* as one number per channel (axis 1 of *rank*), if it broadcasts to that."""
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if shape[1] not in (1, channels) or any(n != 1 for i, n in enumerate(shape) if i != 1):
        return None
    return np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,)).copy()
