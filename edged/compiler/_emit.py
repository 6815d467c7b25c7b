"""The host's parts as ONNX files that begin and end where the device does.

Layouts and scales stay in here: the prologue ends in device tensors [1, H, W, C], quantised, and
the epilogue begins with them. Reshapes and transposes between the two orders work on bytes, not on
floats: they take a third of the time there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.compiler._columns import Columns
from edged.compiler._graph import Graph, Names, Node, Value, onnx_bytes
from edged.compiler._layout import Layout
from edged.compiler._partition import Partition
from edged.compiler._session import FloatSession
from edged.npu import ProgramImage, Tensor

__all__ = ["HostParts", "emit"]


_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HostParts:
    """Two ONNX files; see the package's docstring for what goes in and out."""

    prologue: bytes
    epilogue: bytes


def emit(
    graph: Graph, cut: Partition, image: ProgramImage, columns: Mapping[str, Columns]
) -> HostParts:
    """Write both, and make sure that ONNX Runtime takes them.

    Args:
        columns: of what leaves the device with a step for each column.

    Raises:
        ModelError: ONNX Runtime lacks one of the host's operators.
    """
    names = Names((*graph.values, *graph.constants, *(tensor.name for tensor in image.tensors)))
    passing = {name: names.fresh(f"{name}/passed") for name in cut.passing}
    parts = HostParts(
        _prologue(graph, cut, image, passing, names),
        _epilogue(graph, cut, image, passing, names, columns),
    )
    FloatSession(parts.prologue, "take the part of the model in front of the device")
    FloatSession(parts.epilogue, "take the part of the model behind the device")
    return parts


class _Part:
    """One of the two graphs while it grows."""

    def __init__(self, graph: Graph, names: Names) -> None:
        self._graph = graph
        self._names = names
        self.nodes: list[Node] = []
        self.constants: dict[str, npt.NDArray[np.generic]] = {}

    def constant(self, stem: str, array: npt.NDArray[np.generic]) -> str:
        name = self._names.fresh(stem)
        self.constants[name] = array
        return name

    def node(self, op: str, inputs: tuple[str, ...], output: str, **attributes: object) -> str:
        self.nodes.append(Node(op, self._names.fresh(output), inputs, (output,), attributes))
        return output

    def fresh(self, stem: str) -> str:
        return self._names.fresh(stem)

    def scale(self, tensor: Tensor, step: float = 1.0) -> tuple[str, str]:
        """Scale and zero point of *tensor*, as constants; *step* multiplies its real values."""
        return (
            self.constant(
                f"{tensor.name}/scale", np.array(2.0**tensor.exponent * step, np.float32)
            ),
            self.constant(f"{tensor.name}/zero", np.array(0, tensor.dtype.numpy)),
        )

    def finish(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> bytes:
        read = set(outputs)
        needed: list[Node] = []
        for node in reversed(self.nodes):
            if not read.isdisjoint(node.outputs):
                needed.append(node)
                read.update(node.inputs)
        constants = {**self._graph.constants, **self.constants}
        return onnx_bytes(
            needed[::-1],
            {name: array for name, array in constants.items() if name in read},
            inputs=inputs,
            outputs=outputs,
            opset=self._graph.opset,
        )


def _prologue(
    graph: Graph, cut: Partition, image: ProgramImage, passing: Mapping[str, str], names: Names
) -> bytes:
    part = _Part(graph, names)
    part.nodes.extend(cut.prologue)
    outputs: dict[str, Value] = {}
    producers = {name: node for node in cut.prologue for name in node.outputs}
    for name, tensor in zip(cut.entering, image.input_tensors, strict=True):
        scale = part.scale(tensor, 1 / cut.scales.get(name, 1.0))
        _to_plane_order(part, name, tensor, cut.layouts[name], scale, producers.get(name))
        outputs[tensor.name] = _tensor_value(tensor)
    for name, passed in passing.items():
        part.node("Identity", (name,), passed)
        outputs[passed] = graph.values[name]
    return part.finish({name: graph.values[name] for name in graph.inputs}, outputs)


def _to_plane_order(
    part: _Part,
    name: str,
    tensor: Tensor,
    layout: Layout,
    scale: tuple[str, str],
    producer: Node | None,
) -> None:
    """The device's *tensor*, [1, H, W, C], out of the float value *name*."""
    if producer is not None and producer.op == "Transpose" and len(layout.shape) == 4:
        perm = tuple(producer.attributes.get("perm", ()))
        if perm == (0, 3, 1, 2):  # It was in this order to begin with.
            part.node("QuantizeLinear", (producer.inputs[0], *scale), tensor.name)
            return
    steps = part.node("QuantizeLinear", (name, *scale), part.fresh(f"{name}/steps"))
    if len(layout.shape) == 2:
        shape = part.constant(f"{name}/plane", np.array((1, *layout.plane), np.int64))
        part.node("Reshape", (steps, shape), tensor.name)
    else:
        part.node("Transpose", (steps,), tensor.name, perm=[0, 2, 3, 1])


def _epilogue(
    graph: Graph,
    cut: Partition,
    image: ProgramImage,
    passing: Mapping[str, str],
    names: Names,
    columns: Mapping[str, Columns],
) -> bytes:
    part = _Part(graph, names)
    to_plane_order = {
        name: [node for node in cut.epilogue if _gives_plane_order(node, name)]
        for name in cut.leaving
        if cut.layouts[name].order is None and len(cut.layouts[name].shape) == 4
    }
    inputs: dict[str, Value] = {}
    for name, tensor in zip(cut.leaving, image.output_tensors, strict=True):
        inputs[tensor.name] = _tensor_value(tensor)
        steps = _from_plane_order(part, name, tensor, cut.layouts[name])
        places = cut.layouts[name].indices()
        _to_real(part, steps, name, tensor, columns.get(name), places)
        for node in to_plane_order.get(name, ()):  # It is in this order as it comes.
            places = np.arange(math.prod(tensor.shape)).reshape(1, *tensor.shape)
            _to_real(part, tensor.name, node.output, tensor, columns.get(name), places)
    for name, passed in passing.items():
        inputs[passed] = graph.values[name]
        part.node("Identity", (passed,), name)
    spared = {id(node) for nodes in to_plane_order.values() for node in nodes}
    part.nodes.extend(node for node in cut.epilogue if id(node) not in spared)
    return part.finish(inputs, {name: graph.values[name] for name in graph.outputs})


def _to_real(
    part: _Part,
    steps: str,
    output: str,
    tensor: Tensor,
    columns: Columns | None,
    places: npt.NDArray[np.int64],
) -> None:
    """The float value *output* out of *steps*, *tensor* in some order.

    Args:
        places: where each element stands in *tensor*.
    """
    factor = columns.step[0] if columns is not None and columns.even else 1.0
    operations: list[tuple[str, tuple[str, ...]]]
    operations = [("DequantizeLinear", part.scale(tensor, factor))]
    if columns is not None and not columns.even:
        operations.append(("Mul", (part.constant(f"{output}/step", _each(columns.step, places)),)))
    if columns is not None and columns.offset.any():
        offset = part.constant(f"{output}/offset", _each(columns.offset, places))
        operations.append(("Add", (offset,)))
    for op, constants in operations[:-1]:
        steps = part.node(op, (steps, *constants), part.fresh(f"{output}/real"))
    op, constants = operations[-1]
    part.node(op, (steps, *constants), output)


def _each(columns: npt.NDArray[np.float64], places: npt.NDArray[np.int64]) -> _Float32:
    """*columns* for elements at *places* of a tensor, with dimensions that do not matter as 1."""
    values = columns[places % len(columns)].astype(np.float32)
    for axis in range(values.ndim):
        first = values.take([0], axis)
        if (values == first).all():
            values = first
    return values


def _gives_plane_order(node: Node, name: str) -> bool:
    """Whether all that *node* does is to bring [1, C, H, W] *name* into the device's order."""
    perm = tuple(node.attributes.get("perm", ()))
    return node.op == "Transpose" and node.inputs[0] == name and perm == (0, 2, 3, 1)


def _from_plane_order(part: _Part, name: str, tensor: Tensor, layout: Layout) -> str:
    """The elements of the device's *tensor*, [1, H, W, C], in the order of the float value."""
    steps = part.fresh(f"{name}/steps")
    if layout.order is not None:
        count = part.constant(f"{name}/count", np.array([math.prod(layout.shape)], np.int64))
        flat = part.node("Reshape", (tensor.name, count), part.fresh(f"{name}/flat"))
        order = part.constant(f"{name}/order", layout.order)
        return part.node("Gather", (flat, order), steps, axis=0)
    if len(layout.shape) == 4:
        return part.node("Transpose", (tensor.name,), steps, perm=[0, 3, 1, 2])
    shape = part.constant(f"{name}/shape", np.array(layout.shape, np.int64))
    return part.node("Reshape", (tensor.name, shape), steps)


def _tensor_value(tensor: Tensor) -> Value:
    return Value(tensor.dtype.numpy, (1, *tensor.shape))
