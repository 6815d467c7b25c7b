"""Other forms of operators, in which the device has them, as exporters write them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Names, Node, Value

__all__ = [
    "with_convolutions_for_interpolation",
    "with_convolutions_for_matrices",
    "with_factors_before_products",
    "with_matrices_side_by_side",
    "with_pools_of_what_is_there",
    "with_slices_for_splits",
]

_MULTIPLIERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MAX_WINDOWS: Final = 9
_MAX_FACTOR: Final = 64
_FLOAT32: Final = np.dtype(np.float32)

Shape = tuple[int, ...]


class _Rewriting:
    """A graph while some of its operators are replaced by others.

    Attributes:
        nodes: what is there so far.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = []
        self._graph = graph
        self._names = Names((*graph.values, *graph.constants))
        self._constants = dict(graph.constants)
        self._values = dict(graph.values)

    def constant(self, stem: str, array: npt.NDArray[Any]) -> str:
        name = self._names.fresh(stem)
        self._constants[name] = array
        return name

    def add(
        self, op: str, stem: str, inputs: Sequence[str], shape: Shape, **attributes: Any
    ) -> str:
        """An operator that gives a new float value of *shape*."""
        output = self._names.fresh(f"{stem}/{op}")
        self._values[output] = Value(_FLOAT32, shape)
        self.nodes.append(Node(op, output, tuple(inputs), (output,), attributes))
        return output

    def slice(self, stem: str, source: str, axis: int, begin: int, end: int) -> tuple[str, ...]:
        """The inputs of a Slice."""
        bounds = {"starts": begin, "ends": end, "axes": axis}
        arrays = {kind: np.array([value], np.int64) for kind, value in bounds.items()}
        return source, *(self.constant(f"{stem}/{kind}", array) for kind, array in arrays.items())

    def last(self, node: Node, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """The operator that gives what *node* did."""
        self.nodes.append(Node(op, node.name, tuple(inputs), node.outputs, attributes))

    def done(self) -> Graph:
        return replace(
            self._graph, nodes=tuple(self.nodes), constants=self._constants, values=self._values
        )


def with_slices_for_splits(graph: Graph) -> Graph:
    """Write Split as a Slice for each part."""
    made = _Rewriting(graph)
    for node in graph.nodes:
        shapes = [graph.values[name].shape for name in node.outputs if name]
        source = graph.values.get(node.operand(0))
        if node.op != "Split" or source is None or source.shape is None or None in shapes:
            made.nodes.append(node)
            continue
        axis, begin = int(node.attributes.get("axis", 0)) % len(source.shape), 0
        for output, shape in zip(filter(None, node.outputs), shapes, strict=True):
            assert shape is not None
            inputs = made.slice(output, node.inputs[0], axis, begin, begin + shape[axis])
            made.nodes.append(Node("Slice", output, inputs, (output,), {}))
            begin += shape[axis]
    return made.done()


def with_convolutions_for_matrices(graph: Graph) -> Graph:
    """Write MatMul of many rows with a constant, a layer on every pixel, as a Conv of 1 × 1."""
    made = _Rewriting(graph)
    for node in graph.nodes:
        matrix, source = graph.constants.get(node.operand(1)), graph.values.get(node.operand(0))
        if (
            node.op != "MatMul"
            or source is None
            or not source.placeable
            or len(graph.shape(node.inputs[0])) not in (3, 4)
            or matrix is None
            or matrix.ndim != 2
            or matrix.dtype != np.float32
        ):
            made.nodes.append(node)
            continue
        shape, stem = graph.shape(node.inputs[0]), node.output
        depth, count = matrix.shape
        # [1, N, K] is an image of N rows with one pixel each.
        rows, columns = (*shape[1:-1], 1)[:2]
        image = node.inputs[0]
        if len(shape) == 3:
            size = made.constant(f"{stem}/image", np.array((1, rows, columns, depth), np.int64))
            image = made.add("Reshape", stem, (image, size), (1, rows, columns, depth))
        weights = made.constant(f"{stem}/weights", np.ascontiguousarray(matrix.T)[:, :, None, None])
        first = made.add("Transpose", stem, (image,), (1, depth, rows, columns), perm=[0, 3, 1, 2])
        each = (1, count, rows, columns)
        done = made.add("Conv", stem, (first, weights), each, kernel_shape=[1, 1])
        if len(shape) == 3:
            done = made.add(
                "Transpose", stem, (done,), (1, rows, columns, count), perm=[0, 2, 3, 1]
            )
            size = made.constant(f"{stem}/rows", np.array((1, rows, count), np.int64))
            made.last(node, "Reshape", (done, size))
        else:
            made.last(node, "Transpose", (done,), perm=[0, 2, 3, 1])
    return made.done()


def with_factors_before_products(graph: Graph) -> Graph:
    """Move a constant factor from behind a product of two computed tensors to the first of them."""
    made = _Rewriting(graph)
    uses = graph.uses()
    products = {
        node.output: node
        for node in graph.nodes
        if node.op == "MatMul" and graph.constants.keys().isdisjoint(node.inputs)
    }
    scaled: dict[str, Node] = {}  # product → the operator that scales it
    for node in graph.nodes:
        operands = graph.operands(node)
        factors = [graph.constants[n] for n in node.inputs if n in graph.constants]
        product = products.get(operands[0]) if len(operands) == 1 else None
        if (
            product is not None
            and [factor.size for factor in factors] == [1]
            and (node.op == "Mul" or (node.op == "Div" and node.inputs[0] == product.output))
            and uses[product.output] == 1
            and product.output != graph.features
            and graph.values[node.output] == graph.values[product.output]
            and (first := graph.values[product.inputs[0]].shape) is not None
            and factors[0].ndim <= len(first)
        ):
            scaled[product.output] = node
    gone = {node.output for node in scaled.values()}
    for node in graph.nodes:
        factor = scaled.get(node.output)
        if factor is not None:
            source = node.inputs[0]
            inputs = [source if name == node.output else name for name in factor.inputs]
            smaller = made.add(factor.op, source, inputs, graph.shape(source))
            inputs = [smaller, node.inputs[1]]
            made.nodes.append(replace(node, inputs=tuple(inputs), outputs=factor.outputs))
        elif node.output not in gone:
            made.nodes.append(node)
    return made.done()


def with_matrices_side_by_side(graph: Graph) -> Graph:
    """Write a product of two computed matrices, or of several pairs, as one of [1, G, R, C].

    In front of each operand is an Identity, which is where the device copies it into the order of
    matrices, unless it lies so already.
    """
    made = _Rewriting(graph)
    for node in graph.nodes:
        shapes = [graph.values[n].shape if n in graph.values else None for n in node.inputs]
        computed = graph.constants.keys().isdisjoint(node.inputs)
        floats = all(n in graph.values and graph.values[n].dtype == _FLOAT32 for n in node.inputs)
        a, b = (*shapes, None, None)[:2]
        if (
            node.op != "MatMul"
            or not (computed and floats)
            or a is None
            or b is None
            or min(len(a), len(b)) < 3
            or min(*a, *b) < 1
            or a[:-2] != b[:-2]
        ):
            made.nodes.append(node)
            continue
        groups, operands = math.prod(a[:-2]), []
        plain = a[:-2] == (1, groups)
        for name, shape in zip(node.inputs, (a, b), strict=True):
            each = (1, groups, *shape[-2:])
            if not plain:
                size = made.constant(f"{name}/matrices", np.array(each, np.int64))
                name = made.add("Reshape", name, (name, size), each)
            operands.append(made.add("Identity", name, (name,), each))
        if plain:
            made.last(node, "MatMul", operands)
            continue
        product = made.add("MatMul", node.output, operands, (1, groups, a[-2], b[-1]))
        size = made.constant(f"{node.output}/shape", np.array((*a[:-1], b[-1]), np.int64))
        made.last(node, "Reshape", (product, size))
    return made.done()


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
    made = _Rewriting(graph)
    multiplied = _multiplied(graph)
    for node in graph.nodes:
        axes = _interpolations(graph, node) if node.output in multiplied else None
        if axes is None:
            made.nodes.append(node)
            continue
        source, stem = node.inputs[0], node.output
        n, count, height, width = graph.shape(source)
        rows, columns = axes
        if any((*rows.edges, *columns.edges)):
            (top, bottom), (left, right) = rows.edges, columns.edges
            amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
            pads = made.constant(f"{stem}/edges", amounts)
            shape = (n, count, height + top + bottom, width + left + right)
            source = made.add("Pad", stem, (source, pads), shape, mode=b"edge")
        kernel = np.outer(rows.weights, columns.weights)
        full = np.broadcast_to(kernel, (count, 1, *kernel.shape)).copy()
        (begin, end), (first, last) = rows.pads, columns.pads
        made.last(
            node,
            "ConvTranspose",
            (source, made.constant(f"{stem}/weights", full)),
            group=count,
            kernel_shape=list(kernel.shape),
            strides=[rows.stride, columns.stride],
            pads=[begin, first, end, last],
        )
    return made.done()


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
    if rows is None or columns is None or rows.stride * columns.stride > _MAX_FACTOR:
        return None
    return rows, columns


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


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows of one size along one dimension: those that are whole, or one that is cut off."""

    begin: int
    end: int
    kernel: int
    stride: int
    count: int


def with_pools_of_what_is_there(graph: Graph) -> Graph:
    """Write AveragePool that does not count its padding as pools of rows and of columns.

    A window that reaches beyond the edge is one of its own, of what is there of it. The mean of
    rows' means is the mean, since all of them have as many elements.
    """
    made = _Rewriting(graph)
    multiplied = _multiplied(graph)
    for node in graph.nodes:
        axes = _window_axes(graph, node) if node.output in multiplied else None
        if axes is None:
            made.nodes.append(node)
            continue
        source, shape = node.inputs[0], list(graph.shape(node.inputs[0]))
        for axis, windows in enumerate(axes, 2):
            parts: list[str] = []
            for each in windows:
                part, size = source, shape.copy()
                if each.end - each.begin < shape[axis]:
                    size[axis] = each.end - each.begin
                    inputs = made.slice(node.output, source, axis, each.begin, each.end)
                    part = made.add("Slice", node.output, inputs, tuple(size))
                size[axis] = each.count
                kernel, strides = [1, 1], [1, 1]
                kernel[axis - 2], strides[axis - 2] = each.kernel, each.stride
                window = {"kernel_shape": kernel, "strides": strides}
                parts.append(made.add("AveragePool", node.output, (part,), tuple(size), **window))
            shape[axis] = sum(each.count for each in windows)
            source = parts[0]
            if len(parts) > 1:
                source = made.add("Concat", node.output, parts, tuple(shape), axis=axis)
        made.last(node, "Identity", (source,))
    return made.done()


def _window_axes(graph: Graph, node: Node) -> tuple[list[_Windows], list[_Windows]] | None:
    """Along height and width, if *node* pads and does not count it."""
    attributes, value = node.attributes, graph.values[node.output]
    known = value.placeable and graph.values[node.operand(0)].placeable
    if node.op != "AveragePool" or attributes.get("count_include_pad") or not known:
        return None
    before, after = graph.shape(node.inputs[0]), graph.shape(node.output)
    kernel, auto = attributes["kernel_shape"], attributes.get("auto_pad", b"NOTSET")
    if len(before) != 4 or any(n != 1 for n in attributes.get("dilations", ())):
        return None
    strides, pads = attributes.get("strides", (1, 1)), attributes.get("pads", (0, 0, 0, 0))
    found = []
    for axis in range(2):
        size, count, stride = before[2 + axis], after[2 + axis], strides[axis]
        begin = int(pads[axis]) if auto == b"NOTSET" else 0
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            whole = max((count - 1) * stride + kernel[axis] - size, 0)
            begin = (whole + (auto == b"SAME_LOWER")) // 2
        windows: list[_Windows] = []
        for number in range(count):
            first = number * stride - begin
            low, high = max(first, 0), min(first + kernel[axis], size)
            last = windows[-1] if windows else None
            if last and high - low == kernel[axis] == last.kernel:
                windows[-1] = replace(last, end=high, count=last.count + 1)
            else:
                windows.append(_Windows(low, high, high - low, stride, 1))
            if len(windows) > _MAX_WINDOWS:
                return None
        found.append(windows)
    rows, columns = found
    cut = any(each.kernel < kernel[axis] for axis in range(2) for each in found[axis])
    empty = any(each.kernel < 1 for each in (*rows, *columns))
    return (rows, columns) if cut and not empty else None
