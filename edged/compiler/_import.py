"""From the bytes of an ONNX file to a float graph of batch 1 with constants folded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import checker, helper, numpy_helper, shape_inference

from edged._onnxfile import lower_versions
from edged._onnxshapes import set_shapes
from edged.compiler._dequantise import QUANTISERS, dequantised
from edged.compiler._dialect import (
    OLDEST_OPSET,
    QUANTISED,
    in_float32,
    plain,
    with_present_opset,
)
from edged.compiler._graph import IR_VERSION, Constants, Graph, Node, Value, abridged
from edged.compiler._session import run_once
from edged.errors import LimitError, ModelError

__all__ = ["FEATURES_KEY", "MAX_MODEL_BYTES", "load_graph"]

MAX_MODEL_BYTES: Final = 1 << 30
FEATURES_KEY: Final = "edged.features"
"""Key of the model's metadata that names the tensor between featurizer and classifier."""

_MAX_NODES: Final = 20_000
_MAX_INPUT_ELEMENTS: Final = 1 << 26
_MAX_FOLDED_BYTES: Final = 1 << 28
_ROUNDS: Final = 8
_LARGE: Final = 4096  # Elements; what shapes depend on is never as large.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_RANDOM = ("Random", "Multinomial", "Bernoulli")


def load_graph(model: bytes, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """Read *model*, set its batch to 1, infer every shape, fold what is constant.

    Args:
        shapes: sizes of inputs that it leaves open, as :func:`edged._onnxshapes.set_shapes` has it.

    Raises:
        ModelError: no ONNX, or one that edged does not compile: what was found, what was wanted.
        InputError: *shapes* contradict the model.
        LimitError: its size or its number of operators.
    """
    if len(model) > MAX_MODEL_BYTES:
        raise LimitError(
            f"cannot read model: it has {len(model)} bytes, at most {MAX_MODEL_BYTES} are read"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise ModelError(
            "cannot read model: it is not an ONNX file; wanted a model as onnx.save writes it"
        ) from error
    lower_versions(proto, "model")
    opset = _check_outside(proto)
    _check_nodes(proto)
    _check_data(proto)
    set_shapes(proto, shapes or {}, "the model")
    _set_batch(proto)
    proto, large = _without_large(proto)
    # Declared shapes of other values may contradict batch 1 and are inferred anew; the checker
    # only wants there to be one.
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.shape.SetInParent()
    proto, opset = with_present_opset(proto, opset)
    try:
        checker.check_model(proto)
    except (checker.ValidationError, ValueError) as error:
        raise ModelError(f"cannot read model: it breaks the ONNX rules: {error}") from error
    graph = _settle(plain(in_float32(_as_graph(proto, large, opset))))
    real = dequantised(graph)
    return _with_features(graph if real is graph else _settle(real), proto)


def _with_features(graph: Graph, proto: onnx.ModelProto) -> Graph:
    """*graph* with the cut that the model's metadata ask for."""
    name = next((entry.value for entry in proto.metadata_props if entry.key == FEATURES_KEY), "")
    if name and not any(name in node.outputs for node in graph.nodes):
        raise ModelError(
            f"cannot read model: its metadata say {FEATURES_KEY} = {abridged(name)!r}, which no"
            " operator between inputs and outputs gives; wanted the name of a tensor"
        )
    return replace(graph, features=name)


def _check_outside(proto: onnx.ModelProto) -> int:
    """The opset, after everything that stands outside of the graph is found to be in order."""
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    opset = opsets.get("ai.onnx")
    if opset is None or not proto.graph.node:
        raise ModelError(
            "cannot read model: it has no operators of the ONNX opset;"
            " wanted a model as onnx.save writes it"
        )
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"cannot read model: its opset is {opset}, wanted {OLDEST_OPSET} or newer: export the"
            " model again"
        )
    if proto.functions:
        raise ModelError(
            f"cannot read model: it defines functions of its own ({proto.functions[0].name!r});"
            " onnx.inliner.inline_local_functions resolves them"
        )
    return int(opset)


def _check_nodes(proto: onnx.ModelProto) -> None:
    if len(proto.graph.node) > _MAX_NODES:
        raise LimitError(
            f"cannot read model: it has {len(proto.graph.node)} operators, at most {_MAX_NODES}"
        )
    for node in proto.graph.node:
        place = f"{node.op_type} {abridged(node.name or ''.join(node.output[:1]))!r}"
        quantised = node.domain == "com.microsoft" and node.op_type in QUANTISED | QUANTISERS
        if node.domain not in ("", "ai.onnx") and not quantised:
            raise ModelError(
                f"cannot read model: {place} is of domain {node.domain!r};"
                " wanted operators of the standard domain ai.onnx only"
            )
        if node.op_type in _CONTROL_FLOW:
            raise ModelError(
                f"cannot read model: {place} is control flow; wanted a graph that is all data"
                " flow (export it with the branch taken or the loop unrolled)"
            )


def _check_data(proto: onnx.ModelProto) -> None:
    if proto.graph.sparse_initializer:
        raise ModelError("cannot read model: it has sparse initializers; wanted dense ones")
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"cannot read model: the data of {abridged(tensor.name)!r} are in another file;"
                " wanted one self-contained file (onnx.save with save_as_external_data=False)"
            )


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _set_batch(proto: onnx.ModelProto) -> None:
    """Give every input the shape that it has in a batch of one."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name in constants:
            continue
        where = f"cannot read model: input {abridged(value.name)!r}"
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise ModelError(f"{where} is no tensor of a known rank; wanted a fixed shape")
        kind = value.type.tensor_type.elem_type
        if kind in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
            raise ModelError(
                f"{where} has elements of type {onnx.TensorProto.DataType.Name(kind).lower()};"
                " wanted numbers"
            )
        dims = value.type.tensor_type.shape.dim
        found = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
        if not dims or any(not isinstance(size, int) or size <= 0 for size in found[1:]):
            raise ModelError(
                f"{where} has shape {_shown(found)}; wanted every size but the batch to be fixed"
                " (edgectl pack and edgectl compile fix them with --shape)"
            )
        batch = found[0]
        if isinstance(batch, int) and batch > 1:
            raise ModelError(
                f"{where} has shape {_shown(found)}; wanted a first dimension of 1 or a symbolic"
                " one (batches are run one by one; edgectl pack --shape opens a fixed one)"
            )
        dims[0].dim_value = 1
        if np.prod([dim.dim_value for dim in dims], dtype=object) > _MAX_INPUT_ELEMENTS:
            raise LimitError(
                f"{where} has shape {_shown(found)}; at most {_MAX_INPUT_ELEMENTS} elements are"
                " taken"
            )


def _shown(dims: list[Any]) -> str:
    return "[" + ", ".join(str(size) if size else "?" for size in dims) + "]"


def _without_large(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Constants]:
    """*proto* with its large initializers as inputs, and their values.

    Checking and inferring copy the model several times, and need no more of weights than shapes.
    """
    large: list[onnx.TensorProto] = []
    small: list[onnx.TensorProto] = []
    for tensor in proto.graph.initializer:
        (large if _is_large(tensor) else small).append(tensor)
    arrays = _arrays(large)
    given = {tensor.name for tensor in proto.graph.initializer}
    # A new message: what is deleted in one stays in its memory.
    slim = onnx.ModelProto(
        ir_version=IR_VERSION,
        opset_import=proto.opset_import,
        metadata_props=proto.metadata_props,
        graph=onnx.GraphProto(
            name=proto.graph.name,
            node=proto.graph.node,
            # Up to IR version 3 constants were inputs as well.
            input=[value for value in proto.graph.input if value.name not in given],
            output=proto.graph.output,
            initializer=small,
        ),
    )
    slim.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large
    )
    return slim, arrays


def _is_large(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.HasField("raw_data") and np.prod(tensor.dims, dtype=object) >= _LARGE)


def _arrays(tensors: Iterable[onnx.TensorProto]) -> dict[str, npt.NDArray[Any]]:
    try:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    except (ValueError, TypeError) as error:
        raise ModelError(f"cannot read model: an initializer is malformed: {error}") from error


def _as_graph(proto: onnx.ModelProto, large: Constants, opset: int) -> Graph:
    """The graph without shapes of inner values."""
    constants = {**large, **_arrays(proto.graph.initializer)}
    nodes = tuple(
        Node(
            node.op_type,
            node.name,
            tuple(node.input),
            tuple(node.output),
            {a.name: helper.get_attribute_value(a) for a in node.attribute},
        )
        for node in proto.graph.node
    )
    declared = [value for value in proto.graph.input if value.name not in constants]
    return Graph(
        inputs=tuple(value.name for value in declared),
        outputs=tuple(dict.fromkeys(value.name for value in proto.graph.output)),
        nodes=nodes,
        constants=constants,
        values={value.name: _value(value) for value in (*proto.graph.output, *declared)},
        opset=opset,
    ).pruned()


def _value(info: onnx.ValueInfoProto) -> Value:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or kind.elem_type == onnx.TensorProto.UNDEFINED:
        return Value(None, None)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    known = kind.HasField("shape") and None not in sizes
    return Value(dtype, tuple(int(n) for n in sizes if n is not None) if known else None)


def _settle(graph: Graph) -> Graph:
    """Infer shapes and fold constants until neither finds anything new."""
    for _ in range(_ROUNDS):
        graph = _inferred(graph)
        folded = _folded(graph)
        if folded is graph:
            break
        graph = folded
    return _inferred(graph)


def _inferred(graph: Graph) -> Graph:
    proto = onnx.ModelProto()
    proto.ParseFromString(
        replace(
            graph,
            values={
                name: value if name in graph.inputs else Value(value.dtype, None)
                for name, value in graph.values.items()
            },
        ).onnx(graph.outputs, {n: a for n, a in graph.constants.items() if a.size >= _LARGE})
    )
    try:
        result = shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"cannot read model: its shapes contradict each other: {error}") from error
    values = {info.name: _value(info) for info in (*result.graph.value_info, *result.graph.output)}
    values |= {name: graph.values[name] for name in graph.inputs}
    values |= {name: Value(a.dtype, a.shape) for name, a in graph.constants.items()}
    unknown = Value(None, None)
    for node in graph.nodes:
        for name in node.outputs:
            values.setdefault(name, unknown)
    return replace(graph, values=values)


def _folded(graph: Graph) -> Graph:
    """*graph* with what depends on no input computed, or *graph* itself if there is no such."""
    constant = set(graph.constants)
    chosen: list[Node] = []
    shapes: dict[str, npt.NDArray[Any]] = {}
    for node in graph.nodes:
        if not set(node.outputs).isdisjoint(graph.outputs):
            continue
        shape = graph.values[node.inputs[0]].shape if node.op == "Shape" else None
        if shape is not None:
            part = slice(node.attributes.get("start"), node.attributes.get("end"))
            shapes[node.output] = np.array(shape[part], np.int64)
            constant.add(node.output)
        elif _foldable(graph, node) and all(not name or name in constant for name in node.inputs):
            chosen.append(node)
            constant.update(node.outputs)
    if not chosen and not shapes:
        return graph
    gone = {name for node in chosen for name in node.outputs} | set(shapes)
    kept = tuple(node for node in graph.nodes if gone.isdisjoint(node.outputs))
    read = {name for node in kept for name in node.inputs}
    wanted = [name for node in chosen for name in node.outputs if name in read]
    constants = {**graph.constants, **shapes}
    source = replace(graph, inputs=(), nodes=tuple(chosen), constants=constants)
    if wanted:
        results = run_once(source.onnx(wanted), "fold its constants")
        constants |= dict(zip(wanted, results, strict=True))
    return replace(graph, nodes=kept, constants=constants).pruned()


def _foldable(graph: Graph, node: Node) -> bool:
    if node.op.startswith(_RANDOM):
        return False
    return all(_folded_bytes(graph.values[name]) <= _MAX_FOLDED_BYTES for name in node.outputs)


def _folded_bytes(value: Value) -> int:
    """Size of what folding would make; past every bound when it is not known beforehand."""
    if value.dtype is None or value.shape is None:
        return _MAX_FOLDED_BYTES + 1
    return int(np.prod(value.shape, dtype=object)) * value.dtype.itemsize
