"""What front and worker say to each other: one msgpack array per packet of the socket pair.

The bytes of a call stand in the packet when they are few, and in shared memory otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct, msgpack

__all__ = [
    "CALLS_AT_ONCE",
    "CANCELLED",
    "INLINE_BYTES",
    "MAX_PACKET",
    "NO_EXTRAS",
    "STAGES",
    "START",
    "Answer",
    "Attach",
    "Body",
    "Call",
    "CallBack",
    "Cancel",
    "Detach",
    "DeviceLost",
    "Failure",
    "Forget",
    "Free",
    "FromFront",
    "FromWorker",
    "Prepare",
    "Ready",
    "SelfTest",
    "Share",
    "Span",
    "Stage",
    "Stop",
    "Unshare",
    "encode",
    "front_decoder",
    "worker_decoder",
]

INLINE_BYTES: Final = 32 << 10
"""Payloads up to here travel in the packet: below, two copies by the kernel cost less than the
book-keeping of shared memory."""

MAX_PACKET: Final = INLINE_BYTES + (32 << 10)

CALLS_AT_ONCE: Final = 3
"""The worker begins calls in the order of their arrival and works on so many at a time: while the
device runs one and has another to go on with, the third is decoded, or its outputs classified."""

START: Final = 0
"""The number under which a worker that cannot start says why; no call has it."""

CANCELLED: Final = "cancelled"
"""The kind of failure of a call that was called off, or called back, before it began."""

NO_EXTRAS: Final[Mapping[str, str]] = {}
"""Nobody changes it."""


class Stage(enum.StrEnum):
    """What a worker does for a call. Reading the request and the host's part before the device
    are one, since they overlap with other calls' runs; `DEVICE` is with what waits there, and
    `EPILOGUE` is the host's part between runs as well."""

    QUEUE = "queue"
    DECODE = "decode"
    DEVICE = "device"
    EPILOGUE = "epilogue"
    ENCODE = "encode"


STAGES: Final = tuple(Stage)

_Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
_Text = Annotated[str, Meta(max_length=8192)]
_Microseconds = Annotated[tuple[_Count, ...], Meta(max_length=len(STAGES))]


class Span(Struct, frozen=True, array_like=True):
    """A piece of the arena of that direction, in bytes."""

    offset: _Count
    length: _Count


Body: TypeAlias = bytes | Span


class _Message(Struct, frozen=True, array_like=True, tag=True):
    """The first element of the array is the name of the class."""


class Call(_Message, frozen=True, array_like=True, tag=True):
    """Front: answer this by *deadline*, in seconds of CLOCK_MONOTONIC.

    The extras are what the method wants beside the body, a few hundred bytes at most.
    """

    id: _Count
    method: str
    body: Body
    deadline: float
    extras: Mapping[str, str] = NO_EXTRAS


class Cancel(_Message, frozen=True, array_like=True, tag=True):
    """Front: nobody waits for that call any more. It is still answered, for its span to return."""

    id: _Count


class Free(_Message, frozen=True, array_like=True, tag=True):
    """Front: the span of an answer that starts here was copied out."""

    offset: _Count


class CallBack(_Message, frozen=True, array_like=True, tag=True):
    """Front: give back every call that the device has not got to, by its failure."""


class Prepare(_Message, frozen=True, array_like=True, tag=True):
    """Front: make ready to use the device behind the descriptor that comes with this packet."""

    id: _Count


class Attach(_Message, frozen=True, array_like=True, tag=True):
    """Front: use the device that was prepared; nobody else has its queue any more."""

    id: _Count


class Detach(_Message, frozen=True, array_like=True, tag=True):
    """Front: let go of the device."""

    id: _Count


class SelfTest(_Message, frozen=True, array_like=True, tag=True):
    """Front: run the bundle's vectors through the device; one, and more for so many seconds."""

    id: _Count
    seconds: float


class Share(_Message, frozen=True, array_like=True, tag=True):
    """Front: know a piece, in bytes, of the file behind the descriptor that comes with this."""

    id: _Count
    name: _Text
    offset: _Count
    length: _Count


class Unshare(_Message, frozen=True, array_like=True, tag=True):
    """Front: know it no longer, once nobody is at it."""

    id: _Count
    name: _Text


class Forget(_Message, frozen=True, array_like=True, tag=True):
    """Front: drop the states of all sequences."""

    id: _Count


class Stop(_Message, frozen=True, array_like=True, tag=True):
    """Front: end."""


class Ready(_Message, frozen=True, array_like=True, tag=True):
    """Worker: the model is loaded. Milliseconds by what they went to; the confinement in force."""

    milliseconds: dict[str, float]
    confinement: _Text


class Answer(_Message, frozen=True, array_like=True, tag=True):
    """Worker: the bytes of the response, and what the first so many of `STAGES` took."""

    id: _Count
    body: Body
    microseconds: _Microseconds = ()


class Failure(_Message, frozen=True, array_like=True, tag=True):
    """Worker: the error by the name of its class in `edged.errors`, and its message."""

    id: _Count
    kind: _Text
    message: _Text


class DeviceLost(_Message, frozen=True, array_like=True, tag=True):
    """Worker: the device went away; ready for another."""

    message: _Text


FromFront: TypeAlias = (
    Call
    | Cancel
    | CallBack
    | Free
    | Prepare
    | Attach
    | Detach
    | SelfTest
    | Share
    | Unshare
    | Forget
    | Stop
)
FromWorker: TypeAlias = Ready | Answer | Failure | DeviceLost

_encoder: Final = msgpack.Encoder()


def encode(message: FromFront | FromWorker) -> bytes:
    return _encoder.encode(message)


def front_decoder() -> msgpack.Decoder[FromFront]:
    """For what the front says; raises msgspec.DecodeError."""
    return msgpack.Decoder(FromFront)


def worker_decoder() -> msgpack.Decoder[FromWorker]:
    """For what the worker says; raises msgspec.DecodeError."""
    return msgpack.Decoder(FromWorker)
