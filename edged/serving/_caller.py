"""What is known of a call by what comes with it beside its bytes: metadata, or HTTP headers."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from edged.calls import Call, Priority, TraceParent
from edged.errors import RequestError

__all__ = [
    "PRIORITY",
    "REQUEST_ID",
    "SERVER_TIMING",
    "TIMING",
    "TRACE_PARENT",
    "client_of",
    "is_local",
    "names_in_certificate",
    "priority_of",
    "request_id_of",
    "timing_of",
    "trace_of",
]

PRIORITY: Final = "edged-priority"
"""The metadata that says high, normal or low."""

REQUEST_ID: Final = "x-request-id"
"""The metadata that names the call, in the request and in the answer."""

TRACE_PARENT: Final = "traceparent"
"""W3C Trace Context: which trace the call is part of."""

TIMING: Final = "edged-timing"
"""The metadata, of whatever value, of a caller who wants to know what the stages took."""

SERVER_TIMING: Final = "server-timing"
"""What such a call's answer has them in, as W3C Server Timing writes it."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""What can stand in a log without quotes."""

_UNIX: Final = "unix"


def client_of(peer: str) -> str:
    """The address without its port, of a peer as gRPC names it: ``ipv4:192.0.2.7:40123``.

    All that come over UNIX sockets are one: ``unix``.
    """
    family, _, rest = peer.partition(":")
    if family == "unix":
        return _UNIX
    host = unquote(rest).rpartition(":")[0]
    return host.removeprefix("[").removesuffix("]") or peer


def is_local(client: str) -> bool:
    """Whether a client of :func:`client_of` is on this machine."""
    return client == _UNIX or client == "::1" or client.startswith("127.")


def priority_of(metadata: Mapping[str, str], may_be_high: bool) -> Priority:
    """What a call asks for, as far as it may.

    Raises:
        RequestError: it is no priority.
    """
    asked = metadata.get(PRIORITY)
    if asked is None:
        return Priority.NORMAL
    try:
        priority = Priority.parse(asked)
    except ValueError as error:
        raise RequestError(
            f"cannot read the metadata {PRIORITY}: {asked[:50]!r} is none of"
            f" {', '.join(map(str, Priority))}"
        ) from error
    return priority if may_be_high else max(priority, Priority.NORMAL)


def request_id_of(metadata: Mapping[str, str]) -> str:
    """What the caller calls the call; a name of ours when there is none, or none to be used."""
    given = metadata.get(REQUEST_ID)
    if isinstance(given, str) and _REQUEST_ID.fullmatch(given):
        return given
    return secrets.token_hex(8)


def trace_of(metadata: Mapping[str, str]) -> TraceParent | None:
    """The trace that the caller says the call is part of, if what it says can be read."""
    try:
        return TraceParent.parse(metadata[TRACE_PARENT])
    except (KeyError, ValueError):
        return None


def names_in_certificate(connection: asyncio.BaseTransport | None) -> list[str]:
    """Of the client at the other end of a TLS connection: its alternative names, or its own."""
    found = connection.get_extra_info("peercert") if connection is not None else None
    if not found:
        return []
    names = [value for _, value in found.get("subjectAltName", ())]
    subject = (pair for group in found.get("subject", ()) for pair in group)
    return names or [value for key, value in subject if key == "commonName"]


def timing_of(call: Call) -> str:
    """What the stages of *call* took so far, in milliseconds: ``queue;dur=0.1, decode;dur=2.3``."""
    return ", ".join(
        f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in call.watch.steps.items()
    )
