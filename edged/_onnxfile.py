"""Reading an ONNX file whole: what it keeps in other files beside it comes in, or is refused."""

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

__all__ = ["MAX_ONNX_BYTES", "read_onnx", "read_onnx_bytes"]

MAX_ONNX_BYTES: Final = 1 << 30
"""Of the file and of all that it has outside, together."""


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
