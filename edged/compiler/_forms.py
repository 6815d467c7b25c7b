"""Other forms of operators, in which the device has them, as exporters write them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Names, Node, Value

__all__ = ["with_convolutions_for_interpolation", "with_slices_for_splits"]

_MULTIPLIERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def with_slices_for_splits(graph: Graph) -> Graph:
    """Write Split as a Slice for each part."""
    names = Names((*graph.values, *graph.constants))
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        shapes = [graph.values[name].shape for name in node.outputs if name]
        source = graph.values.get(node.operand(0))
        if node.op != "Split" or source is None or source.shape is None or None in shapes:
            nodes.append(node)
            continue
        axis, begin = int(node.attributes.get("axis", 0)) % len(source.shape), 0
        for output, shape in zip(filter(None, node.outputs), shapes, strict=True):
            assert shape is not None
            bounds = {"starts": begin, "ends": begin + shape[axis], "axes": axis}
            inputs = [node.inputs[0]]
            for kind, value in bounds.items():
                inputs.append(names.fresh(f"{output}/{kind}"))
                constants[inputs[-1]] = np.array([value], np.int64)
            nodes.append(Node("Slice", output, tuple(inputs), (output,), {}))
            begin += shape[axis]
    return replace(graph, nodes=tuple(nodes), constants=constants)


@dataclass(frozen=True, slots=True, eq=False)
class _Interpolation:
    """Linear interpolation along one dimension, as a transposed convolution.

    Attributes:
        edges: how often the first and the last element are repeated beforehand.
        weights: of the kernel, [K].
        pads: of the convolution.
    """

    stride: int
    edges: tuple[int, int]
    weights: npt.NDArray[np.float32]
    pads: tuple[int, int]


def with_convolutions_for_interpolation(graph: Graph) -> Graph:
    """Write linear Resize by whole factors as a ConvTranspose, if something multiplies behind it.

    Elements beyond the edges are those at the edges: a Pad repeats them.
    """
    names = Names((*graph.values, *graph.constants))
    constants, values = dict(graph.constants), dict(graph.values)
    multiplied = _multiplied(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        axes = _interpolations(graph, node) if node.output in multiplied else None
        if axes is None:
            nodes.append(node)
            continue
        source = node.inputs[0]
        n, count, height, width = graph.shape(source)
        rows, columns = axes
        if any((*rows.edges, *columns.edges)):
            padded, pads = names.fresh(f"{node.output}/edges"), names.fresh(f"{node.output}/pads")
            (top, bottom), (left, right) = rows.edges, columns.edges
            constants[pads] = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
            shape = (n, count, height + top + bottom, width + left + right)
            values[padded] = Value(np.dtype(np.float32), shape)
            nodes.append(Node("Pad", padded, (source, pads), (padded,), {"mode": b"edge"}))
            source = padded
        weights = names.fresh(f"{node.output}/weights")
        kernel = np.outer(rows.weights, columns.weights)
        constants[weights] = np.broadcast_to(kernel, (count, 1, *kernel.shape)).copy()
        (begin, end), (first, last) = rows.pads, columns.pads
        attributes = {
            "group": count,
            "kernel_shape": list(kernel.shape),
            "strides": [rows.stride, columns.stride],
            "pads": [begin, first, end, last],
        }
        inputs = (source, weights)
        nodes.append(Node("ConvTranspose", node.name, inputs, node.outputs, attributes))
    return replace(graph, nodes=tuple(nodes), constants=constants, values=values)


def _multiplied(graph: Graph) -> set[str]:
    """Values behind which something is multiplied."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op in _MULTIPLIERS or not found.isdisjoint(node.outputs):
            found.update(node.inputs)
    return found


def _interpolations(graph: Graph, node: Node) -> tuple[_Interpolation, _Interpolation] | None:
    """Along height and width, if *node* is a linear Resize by whole factors."""
    if node.op != "Resize" or node.attributes.get("mode") != b"linear":
        return None
    before, after = graph.values[node.inputs[0]], graph.values[node.output]
    plain = not node.attributes.get("antialias") and "axes" not in node.attributes
    if not (plain and before.placeable and after.placeable):
        return None
    old, new = graph.shape(node.inputs[0]), graph.shape(node.output)
    scales = graph.constants.get(node.operand(2), np.zeros(0))
    if len(old) != 4 or old[:2] != new[:2] or (node.operand(2) and scales.size not in (0, 4)):
        return None
    way = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
    rows, columns = (
        _interpolation(way, old[axis], new[axis], float(scales[axis]) if scales.size else None)
        for axis in (2, 3)
    )
    return None if rows is None or columns is None else (rows, columns)


def _interpolation(
    way: bytes, before: int, after: int, scale: float | None
) -> _Interpolation | None:
    """What brings *before* elements to *after*, if it is the same for all of them.

    Element y is the one at (y + offset) / stride, between elements weighed by their distance.
    """
    corners = way == b"align_corners" and before > 1
    stride, rest = divmod(after - corners, before - corners)
    if rest or not stride or (scale not in (None, stride) and not corners):
        return None
    match way:
        case b"half_pixel" | b"pytorch_half_pixel" if after > 1 or way == b"half_pixel":
            offset = (1 - stride) / 2
        case b"asymmetric" | b"align_corners":
            offset = 0.0
        case _:
            return None
    edges = (int(offset < 0), int(stride > 1 and not corners))
    begin = math.ceil(stride * (1 + edges[0]) + offset) - 1
    size = math.ceil(begin - stride * edges[0] - offset + stride)
    distances = (np.arange(size) - begin + stride * edges[0] + offset) / stride
    end = stride * (before + sum(edges) - 1) + size - begin - after
    weights = (1 - np.abs(distances)).astype(np.float32)
    return _Interpolation(stride, edges, weights, (begin, end))
