"""The many ways to write a model, brought into the one that the rest of the compiler reads.

Opsets 7 to 10 become 11. 16-bit floats, and 64-bit ones where a model computes in them, become
float32, except where the model's own inputs and outputs have them. The quantised operators of ONNX
Runtime's QOperator format become the float operator between quantisers that each is an
abbreviation of, and GroupNormalization the normalisation of instances that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, checker, helper, numpy_helper, version_converter

from edged.compiler._graph import Graph, Names, Node
from edged.errors import ModelError

__all__ = ["OLDEST_OPSET", "QUANTISED", "in_float32", "plain", "with_present_opset"]

OLDEST_OPSET: Final = 7  # As far back as ONNX Runtime goes.
_PRESENT_OPSET: Final = 11  # Clip, Pad and the quantisers have had their present form since.

_MATRICES: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_TYPED: Final = ("to", "dtype", "output_dtype")
"""Attributes that name the type of an output."""


def with_present_opset(proto: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto, int]:
    """*proto*, of an *opset* from 7 on, in one from 11 on; and which.

    Raises:
        ModelError: one of its operators has no equal in opset 11.
    """
    if opset >= _PRESENT_OPSET:
        return proto, opset
    try:
        checker.check_model(proto)
        converted = version_converter.convert_version(proto, _PRESENT_OPSET)
    except (checker.ValidationError, version_converter.ConvertError, RuntimeError) as error:
        raise ModelError(
            f"cannot read model: it is of opset {opset} and cannot be brought to"
            f" {_PRESENT_OPSET} ({str(error).strip().splitlines()[-1]}); wanted opset"
            f" {_PRESENT_OPSET} or newer: export the model again"
        ) from error
    # The converter keeps names of inputs, outputs and operators, but no metadata.
    del converted.metadata_props[:]
    converted.metadata_props.extend(proto.metadata_props)
    return converted, _PRESENT_OPSET


def in_float32(graph: Graph) -> Graph:
    """*graph* computing in float32 where it did in 16-bit floats, or in 64-bit ones throughout.

    Inputs and outputs keep their types: each is converted where it comes in or goes out.
    """
    others = {int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)}
    weights = (graph.constants.get(n.operand(1)) for n in graph.nodes if n.op in _MATRICES)
    if any(array is not None and array.dtype == np.float64 for array in weights):
        others.add(int(TensorProto.DOUBLE))
    dtypes = {np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for kind in others}
    names = Names((*graph.values, *graph.constants, *(o for n in graph.nodes for o in n.outputs)))
    own = {name for name in graph.inputs if graph.values[name].dtype in dtypes}
    answered = {name for name in graph.outputs if graph.values[name].dtype in dtypes}
    inside = {name: names.fresh(f"{name}/float32") for name in dict.fromkeys((*own, *answered))}
    first = [_cast(name, inside[name], TensorProto.FLOAT) for name in graph.inputs if name in own]
    last = [
        _cast(inside[name], name, helper.np_dtype_to_tensor_dtype(_dtype(graph, name)))
        for name in dict.fromkeys(graph.outputs)
        if name in answered and name not in own
    ]
    nodes = tuple(
        replace(
            node,
            inputs=tuple(inside.get(name, name) for name in node.inputs),
            outputs=tuple(inside.get(name, name) for name in node.outputs),
            attributes={
                key: _attribute(key, value, others, dtypes)
                for key, value in node.attributes.items()
            },
        )
        for node in graph.nodes
    )
    constants = {
        inside.get(name, name): array.astype(np.float32) if array.dtype in dtypes else array
        for name, array in graph.constants.items()
    }
    return replace(graph, nodes=(*first, *nodes, *last), constants=constants)


def _dtype(graph: Graph, name: str) -> np.dtype[Any]:
    dtype = graph.values[name].dtype
    assert dtype is not None  # It is one of those that are converted.
    return dtype


def _cast(source: str, target: str, to: int) -> Node:
    return Node("Cast", target, (source,), (target,), {"to": to})


def _attribute(key: str, value: Any, others: set[int], dtypes: set[np.dtype[Any]]) -> Any:
    if key in _TYPED and value in others:
        return int(TensorProto.FLOAT)
    if isinstance(value, TensorProto) and value.data_type in others:
        return numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float32), value.name)
    return value


def plain(graph: Graph) -> Graph:
    """*graph* without operators that stand for several others.

    Raises:
        ModelError: a quantised operator has parameters that are computed, or a form of its own.
    """
    writer = _Writer(graph)
    for node in graph.nodes:
        write = _ABBREVIATIONS.get(node.op)
        if write is not None and write(writer, node):
            continue
        if node.op in QUANTISED:
            raise ModelError(
                f"cannot read model: {node.place} is written in a way that is not read here; wanted"
                " constant scales and weights, and channels first: give the float model, or one"
                " with quant_format=QuantFormat.QDQ"
            )
        writer.nodes.append(node)
    return replace(graph, nodes=tuple(writer.nodes), constants=writer.constants)


class _Writer:
    """A graph while operators are replaced in it."""

    def __init__(self, graph: Graph) -> None:
        made = (name for node in graph.nodes for name in node.outputs)
        self._names = Names((*graph.values, *graph.constants, *made))
        self.opset = graph.opset
        self.nodes: list[Node] = []
        self.constants: dict[str, npt.NDArray[Any]] = dict(graph.constants)

    def constant(self, stem: str, value: npt.NDArray[Any]) -> str:
        name = self._names.fresh(stem)
        self.constants[name] = value
        return name

    def node(self, op: str, inputs: tuple[str, ...], **attributes: object) -> str:
        """Add an operator; the name of its output."""
        output = self._names.fresh(f"{inputs[0]}/{op}")
        self.nodes.append(Node(op, output, inputs, (output,), attributes))
        return output

    def last(self, node: Node, op: str, inputs: tuple[str, ...], **attributes: object) -> bool:
        """Add the operator that gives the output of *node*."""
        self.nodes.append(Node(op, node.name, inputs, node.outputs, attributes))
        return True

    def real(self, quantised: tuple[str, ...], axis: int | None = None) -> str:
        """What (value, scale, zero point) stand for, with a scale for each index along *axis*."""
        scales = self.constants.get(quantised[1])
        along = {} if axis is None or scales is None or scales.size == 1 else {"axis": axis}
        return self.node("DequantizeLinear", _given(quantised), **along)


def _given(names: tuple[str, ...]) -> tuple[str, ...]:
    """Without optional inputs at the end that are left out."""
    return names if not names or names[-1] else _given(names[:-1])


def _constant(writer: _Writer, node: Node) -> bool:
    value = node.attributes.get("value")
    if isinstance(value, TensorProto):
        writer.constants[node.output] = numpy_helper.to_array(value)
    return isinstance(value, TensorProto)


def _group_normalization(writer: _Writer, node: Node) -> bool:
    groups = int(node.attributes.get("num_groups", 0))
    source, *parameters = node.inputs[:3]
    arrays = [writer.constants.get(name) for name in parameters]
    if groups < 1 or any(array is None or array.ndim != 1 for array in arrays):
        return False
    scale, offset = (np.asarray(array) for array in arrays)
    ones = writer.constant(f"{node.output}/ones", np.ones(groups, scale.dtype))
    zeros = writer.constant(f"{node.output}/zeros", np.zeros(groups, scale.dtype))
    grouping = writer.constant(f"{node.output}/groups", np.array((0, groups, -1), np.int64))
    normal = writer.node(
        "InstanceNormalization",
        (writer.node("Reshape", (source, grouping)), ones, zeros),
        epsilon=float(node.attributes.get("epsilon", 1e-5)),
    )
    by_channel = writer.constant(f"{node.output}/channels", np.array((0, scale.size, -1), np.int64))
    rows = writer.node("Reshape", (normal, by_channel))
    for op, name, array in (("Mul", "scale", scale), ("Add", "offset", offset)):
        column = writer.constant(f"{node.output}/{name}", array.reshape(-1, 1))
        rows = writer.node(op, (rows, column))
    return writer.last(node, "Reshape", (rows, writer.node("Shape", (source,))))


def _bias(writer: _Writer, name: str, scales: tuple[str, str], factor: float = 1.0) -> str | None:
    """A bias of int32 in float: its scale is the product of the others'."""
    values = [writer.constants.get(n) for n in (name, *scales)]
    if any(value is None for value in values):
        return None
    steps, of_input, of_weights = (np.asarray(value, np.float64) for value in values)
    real = steps * of_input.reshape(-1) * of_weights.reshape(-1) * factor
    return writer.constant(f"{name}/real", real.astype(np.float32))


def _qlinear_conv(writer: _Writer, node: Node) -> bool:
    x, w, y = node.inputs[0:3], node.inputs[3:6], node.inputs[6:8]
    operands = [writer.real(x), writer.real(w, axis=0)]
    if node.operand(8):
        bias = _bias(writer, node.operand(8), (x[1], w[1]))
        if bias is None:
            return False
        operands.append(bias)
    return _requantised(writer, node, y, "Conv", operands, node.attributes)


def _qlinear_matmul(writer: _Writer, node: Node) -> bool:
    a, b, y = node.inputs[0:3], node.inputs[3:6], node.inputs[6:8]
    return _requantised(writer, node, y, "MatMul", [writer.real(a), writer.real(b, axis=1)])


def _qgemm(writer: _Writer, node: Node) -> bool:
    a, b, y = node.inputs[0:3], node.inputs[3:6], node.inputs[7:9]
    operands = [writer.real(a), writer.real(b, axis=0 if node.attributes.get("transB") else 1)]
    if node.operand(6):
        alpha = float(node.attributes.get("alpha", 1.0))
        bias = _bias(writer, node.operand(6), (a[1], b[1]), alpha)
        if bias is None:
            return False
        operands.append(bias)
    if not _given(y):
        return writer.last(node, "Gemm", tuple(operands), **node.attributes)
    return _requantised(writer, node, y, "Gemm", operands, node.attributes)


def _binary(op: str) -> _Write:
    def write(writer: _Writer, node: Node) -> bool:
        a, b, y = node.inputs[0:3], node.inputs[3:6], node.inputs[6:8]
        return _requantised(writer, node, y, op, [writer.real(a), writer.real(b)])

    return write


def _unary(op: str, *, spatial: bool = False) -> _Write:
    def write(writer: _Writer, node: Node) -> bool:
        x, y = node.inputs[0:3], node.inputs[3:5]
        attributes = dict(node.attributes)
        if attributes.pop("channels_last", 0) and spatial:
            return False
        return _requantised(writer, node, y, op, [writer.real(x)], attributes)

    return write


def _qlinear_softmax(writer: _Writer, node: Node) -> bool:
    axis, opset = int(node.attributes.get("axis", -1)), int(node.attributes.get("opset", 13))
    if axis != -1 and (opset < 13) != (writer.opset < 13):  # Before, it was over all from there on.
        return False
    x, y = node.inputs[0:3], node.inputs[3:5]
    return _requantised(writer, node, y, "Softmax", [writer.real(x)], {"axis": axis})


def _qlinear_concat(writer: _Writer, node: Node) -> bool:
    y, rest = node.inputs[0:2], node.inputs[2:]
    parts = [writer.real(rest[at : at + 3]) for at in range(0, len(rest), 3)]
    return _requantised(writer, node, y, "Concat", parts, node.attributes)


def _qlinear_where(writer: _Writer, node: Node) -> bool:
    condition, x, other, y = node.inputs[0], node.inputs[1:4], node.inputs[4:7], node.inputs[7:9]
    return _requantised(writer, node, y, "Where", [condition, writer.real(x), writer.real(other)])


def _requantised(
    writer: _Writer,
    node: Node,
    scale: tuple[str, ...],
    op: str,
    operands: list[str],
    attributes: Mapping[str, Any] | None = None,
) -> bool:
    """Add *op* and the quantiser behind it, with *scale* and zero point."""
    real = writer.node(op, tuple(operands), **(attributes or {}))
    return writer.last(node, "QuantizeLinear", _given((real, *scale)))


_Write = Callable[[_Writer, Node], bool]
"""Adds what a node stands for; False: it is not written in a way that is read here."""

_QUANTISED: Final[Mapping[str, _Write]] = {
    "QGemm": _qgemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary("AveragePool", spatial=True),
    "QLinearConcat": _qlinear_concat,
    "QLinearConv": _qlinear_conv,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool", spatial=True),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearMatMul": _qlinear_matmul,
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": _qlinear_softmax,
    "QLinearWhere": _qlinear_where,
}

QUANTISED: Final = frozenset(_QUANTISED)
"""Operators of the QOperator format, those of the domain com.microsoft included."""

_ABBREVIATIONS: Final[Mapping[str, _Write]] = {
    **_QUANTISED,
    "Constant": _constant,
    "GroupNormalization": _group_normalization,
}
