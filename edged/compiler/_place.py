"""Which operators the device has, and what each becomes there: still float, already [H, W, C]."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.compiler import _place_movement, _place_transposed
from edged.compiler._functions import ELEMENTWISE
from edged.compiler._graph import Graph, Node
from edged.compiler._kernel import Kernel, Limit, NotOnDevice, Window
from edged.compiler._layout import Layout, Shape3, make
from edged.compiler._place_functions import function, product
from edged.compiler._place_matrices import product_of_matrices
from edged.compiler._place_operands import image, parameters
from edged.npu import ACCUMULATOR_BOUND, Op

__all__ = [
    "FLOAT_INPUT",
    "OPERATORS",
    "VIEWS",
    "common_limits",
    "groups",
    "limits",
    "place",
    "view",
]

VIEWS: Final = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_MAX_PLANE: Final = 1 << 26
_MAX_WINDOW: Final = 1 << 15


FLOAT_INPUT: Final = Limit(
    "Each computed input is float32: an image [1, C, H, W] or a row [1, C].",
    "its input {name!r} is {found}, not a float32 image or row",
)
_FLOAT_OUTPUT: Final = Limit(
    "The output is float32 of a known shape, with a batch of 1.",
    "its output is {found}, not float32 of batch 1",
)
_SMALL_ENOUGH: Final = Limit(
    f"The output has at most {_MAX_PLANE >> 20} Mi elements, and no side of 2^20 or more.",
    "its output of {plane} is too large for the device",
)
_KNOWN_SHAPE: Final = Limit(
    "The shape of the output is known.", "its output is {found}, not of a known shape"
)
_PERMUTATION: Final = Limit(
    "The permutation names each dimension once.",
    "it permutes {axes}, its input has {rank} dimensions",
)
_FLAT_KERNEL: Final = Limit(
    "The kernel has one or two dimensions.", "its kernel has {count} dimensions, not 1 or 2"
)
_FLAT_WINDOW: Final = Limit(
    "The window has one or two dimensions.", "its window has {count} dimensions, not 1 or 2"
)
_FLAT_ATTRIBUTES: Final = Limit(
    "Strides, dilations and pads are those of a window of two dimensions.",
    "its strides, dilations and pads are not those of a 2-d window",
)
_WINDOW_RANGE: Final = Limit(
    f"Kernel, strides and dilations are from 1 to {_MAX_WINDOW}, pads not below 0.",
    "its window is out of range ({window})",
)
_NARROW_PADDING: Final = Limit(
    "No padding is wider than the window less one element.",
    "its padding {pad} is wider than its window",
)
_FITTING_WINDOW: Final = Limit(
    "The window gives the size that ONNX infers.",
    "its window does not give {height}×{width} pixels",
)
_ONE_ROW: Final = Limit(
    "It multiplies one row [1, K] by a constant, or as a Conv many.",
    "it multiplies computed matrices, or more than one row",
)
_CONSTANT_MATRIX: Final = Limit(
    "The right operand is a constant matrix [K, N].", "its right operand is no constant [K, N]"
)
_TWO_TENSORS: Final = Limit(
    "It adds up two computed tensors, or one and constants.", "it adds up more than two tensors"
)
_SAME_LAYOUT: Final = Limit(
    "Both have the same shape and lie in the same order; nothing is broadcast.",
    "its operands differ in shape or layout",
)
_CONSTANT_BOUNDS: Final = Limit("Bounds are constants.", "its bounds are computed")
_ORDERED_BOUNDS: Final = Limit(
    "The lower bound is not above the upper one.", "its bounds are {lo} and {hi}"
)
_NO_INDICES: Final = Limit("Nothing reads its indices.", "its indices are used")
_COUNTED_PADDING: Final = Limit(
    "Padding, where there is any, counts (count_include_pad).",
    "its padding does not count (count_include_pad is 0)",
)
_NOT_DILATED: Final = Limit("It is not dilated.", "it is dilated")
_NO_PADDED_CEILING: Final = Limit(
    "It does not both pad and round its size up (ceil_mode).",
    "it pads and rounds its size up (ceil_mode)",
)
_CONSTANT_AXES: Final = Limit("Axes are constants.", "its axes are computed")
_SPATIAL_AXES: Final = Limit(
    "The mean is over all pixels of each channel.",
    "it takes the mean over axes {axes}, not over height and width",
)
_SMALL_WINDOW: Final = Limit(
    f"An average is over at most {ACCUMULATOR_BOUND >> 8} elements.",
    "its window has {count} elements",
)


def place(graph: Graph, node: Node, operands: Sequence[Layout]) -> tuple[Kernel, Layout]:
    """*node* as a layer of the device, and how its output lies there.

    Args:
        operands: of the inputs of *node* that are not constant, in their order.

    Raises:
        NotOnDevice: with the reason, which follows the operator's name in messages.
    """
    rule = function if node.body else _RULES.get(node.op)
    if rule is None:
        raise NotOnDevice("the device has no such operator")
    if not graph.values[node.output].placeable:
        raise _FLOAT_OUTPUT(found=_shown(graph, node.output))
    kernel, layout = rule(graph, node, list(operands))
    _check_plane(kernel.plane)
    return kernel, layout


def view(graph: Graph, node: Node, operand: Layout) -> Layout:
    """How the output of a reshape or transpose lies in the tensor of its input.

    Raises:
        NotOnDevice: its shape is not known.
    """
    value = graph.values[node.output]
    if value.shape is None or math.prod(value.shape) != math.prod(operand.plane):
        raise _KNOWN_SHAPE(found=_shown(graph, node.output))
    order = operand.indices()
    if node.op == "Transpose":
        axes = node.attributes.get("perm", range(order.ndim)[::-1])
        if sorted(axes) != list(range(order.ndim)):
            raise _PERMUTATION(axes=list(axes), rank=order.ndim)
        return operand.viewed(order.transpose(axes))
    return operand.viewed(order.reshape(value.shape))


def _conv(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    weights, bias = parameters(graph, node)
    if weights.ndim != 4:
        raise _FLAT_KERNEL(count=weights.ndim - 2)
    count, groups = weights.shape[0], int(node.attributes.get("group", 1))
    pixels, channels = _order(operands, node) if groups == 1 else (None, None)
    source = image(operands) if channels is None else operands[0]
    window = _window(graph, node, weights.shape[2:], source) if pixels is None else Window()
    if channels is not None:
        weights = weights[:, np.argsort(channels)]
    kernel = Kernel(
        Op.CONV,
        node.name,
        (source.base,),
        node.output,
        (*window.over(*source.plane[:2]), count),
        window,
        groups,
        weights.transpose(0, 2, 3, 1),  # A view: they may be large.
        np.zeros(count, np.float32) if bias is None else bias.reshape(-1),
    )
    if pixels is None:
        return kernel, Layout(node.output, kernel.plane, graph.shape(node.output))
    order = pixels * count + np.arange(count)[:, None, None]
    return kernel, make(node.output, kernel.plane, order[None])


def _order(
    operands: list[Layout], node: Node
) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64] | None]:
    """Where the pixels and the channels of a Conv's input lie, [H, W] and [C], if it may be so.

    Weights take any order of the channels. The pixels are None where they lie as in an image, which
    they have to unless the window is one of them.
    """
    (source,) = operands[:1]
    if source.order is None or len(source.shape) != 4 or source.shape[1] != source.plane[2]:
        return None, None
    pixels, channels = np.divmod(source.order[0], source.plane[2])
    if (pixels != pixels[:1]).any() or (channels != channels[:, :1, :1]).any():
        return None, None
    as_image = np.arange(pixels[0].size).reshape(source.plane[:2])
    if np.array_equal(pixels[0], as_image):
        return None, channels[:, 0, 0]
    window = [*node.attributes.get("strides", ()), *node.attributes.get("kernel_shape", (1, 1))]
    single = set(window) == {1} and not any(node.attributes.get("pads", ()))
    return (pixels[0], channels[:, 0, 0]) if single else (None, None)


def _gemm(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    """A convolution of the whole plane, its weights in the order in which the plane lies."""
    if len(operands) != 1 or len(operands[0].shape) != 2:
        raise _ONE_ROW()
    if node.op == "MatMul" or node.attributes:
        raise _CONSTANT_MATRIX()
    (source,) = operands
    weights, bias = parameters(graph, node)
    count = weights.shape[1]
    reordered = np.empty((count, weights.shape[0]), np.float32)
    reordered[:, source.indices().reshape(-1)] = weights.T
    kernel = Kernel(
        Op.CONV,
        node.name,
        (source.base,),
        node.output,
        (1, 1, count),
        Window(source.plane[:2]),
        1,
        reordered.reshape(count, *source.plane),
        np.zeros(count, np.float32) if bias is None else bias,
    )
    return kernel, Layout(node.output, kernel.plane, graph.shape(node.output))


def _matmul(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    rule = product_of_matrices if len(operands) == 2 else _gemm
    return rule(graph, node, operands)


def _add(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    if len(operands) == 1:
        return function(graph, node, operands)
    if len(node.inputs) != 2:
        raise _TWO_TENSORS()
    a, b = operands
    if not a.same_order(b) or a.shape != graph.shape(node.output):
        raise _SAME_LAYOUT()
    kernel = Kernel(Op.ADD, node.name, (a.base, b.base), node.output, a.plane)
    return kernel, replace(a, base=node.output)


def _bounds(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    if len(operands) != 1:
        raise _CONSTANT_BOUNDS()
    (source,) = operands
    lo, hi = 0.0 if node.op == "Relu" else -math.inf, math.inf
    if node.op == "Clip":
        lo = float(graph.constants.get(node.operand(1), np.array(lo)).max())
        hi = float(graph.constants.get(node.operand(2), np.array(hi)).min())
    if not lo <= hi:
        raise _ORDERED_BOUNDS(lo=lo, hi=hi)
    kernel = Kernel(Op.RESCALE, node.name, (source.base,), node.output, source.plane, lo=lo, hi=hi)
    return kernel, replace(source, base=node.output)


def _maxpool(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = image(operands)
    if len(node.outputs) > 1 and graph.uses()[node.outputs[1]]:
        raise _NO_INDICES()
    window = _window(graph, node, node.attributes["kernel_shape"], source)
    return _pooled(Op.MAXPOOL, graph, node, source, window)


def _avgpool(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = image(operands)
    window = _window(graph, node, node.attributes["kernel_shape"], source)
    if any(window.pad) and not node.attributes.get("count_include_pad"):
        raise _COUNTED_PADDING()
    if window.dilation != (1, 1):
        raise _NOT_DILATED()
    if any(window.pad) and node.attributes.get("ceil_mode"):
        raise _NO_PADDED_CEILING()
    return _pooled(Op.AVGPOOL, graph, node, source, window)


def _global_pool(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    source = image(operands)
    op = Op.MAXPOOL if node.op == "GlobalMaxPool" else Op.AVGPOOL
    return _pooled(op, graph, node, source, Window(source.plane[:2]))


def _reduce_mean(graph: Graph, node: Node, operands: list[Layout]) -> tuple[Kernel, Layout]:
    """The mean over all pixels, whichever the layout."""
    if len(operands) != 1:
        raise _CONSTANT_AXES()
    (source,) = operands
    rank, (height, width, count) = len(source.shape), source.plane
    given = graph.constants.get(node.operand(1), node.attributes.get("axes", ()))
    axes = sorted(int(axis) % rank for axis in np.asarray(given).reshape(-1))
    rest = [axis for axis in range(rank) if axis not in axes]
    averaged = math.prod(source.shape[axis] for axis in axes)
    channels = source.indices().transpose(*rest, *axes).reshape(-1, averaged) % count
    if averaged != height * width or (channels != channels[:, :1]).any():
        raise _SPATIAL_AXES(axes=axes)
    kernel, _ = _pooled(Op.AVGPOOL, graph, node, source, Window((height, width)))
    order = channels[:, 0].reshape(graph.shape(node.output))
    return kernel, make(node.output, kernel.plane, order)


def _pooled(
    op: Op, graph: Graph, node: Node, source: Layout, window: Window
) -> tuple[Kernel, Layout]:
    if op is Op.AVGPOOL and math.prod(window.kernel) > ACCUMULATOR_BOUND >> 8:
        raise _SMALL_WINDOW(count=math.prod(window.kernel))
    plane = (*window.over(*source.plane[:2]), source.plane[2])
    kernel = Kernel(op, node.name, (source.base,), node.output, plane, window)
    if plane[:2] != (1, 1):
        return kernel, Layout(node.output, plane, graph.shape(node.output))
    return kernel, make(node.output, plane, np.arange(plane[2]).reshape(graph.shape(node.output)))


_Rule = Callable[[Graph, Node, list[Layout]], tuple[Kernel, Layout]]
_RULES: dict[str, _Rule] = {
    "Add": _add,
    "AveragePool": _avgpool,
    "Clip": _bounds,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MatMul": _matmul,
    "MaxPool": _maxpool,
    "Mul": product,
    "ReduceMean": _reduce_mean,
    "Relu": _bounds,
    "Sum": _add,
    **_place_movement.RULES,
    **_place_transposed.RULES,
}
_RULES |= dict.fromkeys(sorted(ELEMENTWISE - _RULES.keys()), function)

OPERATORS: Final = VIEWS | frozenset(_RULES)
"""What the device may have; the rest is the host's whatever its operands."""


def groups() -> list[tuple[str, ...]]:
    """The operators of `OPERATORS`, those with the same rule together."""
    by_rule: dict[Callable[..., object], list[str]] = {}
    for op, rule in _RULES.items():
        by_rule.setdefault(rule, []).append(op)
    return [*(tuple(ops) for ops in by_rule.values()), tuple(sorted(VIEWS))]


def limits(op: str) -> tuple[Limit, ...]:
    """Every limit that the rule of *op* can answer with, found in the rule's own code."""
    rule: Callable[..., object] = view if op in VIEWS else _RULES[op]
    found: dict[Limit, None] = {}
    _collect(rule.__code__, sys.modules[rule.__module__], found, set())
    return tuple(found)


def common_limits() -> tuple[Limit, ...]:
    """The limits of every operator that computes."""
    return (FLOAT_INPUT, _FLOAT_OUTPUT, _SMALL_ENOUGH)


def _collect(
    code: CodeType, module: ModuleType, found: dict[Limit, None], seen: set[CodeType]
) -> None:
    """Follow the names in *code*, which is *module*'s, through the rules' modules."""
    if code in seen:
        return
    seen.add(code)
    for name in code.co_names:
        value = vars(module).get(name)
        if isinstance(value, Limit):
            found[value] = None
        elif isinstance(value, FunctionType) and value.__module__.startswith(__name__):
            _collect(value.__code__, sys.modules[value.__module__], found, seen)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _collect(constant, module, found, seen)


def _window(graph: Graph, node: Node, kernel: Sequence[int], source: Layout) -> Window:
    """The window of *node*, its padding explicit and grown until the size comes out."""
    attributes = node.attributes
    if len(kernel) != 2:
        raise _FLAT_WINDOW(count=len(kernel))
    kh, kw = (int(n) for n in kernel)
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    pads = attributes.get("pads", (0, 0, 0, 0))
    if (len(strides), len(dilations), len(pads)) != (2, 2, 4):
        raise _FLAT_ATTRIBUTES()
    (sh, sw), (dh, dw), (top, left, bottom, right) = strides, dilations, pads
    height, width = graph.shape(node.output)[2:]
    # The padding that this size of the output needs in all.
    down = max((height - 1) * sh + dh * (kh - 1) + 1 - source.plane[0], 0)
    across = max((width - 1) * sw + dw * (kw - 1) + 1 - source.plane[1], 0)
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        up = auto == b"SAME_LOWER"
        top, left = (down + up) // 2, (across + up) // 2
        bottom, right = down - top, across - left
    elif auto == b"VALID":
        top = left = bottom = right = 0
    elif attributes.get("ceil_mode"):
        bottom, right = max(bottom, down - top), max(right, across - left)
    window = Window((kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw))
    numbers = (*window.kernel, *window.stride, *window.dilation)
    if min(numbers) < 1 or max(numbers) > _MAX_WINDOW or min(window.pad) < 0:
        raise _WINDOW_RANGE(window=window)
    if any(
        p > d * (k - 1)
        for p, k, d in zip(window.pad, window.kernel * 2, window.dilation * 2, strict=True)
    ):
        raise _NARROW_PADDING(pad=window.pad)
    if window.over(*source.plane[:2]) != (height, width):
        raise _FITTING_WINDOW(height=height, width=width)
    return window


def _check_plane(plane: Shape3) -> None:
    if math.prod(plane) > _MAX_PLANE or max(plane) >= 1 << 20:
        raise _SMALL_ENOUGH(plane=plane)


def _shown(graph: Graph, name: str) -> str:
    value = graph.values[name]
    shape: Any = "?" if value.shape is None else list(value.shape)
    return f"{value.dtype or '?'} {shape}"
