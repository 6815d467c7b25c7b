"""Requests out of what callers have: image files, arrays, raw tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged import wire
from edged.errors import InputError, NotFoundError, RequestError

__all__ = ["DataType", "Inputs", "RawTensor", "of_arrays", "of_images", "of_tensors", "read_file"]

DataType = int | str | np.dtype[Any] | type[Any]
"""A number of TensorFlow's enum (DT_STRING is 7), its name, or a numpy dtype or name of one."""

RawTensor = tuple[bytes | Sequence[bytes], Sequence[int], DataType]
"""(data, shape, type): the bytes of the elements, row major, little endian; or the strings."""

Inputs = dict[str, wire.TensorProto]

_STRING: Final = "DT_STRING"


def of_images(images: Sequence[bytes], input_name: str) -> Inputs:
    """Encoded images as a string tensor [N]; the server decodes them."""
    return {input_name: wire.from_array(list(images))}


def of_arrays(arrays: Mapping[str, npt.ArrayLike]) -> Inputs:
    """Arrays as ``tensor_content``; strings (bytes, str or object) in ``string_val``.

    Raises:
        RequestError: a dtype that a tensor cannot have.
    """
    return {name: _tensor(name, np.asarray(value)) for name, value in arrays.items()}


def of_tensors(tensors: Mapping[str, RawTensor]) -> Inputs:
    """Tensors from their bytes.

    Raises:
        RequestError: an unknown type, or data that the shape does not fit.
    """
    return {name: _raw(name, *raw) for name, raw in tensors.items()}


def read_file(path: str | os.PathLike[str]) -> bytes:
    """What is in the file.

    Raises:
        NotFoundError, InputError: it is not there, or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _tensor(name: str, array: npt.NDArray[Any]) -> wire.TensorProto:
    if array.dtype.kind in "SUO":
        strings = [_string(name, value) for value in array.reshape(-1).tolist()]
        return _strings(strings, array.shape)
    try:
        return wire.from_array(array, content=True)
    except RequestError as error:
        raise RequestError(f"cannot send input {name!r}: {error}") from error


def _string(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise RequestError(
        f"cannot send input {name!r}: it has a {type(value).__name__} among its strings; wanted an"
        " array of numbers, or of bytes"
    )


def _strings(strings: Sequence[bytes], shape: Sequence[int]) -> wire.TensorProto:
    tensor = wire.TensorProto(dtype=_STRING, string_val=strings)
    _set_shape(tensor, shape)
    return tensor


def _raw(
    name: str, data: bytes | Sequence[bytes], shape: Sequence[int], datatype: DataType
) -> wire.TensorProto:
    kind = _type_name(name, datatype)
    if kind == _STRING:
        tensor = _strings([data] if isinstance(data, bytes) else data, shape)
    elif isinstance(data, bytes):
        tensor = wire.TensorProto(dtype=kind, tensor_content=data)
        _set_shape(tensor, shape)
    else:
        raise RequestError(
            f"cannot send input {name!r}: its data are a {type(data).__name__}; wanted bytes, as"
            f" for every type but {_STRING}"
        )
    wire.to_array(tensor, name=name)  # refuses what does not fit before it travels
    return tensor


def _type_name(name: str, datatype: Any) -> str:
    """The type's name in TensorFlow's enum."""
    # A tf.DType is known by what it can say of itself: TensorFlow is not imported for it.
    datatype = getattr(datatype, "as_datatype_enum", datatype)
    if isinstance(datatype, str) and datatype in wire.DataType.keys():  # noqa: SIM118  (an enum)
        return datatype
    try:
        if isinstance(datatype, int):
            return wire.DataType.Name(datatype)
        if datatype is None:  # which numpy takes for float64
            raise TypeError
        dtype = np.dtype(datatype)
        return _STRING if dtype.kind in "SUO" else wire.DataType.Name(wire.data_type_of(dtype))
    except (TypeError, ValueError, RequestError) as error:
        raise RequestError(
            f"cannot send input {name!r}: {datatype!r} is no type of a tensor; one of float32,"
            f" uint8, {_STRING} or 7, …"
        ) from error


def _set_shape(tensor: wire.TensorProto, shape: Sequence[int]) -> None:
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=int(size))
