"""To whom, over what, and with which words of introduction: what a channel is made of."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

import grpc

from edged.errors import InputError, NotFoundError

__all__ = ["MAX_MESSAGE_BYTES", "Connection"]

MAX_MESSAGE_BYTES: Final = 256 << 20
"""gRPC's own bound of 4 MiB is less than a batch of photographs."""

_FIRST_RECONNECT_MS: Final = 200
_MAX_RECONNECT_MS: Final = 2000
_LONGEST_CONNECT_MS: Final = 5000
"""TCP, TLS and HTTP/2's hello, over whatever network; of a host that is not there nothing comes."""
_SCHEMES: Final = ("unix:", "dns:", "ipv4:", "ipv6:")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a server is, and how a client makes itself known.

    Attributes:
        target: as gRPC takes it, such as ``host:50051`` or ``unix:/run/edged/edged.sock``.
        credentials: TLS; ``None`` for a connection in the clear.
        metadata: sent with every call.
        options: of the channel.
    """

    target: str
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, int], ...]

    @classmethod
    def of(
        cls,
        address: str,
        port: int | None,
        use_ssl: bool,
        access_token: str,
        service_name: str,
        idle: timedelta,
        ca_file: str | os.PathLike[str] | None,
        certificate_file: str | os.PathLike[str] | None,
        key_file: str | os.PathLike[str] | None,
    ) -> Self:
        """From what the constructors of the clients take.

        The metadata is that of the original client: ``authorization: Bearer TOKEN`` and
        ``x-ms-aml-grpc-service-route: /api/v1/service/NAME``. It sent both even when they were
        empty; here an empty one is left out.

        Raises:
            InputError: an address, port, token or file that cannot be used.
            NotFoundError: there is no such file.
        """
        if (certificate_file is None) != (key_file is None):
            raise InputError("cannot connect: certificate_file and key_file belong together")
        metadata = []
        if access_token:
            metadata.append(("authorization", f"Bearer {_plain(access_token, 'access_token')}"))
        if service_name:
            name = _plain(service_name, "service_name")
            metadata.append(("x-ms-aml-grpc-service-route", f"/api/v1/service/{name}"))
        encrypted = use_ssl or ca_file is not None or certificate_file is not None
        return cls(
            _target(address, port, 443 if encrypted else 80),
            grpc.ssl_channel_credentials(
                _pem(ca_file, "CA file", "CERTIFICATE"),
                _pem(key_file, "key file", "PRIVATE KEY"),
                _pem(certificate_file, "certificate file", "CERTIFICATE"),
            )
            if encrypted
            else None,
            tuple(metadata),
            (
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # The attempts of a call are the client's own: see _retry.
                ("grpc.enable_retries", 0),
                ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
                # In spite of its name; attempts that fail sooner do not wait for it.
                ("grpc.min_reconnect_backoff_ms", _LONGEST_CONNECT_MS),
                ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
                ("grpc.client_idle_timeout_ms", max(1000, int(idle.total_seconds() * 1000))),
            ),
        )


def _target(address: str, port: int | None, default: int) -> str:
    if not address:
        raise InputError("cannot connect: the address is empty; try 127.0.0.1:50051")
    if address.startswith(_SCHEMES):
        if port is not None:
            raise InputError(f"cannot connect to {address!r} at port {port}: it has its own")
        return address
    if port is None:
        return address if _has_port(address) else _joined(address, default)
    if not 0 < port < 65536:
        raise InputError(f"cannot connect to port {port} of {address}: wanted 1 to 65535")
    return _joined(address, port)


def _has_port(address: str) -> bool:
    """Whether *address* ends in ``:PORT``; the colons of a bare IPv6 address are none."""
    host, colon, port = address.rpartition(":")
    return bool(colon) and port.isdecimal() and (":" not in host or host.endswith("]"))


def _joined(host: str, port: int) -> str:
    try:
        bare = ipaddress.ip_address(host).version == 6
    except ValueError:
        bare = False
    return f"[{host}]:{port}" if bare else f"{host}:{port}"


def _plain(text: str, what: str) -> str:
    """*text* as a header may hold it. It is not repeated in the error: it may be a secret."""
    if not (text.isascii() and text.isprintable()):
        raise InputError(f"cannot send {what}: it has characters other than printable ASCII")
    return text


def _pem(path: str | os.PathLike[str] | None, what: str, kind: str) -> bytes | None:
    """What is in the file; ``None`` for none: gRPC brings along the certificates of public CAs."""
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {what} {path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror}") from error
    if f"{kind}-----".encode() not in content:
        raise InputError(f"cannot use {what} {path}: it has no {kind.lower()} in PEM form")
    return content
