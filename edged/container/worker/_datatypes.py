"""Tensors as the Open Inference Protocol puts them into bytes: little endian, row major."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.container.worker._signature import STRING
from edged.errors import RequestError

__all__ = [
    "BYTES",
    "check_size",
    "datatype_of",
    "dtype_of",
    "from_bytes",
    "joined",
    "shape_of",
    "to_bytes",
]

BYTES: Final = "BYTES"

_MAX_RANK: Final = 32
_LENGTH: Final = struct.Struct("<I")

_DTYPES: Final = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES: Final = {dtype.name: name for name, dtype in _DTYPES.items()}


def datatype_of(dtype: str) -> str:
    """The protocol's name for numpy's: ``FP32`` for ``float32``."""
    return _NAMES[dtype]


def dtype_of(datatype: str) -> str:
    """numpy's name for the protocol's, `STRING` for BYTES, and unknown ones as they are."""
    if datatype == BYTES:
        return STRING
    return _DTYPES[datatype].name if datatype in _DTYPES else datatype


def shape_of(sizes: Sequence[int], what: str) -> tuple[int, ...]:
    """The declared shape.

    Raises:
        RequestError: a negative size, or too many of them.
    """
    if len(sizes) > _MAX_RANK or min(sizes, default=0) < 0:
        raise RequestError(
            f"{what}: its shape is {list(sizes[: _MAX_RANK + 1])}, wanted at most {_MAX_RANK}"
            " dimensions, none below 0"
        )
    return tuple(sizes)


def check_size(size: int, datatype: str, shape: tuple[int, ...], what: str) -> None:
    """Whether so many bytes can be the tensor.

    Raises:
        RequestError: they cannot, or there is no such type.
    """
    if datatype == BYTES:
        return
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise RequestError(
            f"{what}: its datatype is {datatype[:40]!r}, wanted one of {', '.join(_DTYPES)},"
            f" {BYTES}"
        )
    wanted = math.prod(shape) * dtype.itemsize
    if size != wanted:
        raise RequestError(f"{what}: it has {size} bytes, {datatype} {list(shape)} has {wanted}")


def from_bytes(
    data: bytes | memoryview, datatype: str, shape: tuple[int, ...], what: str
) -> npt.NDArray[Any] | list[bytes]:
    """The tensor in *data*: an array that shares its memory, or for BYTES the strings.

    Raises:
        RequestError: data, type and shape do not agree.
    """
    check_size(len(data), datatype, shape, what)
    if datatype == BYTES:
        return _strings(data, math.prod(shape), what)
    dtype = _DTYPES[datatype]
    if dtype == np.bool_:
        return np.frombuffer(data, np.uint8).astype(np.bool_).reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape)


def to_bytes(value: npt.NDArray[Any]) -> bytes:
    """Its elements; strings of bytes (dtype object) with the length of each before it."""
    if value.dtype == np.object_:
        return joined(value.reshape(-1).tolist())
    return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()


def joined(strings: Sequence[bytes]) -> bytes:
    """Strings as the bytes of a BYTES tensor: the length of each before it."""
    return b"".join(
        itertools.chain.from_iterable((_LENGTH.pack(len(string)), string) for string in strings)
    )


def _strings(data: bytes | memoryview, count: int, what: str) -> list[bytes]:
    strings: list[bytes] = []
    at = 0
    while at < len(data) and len(strings) < count:
        start = at + _LENGTH.size
        if start > len(data):
            break
        (length,) = _LENGTH.unpack_from(data, at)
        at = start + length
        if at > len(data):
            break
        strings.append(bytes(data[start:at]))
    if len(strings) != count or at != len(data):
        raise RequestError(
            f"{what}: {count} strings of bytes, each after its length in 4 bytes, are not what its"
            f" {len(data)} bytes hold"
        )
    return strings
