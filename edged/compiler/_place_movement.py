"""Operators that move elements: slices, joins, paddings, repetitions, and changes of order.

Each rule applies its operator to the places of the elements instead of the elements, and so finds
which element of the input each element of the output is. The rest is the same for all: the loops
of a COPY.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Node
from edged.compiler._kernel import Kernel, Limit, Move
from edged.compiler._layout import Layout, Shape3, make
from edged.compiler._moves import ZERO, moves
from edged.npu import Op

__all__ = ["RULES", "straightened"]

_MAX_MOVED: Final = 1 << 24

_OF_IMAGES: Final = frozenset(
    ["AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"]
)
"""Operators that want their input in natural order."""

_PAD_MODES: Final[dict[str, Literal["edge", "reflect", "wrap"]]] = {
    "edge": "edge",
    "reflect": "reflect",
    "wrap": "wrap",
}
_Places = npt.NDArray[np.int64]

_MOVES_ONE: Final = Limit(
    "It moves one computed tensor; by what, is constant.",
    "what it selects or by how much it pads is computed",
)
_MOVES_LITTLE: Final = Limit(
    f"It moves at most {_MAX_MOVED >> 20} Mi elements.", "it moves {count} elements"
)
_FITTING: Final = Limit(
    "What it selects is there, and has the size that ONNX infers.",
    "what it selects is not there, or has another size than ONNX infers",
)
_LOOPS: Final = Limit(
    "Forward loops, at most five in each other, bring every element to its place.",
    "its elements move in an order that no loops of the device make",
)
_MULTIPLIED: Final = Limit(
    "It stands in front of a product of two computed tensors, where the compiler writes it.",
    "no product of two computed tensors reads it",
)
_JOINS_COMPUTED: Final = Limit(
    "It joins computed tensors.", "it joins constants, or one tensor with a constant"
)
_NEAREST: Final = Limit(
    "It takes the nearest element, by constant scales or sizes.",
    "it interpolates ({mode}), or in a way that is not known before the run",
)
_KNOWN_COORDINATES: Final = Limit(
    "Its coordinates are asymmetric, half_pixel, pytorch_half_pixel, align_corners or"
    " tf_half_pixel_for_nn.",
    "its coordinates are {mode}",
)
_ZERO_FILL: Final = Limit(
    "Padding is with zeros, or mode is edge, reflect or wrap.", "it pads with other numbers than 0"
)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a value has from one operand.

    Attributes:
        source: number of the operand.
        places: of the elements in the operand's tensor.
        box: which of the value they are.
    """

    source: int
    places: _Places
    box: tuple[slice, ...] = ()


def straightened(name: str, output: str, source: Layout) -> tuple[Kernel, Layout] | None:
    """The value *output*, which lies as *source*, copied into natural order, if that can be done.

    Values of other ranks than 2 and 4 have no natural order.
    """
    natural = _natural_axes(len(source.shape))
    if natural is None or source.order is None or math.prod(source.plane) > _MAX_MOVED:
        return None
    part = _Part(0, source.indices())
    found = _arranged(source.shape, [part], natural)
    return None if found is None else _copy(name, output, [source], source.shape, found)


def _side_by_side(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    """Matrices [1, G, R, C] copied beside each other, as a product of matrices reads them."""
    source = _one(operands)
    if len(source.shape) != 4 or not _multiplied(graph, node.output):
        raise _MULTIPLIED()
    beside = _beside(source.shape, [_Part(0, _indices(source))])
    if beside is None:
        raise _LOOPS()
    return _copy(node.name, node.output, [source], source.shape, beside)


def _multiplied(graph: Graph, name: str) -> bool:
    return any(node.op == "MatMul" and name in node.inputs for node in graph.nodes)


def _beside(shape: tuple[int, ...], parts: Sequence[_Part]) -> _Arranged | None:
    """The parts of matrices [1, G, R, C] written beside each other."""
    found = _arranged(shape, parts, (0, 2, 1, 3))
    _, groups, rows, columns = shape
    return None if found is None else replace(found, plane=(rows, 1, groups * columns))


def _concat(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    if len(operands) != len(node.inputs):
        raise _JOINS_COMPUTED()
    shape = graph.shape(node.output)
    axis = int(node.attributes["axis"]) % len(shape)
    ends = np.cumsum([layout.shape[axis] for layout in operands])
    channels = 1 if all(layout.order is None for layout in operands) else len(shape) - 1
    plain = channels == 1 or all(layout.is_channels_last() for layout in operands)
    if plain and axis == channels and len(shape) in (2, 4):
        plane = (*operands[0].plane[:2], int(ends[-1]))
        inputs = tuple(layout.base for layout in operands)
        kernel = Kernel(Op.CONCAT, node.name, inputs, node.output, plane)
        if channels == 1:
            return kernel, Layout(node.output, plane, shape)
        return kernel, make(node.output, plane, np.arange(math.prod(plane)).reshape(shape))
    parts = [
        _Part(
            number,
            _indices(layout),
            (slice(None),) * axis + (slice(end - layout.shape[axis], end),),
        )
        for number, (layout, end) in enumerate(zip(operands, ends.tolist(), strict=True))
    ]
    return _copied(graph, node, operands, parts)


def _one(operands: list[Layout]) -> Layout:
    if len(operands) != 1:
        raise _MOVES_ONE()
    return operands[0]


def _indices(source: Layout) -> _Places:
    if math.prod(source.plane) > _MAX_MOVED:
        raise _MOVES_LITTLE(count=math.prod(source.plane))
    return source.indices()


def _constant(graph: Graph, node: Node, position: int) -> npt.NDArray[Any]:
    name = node.operand(position)
    if name not in graph.constants:
        raise _MOVES_ONE()
    return graph.constants[name]


def _numbers(graph: Graph, node: Node, position: int) -> list[int]:
    return [int(number) for number in _constant(graph, node, position).reshape(-1)]


def _slice(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    starts, ends = (_numbers(graph, node, position) for position in (1, 2))
    axes = _numbers(graph, node, 3) if node.operand(3) else range(len(starts))
    steps = _numbers(graph, node, 4) if node.operand(4) else [1] * len(starts)
    box = [slice(None)] * len(source.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        box[axis] = slice(start, end, step)
    return _moved(graph, node, source, _indices(source)[tuple(box)])


def _gather(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    chosen, axis = _constant(graph, node, 1), int(node.attributes.get("axis", 0))
    _check_count(graph.shape(node.output))
    size = source.shape[axis]
    if chosen.min() < -size or chosen.max() >= size:
        raise _FITTING()
    return _moved(graph, node, source, np.take(_indices(source), chosen, axis))


def _depth_to_space(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    n, c, h, w = source.shape
    size = int(node.attributes["blocksize"])
    depth = c // size**2
    if c % size**2:
        raise _FITTING()
    if node.attributes.get("mode", b"DCR") == b"DCR":
        split = _indices(source).reshape(n, size, size, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        split = _indices(source).reshape(n, depth, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return _moved(graph, node, source, split.reshape(n, depth, h * size, w * size))


def _space_to_depth(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    n, c, h, w = source.shape
    size = int(node.attributes["blocksize"])
    if h % size or w % size:
        raise _FITTING()
    split = _indices(source).reshape(n, c, h // size, size, w // size, size)
    places = split.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * size**2, h // size, w // size)
    return _moved(graph, node, source, places)


def _expand(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    _constant(graph, node, 1)
    shape = graph.shape(node.output)
    _check_count(shape)
    return _moved(graph, node, source, np.broadcast_to(_indices(source), shape))


def _tile(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    repeats = _numbers(graph, node, 1)
    _check_count(graph.shape(node.output))
    return _moved(graph, node, source, np.tile(_indices(source), repeats))


def _check_count(shape: tuple[int, ...]) -> None:
    if math.prod(shape) > _MAX_MOVED:
        raise _MOVES_LITTLE(count=math.prod(shape))


def _pad(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    _check_count(graph.shape(node.output))
    amounts = _numbers(graph, node, 1)
    rank = len(source.shape)
    axes = _numbers(graph, node, 3) if node.operand(3) else range(rank)
    mode = node.attributes.get("mode", b"constant").decode()
    fill = _constant(graph, node, 2) if node.operand(2) else np.zeros(())
    if (mode != "constant" and mode not in _PAD_MODES) or (mode == "constant" and fill.any()):
        raise _ZERO_FILL()
    widths, kept = [(0, 0)] * rank, [slice(None)] * rank
    for axis, before, after in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        widths[axis] = max(before, 0), max(after, 0)
        kept[axis] = slice(max(-before, 0), source.shape[axis] - max(-after, 0))
    inside = _indices(source)[tuple(kept)]
    if mode == "constant":
        padded = np.pad(inside, widths, constant_values=ZERO)
    else:
        padded = np.pad(inside, widths, _PAD_MODES[mode])
    return _moved(graph, node, source, padded)


def _resize(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = _one(operands)
    mode = node.attributes.get("mode", b"nearest").decode()
    attributes = ("keep_aspect_ratio_policy", "exclude_outside", "antialias")
    if mode != "nearest" or any(node.attributes.get(name) for name in attributes[1:]):
        raise _NEAREST(mode=mode)
    shape = graph.shape(node.output)
    _check_count(shape)
    places = _indices(source)
    scales = graph.constants.get(node.operand(2 if node.op == "Resize" else 1), np.zeros(0))
    axes = list(node.attributes.get("axes", range(len(shape))))
    for axis, (before, after) in enumerate(zip(source.shape, shape, strict=True)):
        if before == after:
            continue
        scale = after / before
        if scales.size == len(axes) and axis in axes:
            scale = float(scales[axes.index(axis)])
        places = np.take(places, _nearest(node, before, after, scale), axis)
    return _moved(graph, node, source, places)


def _nearest(node: Node, before: int, after: int, scale: float) -> _Places:
    """Which of *before* elements each of *after* is, as Resize has it."""
    modes = node.attributes.get
    coordinates = modes("coordinate_transformation_mode", b"half_pixel").decode()
    x = np.arange(after, dtype=np.float64)
    match coordinates:
        case "asymmetric":
            x = x / scale
        case "half_pixel":
            x = (x + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            x = (x + 0.5) / scale - 0.5 if after > 1 else np.zeros(1)
        case "align_corners":
            x = x * ((before - 1) / max(after - 1, 1))
        case "tf_half_pixel_for_nn":
            x = (x + 0.5) / scale
        case _:
            raise _KNOWN_COORDINATES(mode=coordinates)
    match modes("nearest_mode", b"round_prefer_floor"):
        case b"floor":
            x = np.floor(x)
        case b"ceil":
            x = np.ceil(x)
        case b"round_prefer_ceil":
            x = np.floor(x + 0.5)
        case _:
            x = np.ceil(x - 0.5)
    return np.clip(x, 0, before - 1).astype(np.int64)


def _moved(graph: Graph, node: Node, source: Layout, places: _Places) -> tuple[Kernel, Layout]:
    return _copied(graph, node, [source], [_Part(0, places)])


def _copied(
    graph: Graph, node: Node, operands: Sequence[Layout], parts: Sequence[_Part]
) -> tuple[Kernel, Layout]:
    """*node* as a COPY, its output in the order that suits its operands."""
    shape = graph.shape(node.output)
    _check_count(shape)
    rank = len(shape)
    if rank < 2:
        raise _LOOPS()
    last = tuple(range(rank))
    readers = {each.op for each in graph.nodes if node.output in each.inputs}
    beside = _beside(shape, parts) if readers == {"Identity"} and rank == 4 else None
    if beside is not None:
        return _copy(node.name, node.output, operands, shape, beside)
    natural = _natural_axes(rank) or (0, *range(2, rank), 1)
    orders = [natural, last]
    read_as_image = any(
        each.op in _OF_IMAGES for each in graph.nodes if node.output in each.inputs[:1]
    )
    if not read_as_image and all(layout.is_channels_last() for layout in operands):
        orders = [last, natural]
    found = [moved for axes in orders if (moved := _arranged(shape, parts, axes)) is not None]
    if not found:
        raise _LOOPS()
    best = found[0]
    if _natural_axes(rank) is None:  # None of the orders is any reader's own.
        best = min(found, key=lambda each: sum(len(move.loops) for move in each.moves))
    return _copy(node.name, node.output, operands, shape, best)


@dataclass(frozen=True, slots=True, eq=False)
class _Arranged:
    """How a value is written: the shape of its tensor, where its elements are there, and how."""

    plane: Shape3
    order: _Places
    moves: tuple[Move, ...]


def _arranged(
    shape: tuple[int, ...], parts: Sequence[_Part], axes: tuple[int, ...]
) -> _Arranged | None:
    """The parts of a value written with its dimensions in the order *axes*."""
    sizes = [shape[axis] for axis in axes]
    plane = (math.prod(sizes[:-2]), sizes[-2], sizes[-1])
    order = np.arange(math.prod(shape)).reshape(sizes).transpose(np.argsort(axes))
    found: list[Move] = []
    for part in parts:
        there = moves(part.source, part.places.transpose(axes), order[part.box].transpose(axes))
        if there is None:
            return None
        found += there
    return _Arranged(plane, order, tuple(found))


def _copy(
    name: str, output: str, operands: Sequence[Layout], shape: tuple[int, ...], found: _Arranged
) -> tuple[Kernel, Layout]:
    inputs = tuple(layout.base for layout in operands)
    kernel = Kernel(Op.COPY, name, inputs, output, found.plane, moves=found.moves)
    return kernel, make(output, found.plane, found.order)


def _natural_axes(rank: int) -> tuple[int, ...] | None:
    """The dimensions of a value in the order in which its tensor has them by nature."""
    return {2: (0, 1), 4: (0, 2, 3, 1)}.get(rank)


RULES: Final[dict[str, Callable[[Graph, Node, list[Layout]], tuple[Kernel, Layout]]]] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "Identity": _side_by_side,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Tile": _tile,
}
