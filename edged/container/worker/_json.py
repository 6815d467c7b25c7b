"""Bodies of HTTP: taken apart within bounds, and put together."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edged.container.worker._signature import STRING, Given
from edged.errors import LimitError, RequestError
from edged.wire import rest

__all__ = ["B64", "body_of", "from_json", "given_of", "string_of", "strings_of", "to_json"]

B64: Final = "b64"
"""The sole key of an object that stands for bytes, in base64."""

_AUTOMATIC: Final = zlib.MAX_WBITS | 32
_CHUNK: Final = 1 << 20


def body_of(data: bytes, extras: Mapping[str, str]) -> tuple[Any, memoryview]:
    """The JSON at the beginning of a body, and what follows it.

    Raises:
        RequestError: it is not compressed as it says, or no JSON.
        LimitError: it is larger than it may be once it is no longer compressed.
    """
    if encoding := extras.get(rest.ENCODING):
        data = _inflated(data, encoding, int(extras[rest.MOST_BYTES]))
    view = memoryview(data)
    length = int(extras.get(rest.JSON_BYTES, len(view)))
    if length > len(view):
        raise RequestError(
            f"cannot read the request: Inference-Header-Content-Length is {length}, the body has"
            f" {len(view)} bytes"
        )
    return from_json(view[:length]), view[length:]


def from_json(text: memoryview) -> Any:
    """The value; NaN, Infinity and -Infinity are numbers, as for TensorFlow Serving.

    Raises:
        RequestError: it is no JSON.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        data = bytes(text)
        if b"NaN" in data or b"Infinity" in data:
            return _from_lenient_json(data)
        raise RequestError(f"cannot read the request: it is no JSON: {error}") from error
    except RecursionError as error:
        raise RequestError("cannot read the request: its JSON is nested too deeply") from error


def to_json(value: Any, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> bytes:
    """JSON, with NaN and Infinity as TensorFlow Serving writes them.

    Args:
        arrays: what of *value* may hold them; None for nothing.
    """
    for array in (arrays or {}).values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return json.dumps(value).encode()
    return msgspec.json.encode(value)


def string_of(value: Any) -> bytes | None:
    """The bytes that a JSON value stands for: a text, or ``{"b64": …}``; None for any other.

    Raises:
        RequestError: it is no base64.
    """
    if isinstance(value, str):
        return value.encode()
    if not (isinstance(value, dict) and value.keys() == {B64}):
        return None
    try:
        return base64.b64decode(value[B64], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise RequestError(f"cannot read the request: a value of {B64} is no base64") from error


def given_of(value: Any, dtype: str, what: str) -> Given:
    """The tensor that nested lists are.

    Args:
        dtype: that its numbers are to have.

    Raises:
        RequestError: lists of unequal length, or other than numbers, strings and truth values.
    """
    strings = strings_of(value)
    if strings is not None:
        shape, found = strings
        return Given(STRING, shape, lambda: found)
    array = _array(value, dtype, what)
    return Given(dtype, array.shape, lambda: array)


def strings_of(value: Any) -> tuple[tuple[int, ...], list[bytes]] | None:
    """Shape and elements, where they are strings: one, a list, or a list of lists of one."""
    if (single := string_of(value)) is not None:
        return (), [single]
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(row, list) and len(row) == 1 for row in value):
        inner = [string_of(row[0]) for row in value]
        shape: tuple[int, ...] = (len(value), 1)
    else:
        inner = [string_of(each) for each in value] if string_of(value[0]) is not None else [None]
        shape = (len(value),)
    found = [each for each in inner if each is not None]
    return (shape, found) if len(found) == len(value) else None


def _array(value: Any, dtype: str, what: str) -> npt.NDArray[Any]:
    try:
        wide = np.array(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(
            f"{what}: it is no tensor: its lists differ in length or depth"
        ) from error
    if wide.dtype.kind not in "biuf":
        raise RequestError(f"{what}: it holds something else than numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(dtype)
    if narrow.dtype.kind in "biu" and (wrong := np.flatnonzero(narrow != wide)).size:
        raise RequestError(f"{what}: {wide.reshape(-1)[wrong[0]]} is no {dtype}")
    return narrow


def _from_lenient_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"cannot read the request: it is no JSON: {error}") from error


def _inflated(data: bytes, encoding: str, most: int) -> bytes:
    """Raises as :func:`body_of`; nothing much larger than *most* is ever held."""
    inflate = zlib.decompressobj(_AUTOMATIC)
    parts: list[bytes] = []
    size = 0
    try:
        while data and not inflate.eof:
            part = inflate.decompress(data, _CHUNK)
            data = inflate.unconsumed_tail
            size += len(part)
            if size > most:
                raise LimitError(
                    f"cannot read the request: it has more than {most} bytes once it is no longer"
                    " compressed, the limit of serving.max_message_bytes"
                )
            parts.append(part)
            if not part and not data:
                break
    except zlib.error as error:
        raise RequestError(f"cannot read the request: it is no {encoding}: {error}") from error
    if not inflate.eof:
        raise RequestError(f"cannot read the request: its {encoding} is cut short")
    return b"".join(parts)
