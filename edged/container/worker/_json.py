"""Bodies of HTTP: taken apart within bounds, and put together."""

from __future__ import annotations

import binascii
import contextlib
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edged.container.worker._signature import STRING, Given, first
from edged.errors import LimitError, RequestError
from edged.nesting import NestingError, check_nesting
from edged.wire import rest

__all__ = [
    "B64",
    "body_of",
    "from_base64",
    "from_json",
    "given_of",
    "string_of",
    "strings_of",
    "to_json",
]

B64: Final = "b64"
"""The sole key of an object that stands for bytes, in base64."""

_SPACE: Final = b" \t\n\v\f\r"
_PADDING: Final = {0: 0, 2: 2, 3: 1}
"""How many padding characters end a base64 text, by its number of others modulo 4."""
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

    Of members that are there twice the last one counts.

    Raises:
        RequestError: it is no JSON, or nested too deeply.
    """
    try:
        check_nesting(text)
        return msgspec.json.decode(text)
    except NestingError as error:
        raise RequestError(f"cannot read the request: {error}") from error
    except msgspec.DecodeError as error:
        data = bytes(text)
        if b"NaN" in data or b"Infinity" in data:
            return _from_lenient_json(data)
        raise RequestError(f"cannot read the request: it is no JSON: {error}") from error


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
        RequestError: it is no base64, or no text that UTF-8 can hold.
    """
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                "cannot read the request: a text in it has half of a surrogate pair"
            ) from error
    if not (isinstance(value, dict) and value.keys() == {B64}):
        return None
    text = value[B64]
    if not isinstance(text, str):
        raise RequestError(f"cannot read the request: a value of {B64!r} is no text")
    return from_base64(text)


def from_base64(text: str) -> bytes:
    """The bytes in *text*, by the rule of ``absl::Base64Unescape``, which TensorFlow Serving uses.

    White space counts nowhere. The padding is there whole, of ``=`` or ``.``, or not at all. The
    alphabet is the one with ``+`` and ``/``.

    Raises:
        RequestError: it is no base64; says what it looks like.
    """
    data = text.encode("utf-8", "replace")
    try:
        with contextlib.suppress(ValueError):
            return _unpadded(data)
        return _unpadded(data.translate(None, _SPACE))
    except ValueError as error:
        why = str(error)
        if data.startswith(b"data:"):
            why = "it is a data URL; send what follows its comma"
        elif b"-" in data or b"_" in data:
            why = "it is in the URL-safe alphabet; wanted '+' for '-' and '/' for '_'"
        raise RequestError(
            f"cannot read the request: a value of {B64!r} is no base64: {why}"
        ) from error


def _unpadded(data: bytes) -> bytes:
    """The bytes in base64 without white space, its padding whole or absent, or ValueError."""
    digits = data.rstrip(b"=.")
    given, wanted = len(data) - len(digits), _PADDING.get(len(digits) % 4)
    if wanted is None or given not in (0, wanted):
        raise ValueError(f"it ends after {len(digits)} characters and {given} of padding")
    return binascii.a2b_base64(digits + b"=" * wanted, strict_mode=True)


def given_of(value: Any, dtype: str, what: str) -> Given:
    """The tensor that nested lists are.

    Args:
        dtype: that its numbers are to have.

    Raises:
        RequestError: lists of unequal length, other than numbers, strings and truth values, or a
            number that *dtype* cannot hold.
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
        raise RequestError(f"{what}: {_no_number(value, ())}")
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(dtype)
    if narrow.dtype.kind in "biu":
        wrong = narrow != wide
    elif wide.dtype != narrow.dtype and not np.isfinite(narrow).all():
        wrong = np.isinf(narrow) & np.isfinite(wide)
    else:
        return narrow
    if wrong.any():
        index = first(wrong)
        raise RequestError(f"{what}: element {list(index)} is {wide[index]}, which is no {dtype}")
    return narrow


def _no_number(value: Any, at: tuple[int, ...]) -> str:
    """The first thing in nested lists that is no number, and where."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            if found := _no_number(each, (*at, index)):
                return found
    elif not isinstance(value, int | float):
        kind = {str: "a text", dict: "an object", type(None): "null"}.get(type(value), "odd")
        return f"element {list(at)} is {kind}, wanted a number"
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return f"element {list(at)} is a number of more than 64 bits"
    return "" if at else "it holds something else than numbers"


def _from_lenient_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
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
