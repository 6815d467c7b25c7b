"""What image preprocessing in a graph computes, for one image: an interpreter in numpy.

It knows the operators that decoding, resizing, cropping and scaling are made of, and no others: the
first that it does not know is where recognition ends. Branches (Switch, Merge) are followed by
their condition. A loop that maps a function over the batch (TensorArray, TensorList) is computed
for its only element; loops of other kinds are unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged import wire
from edged.convert._graph import Graph, Node, node_of
from edged.errors import EdgedError

__all__ = ["PASSING", "Evaluation", "Resize", "Stopped"]

_Array = npt.NDArray[Any]

_DTYPES: Final[dict[int, Any]] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
}
"""TensorFlow's enum of types: those that images and their sizes come in."""

PASSING: Final = frozenset({"Identity", "Enter", "Exit", "Switch", "Merge", "NextIteration"})
_DECODERS: Final = frozenset({"DecodePng", "DecodeJpeg", "DecodeImage", "DecodeBmp"})
_BENDING: Final = frozenset(
    {"Minimum", "Maximum", "Floor", "Ceil", "Round", "FloorDiv", "FloorMod", "Select", "SelectV2"}
)
_MANY: Final = 300  # more elements than sizes and offsets have: pixels
_MAX_ELEMENTS: Final = 1 << 24
_MAX_DEPTH: Final = 200


class Stopped(Exception):  # noqa: N818  (an answer, not an error of the program)
    """Evaluation cannot go on.

    Attributes:
        node: the operator that stopped it.
        reason: why.
    """

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(f"{node.place}: {reason}")
        self.node = node
        self.reason = reason


class _DeadError(Exception):
    """The value is on the branch that is not taken."""


@dataclass(frozen=True, slots=True)
class Resize:
    """One resizing that took place: the operator, and the sizes (height, width)."""

    node: Node
    before: tuple[int, int]
    after: tuple[int, int]


class Evaluation:
    """Values of a graph's tensors for one image.

    Args:
        graph: frozen.
        source: the string placeholder.
        pixels: uint8 [H, W, 3], what decoding the string would give.

    Attributes:
        resizes: what took place so far.
        bends: operators that did to pixels what no scale and offset does.
    """

    def __init__(self, graph: Graph, source: Node, pixels: npt.NDArray[np.uint8]) -> None:
        self._graph = graph
        self._source = source
        self._pixels = pixels
        self._values: dict[str, _Array | Stopped | None] = {}
        self._depth = 0
        self.resizes: list[Resize] = []
        self.bends: list[Node] = []

    def value(self, tensor: str) -> _Array:
        """The value of *tensor*; the placeholder's stands for a batch of one.

        Raises:
            Stopped: an operator that is not known here, or used in a way that is not.
        """
        node = self._graph.producer(tensor)
        key = f"{node.name}:{tensor.partition(':')[2] or 0}"
        if key not in self._values:
            self._depth += 1
            try:
                if self._depth > _MAX_DEPTH:
                    raise Stopped(node, "the way to it is too long")
                self._values[key] = self._computed(node, key)
            except _DeadError:
                self._values[key] = None
            except Stopped as answer:
                self._values[key] = answer
            finally:
                self._depth -= 1
        found = self._values[key]
        if found is None:
            raise _DeadError
        if isinstance(found, Stopped):
            raise found
        return found

    def _computed(self, node: Node, key: str) -> _Array:
        self._check_alive(node)
        special = {
            "Switch": self._switch,
            "Merge": self._merge,
            "Const": self._constant,
            "TensorArrayReadV3": self._element,
            "TensorListGetItem": self._element,
            "TensorArrayGatherV3": self._mapped,
            "TensorListStack": self._mapped,
            **dict.fromkeys(_PARTS, self._part),
        }
        if node is self._source:
            return self._string(node)
        if node.op in special:
            return special[node.op](node, key)
        if node.op in _DECODERS:
            return self._decoded(node)
        if node.op == "ResizeBilinear":
            return self._resized(node)
        operation = _OPERATIONS.get(node.op)
        if operation is None:
            raise Stopped(node, "it is no part of image preprocessing that edged knows")
        operands = [self.value(name) for name in node.data]
        try:
            with np.errstate(all="ignore"):
                result = np.asarray(operation(node, *operands))
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise Stopped(node, f"it cannot be followed ({error})") from error
        if result.size > _MAX_ELEMENTS:
            raise Stopped(node, f"it gives {result.size} elements for a small image")
        if node.op in _BENDING and result.size > _MANY:
            self.bends.append(node)
        return result

    def _check_alive(self, node: Node) -> None:
        """A constant in a branch hangs on it by what it waits for alone."""
        for name in node.inputs:
            waited = self._graph.nodes.get(node_of(name)) if name.startswith("^") else None
            if waited is not None and waited.op in ("Identity", "Switch"):
                try:
                    self.value(waited.name)
                except Stopped:
                    continue  # not a branch that the image decides

    def _string(self, node: Node) -> _Array:
        shape = node.attributes.get("shape")
        scalar = shape is not None and not shape.unknown_rank and not shape.dim
        strings = np.empty(1, object)
        strings[0] = "image"
        return strings.reshape(()) if scalar else strings

    def _constant(self, node: Node, _key: str) -> _Array:
        try:
            message = node.attributes["value"]
            if not message.tensor_content and not any(
                len(getattr(message, field.name))
                for field in message.DESCRIPTOR.fields
                if field.name.endswith("_val")
            ):
                # Constants, unlike what comes over the wire, leave out values that are all zero.
                return np.zeros(wire.shape_of(message, name=node.name), _DTYPES[message.dtype])
            value = wire.to_array(message, name=node.name)
        except (EdgedError, KeyError) as error:
            raise Stopped(node, f"its value cannot be read ({error})") from error
        return np.array(value, object) if isinstance(value, list) else value

    def _switch(self, node: Node, key: str) -> _Array:
        data, condition = node.data
        if self._graph.producer(condition).op == "LoopCond":  # inside of the loop, its first turn
            return self.value(data)
        taken = bool(self.value(condition))
        if key.endswith(":1") is not taken:
            raise _DeadError
        return self.value(data)

    def _merge(self, node: Node, _key: str) -> _Array:
        entering = [name for name in node.data if self._graph.producer(name).op != "NextIteration"]
        for name in entering:
            try:
                return self.value(name)
            except _DeadError:
                continue
        raise _DeadError

    def _element(self, node: Node, _key: str) -> _Array:
        """What a loop takes out of a list in its only turn."""
        handle = node.data[2] if node.op == "TensorArrayReadV3" else node.data[0]
        filled = self._found(handle, {"TensorArrayScatterV3": 2, "TensorListFromTensor": 0}, node)
        element = self.value(filled)[0]
        return element if isinstance(element, np.ndarray) else np.array(element, object)

    def _mapped(self, node: Node, _key: str) -> _Array:
        """What a loop put into a list in its only turn, as a batch of one."""
        handle = node.data[2] if node.op == "TensorArrayGatherV3" else node.data[0]
        written = self._found(handle, {"TensorArrayWriteV3": 2, "TensorListSetItem": 2}, node)
        return self.value(written)[None]

    def _part(self, node: Node, key: str) -> _Array:
        """One output of an operator that takes a tensor apart."""
        operands = [self.value(name) for name in node.data]
        try:
            parts = _PARTS[node.op](node, *operands)
            return np.asarray(parts[int(key.rpartition(":")[2])])
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise Stopped(node, f"it cannot be followed ({error})") from error

    def _found(self, handle: str, wanted: dict[str, int], node: Node) -> str:
        """The tensor that the one operator of *wanted* puts into the list *handle*."""
        seen: set[str] = set()
        left, found = [handle], set()
        while left:
            source = self._graph.producer(left.pop())
            if source.name in seen:
                continue
            seen.add(source.name)
            if source.op in wanted:
                found.add(source.data[wanted[source.op]])
            elif source.op in PASSING:
                left.extend(source.data)
        if len(found) != 1:
            raise Stopped(node, "it is not the list of a function that is mapped over the images")
        return found.pop()

    def _decoded(self, node: Node) -> _Array:
        contents = self.value(node.data[0])
        if contents.shape != () or contents.dtype != object:
            raise Stopped(node, "it does not decode the image that is fed")
        channels = node.attributes.get("channels") or 0
        if channels != 3:
            raise Stopped(node, f"it decodes to channels={channels}; wanted 3, red, green, blue")
        if (node.attributes.get("ratio") or 1) != 1:
            raise Stopped(node, "it decodes at a part of the size (ratio)")
        if node.attributes.get("dct_method") == b"INTEGER_ACCURATE":
            raise Stopped(node, "it decodes with another DCT than TensorFlow's default")
        if node.attributes.get("fancy_upscaling") is False:
            raise Stopped(node, "it decodes with fancy_upscaling=False")
        dtype = _DTYPES.get(node.attributes.get("dtype") or 4)
        if dtype is not np.uint8:
            raise Stopped(node, "it decodes to another type than uint8")
        return self._pixels

    def _resized(self, node: Node) -> _Array:
        for attribute in ("align_corners", "half_pixel_centers"):
            if node.attributes.get(attribute):
                raise Stopped(
                    node, f"it resizes with {attribute}=True; only TensorFlow 1's default is known"
                )
        images, size = (self.value(name) for name in node.data)
        height, width = (int(side) for side in size.reshape(-1))
        if images.ndim != 4 or not (0 < height <= 4096 and 0 < width <= 4096):
            raise Stopped(node, f"it resizes {list(images.shape)} to {height}x{width}")
        self.resizes.append(Resize(node, (images.shape[1], images.shape[2]), (height, width)))
        return _bilinear(images.astype(np.float32), height, width)


def _bilinear(images: _Array, height: int, width: int) -> _Array:
    """resize_bilinear of TensorFlow 1: place i · (size / resized), nothing averaged."""

    def axis(size: int, resized: int) -> tuple[_Array, _Array, _Array]:
        place = np.arange(resized, dtype=np.float32) * (np.float32(size) / np.float32(resized))
        lower = np.floor(place).astype(np.intp)
        return lower, np.minimum(lower + 1, size - 1), place - lower.astype(np.float32)

    top, bottom, down = axis(images.shape[1], height)
    left, right, across = axis(images.shape[2], width)
    down, across = down[None, :, None, None], across[None, None, :, None]
    rows = images[:, top], images[:, bottom]
    upper, lower = (row[:, :, left] + (row[:, :, right] - row[:, :, left]) * across for row in rows)
    return np.asarray(upper + (lower - upper) * down)


def _cast(node: Node, x: _Array) -> _Array:
    return x.astype(_DTYPES[node.attributes["DstT"]])


def _bias_added(node: Node, x: _Array, bias: _Array) -> _Array:
    if node.attributes.get("data_format") == b"NCHW":
        raise ValueError("channels first")
    return np.asarray(x + bias)


def _divided(_node: Node, x: _Array, y: _Array) -> _Array:
    if np.issubdtype(x.dtype, np.floating):
        return np.asarray(x / y, x.dtype)
    return np.asarray(np.trunc(x / y), x.dtype)


def _strided_slice(node: Node, x: _Array, begin: _Array, end: _Array, step: _Array) -> _Array:
    masks = {
        name: node.attributes.get(f"{name}_mask") or 0
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    index: list[Any] = []
    for i in range(len(begin)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            index.append(Ellipsis)
        elif masks["new_axis"] & bit:
            index.append(None)
        elif masks["shrink_axis"] & bit:
            index.append(int(begin[i]))
        else:
            first = None if masks["begin"] & bit else int(begin[i])
            last = None if masks["end"] & bit else int(end[i])
            index.append(slice(first, last, int(step[i])))
    return np.asarray(x[tuple(index)])


def _slice(_node: Node, x: _Array, begin: _Array, size: _Array) -> _Array:
    index = []
    for at, count, extent in zip(begin.tolist(), size.tolist(), x.shape, strict=True):
        stop = extent if count == -1 else at + count
        if not 0 <= at <= stop <= extent:
            raise ValueError(f"from {at} to {stop} of {extent}")
        index.append(slice(at, stop))
    return np.asarray(x[tuple(index)])


def _split(node: Node, axis: _Array, x: _Array) -> list[_Array]:
    return np.split(x, int(node.attributes["num_split"]), int(axis.reshape(())))


def _split_at(_node: Node, x: _Array, sizes: _Array, axis: _Array) -> list[_Array]:
    if (sizes < 0).any():  # one may be what is left
        sizes = np.where(sizes < 0, x.shape[int(axis.reshape(()))] - sizes.sum() - 1, sizes)
    return np.split(x, np.cumsum(sizes)[:-1], int(axis.reshape(())))


def _unpacked(node: Node, x: _Array) -> list[_Array]:
    return list(np.moveaxis(x, node.attributes.get("axis") or 0, 0))


def _squeeze(node: Node, x: _Array) -> _Array:
    axes = node.attributes.get("squeeze_dims") or node.attributes.get("axis") or []
    return np.squeeze(x, tuple(axes)) if axes else np.squeeze(x)


def _reduced(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def apply(node: Node, x: _Array, axes: _Array) -> Any:
        keep = bool(node.attributes.get("keep_dims"))
        return reduce(x, axis=tuple(axes.reshape(-1).tolist()), keepdims=keep)

    return apply


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _node, *operands: function(*operands)


_PARTS: Final[dict[str, Callable[..., list[_Array]]]] = {
    "Split": _split,
    "SplitV": _split_at,
    "Unpack": _unpacked,
}
"""Operators with several outputs."""

_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    **dict.fromkeys(
        (
            *("Identity", "Enter", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape"),
            "PlaceholderWithDefault",
        ),
        _plain(lambda x: x),
    ),
    "Cast": _cast,
    "Shape": lambda node, x: np.array(x.shape, _DTYPES[node.attributes.get("out_type") or 3]),
    "Rank": _plain(lambda x: np.int32(x.ndim)),
    "Size": _plain(lambda x: np.int32(x.size)),
    "StridedSlice": _strided_slice,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "ExpandDims": _plain(lambda x, axis: np.expand_dims(x, int(axis.reshape(())))),
    "Reshape": _plain(lambda x, shape: x.reshape(tuple(shape.tolist()))),
    "Transpose": _plain(lambda x, perm: x.transpose(perm.tolist())),
    "ReverseV2": _plain(lambda x, axes: np.flip(x, tuple(axes.tolist()))),
    "GatherV2": _plain(lambda x, index, axis: np.take(x, index, int(axis.reshape(())))),
    "Pack": lambda node, *xs: np.stack(xs, node.attributes.get("axis") or 0),
    "ConcatV2": _plain(lambda *xs: np.concatenate(xs[:-1], int(xs[-1].reshape(())))),
    "Fill": _plain(lambda shape, x: np.full(tuple(shape.tolist()), x)),
    "Mul": _plain(np.multiply),
    "Sub": _plain(np.subtract),
    "Add": _plain(np.add),
    "AddV2": _plain(np.add),
    "BiasAdd": _bias_added,
    "RealDiv": _divided,
    "Div": _divided,
    "FloorDiv": _plain(np.floor_divide),
    "FloorMod": _plain(np.mod),
    "Neg": _plain(np.negative),
    "Minimum": _plain(np.minimum),
    "Maximum": _plain(np.maximum),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.rint),
    "Greater": _plain(np.greater),
    "GreaterEqual": _plain(np.greater_equal),
    "Less": _plain(np.less),
    "LessEqual": _plain(np.less_equal),
    "Equal": _plain(np.equal),
    "NotEqual": _plain(np.not_equal),
    "LogicalAnd": _plain(np.logical_and),
    "LogicalOr": _plain(np.logical_or),
    "LogicalNot": _plain(np.logical_not),
    "Select": _plain(np.where),
    "SelectV2": _plain(np.where),
    "Min": _reduced(np.min),
    "Max": _reduced(np.max),
}
