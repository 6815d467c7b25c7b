"""Reading an ONNX file whole: what it keeps in other files beside it comes in, or is refused.

What its header asks for is lowered to what its operators need: see :func:`lower_versions`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from edged._datafiles import MAX_DATA_FILES, is_inside
from edged.errors import IncompleteError, LimitError, ModelError, NotFoundError

__all__ = [
    "MAX_ONNX_BYTES",
    "lower_versions",
    "read_onnx",
    "read_onnx_bytes",
    "with_lower_versions",
]

MAX_ONNX_BYTES: Final = 1 << 30
"""Of the file and of all that it has outside, together."""

_COMMON_OPSET: Final = 20
_COMMON_IR: Final = 8
"""Every version of ONNX Runtime that edged admits knows these."""

_RECENT_TYPES: Final = ("float16", "float8", "float6", "float4", "int4", "int2)")
"""Parts of the names of types that newer versions of operators were made for."""

_LAST_COMMON_TYPE: Final = onnx.TensorProto.BFLOAT16


def read_onnx(path: Path, max_bytes: int = MAX_ONNX_BYTES) -> onnx.ModelProto:
    """The model at *path*, with all of its data inside.

    External data are taken from files in the folder of *path*, or below it, and from nowhere else:
    the names in a model come from anyone.

    Raises:
        NotFoundError: there is no such file.
        IncompleteError: a file with external data is not there.
        ModelError: it is no ONNX file, or its external data are outside of its folder or cut short.
        LimitError: it has more than *max_bytes*, or its data are in too many files.
    """
    data = _bytes(path, path.name, 0, None, max_bytes)
    return _whole(data, path, max_bytes)[0]


def read_onnx_bytes(path: Path, max_bytes: int = MAX_ONNX_BYTES) -> bytes:
    """As :func:`read_onnx`, serialised; a file that has all inside comes as it is.

    Raises:
        NotFoundError, IncompleteError, ModelError, LimitError: as :func:`read_onnx`.
    """
    data = _bytes(path, path.name, 0, None, max_bytes)
    model, changed = _whole(data, path, max_bytes)
    return bytes(model.SerializeToString(deterministic=True)) if changed else data


def _whole(data: bytes, path: Path, max_bytes: int) -> tuple[onnx.ModelProto, bool]:
    """The model that *data* are, and whether anything was brought in."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"cannot read {path.name}: it is no valid ONNX model; wanted one as onnx.save writes it"
        ) from error
    left = max_bytes - len(data)
    outside = [tensor for tensor in _tensors(model.graph) if uses_external_data(tensor)]
    _check_there(outside, path)
    for tensor in outside:
        left -= _bring_in(tensor, path, left)
    return model, bool(outside)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _check_there(tensors: Sequence[onnx.TensorProto], model: Path) -> None:
    """Refuse places that are no one's business, and name all files at once where one is missing."""
    files: dict[str, str] = {}
    for tensor in tensors:
        location = next(
            (entry.value for entry in tensor.external_data if entry.key == "location"), ""
        )
        if location and not is_inside(location):
            raise ModelError(
                f"cannot read {model.name}: the data of {tensor.name!r} are in {location!r},"
                " outside of the folder of the model; wanted them beside it, or all in one file:"
                " onnx.save(onnx.load(PATH), NEW_PATH)"
            )
        if location:
            files.setdefault(str(PurePosixPath(location)), tensor.name)
    if len(files) > MAX_DATA_FILES:
        raise LimitError(
            f"cannot read {model.name}: its data are in {len(files)} files, at most"
            f" {MAX_DATA_FILES} are read; save it with all in one: onnx.save(onnx.load(PATH),"
            " NEW_PATH)"
        )
    for location, tensor_name in files.items():
        if not Path(model.parent, location).is_file():
            raise IncompleteError(
                f"cannot read {model.name}: the data of {tensor_name!r} are in {location!r}, which"
                f" is not there; wanted it in the model's folder, {model.parent}",
                tuple(files),
            )


def _bring_in(tensor: onnx.TensorProto, model: Path, max_bytes: int) -> int:
    """Replace the reference by the data; the number of bytes."""
    what = f"cannot read {model.name}: the data of {tensor.name!r} are"
    try:
        info = ExternalDataInfo(tensor)
        offset, length = info.offset or 0, info.length or None
        if not info.location or offset < 0 or (length or 0) < 0:
            raise ValueError("no location, or a negative offset or length")
    except (ValueError, TypeError) as error:
        raise ModelError(f"{what} in another file, but not properly described: {error}") from error
    folder = model.parent.resolve()
    place = Path(folder, info.location).resolve()
    if not place.is_relative_to(folder):
        raise ModelError(
            f"{what} in {info.location!r}, outside of the folder of the model; wanted them beside"
            " it, or all in one file: onnx.save(onnx.load(PATH), NEW_PATH)"
        )
    data = _bytes(place, info.location, offset, length, max_bytes)
    if len(data) < (length or 0):
        raise ModelError(
            f"{what} in {info.location!r} from byte {offset} on, {length} bytes of which it has"
            f" {len(data)}; it is cut short"
        )
    tensor.raw_data = data
    tensor.ClearField("data_location")
    del tensor.external_data[:]
    return len(data)


def _bytes(path: Path, name: str, offset: int, length: int | None, max_bytes: int) -> bytes:
    """The part of a file, or all of the rest."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2) - offset if length is None else length
            if size > max_bytes:
                raise LimitError(
                    f"cannot read {name}: it has {size} bytes; {max_bytes} are left of what a"
                    " model may have"
                )
            file.seek(offset)
            return file.read(max(size, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFoundError(f"cannot read {path}: there is no such file") from error
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def lower_versions(model: onnx.ModelProto, name: str) -> bool:
    """Lower opset and IR version of *model* to what its operators need; whether that changed it.

    Most operators of a new opset are those of an old one, or take more types than before, while a
    runtime refuses the number, or has no kernel for the operator's newest version.

    Args:
        name: of the file, for errors.

    Raises:
        ModelError: its opset is newer than any that onnx knows.
    """
    before = [model.ir_version, *(entry.version for entry in model.opset_import)]
    model.ir_version = min(model.ir_version, _COMMON_IR)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = _oldest_opset(model, entry.version, name)
    return before != [model.ir_version, *(entry.version for entry in model.opset_import)]


def with_lower_versions(content: bytes, name: str) -> bytes:
    """A file as :func:`lower_versions` leaves it; *content* itself where that changes nothing."""
    model = onnx.load_model_from_string(content)
    return bytes(model.SerializeToString()) if lower_versions(model, name) else content


def _oldest_opset(model: onnx.ModelProto, opset: int, name: str) -> int:
    """The oldest opset from the common one on with the same operators as *opset*."""
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ModelError(
            f"cannot read {name}: its opset is {opset}, newer than the {newest} that onnx"
            f" {onnx.__version__} knows; wanted an older one: export the model again, with PyTorch"
            f" by torch.onnx.export(…, opset_version={_COMMON_OPSET})"
        )
    if opset <= _COMMON_OPSET or any(map(_has_recent_types, _nodes(model.graph))):
        return opset
    if any(tensor.data_type > _LAST_COMMON_TYPE for tensor in _tensors(model.graph)):
        return opset
    return max((_oldest_version(node, opset) for node in _nodes(model.graph)), default=opset)


def _oldest_version(node: onnx.NodeProto, opset: int) -> int:
    """The oldest opset, from the common one on, in which *node* means the same as in *opset*."""
    if node.domain not in ("", "ai.onnx"):
        return _COMMON_OPSET
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:  # There is none; whoever checks the model says so.
        return opset
    while schema.since_version > _COMMON_OPSET:
        try:
            older = onnx.defs.get_schema(node.op_type, schema.since_version - 1)
        except onnx.defs.SchemaError:
            break
        if older.deprecated or not _means_the_same(node, older, schema):
            break
        schema = older
    return max(int(schema.since_version), _COMMON_OPSET)


def _means_the_same(
    node: onnx.NodeProto, older: onnx.defs.OpSchema, newer: onnx.defs.OpSchema
) -> bool:
    """Whether *older* takes *node* as *newer* does: it may lack attributes that are not given."""
    return (
        {attribute.name for attribute in node.attribute} <= older.attributes.keys()
        and all(
            key in newer.attributes
            and attribute.default_value == newer.attributes[key].default_value
            for key, attribute in older.attributes.items()
        )
        and _same_parameters(len(node.input), older.inputs, newer.inputs)
        and _same_parameters(len(node.output), older.outputs, newer.outputs)
    )


def _same_parameters(
    count: int,
    older: Sequence[onnx.defs.OpSchema.FormalParameter],
    newer: Sequence[onnx.defs.OpSchema.FormalParameter],
) -> bool:
    """Whether the first *count* parameters are there in both, of the same types."""
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    enough = len(older) >= count or (bool(older) and older[-1].option == variadic)
    return enough and all(
        _common_types(before) == _common_types(after)
        for before, after in zip(older[:count], newer[:count], strict=False)
    )


def _common_types(parameter: onnx.defs.OpSchema.FormalParameter) -> frozenset[str]:
    return frozenset(
        name for name in parameter.types if not any(part in name for part in _RECENT_TYPES)
    )


def _has_recent_types(node: onnx.NodeProto) -> bool:
    return any(
        attribute.name in ("to", "dtype", "output_dtype") and attribute.i > _LAST_COMMON_TYPE
        for attribute in node.attribute
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All operators, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
