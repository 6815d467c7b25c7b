"""A float graph as values: what the ONNX file says, without its wire format."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edged.npu import DType

__all__ = [
    "IR_VERSION",
    "Constants",
    "Graph",
    "Names",
    "Node",
    "Range",
    "Value",
    "abridged",
    "onnx_bytes",
]

IR_VERSION: Final = 8
"""Of the files that the compiler writes: each ONNX Runtime that edged admits reads it."""

_LARGE_BYTES: Final = 1 << 25

Constants = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Value:
    """Element type and shape of a value; None where inference cannot tell."""

    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None

    @property
    def placeable(self) -> bool:
        """Whether the device could hold it at all: float32 of a known shape, batch 1."""
        return (
            self.dtype == np.float32
            and self.shape is not None
            and self.shape[:1] == (1,)
            and min(self.shape) > 0  # Inference gives sizes below 0 for what ONNX Runtime refuses.
        )


@dataclass(frozen=True, slots=True)
class Range:
    """From the lowest to the highest value that a tensor can have."""

    lo: float
    hi: float

    def __or__(self, other: Range) -> Range:
        return Range(min(self.lo, other.lo), max(self.hi, other.hi))

    def __mul__(self, factor: float) -> Range:
        return Range(self.lo * factor, self.hi * factor)

    @property
    def step(self) -> float:
        """The step at which the device's integers reach both ends, or the finite one of them."""
        if self.lo >= 0:
            return self.hi / DType.U8.highest
        ends = (self.hi / DType.S8.highest, self.lo / DType.S8.lowest)
        return max((end for end in ends if math.isfinite(end)), default=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One ONNX operator.

    Attributes:
        inputs: names of values; "" stands for an optional one that is left out.
        attributes: as :func:`onnx.helper.get_attribute_value` gives them.
        body: of a function of one tensor: the operators that it consists of, in order; their
            constants are inputs of it as well.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    body: tuple[Node, ...] = ()

    @property
    def steps(self) -> tuple[Node, ...]:
        """The operators that ONNX has for it."""
        return self.body or (self,)

    @property
    def output(self) -> str:
        return self.outputs[0]

    @property
    def place(self) -> str:
        """How messages name it."""
        return f"{self.op} {abridged(self.name or self.output)!r}"

    def operand(self, position: int) -> str:
        """Name of the input at *position*, or "" when it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A float graph in topological order.

    Attributes:
        values: of every name that a node or the graph itself mentions.
        ranges: of values in front of the first multiplication, as far as the model's quantisers
            tell them.
        features: the value that the device's part ends at, if the model says so; else "".
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Constants
    values: Mapping[str, Value]
    opset: int
    features: str = ""
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value of which it is known."""
        shape = self.values[name].shape
        assert shape is not None
        return shape

    def uses(self) -> Counter[str]:
        """How often each value is read, the graph's outputs counted as readers."""
        return Counter(name for node in self.nodes for name in node.inputs) + Counter(self.outputs)

    def operands(self, node: Node) -> tuple[str, ...]:
        """The inputs of *node* that are computed, not constant."""
        return tuple(name for name in node.inputs if name and name not in self.constants)

    def pruned(self) -> Graph:
        """Without nodes and constants that no output needs."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        return replace(
            self,
            nodes=tuple(reversed(kept)),
            constants={k: v for k, v in self.constants.items() if k in needed},
        )

    def large(self) -> Constants:
        """Constants that are worth not to be copied into a file and out of it again."""
        return {
            name: array for name, array in self.constants.items() if array.nbytes >= _LARGE_BYTES
        }

    def onnx(self, outputs: Iterable[str], apart: Constants | None = None) -> bytes:
        """An ONNX file with the same inputs that gives *outputs*.

        Args:
            apart: constants that it does not have; they are inputs of it, whether read or not.
        """
        cut = replace(self, outputs=tuple(outputs)).pruned()
        given = apart or {}
        declared = {name: Value(array.dtype, array.shape) for name, array in given.items()}
        return onnx_bytes(
            cut.nodes,
            {name: array for name, array in cut.constants.items() if name not in given},
            inputs={name: self.values[name] for name in self.inputs} | declared,
            outputs={name: self.values[name] for name in cut.outputs},
            opset=self.opset,
        )


class Names:
    """Gives out names that no one else has."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def fresh(self, stem: str) -> str:
        """*stem*, with primes added until it is new."""
        while stem in self._taken:
            stem += "′"
        self._taken.add(stem)
        return stem


def abridged(name: str, length: int = 72) -> str:
    """*name* with its middle left out when it is longer than *length* characters."""
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def onnx_bytes(
    nodes: Iterable[Node],
    constants: Constants,
    *,
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    opset: int,
) -> bytes:
    """A serialised ONNX model; the same arguments give the same bytes."""
    taken = Names(("",))
    protos = [
        helper.make_node(
            node.op,
            node.inputs,
            node.outputs,
            # Two operators of one name are refused by some versions of ONNX Runtime.
            name=taken.fresh(node.name or node.output),
            **node.attributes,
        )
        for function in nodes
        for node in function.steps
    ]
    graph = helper.make_graph(
        protos,
        "edged",
        [_declared(name, value) for name, value in inputs.items()],
        [_declared(name, value) for name, value in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION
    )
    return bytes(model.SerializeToString(deterministic=True))


def _declared(name: str, value: Value) -> onnx.ValueInfoProto:
    if value.dtype is None:
        return helper.make_empty_tensor_value_info(name)
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
    )
