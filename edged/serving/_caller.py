"""Who calls, and how much it hurries, by what comes with a call beside its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from edged.calls import Priority
from edged.errors import RequestError

__all__ = ["PRIORITY", "client_of", "is_local", "priority_of"]

PRIORITY: Final = "edged-priority"
"""The metadata that says high, normal or low."""

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
