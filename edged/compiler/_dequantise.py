"""Quantised models as the float models that they stand for, with the ranges of their quantisers.

QuantizeLinear rounds to steps of a scale of its own and saturates at the ends of its type.
DequantizeLinear makes a float of that again. The device rounds by itself, so that the pair goes;
what saturates is kept as a Clip, because converters leave ReLU and ReLU6 to it. A layer takes the
bounds of a Clip into itself, and they are its range: no samples are needed to know it.

What only moves quantised values, as Reshape and MaxPool do, moves float ones instead. A quantiser
in front of the first multiplication stays on the host, unless its source is within its range
anyway; what enters the device has that range then.

Dynamic quantisation has no range. DynamicQuantizeLinear chooses a scale s for each input x, and
ConvInteger and MatMulInteger compute with x / s; they become Conv and MatMul of x, with s = 1.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Names, Node, Range

__all__ = ["QUANTISERS", "dequantised"]

QUANTISERS: Final = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""They have 16-bit types in the domain com.microsoft, where the opset has none for them."""


_BYTE: Final = 255
_PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_INTEGER_PRODUCTS: Final = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
_MOVING: Final = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators whose outputs are elements of their inputs."""

_AVERAGING: Final = frozenset({
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean", "ReduceMin",
})  # fmt: skip
"""Operators whose outputs lie between elements of their input, or zero, which windows may see."""

_ARITHMETIC: Final[Mapping[str, Callable[[float, float], float]]] = {
    "Add": operator.add,
    "Div": operator.truediv,
    "Mul": operator.mul,
    "Sub": operator.sub,
}
_FIXED: Final = {"HardSigmoid": (0.0, 1.0), "Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
_SEARCHES: Final = frozenset({"ArgMax", "ArgMin"})


@dataclass(frozen=True, slots=True)
class _Steps:
    """What an integer q of a type stands for: ``(q - zero) * scale``."""

    scale: float
    zero: int
    lowest: int
    highest: int

    @property
    def range(self) -> Range:
        return Range(
            (self.lowest - self.zero) * self.scale, (self.highest - self.zero) * self.scale
        )


def dequantised(graph: Graph) -> Graph:
    """*graph* without quantisers between its operators; the same graph where there are none.

    Types and shapes of what is new are not inferred.
    """
    quantisers = {"DynamicQuantizeLinear", "QuantizeLinear"}
    if not any(node.op in quantisers for node in graph.nodes):
        return graph
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.write(node)
    return replace(
        graph,
        nodes=tuple(writer.nodes),
        constants=writer.constants,
        ranges={name: writer.ranges[name] for name in writer.ranges if name not in writer.behind},
    ).pruned()


def _steps(graph: Graph, node: Node, quantised: str) -> _Steps | None:
    """The steps of a QuantizeLinear or DequantizeLinear, if it has one constant scale."""
    scale = graph.constants.get(node.operand(1))
    zero = graph.constants.get(node.operand(2), np.zeros((), np.int64))
    dtype = graph.values[quantised].dtype
    known = not node.operand(2) or node.operand(2) in graph.constants
    if scale is None or not known or dtype is None or dtype.kind not in "iu":
        return None
    if scale.size != 1 or zero.size != 1 or not 0 < float(scale.item()) < np.inf:
        return None
    limits = np.iinfo(dtype)
    return _Steps(float(scale.item()), int(zero.item()), int(limits.min), int(limits.max))


def _combined(op: str, a: Range | None, b: Range | None) -> Range | None:
    """The range of a sum, difference, product or quotient."""
    if a is None or b is None or (op == "Div" and b.lo <= 0 <= b.hi):
        return None
    ends = [_ARITHMETIC[op](x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return Range(min(ends), max(ends)) if np.isfinite(ends).all() else None


class _Writer:
    """A graph while its quantisers go.

    Operators on quantised values are written as they are, and on float ones besides; those that
    nothing reads in the end are pruned.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._names = Names((*graph.values, *graph.constants))
        self._readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        self.nodes: list[Node] = []
        self.constants: dict[str, npt.NDArray[Any]] = dict(graph.constants)
        self._real: dict[str, tuple[str, _Steps]] = {}  # quantised value → the float one
        self._scaled: dict[str, str] = {}  # dynamically quantised value → the float one
        self.ranges: dict[str, Range] = {}
        self.behind: set[str] = set()  # values behind a multiplication

    def write(self, node: Node) -> None:
        """Add *node*, or what takes its place."""
        write = _WRITE.get(node.op, _Writer._moved if node.op in _MOVING else None)
        if write is None or not write(self, node):
            self._add(node)

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        if node.op in _PRODUCTS or not self.behind.isdisjoint(node.inputs):
            self.behind.update(node.outputs)
        found = self._range_of(node)
        if found is not None:
            self.ranges |= dict.fromkeys(node.outputs, found)

    def _range_of(self, node: Node) -> Range | None:
        source = self._known(node.operand(0))
        match node.op:
            case "DequantizeLinear":
                steps = _steps(self._graph, node, node.inputs[0])
                return None if steps is None else steps.range
            case "Relu":
                source = source or Range(-np.inf, np.inf)
                return Range(max(source.lo, 0.0), max(source.hi, 0.0))
            case "Clip":
                source = source or Range(-np.inf, np.inf)
                ends = [self.constants.get(node.operand(at)) for at in (1, 2)]
                lo = source.lo if ends[0] is None else max(source.lo, float(ends[0].max()))
                hi = source.hi if ends[1] is None else min(source.hi, float(ends[1].min()))
                return Range(lo, hi)
            case "Concat":
                parts = [self._known(name) for name in node.inputs]
                known = [part for part in parts if part is not None]
                lows, highs = [part.lo for part in known], [part.hi for part in known]
                return Range(min(lows), max(highs)) if len(known) == len(parts) else None
            case "Resize":
                linear = node.attributes.get("mode", b"nearest") in (b"nearest", b"linear")
                return source if linear else None
            case "Pad":
                fill = self.constants.get(node.operand(2), np.zeros(()))
                constant = node.attributes.get("mode", b"constant") == b"constant"
                given = not node.operand(2) or node.operand(2) in self.constants
                if source is None or not constant or not given or fill.size != 1:
                    return None
                return source | Range(float(fill.item()), float(fill.item()))
            case "Cast":
                dtype = self._graph.values[node.output].dtype
                return source if dtype is not None and dtype.kind == "f" else None
            case "Add" | "Div" | "Mul" | "Sub":
                return _combined(node.op, source, self._known(node.operand(1)))
        if node.op in _FIXED:
            return Range(*_FIXED[node.op])
        if node.op in _AVERAGING:
            return None if source is None else source | Range(0.0, 0.0)
        return source if node.op in _MOVING else None

    def _known(self, name: str) -> Range | None:
        array = self.constants.get(name)
        if array is not None and array.size and array.dtype.kind in "fiu":
            return Range(float(array.min()), float(array.max()))
        dtype = self._graph.values[name].dtype if name in self._graph.inputs else None
        if dtype is not None and dtype.kind in "iu" and dtype.itemsize == 1:
            return Range(float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
        return self.ranges.get(name)

    def _quantised(self, node: Node) -> bool:
        """QuantizeLinear: its float value is its source within its range."""
        steps = _steps(self._graph, node, node.output)
        if steps is None:
            return False
        self._add(node)
        source, wanted = node.inputs[0], steps.range
        found = self._known(source) or Range(-np.inf, np.inf)
        # A step beyond the range is as good as within it: rounding moves values by half a step.
        if wanted.lo - steps.scale <= found.lo and found.hi <= wanted.hi + steps.scale:
            self._real[node.output] = source, steps
        elif source in self.behind:
            bounds = [
                self._constant(f"{node.output}/{end}", value)
                for end, value in (("lo", wanted.lo), ("hi", wanted.hi))
            ]
            real = self._answer(node.output, steps) or self._names.fresh(f"{node.output}/real")
            self._add(Node("Clip", real, (source, *bounds), (real,), {}))
            self._real[node.output] = real, steps
        elif steps.highest - steps.lowest > _BYTE:
            # Finer than the device is: it is enough that the range is known.
            self._real[node.output] = source, steps
            self.ranges[source] = wanted
        return True

    def _answer(self, quantised: str, steps: _Steps) -> str | None:
        """The output of the model that *quantised* is dequantised to, if there is one."""
        return next(
            (
                reader.output
                for reader in self._readers.get(quantised, ())
                if reader.op == "DequantizeLinear"
                and reader.output in self._graph.outputs
                and _steps(self._graph, reader, quantised) == steps
            ),
            None,
        )

    def _constant(self, stem: str, value: float) -> str:
        name = self._names.fresh(stem)
        self.constants[name] = np.array(value, np.float32)
        return name

    def _dequantised(self, node: Node) -> bool:
        """DequantizeLinear: the float value that its source stands for."""
        source = self._scaled.get(node.inputs[0])
        if source is None and node.inputs[0] in self._real:
            real, steps = self._real[node.inputs[0]]
            source = real if _steps(self._graph, node, node.inputs[0]) == steps else None
        if source is not None and source != node.output:
            self._add(Node("Identity", node.name, (source,), node.outputs, {}))
        return source is not None

    def _moved(self, node: Node) -> bool:
        """An operator that moves values: it moves the float ones besides the quantised ones."""
        count = len(node.inputs) if node.op == "Concat" else 1
        found = [self._real.get(name) for name in node.inputs[:count]]
        known = [each for each in found if each is not None]
        if len(known) < count or len({steps for _, steps in known}) != 1:
            return False
        self._add(node)
        outputs = tuple(self._names.fresh(f"{name}/real") if name else "" for name in node.outputs)
        inputs = (*(real for real, _ in known), *node.inputs[count:])
        self._add(replace(node, name=outputs[0], inputs=inputs, outputs=outputs))
        positions = outputs[:1] if node.op == "MaxPool" else outputs
        for name, real in zip(node.outputs, positions, strict=False):
            self._real[name] = real, known[0][1]
        return True

    def _searched(self, node: Node) -> bool:
        """ArgMax and ArgMin: among float values, of which fewer are equal."""
        known = self._real.get(node.inputs[0])
        if known is not None:
            self._add(replace(node, inputs=(known[0], *node.inputs[1:])))
        return known is not None

    def _dynamically_quantised(self, node: Node) -> bool:
        """DynamicQuantizeLinear: its input, with a scale of 1, if all its readers can cope."""
        quantised, scale, zero = node.outputs
        readers = [r for name in (quantised, zero) for r in self._readers.get(name, ())]
        understood = all(
            reader.op == "DequantizeLinear" or self._is_integer_product(reader, quantised)
            for reader in readers
        ) and all(r.op in ("Mul", "DequantizeLinear") for r in self._readers.get(scale, ()))
        if not understood or not set(node.outputs).isdisjoint(self._graph.outputs):
            return False
        self._scaled[quantised] = node.inputs[0]
        self.constants[scale] = np.ones((), np.float32)
        return True

    def _integer_product(self, node: Node) -> bool:
        """ConvInteger or MatMulInteger: the same of floats."""
        source = self._scaled.get(node.inputs[0])
        if source is None:
            return False
        weights = self.constants[node.inputs[1]].astype(np.int32)
        zero = self.constants.get(node.operand(3), np.zeros((), np.int32)).astype(np.int32)
        if node.op == "ConvInteger":
            zero = zero.reshape(-1, *(1,) * (weights.ndim - 1))
        real = self._names.fresh(f"{node.inputs[1]}/real")
        self.constants[real] = (weights - zero).astype(np.float32)
        op = _INTEGER_PRODUCTS[node.op]
        self._add(Node(op, node.name, (source, real), node.outputs, node.attributes))
        return True

    def _is_integer_product(self, node: Node, source: str) -> bool:
        """Whether *node* is a product of *source* with constant weights."""
        constants = [node.operand(1), *filter(None, [node.operand(3)])]
        return (
            node.op in _INTEGER_PRODUCTS
            and node.inputs[0] == source
            and all(name in self.constants for name in constants)
        )


_WRITE: Final[Mapping[str, Callable[[_Writer, Node], bool]]] = {
    "ConvInteger": _Writer._integer_product,
    "MatMulInteger": _Writer._integer_product,
    "DequantizeLinear": _Writer._dequantised,
    "DynamicQuantizeLinear": _Writer._dynamically_quantised,
    "QuantizeLinear": _Writer._quantised,
    **dict.fromkeys(_SEARCHES, _Writer._searched),
}
"""Returns whether it added what takes the place of a node."""
