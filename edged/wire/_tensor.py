"""TensorProto to and from numpy, as ``tensorflow/core/framework/tensor.proto`` defines it.

A tensor comes as ``tensor_content`` (its bytes, little endian, row major) or in the repeated field
of its type. There a list shorter than the shape repeats its last value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.errors import LimitError, RequestError
from edged.wire._pb.tensor_pb2 import DataType, TensorProto

__all__ = [
    "MAX_TENSOR_BYTES",
    "data_type_of",
    "describe",
    "dtype_of",
    "from_array",
    "shape_of",
    "to_array",
]

MAX_TENSOR_BYTES: Final = 1 << 28
_MAX_RANK: Final = 32


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How a data type is held.

    Attributes:
        array: dtype of the elements of the tensor.
        field: the repeated field of the message that holds them.
        listed: dtype of that field's elements.
        packed: whether the bytes of an array of ``array`` are the packed field on the wire.
    """

    array: np.dtype[Any]
    field: str
    listed: np.dtype[Any]
    packed: bool = False


def _encoding(array: str, field: str, listed: str) -> _Encoding:
    # Floating point is packed as little endian bytes, integers as varints.
    return _Encoding(np.dtype(array), field, np.dtype(listed), packed=listed in ("<f4", "<f8"))


_ENCODINGS: Final[dict[int, _Encoding]] = {
    DataType.DT_FLOAT: _encoding("<f4", "float_val", "<f4"),
    DataType.DT_DOUBLE: _encoding("<f8", "double_val", "<f8"),
    DataType.DT_INT32: _encoding("<i4", "int_val", "<i4"),
    DataType.DT_UINT8: _encoding("<u1", "int_val", "<i4"),
    DataType.DT_INT16: _encoding("<i2", "int_val", "<i4"),
    DataType.DT_INT8: _encoding("<i1", "int_val", "<i4"),
    DataType.DT_COMPLEX64: _encoding("<c8", "scomplex_val", "<f4"),
    DataType.DT_INT64: _encoding("<i8", "int64_val", "<i8"),
    DataType.DT_BOOL: _encoding("?", "bool_val", "?"),
    DataType.DT_QINT8: _encoding("<i1", "int_val", "<i4"),
    DataType.DT_QUINT8: _encoding("<u1", "int_val", "<i4"),
    DataType.DT_QINT32: _encoding("<i4", "int_val", "<i4"),
    # numpy has no bfloat16: its bits are read as uint16 and widened to float32.
    DataType.DT_BFLOAT16: _encoding("<u2", "half_val", "<i4"),
    DataType.DT_QINT16: _encoding("<i2", "int_val", "<i4"),
    DataType.DT_QUINT16: _encoding("<u2", "int_val", "<i4"),
    DataType.DT_UINT16: _encoding("<u2", "int_val", "<i4"),
    DataType.DT_COMPLEX128: _encoding("<c16", "dcomplex_val", "<f8"),
    DataType.DT_HALF: _encoding("<f2", "half_val", "<i4"),
    DataType.DT_UINT32: _encoding("<u4", "uint32_val", "<u4"),
    DataType.DT_UINT64: _encoding("<u8", "uint64_val", "<u8"),
}
# The quantised twins and bfloat16 are only read: an array says nothing of them.
_BY_DTYPE: Final[dict[np.dtype[Any], DataType]] = {
    _ENCODINGS[number].array: number
    for number in (
        *(DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_HALF),
        *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
        *(DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64),
        *(DataType.DT_BOOL, DataType.DT_COMPLEX64, DataType.DT_COMPLEX128),
    )
}


def to_array(
    tensor: TensorProto, *, name: str = "tensor", max_bytes: int = MAX_TENSOR_BYTES
) -> npt.NDArray[Any] | list[bytes]:
    """The value of *tensor*, whichever way it is encoded.

    Nothing is allocated before the data that is present was compared with the declared shape. The
    result may share the message's memory and then is read-only.

    Args:
        name: what errors call it.
        max_bytes: bound on the array, which matters when one value is repeated to fill a shape.

    Returns:
        An array of the declared shape; bfloat16 comes as float32. For DT_STRING the strings in row
        major order: their shape is :func:`shape_of`.

    Raises:
        RequestError: the dtype is none that is read here, or shape and data do not agree.
        LimitError: the array would have more than *max_bytes*.
    """
    what = f"cannot read tensor {name!r}"
    shape = shape_of(tensor, name=name)
    count = math.prod(shape)
    if tensor.dtype == DataType.DT_STRING:
        return _strings(tensor, count, what, max_bytes)
    encoding = _ENCODINGS.get(tensor.dtype)
    if encoding is None:
        raise RequestError(f"{what}: its dtype is {_type_name(tensor.dtype)}, which has no value")
    if count * encoding.array.itemsize > max_bytes:
        raise LimitError(
            f"{what}: shape {list(shape)} of {_type_name(tensor.dtype)} takes"
            f" {count * encoding.array.itemsize} bytes, at most {max_bytes} are accepted"
        )
    if tensor.tensor_content:
        flat = _from_content(tensor.tensor_content, count, encoding, what)
    else:
        flat = _from_list(tensor, count, encoding, what)
    if tensor.dtype == DataType.DT_BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.reshape(shape)


def shape_of(tensor: TensorProto, *, name: str = "tensor") -> tuple[int, ...]:
    """The declared shape.

    Raises:
        RequestError: an unknown rank or dimension, or too many of them.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or len(shape) > _MAX_RANK or min(shape, default=0) < 0:
        raise RequestError(
            f"cannot read tensor {name!r}: its shape is {_describe_shape(tensor)}, wanted at most"
            f" {_MAX_RANK} dimensions, all known"
        )
    return shape


def from_array(value: npt.NDArray[Any] | Sequence[bytes], *, content: bool = False) -> TensorProto:
    """The message for an array, or for a list of strings of shape [N].

    Dimensions are always set, also those of a scalar (none). Values stand in the repeated field of
    their type, which every client reads, unless *content* asks for ``tensor_content``.

    Raises:
        RequestError: a dtype that the message cannot hold.
    """
    if not isinstance(value, np.ndarray):
        tensor = TensorProto(dtype=DataType.DT_STRING, string_val=value)
        tensor.tensor_shape.dim.add(size=len(value))
        return tensor
    number = data_type_of(value.dtype)
    encoding = _ENCODINGS[number]
    tensor = TensorProto(dtype=number)
    tensor.tensor_shape.SetInParent()
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(value, encoding.array).reshape(-1)
    if content:
        tensor.tensor_content = flat.tobytes()
    elif encoding.packed:
        _set_packed(tensor, encoding.field, flat.tobytes())
    elif encoding.field == "half_val":
        tensor.half_val.extend(flat.view("<u2").tolist())
    else:
        getattr(tensor, encoding.field).extend(flat.tolist())
    return tensor


def data_type_of(dtype: npt.DTypeLike) -> DataType:
    """The enum value for a numpy dtype.

    Raises:
        RequestError: there is none.
    """
    number = _BY_DTYPE.get(np.dtype(dtype).newbyteorder("<"))
    if number is None:
        known = ", ".join(sorted(dtype.name for dtype in _BY_DTYPE))
        raise RequestError(f"cannot put {np.dtype(dtype)} into a tensor: wanted one of {known}")
    return number


def describe(tensor: TensorProto) -> str:
    """Dtype and shape for an error message: ``float32 [1, 224, 224, 3]``."""
    return f"{dtype_of(tensor)} {_describe_shape(tensor)}"


def dtype_of(tensor: TensorProto) -> str:
    """numpy's name of the dtype, or TensorFlow's where numpy has none."""
    encoding = _ENCODINGS.get(tensor.dtype)
    plain = encoding is not None and _BY_DTYPE.get(encoding.array) == tensor.dtype
    return encoding.array.name if encoding and plain else _type_name(tensor.dtype)


def _describe_shape(tensor: TensorProto) -> str:
    if tensor.tensor_shape.unknown_rank:
        return "of unknown rank"
    dims = [str(dim.size) for dim in tensor.tensor_shape.dim]
    return f"[{', '.join(dims[: _MAX_RANK + 1])}{', …' if len(dims) > _MAX_RANK + 1 else ''}]"


def _from_content(content: bytes, count: int, encoding: _Encoding, what: str) -> npt.NDArray[Any]:
    if len(content) != count * encoding.array.itemsize:
        raise RequestError(
            f"{what}: tensor_content has {len(content)} bytes, its shape and dtype want"
            f" {count * encoding.array.itemsize}"
        )
    if encoding.array == np.bool_:
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, encoding.array)


def _from_list(tensor: TensorProto, count: int, encoding: _Encoding, what: str) -> npt.NDArray[Any]:
    listed = getattr(tensor, encoding.field)
    parts = 2 if encoding.array.kind == "c" else 1
    found = len(listed)
    if found > count * parts or found % parts or (count and not found):
        raise RequestError(
            f"{what}: {encoding.field} has {found} values, its shape {_describe_shape(tensor)}"
            f" wants {count * parts} (or fewer, but one: the last is repeated)"
        )
    values = _narrow(np.array(listed, encoding.listed), encoding, what)
    missing = count - found // parts
    return np.pad(values, (0, missing), mode="edge") if missing else values


def _narrow(values: npt.NDArray[Any], encoding: _Encoding, what: str) -> npt.NDArray[Any]:
    """The elements of the list as elements of the tensor."""
    if encoding.array.kind == "c":
        return values.view(encoding.array)
    if encoding.field == "half_val":
        return _in_range(values, np.dtype("<u2"), encoding.field, what).view(encoding.array)
    if encoding.array == encoding.listed:
        return values
    return _in_range(values, encoding.array, encoding.field, what)


def _in_range(
    values: npt.NDArray[Any], dtype: np.dtype[Any], field: str, what: str
) -> npt.NDArray[Any]:
    narrow = values.astype(dtype)
    wrong = np.flatnonzero(narrow != values)
    if wrong.size:
        raise RequestError(
            f"{what}: {field}[{wrong[0]}] is {values[wrong[0]]}, which {dtype} cannot hold"
        )
    return narrow


def _strings(tensor: TensorProto, count: int, what: str, max_bytes: int) -> list[bytes]:
    if tensor.tensor_content:
        return _string_content(tensor.tensor_content, count, what)
    found = len(tensor.string_val)
    if found > count or (count and not found):
        raise RequestError(
            f"{what}: string_val has {found} strings, its shape {_describe_shape(tensor)} wants"
            f" {count} (or fewer, but one: the last is repeated)"
        )
    strings = list(tensor.string_val)
    # A pointer each: repeating shares the string itself.
    if count * 8 > max_bytes:
        raise LimitError(
            f"{what}: shape {list(shape_of(tensor))} is more strings than {max_bytes} bytes hold"
        )
    return strings + strings[-1:] * (count - found)


def _string_content(content: bytes, count: int, what: str) -> list[bytes]:
    """Lengths as varints, then all the bytes (``EncodeStringList`` in ``core/platform``)."""
    lengths: list[int] = []
    at = 0
    while len(lengths) < count:
        length = shift = 0
        while True:
            if at == len(content) or shift > 28:
                raise RequestError(f"{what}: tensor_content ends within the lengths of its strings")
            byte = content[at]
            length |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise RequestError(
            f"{what}: tensor_content has {len(content)} bytes, its strings want {at + sum(lengths)}"
        )
    strings: list[bytes] = []
    for length in lengths:
        strings.append(content[at : at + length])
        at += length
    return strings


def _set_packed(tensor: TensorProto, field: str, data: bytes) -> None:
    """Fill a packed floating point field with its bytes: 200 times as fast as one by one."""
    if data:
        key = tensor.DESCRIPTOR.fields_by_name[field].number << 3 | 2
        tensor.MergeFromString(_varint(key) + _varint(len(data)) + data)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _type_name(number: int) -> str:
    return DataType.Name(number) if number in DataType.values() else f"DataType {number}"
