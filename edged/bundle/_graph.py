"""What an ONNX file says of itself, and what it answers in float.

This and its neighbours import onnx and ONNX Runtime: only packing does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx.external_data_helper import uses_external_data

from edged._madeup import Step, Wanted, hints, made_up, to_scale
from edged._onnxfile import lower_versions, with_lower_versions
from edged._onnxruntime import session
from edged._onnxshapes import with_shapes
from edged.bundle._manifest import ElementType, TensorDecl
from edged.errors import ModelError

__all__ = ["Graph", "Tensors"]

Tensors = Mapping[str, npt.NDArray[Any]]

_FLOATS: Final = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
)
_INTEGER_OPERATORS: Final = frozenset(
    {
        *("And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "Xor"),
    }
)
_WEIGHTED: Final = frozenset({"Conv", "Gemm", "MatMul"})
_SMALL: Final = 4096
_FINDING: Final = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators that give as many elements as they find."""

_SELECTING: Final = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "TopK"})
_KEEPING: Final = frozenset(
    {
        *("Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze"),
        *("Transpose", "Unsqueeze"),
    }
)
"""Operators whose output has integers in it if their first input has."""


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX model, seen from outside.

    Attributes:
        content: the file.
        name: the file's, for errors.
        inputs, outputs: in the order of the graph; the first dimension is the batch.
        weights: number of elements of all constants with two dimensions or more: as many bytes on
            the device.
        model_version: the number that its maker gave it, or 0.
        discrete: outputs that are labels, indices, counts or masks: integers, also where they are
            written as floats.
        selected: other outputs that depend on which of several values is the largest, such as the
            coordinates of a key point.
        unsized: outputs whose size may depend on the values, such as the rows of NonMaxSuppression.
    """

    content: bytes
    name: str
    inputs: tuple[TensorDecl, ...]
    outputs: tuple[TensorDecl, ...]
    weights: int
    model_version: int
    discrete: frozenset[str] = frozenset()
    selected: frozenset[str] = frozenset()
    unsized: frozenset[str] = frozenset()

    @classmethod
    def load(cls, content: bytes, name: str) -> Self:
        """Read the file.

        Raises:
            ModelError: it is no ONNX model, or not one that a bundle can carry.
        """
        model = _parse(content, name)
        constants = {tensor.name for tensor in model.graph.initializer}
        discrete = frozenset(_discrete(model.graph))
        return cls(
            content=content,
            name=name,
            inputs=_tensors([v for v in model.graph.input if v.name not in constants], name),
            outputs=tuple(dict.fromkeys(_tensors(model.graph.output, name))),
            weights=sum(math.prod(t.dims) for t in model.graph.initializer if len(t.dims) > 1),
            model_version=min(max(model.model_version, 0), 999_999_999),
            discrete=discrete,
            selected=frozenset(_behind(model.graph, _SELECTING)) - discrete,
            unsized=frozenset(_behind(model.graph, _FINDING)),
        )

    @property
    def is_sized(self) -> bool:
        """Whether the batch is 1 or open, and every other size of the inputs is fixed."""
        return all(
            tensor.shape[:1] in ((None,), (1,)) and None not in tensor.shape[1:]
            for tensor in self.inputs
        )

    def sized(self, shapes: Mapping[str, Sequence[int]]) -> Self:
        """The same model with sizes of inputs fixed, as `with_shapes` does.

        Raises:
            InputError: there is no such input, or a size contradicts what the model has.
        """
        content = with_shapes(self.content, shapes, self.name)
        return self if content is self.content else type(self).load(content, self.name)

    def answering(self, results: Tensors) -> Self:
        """The same model, its outputs' open sizes but the batch as *results* have them.

        Args:
            results: output name → [N, …]; outputs whose size depends on values are not there.
        """
        return replace(
            self,
            outputs=tuple(
                TensorDecl(t.name, t.dtype, _filled(t.shape, results[t.name].shape))
                if t.name in results
                else t
                for t in self.outputs
            ),
        )

    def made_up(self, count: int, seed: int) -> dict[str, npt.NDArray[Any]]:
        """*count* inputs such as the compiler makes up, from *seed*, input name → [count, …].

        Raises:
            ModelError: a dimension but the batch is open, or ONNX Runtime does not run the model.
        """
        inputs = [Wanted(t.name, np.dtype(str(t.dtype)), _one(t, self.name)) for t in self.inputs]
        model = onnx.load_model_from_string(self.content)
        lower_versions(model, self.name)
        constants = _small_constants(model.graph)
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        shapes |= {name: array.shape for name, array in constants.items()}
        steps = [
            Step(
                node.op_type,
                tuple(node.input),
                tuple(node.output),
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
            )
            for node in model.graph.node
        ]
        told = hints(inputs, steps, constants, shapes)
        samples = made_up(inputs, told, count, np.random.default_rng(seed))
        return to_scale(samples, told, _first_layer(model, steps, constants, shapes, self.name))

    def float_model(self) -> Callable[[Tensors], dict[str, npt.NDArray[Any]]]:
        """A function from one sample of each input, [1, …], to the outputs, in float.

        Every operator runs as it is written. An optimiser that changes results would otherwise
        change those of the compiled model in the same way, and the self-test would not see it.

        Raises:
            ModelError: ONNX Runtime does not take the model, or (the function) the sample.
        """
        names = [output.name for output in self.outputs]
        try:
            reference = session(with_lower_versions(self.content, self.name), as_written=True)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise ModelError(
                f"cannot run {self.name}: ONNX Runtime refuses it ({_line(error)})"
            ) from error

        def run(sample: Tensors) -> dict[str, npt.NDArray[Any]]:
            try:
                results = reference.run(names, dict(sample))
            except Exception as error:  # as above
                raise ModelError(f"cannot run {self.name} on a sample: {_line(error)}") from error
            return {name: np.asarray(r) for name, r in zip(names, results, strict=True)}

        return run


def _filled(shape: tuple[int | None, ...], found: tuple[int, ...]) -> tuple[int | None, ...]:
    """*shape*, its open sizes but the batch as *found* has them."""
    if len(shape) != len(found):
        return shape
    pairs = zip(shape[1:], found[1:], strict=True)
    return (*shape[:1], *(size if known is None else known for known, size in pairs))


def _parse(content: bytes, name: str) -> Any:
    try:
        model = onnx.load_model_from_string(content)
        lower_versions(model, name)
        outside = [t.name for t in model.graph.initializer if uses_external_data(t)]
        if not outside:
            onnx.checker.check_model(model)
            return model
    except ModelError:
        raise
    except Exception as error:  # onnx raises protobuf's, its own, and plain ones
        raise ModelError(
            f"cannot read {name}: it is no valid ONNX model ({_line(error)})"
        ) from error
    raise ModelError(
        f"cannot read {name}: its weights are in another file ({outside[0]!r} is); save it again "
        "with all in one: onnx.save(onnx.load(PATH), NEW_PATH)"
    )


def _one(tensor: TensorDecl, model: str) -> tuple[int, ...]:
    """The shape of one sample."""
    sizes = [size for size in tensor.shape[1:] if size is not None]
    if tensor.shape[:1] not in ((None,), (1,)) or len(sizes) < len(tensor.shape) - 1:
        raise ModelError(
            f"cannot make a self-test for {model}: input {tensor.name!r} has the shape "
            f"{list(tensor.shape)}; wanted a batch of 1 or open, and either all other dimensions "
            "or calibration samples that give them"
        )
    return (1, *sizes)


def _small_constants(graph: Any) -> dict[str, npt.NDArray[Any]]:
    """Initializers and Constant nodes of few elements."""
    tensors = {t.name: t for t in graph.initializer if math.prod(t.dims) <= _SMALL}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    return {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


def _first_layer(
    model: Any, steps: Sequence[Step], constants: Tensors, shapes: Mapping[str, Any], name: str
) -> Callable[[Tensors], npt.NDArray[Any] | None]:
    """What the first layer with weights gives on one sample, a bias or batch norm included."""
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for source in step.inputs:
            readers.setdefault(source, []).append(step)
    weighted = (s for s in steps if s.op in _WEIGHTED and len(s.inputs) > 1)
    first = next((s for s in weighted if s.inputs[1] in shapes), None)
    if first is None:
        return lambda _sample: None
    while len(behind := readers.get(first.outputs[0], [])) == 1 and (
        behind[0].op == "BatchNormalization"
        or (behind[0].op == "Add" and any(source in constants for source in behind[0].inputs))
    ):
        (first,) = behind
    needed, kept = {first.outputs[0]}, []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "first"
    part.graph.node.extend(reversed(kept))
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    part.graph.input.extend(v for v in model.graph.input if v.name in needed)
    part.graph.output.add().name = first.outputs[0]
    read = {value.name for value in part.graph.input} - {t.name for t in part.graph.initializer}
    try:
        running = session(part.SerializeToString())
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ModelError(f"cannot run {name}: ONNX Runtime refuses it ({_line(error)})") from error

    def run(sample: Tensors) -> npt.NDArray[Any] | None:
        try:
            (result,) = running.run(None, {n: a for n, a in sample.items() if n in read})
        except Exception as error:  # as above
            raise ModelError(f"cannot run {name} on a sample: {_line(error)}") from error
        return np.asarray(result)

    return run


def _discrete(graph: Any) -> Iterator[str]:
    """Outputs that are integers by type, or come from an operator that gives integers."""
    made = {name for node in graph.node for name in _integers(node)}
    for node in graph.node:
        if node.op_type in _KEEPING and node.input and node.input[0] in made:
            made.update(node.output)
    for value in graph.output:
        if value.name in made or value.type.tensor_type.elem_type not in _FLOATS:
            yield value.name


def _behind(graph: Any, kinds: Collection[str]) -> Iterator[str]:
    """Outputs that depend on an operator of these *kinds*."""
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type in kinds or not behind.isdisjoint(node.input):
            behind.update(node.output)
    return (value.name for value in graph.output if value.name in behind)


def _integers(node: Any) -> Sequence[str]:
    if node.op_type == "TopK":
        return list(node.output[1:])
    return list(node.output) if node.op_type in _INTEGER_OPERATORS else []


def _tensors(values: Sequence[Any], name: str) -> tuple[TensorDecl, ...]:
    return tuple(_tensor(value, name) for value in values)


def _tensor(value: Any, name: str) -> TensorDecl:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise ModelError(f"cannot read {name}: {value.name!r} is no tensor of a known rank")
    try:
        dtype = ElementType(str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"cannot read {name}: {value.name!r} has elements of ONNX type {kind.elem_type}; "
            f"wanted one of {', '.join(ElementType)}"
        ) from error
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    return TensorDecl(value.name, dtype, shape)


def _line(error: Exception) -> str:
    """The first line of a library's message: what follows is its own source code."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
