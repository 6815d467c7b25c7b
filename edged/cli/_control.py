"""Talking to the daemon over its control socket."""

from __future__ import annotations

import http.client
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from edged.config import Config, load_config
from edged.errors import EdgedError, InputError, UnavailableError, by_grpc_status
from edged.management import Change, Failure
from edged.nesting import NestingError, check_nesting

__all__ = ["SERVICE_FILE", "UNDER_SYSTEMD", "Daemon", "configuration", "socket_path"]

_T = TypeVar("_T")

_MAX_ANSWER_BYTES: Final = 64 << 20
_MAX_LINE_BYTES: Final = 1 << 20
_ANSWER_SECONDS: Final = 60.0
# What the unit in systemd/ has, for those who are not run by it.
SERVICE_FILE: Final = Path("/etc/edged/edged.toml")
UNDER_SYSTEMD: Final = {"STATE_DIRECTORY": "/var/lib/edged", "RUNTIME_DIRECTORY": "/run/edged"}


def configuration(path: Path | None) -> Config:
    """The configuration of the daemon that is meant.

    With a file, that of a daemon which this user runs by it, or else of the system's service.
    Without one, that of a daemon which this user runs by the defaults if there is one, or else of
    the system's service.
    """
    own = load_config(path)
    if own.console.socket.exists():
        return own
    if path is None and SERVICE_FILE.exists():
        path = SERVICE_FILE
    # Under systemd's names only where systemd's folders are meant.
    service = load_config(path, {**os.environ, **UNDER_SYSTEMD})
    return service if path in (None, SERVICE_FILE) or service.console.socket.exists() else own


def socket_path(given: Path | None, config: Path | None) -> Path:
    """The control socket: the one given, or that of a :func:`configuration`."""
    return given if given is not None else configuration(config).console.socket


class Daemon:
    """The daemon at the other end of *path*.

    Every method raises what the daemon answers with, or else

    Raises:
        UnavailableError: nobody is there, or the daemon went away.
        InputError: this user may not use the socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str, kind: type[_T]) -> _T:
        """The answer to ``GET path``."""
        return self._decode(self._answer("GET", path, None), kind)

    def post(self, path: str, body: msgspec.Struct | None, kind: type[_T]) -> _T:
        """The answer to ``POST path``."""
        return self._decode(self._answer("POST", path, body), kind)

    def delete(self, path: str) -> None:
        """Send ``DELETE path``."""
        self._answer("DELETE", path, None)

    def follow(self, path: str, body: msgspec.Struct | None) -> Iterator[Change]:
        """The lines of the answer to ``POST path``, as they come; the last one has *done*."""
        return self._follow("POST", path, body)

    def send(self, path: str, content: bytes) -> Iterator[Change]:
        """Likewise of ``PUT path``; the last one has *flashed*."""
        return self._follow("PUT", path, content)

    def _follow(
        self, method: str, path: str, body: msgspec.Struct | bytes | None
    ) -> Iterator[Change]:
        connection = _Connection(self._path)
        try:
            with self._translated():
                response = self._ask(connection, method, path, body)
                # A model may take minutes to compile: what the daemon does is bounded there.
                connection.unbounded()
            while True:
                with self._translated():
                    line = response.readline(_MAX_LINE_BYTES)
                if not line:
                    raise UnavailableError(f"cannot reach edged at {self._path}: it hung up")
                change = self._decode(line, Change)
                if change.error:
                    raise by_grpc_status(change.status)(change.error)
                yield change
                if change.done is not None or change.flashed is not None:
                    return
        finally:
            connection.close()

    def _answer(self, method: str, path: str, body: msgspec.Struct | None) -> bytes:
        connection = _Connection(self._path)
        try:
            with self._translated():
                answer = self._ask(connection, method, path, body).read(_MAX_ANSWER_BYTES)
                return bytes(answer)
        finally:
            connection.close()

    def _ask(
        self,
        connection: _Connection,
        method: str,
        path: str,
        body: msgspec.Struct | bytes | None,
    ) -> http.client.HTTPResponse:
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        if not isinstance(body, bytes):
            body = b"" if body is None else msgspec.json.encode(body)
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        if response.status >= 400:
            failure = self._decode(response.read(_MAX_LINE_BYTES), Failure)
            raise by_grpc_status(failure.status)(failure.error)
        return response

    def _decode(self, content: bytes, kind: type[_T]) -> _T:
        try:
            check_nesting(content)
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, NestingError) as error:
            raise EdgedError(
                f"cannot understand what answers at {self._path}: {error}; is it an edged of"
                " another version?"
            ) from error

    def _translated(self) -> _Translated:
        return _Translated(self._path)


class _Translated:
    """Turns what goes wrong on the way to *path* into errors that say what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, PermissionError):
            raise InputError(
                f"cannot reach edged at {self._path}: permission denied; {_who_may(self._path)}"
            ) from error
        if isinstance(error, OSError | http.client.HTTPException):
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnavailableError(
                f"cannot reach edged at {self._path}: is it running? systemctl status edged"
                f" ({why}; --socket or --config says where else to look)"
            ) from error


def _who_may(path: Path) -> str:
    try:
        found = path.stat()
        mode, owner, group = stat.S_IMODE(found.st_mode), path.owner(), path.group()
    except (OSError, KeyError):
        return f"its folder {path.parent} is not open to you"
    return (
        f"it has mode {mode:04o}, owner {owner} and group {group}: become one of them, for instance"
        f" with `usermod -aG {group} USER`"
    )


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(str(self._path))

    def unbounded(self) -> None:
        """Wait for as long as it takes from now on."""
        connection: Any = self.sock
        if connection is not None:
            connection.settimeout(None)
