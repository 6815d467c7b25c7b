"""Bytes to messages, with errors that say what is wrong with them."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from edged.container.worker._shortage import is_short_of_memory
from edged.errors import RequestError

__all__ = ["parse"]

M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes) -> M:
    """The message in *data*.

    Raises:
        RequestError: there is none of that kind in it.
        MemoryError: there is no room for it.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        if is_short_of_memory(error) or not _has_room(len(data)):
            raise MemoryError from error
        raise RequestError(
            f"cannot read the request: its {len(data)} bytes are no {kind.DESCRIPTOR.full_name}"
        ) from error


def _has_room(size: int) -> bool:
    """Whether *size* bytes can be had: protobuf before 7.34 does not say that they could not."""
    try:
        bytearray(size)
    except MemoryError:
        return False
    return True
