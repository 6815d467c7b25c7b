"""Surgery on ONNX models: the part up to the features, and that part with another classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged.compiler import FEATURES_KEY
from edged.errors import ModelError, NotFoundError

__all__ = ["HEAD_OUTPUT", "feature_tensor", "featurizer_model", "model_with_head"]

HEAD_OUTPUT: Final = "classifier/predictions/Softmax:0"
_MATRICES: Final = frozenset({"Conv", "Gemm", "MatMul"})
_CLOSE: Final = 5


def feature_tensor(model: onnx.ModelProto) -> str:
    """The tensor between featurizer and classifier.

    That is what the model's metadata name, else what the last layer with weights reads.

    Raises:
        ModelError: there are several outputs, or no such layer: then it has to be named.
    """
    for entry in model.metadata_props:
        if entry.key == FEATURES_KEY:
            return str(entry.value)
    outputs = [output.name for output in model.graph.output]
    if len(outputs) == 1:
        for node in reversed(_ancestors(model.graph, outputs[0])):
            if node.op_type in _MATRICES:
                return str(node.input[0])
    raise ModelError(
        f"cannot tell the features of the model: it has the outputs {', '.join(outputs)}, and"
        f" nothing in its metadata ({FEATURES_KEY}) names the tensor; name it with --features"
    )


def featurizer_model(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """*model* up to *tensor*, which is its only output.

    Raises:
        NotFoundError: no operator gives it; says which have names like it.
    """
    nodes = _ancestors(model.graph, tensor)
    return _model(
        model, tensor, nodes, [], helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)
    )


def model_with_head(
    model: onnx.ModelProto,
    tensor: str,
    weights: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
) -> onnx.ModelProto:
    """*model* up to *tensor*, then softmax(features · *weights* + *bias*) as its only output.

    Args:
        model: float, opset 11 or newer.
        tensor: the features, [N, …] with as many values a sample as *weights* has rows.
        weights: [features, classes].
        bias: [classes].

    Raises:
        NotFoundError: no operator gives *tensor*; says which have names like it.
    """
    nodes = _ancestors(model.graph, tensor)
    taken = {name for node in nodes for name in (*node.input, *node.output)}
    flat, matrix, offset, logits, output = (
        _fresh(name, taken)
        for name in (
            "classifier/flat",
            "classifier/weights",
            "classifier/biases",
            "classifier/logits",
            HEAD_OUTPUT,
        )
    )
    head = [
        helper.make_node("Flatten", [tensor], [flat], name=flat, axis=1),
        helper.make_node("Gemm", [flat, matrix, offset], [logits], name=logits),
        helper.make_node("Softmax", [logits], [output], name=output, axis=1),
    ]
    constants = [numpy_helper.from_array(weights, matrix), numpy_helper.from_array(bias, offset)]
    declared = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", len(bias)])
    return _model(model, tensor, [*nodes, *head], constants, declared)


def _model(
    source: onnx.ModelProto,
    tensor: str,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    output: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    kept = [initial for initial in source.graph.initializer if initial.name in read]
    graph = helper.make_graph(
        nodes, source.graph.name, list(source.graph.input), [output], [*kept, *constants]
    )
    model = helper.make_model(
        graph, opset_imports=list(source.opset_import), ir_version=source.ir_version
    )
    metadata = {entry.key: entry.value for entry in source.metadata_props}
    helper.set_model_props(model, {**metadata, FEATURES_KEY: tensor})
    return model


def _ancestors(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """The operators that *tensor* needs, in their order."""
    if not any(tensor in node.output for node in graph.node):
        raise NotFoundError(
            f"cannot cut the model at {tensor!r}: no operator gives it; {_similar(graph, tensor)}"
        )
    needed, kept = {tensor}, []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


def _similar(graph: onnx.GraphProto, tensor: str) -> str:
    names = [name for node in graph.node for name in node.output if name]
    close = [name for name in names if tensor.lower() in name.lower()][-_CLOSE:]
    return f"names like it are {_quoted(close)}" if close else f"the last are {_quoted(names[-5:])}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "′"
    return name
