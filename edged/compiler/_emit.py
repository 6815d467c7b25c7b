"""The host's parts as ONNX files that begin and end where the device does.

Layouts and scales stay in here: a part of the host ends in device tensors [1, H, W, C], quantised,
and the next one begins with them. Reshapes and transposes between the two orders work on bytes, not
on floats: they take a third of the time there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edged.compiler._columns import Columns
from edged.compiler._graph import Graph, Names, Node, Value, onnx_bytes
from edged.compiler._layout import Layout
from edged.compiler._partition import Partition
from edged.compiler._session import FloatSession
from edged.npu import DType, ProgramImage, Tensor

__all__ = ["emit"]


_Float32 = npt.NDArray[np.float32]


def emit(
    graph: Graph, cut: Partition, image: ProgramImage, real: Mapping[str, Columns]
) -> tuple[bytes, ...]:
    """Write the host's parts, in order, and make sure that ONNX Runtime takes them.

    Args:
        real: what the integers of all that leaves the device stand for.

    Raises:
        ModelError: ONNX Runtime lacks one of the host's operators.
    """
    names = Names((*graph.values, *graph.constants, *(tensor.name for tensor in image.tensors)))
    passed = {name: names.fresh(f"{name}/passed") for part in cut.parts for name in part.given}
    tensors = dict(zip(cut.tensors, image.tensors, strict=True))
    files = tuple(
        _written(graph, cut, number, tensors, passed, names, real)
        for number in range(len(cut.parts))
    )
    for number, file in enumerate(files):
        what = "behind" if number == len(cut.segments) else "in front of"
        FloatSession(file, f"take the part of the model {what} the device")
    return files


class _Part:
    """One of the graphs while it grows."""

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

    def scale(self, tensor: Tensor, step: float) -> tuple[str, str]:
        """Scale and zero point of *tensor*, as constants."""
        return (
            self.constant(f"{tensor.name}/scale", np.array(step, np.float32)),
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


def _written(
    graph: Graph,
    cut: Partition,
    number: int,
    tensors: Mapping[str, Tensor],
    passed: Mapping[str, str],
    names: Names,
    real: Mapping[str, Columns],
) -> bytes:
    """A part of the host.

    Args:
        tensors: of the device, by the value that each stands for.
        passed: what a value is called on its way from a part of the host to another.
    """
    host = cut.parts[number]
    part = _Part(graph, names)
    inputs = {name: graph.values[name] for name in graph.inputs} if number == 0 else {}
    outputs: dict[str, Value] = {}
    spared: set[int] = set()
    for name in host.leaving:
        inputs[tensors[name].name] = _tensor_value(tensors[name])
        spared |= _from_device(part, cut, name, tensors[name], host.nodes, real[name])
    for name in host.taken:
        inputs[passed[name]] = graph.values[name]
        part.node("Identity", (passed[name],), name)
    part.nodes.extend(node for node in host.nodes if id(node) not in spared)
    producers = {name: node for node in host.nodes for name in node.outputs}
    for name in host.entering:
        scale = part.scale(tensors[name], 2.0 ** tensors[name].exponent / cut.scales.get(name, 1.0))
        _to_plane_order(part, name, tensors[name], cut.layouts[name], scale, producers.get(name))
        outputs[tensors[name].name] = _tensor_value(tensors[name])
    for name in host.given:
        part.node("Identity", (name,), passed[name])
        outputs[passed[name]] = graph.values[name]
    if number == len(cut.segments):
        outputs |= {name: graph.values[name] for name in graph.outputs}
    return part.finish(inputs, outputs)


def _from_device(
    part: _Part,
    cut: Partition,
    name: str,
    tensor: Tensor,
    nodes: Sequence[Node],
    columns: Columns,
) -> set[int]:
    """The float value *name* out of *tensor*; which of *nodes* need not be run for that."""
    layout = cut.layouts[name]
    steps = _from_plane_order(part, name, tensor, layout)
    _to_real(part, steps, name, tensor, columns, layout.indices())
    if layout.order is not None or len(layout.shape) != 4:
        return set()
    spared = [node for node in nodes if _gives_plane_order(node, name)]
    for node in spared:  # It is in this order as it comes.
        places = np.arange(math.prod(tensor.shape)).reshape(1, *tensor.shape)
        _to_real(part, tensor.name, node.output, tensor, columns, places)
    return {id(node) for node in spared}


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
            _quantised(part, producer.inputs[0], tensor, scale, tensor.name)
            return
    steps = _quantised(part, name, tensor, scale, part.fresh(f"{name}/steps"))
    if len(layout.shape) == 2:
        shape = part.constant(f"{name}/plane", np.array((1, *layout.plane), np.int64))
        part.node("Reshape", (steps, shape), tensor.name)
    else:
        part.node("Transpose", (steps,), tensor.name, perm=[0, 2, 3, 1])


def _quantised(part: _Part, name: str, tensor: Tensor, scale: tuple[str, str], output: str) -> str:
    """The integers of the float value *name*."""
    if tensor.dtype is not DType.S16:
        return part.node("QuantizeLinear", (name, *scale), output)
    # ONNX quantises to it from opset 21 on alone.
    steps = part.node("Div", (name, scale[0]), part.fresh(f"{name}/fine"))
    whole = part.node("Round", (steps,), part.fresh(f"{name}/whole"))
    bounds = (DType.S16.lowest, DType.S16.highest)
    limits = [part.constant(f"{name}/limit", np.array(bound, np.float32)) for bound in bounds]
    kept = part.node("Clip", (whole, *limits), part.fresh(f"{name}/kept"))
    return part.node("Cast", (kept,), output, to=TensorProto.INT16)


def _to_real(
    part: _Part,
    steps: str,
    output: str,
    tensor: Tensor,
    columns: Columns,
    places: npt.NDArray[np.int64],
) -> None:
    """The float value *output* out of *steps*, *tensor* in some order.

    Args:
        places: where each element stands in *tensor*.
    """
    factor = columns.step[0] if columns.even else 1.0
    operations: list[tuple[str, tuple[str, ...]]]
    operations = [("DequantizeLinear", part.scale(tensor, factor))]
    if tensor.dtype is DType.S16:  # ONNX dequantises it from opset 21 on alone.
        steps = part.node("Cast", (steps,), part.fresh(f"{output}/wide"), to=TensorProto.FLOAT)
        operations = [("Mul", (part.constant(f"{output}/scale", np.array(factor, np.float32)),))]
    if not columns.even:
        operations.append(("Mul", (part.constant(f"{output}/step", _each(columns.step, places)),)))
    if columns.offset.any():
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
