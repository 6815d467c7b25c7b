"""Sizes that a model leaves open, fixed: the device's program is made for one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from edged.errors import InputError, ModelError

__all__ = ["free_sizes", "parse_shape", "set_shapes", "with_shapes"]

_BATCH: Final = "batch"
_MAX_SIZE: Final = 1 << 31

_Dims = Sequence[onnx.TensorShapeProto.Dimension]


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``NAME=1,3,480,640``; the name is empty where ``1,3,480,640`` is all there is.

    Raises:
        InputError: it is something else.
    """
    # Names of tensors have colons and slashes, and may have '='.
    name, _, numbers = text.rpartition("=")
    sizes = numbers.split(",")
    if not all(size.isascii() and size.isdigit() and 0 < int(size) < _MAX_SIZE for size in sizes):
        raise InputError(
            f"cannot use --shape {text!r}: wanted NAME=SIZE,SIZE,… with the batch first, as in"
            " images=1,3,480,640"
        )
    return name, tuple(int(size) for size in sizes)


def with_shapes(content: bytes, shapes: Mapping[str, Sequence[int]], name: str) -> bytes:
    """The model with the sizes of its inputs fixed by :func:`set_shapes`.

    Args:
        content: an ONNX file.

    Returns:
        *content* itself where nothing is to be changed.

    Raises:
        ModelError: it is no ONNX file.
        InputError: as :func:`set_shapes`.
    """
    if not shapes:
        return content
    model = _parsed(content, name)
    if not set_shapes(model, shapes, name):
        return content
    # Shapes of inner values are of the model as it was.
    del model.graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True))


def set_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], name: str) -> bool:
    """Fix the sizes of inputs, but for the batch, which stays open; whether that changed *model*.

    A size that has a name is fixed wherever the name stands. A batch of a fixed size other than 1
    is opened: edged runs samples one by one.

    Args:
        shapes: by input, with a batch of 1 first; "" stands for the only input.
        name: the file's, for errors.

    Raises:
        InputError: there is no such input, or a size contradicts what the model has.
    """
    inputs = {value.name: value for value in _inputs(model)}
    named: dict[str, int] = {}
    batches: set[int] = set()
    changed = False
    for given, shape in shapes.items():
        value = _chosen(given, inputs, name)
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(shape) or shape[0] != 1:
            raise _contradiction(name, value, shape, "wanted as many sizes, and a batch of 1 first")
        if dims[0].dim_value > 1:
            batches.add(dims[0].dim_value)
            dims[0].dim_param = _BATCH
            changed = True
        for dim, size in zip(dims[1:], shape[1:], strict=True):
            known = dim.dim_value if dim.dim_value > 0 else named.get(_name(dim))
            if known not in (None, size):
                raise _contradiction(name, value, shape, f"{size} contradicts {known}")
            if dim.dim_value != size:
                if _name(dim):
                    named[_name(dim)] = size
                dim.dim_value = size
                changed = True
    for value in (*inputs.values(), *model.graph.output):
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if place and _name(dim) in named:
                dim.dim_value = named[_name(dim)]
            elif not place and dim.dim_value in batches:
                dim.dim_param = _BATCH
    return changed


def free_sizes(content: bytes, name: str) -> str:
    """What is left open beside the batch, and how to fix it; empty if nothing is.

    Raises:
        ModelError: it is no ONNX file.
    """
    open_inputs = []
    options = []
    for value in _inputs(_parsed(content, name)):
        dims = value.type.tensor_type.shape.dim
        fixed_batch = bool(dims) and dims[0].dim_value > 1
        if fixed_batch or any(dim.dim_value <= 0 for dim in dims[1:]):
            open_inputs.append(f"{value.name!r} has the shape {_shown(dims)}")
            sizes = (
                str(dim.dim_value) if dim.dim_value > 0 else _placeholder(dim, place)
                for place, dim in enumerate(dims[1:], 1)
            )
            options.append(f"--shape {value.name}={','.join(('1', *sizes))}")
    if not open_inputs:
        return ""
    return (
        f"input {' and '.join(open_inputs)}, and the device runs one sample of one size; fix it by"
        f" `edgectl pack {name} --name NAME --version 1.0.0 {' '.join(options)}`, with numbers for"
        " the words; if the first size is no batch, export the model with one"
    )


def _name(dim: onnx.TensorShapeProto.Dimension) -> str:
    """The name of an open size; empty where it is only a mark that it is open, as "?" is."""
    word = str(dim.dim_param)
    return word if any(letter.isalpha() for letter in word) and word != "None" else ""


def _placeholder(dim: onnx.TensorShapeProto.Dimension, place: int) -> str:
    word = "".join(letter for letter in dim.dim_param if letter.isalnum() or letter == "_")
    return word.upper()[:40] or f"SIZE{place}"


def _parsed(content: bytes, name: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"cannot read {name}: it is no valid ONNX model; wanted one as onnx.save writes it"
        ) from error
    return model


def _inputs(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return (value for value in model.graph.input if value.name not in constants)


def _chosen(
    given: str, inputs: Mapping[str, onnx.ValueInfoProto], name: str
) -> onnx.ValueInfoProto:
    if not given and len(inputs) == 1:
        return next(iter(inputs.values()))
    if given not in inputs:
        there = ", ".join(map(repr, inputs)) or "none"
        raise InputError(
            f"cannot fix the sizes of {name}: it has no input {given!r}; the inputs are {there}"
        )
    return inputs[given]


def _contradiction(
    name: str, value: onnx.ValueInfoProto, shape: Sequence[int], problem: str
) -> InputError:
    return InputError(
        f"cannot give input {value.name!r} of {name} the shape {list(shape)}: the model has"
        f" {_shown(value.type.tensor_type.shape.dim)}; {problem}"
    )


def _shown(dims: _Dims) -> str:
    return (
        "["
        + ", ".join(str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in dims)
        + "]"
    )
