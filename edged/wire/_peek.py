"""Which model a call asks for, read off its first bytes: no message is built, no tensor touched."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RequestedModel", "requested_model"]

_MODEL_SPEC = 1  # of every request of TensorFlow Serving alike
_NAME = 1
_VERSION = 2
_VERSION_VALUE = 1
_LABEL = 4
_INFERENCE = "inference."  # whose requests about models begin with name and version
_MAX_FIELDS = 64
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class RequestedModel:
    """What a request names; an empty name is the loaded model.

    Attributes:
        version: as people write it, or a serial in digits; empty for any.
    """

    name: str = ""
    version: str = ""

    def means(self, name: str, version: str, serial: int) -> bool:
        """Whether it is the model of that name and version, which has that serial."""
        return self.name == name and self.version in ("", version, str(serial))


def requested_model(method: str, payload: bytes) -> RequestedModel:
    """The model that a request names, as far as a look at its envelope tells.

    The wire format is that of protocol buffers. What is malformed, or hidden behind more than 64
    fields, names nothing here: whoever parses the message whole has the last word.
    """
    try:
        request = memoryview(payload)
        if method.startswith(_INFERENCE):
            return RequestedModel(_text(request, _NAME), _text(request, _VERSION))
        spec = _field(request, _MODEL_SPEC)
        if not isinstance(spec, memoryview):
            return RequestedModel()
        wrapped = _field(spec, _VERSION)
        serial = _field(wrapped, _VERSION_VALUE) if isinstance(wrapped, memoryview) else None
        version = str(serial) if isinstance(serial, int) else _text(spec, _LABEL)
        return RequestedModel(_text(spec, _NAME), version)
    except (IndexError, ValueError):
        return RequestedModel()


def _text(message: memoryview, wanted: int) -> str:
    """The first field of that number as text; empty when it is not there."""
    found = _field(message, wanted)
    return str(found, "utf-8") if isinstance(found, memoryview) else ""


def _field(message: memoryview, wanted: int) -> memoryview | int | None:
    """The first field of that number: its bytes, or its value when it is a varint."""
    at = 0
    for _ in range(_MAX_FIELDS):
        if at >= len(message):
            return None
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            if number == wanted:
                return value
        elif kind == _LENGTH:
            size, at = _varint(message, at)
            if size > len(message) - at:
                raise ValueError(size)
            if number == wanted:
                return message[at : at + size]
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(kind)
    return None


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(at)
