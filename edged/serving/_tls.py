"""TLS: certificates that are checked before they are used, and can be changed while calls run."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc

from edged.errors import ConfigError

__all__ = ["Tls", "TlsFiles"]

_MAX_FILE_BYTES: Final = 1 << 20
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where things are, each in PEM form.

    Attributes:
        listener: the table of the configuration that says so, ``listeners.lan``; for errors.
        certificate: the server's own, with those between it and the CA.
        key: its private key, without a passphrase.
        client_ca: whoever signs the clients' certificates; None when clients need none.
    """

    listener: str
    certificate: Path
    key: Path
    client_ca: Path | None = None


class Tls:
    """What encrypts the calls of one listener.

    Raises:
        ConfigError: a file cannot be used, as by :meth:`load`.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._loaded = 0
        self._fetched = 0
        self.load()

    @property
    def names_clients(self) -> bool:
        """Whether each client has a certificate."""
        return self.files.client_ca is not None

    def load(self) -> None:
        """Read the files again; connections from now on have what they say.

        Raises:
            ConfigError: a file cannot be read, is of another kind, has expired, or the key is not
                the certificate's. What was in force stays so.
        """
        files = self.files
        certificate = _read(files, "certificate", files.certificate, _CERTIFICATE)
        key = _read(files, "key", files.key, _KEY)
        clients = None
        if files.client_ca is not None:
            clients = _read(files, "client_ca", files.client_ca, _CERTIFICATE)
        context = _context(files, certificate, key)
        until = _checked(files, context, certificate)
        if clients is not None:
            _trust(files, context, clients)
        self.until = until
        """When the certificate expires."""
        self._current = context
        self._configuration = grpc.ssl_server_certificate_configuration(
            [(key, certificate)], clients
        )
        self._loaded += 1

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server, which follows each :meth:`load`."""
        self._fetched = self._loaded
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._fetch, require_client_authentication=self.names_clients
        )

    def context(self) -> ssl.SSLContext:
        """For a server of Python's own TLS, which follows each :meth:`load`."""
        front = self._current

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._current

        # A context cannot forget a CA: each connection gets the one that was made last.
        front.sni_callback = choose
        return front

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at each handshake; None when nothing has changed."""
        if self._fetched == self._loaded:
            return None
        self._fetched = self._loaded
        return self._configuration


def _read(files: TlsFiles, key: str, path: Path, mark: bytes) -> bytes:
    where = f"cannot use {files.listener}.{key}, {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{where}: {error.strerror}; it has to be a file that edged's user may read"
        ) from error
    what = "private key" if mark is _KEY else "certificate"
    if mark not in content or len(content) > _MAX_FILE_BYTES:
        raise ConfigError(
            f"{where}: it has no {what} in PEM form, which begins with -----BEGIN; "
            f"`openssl` has the option -outform PEM"
        )
    if mark is _KEY and b"ENCRYPTED" in content:
        raise ConfigError(
            f"{where}: the key has a passphrase, and nobody is there to type it; `openssl pkey -in"
            " FILE -out FILE` takes it off"
        )
    return content


def _context(files: TlsFiles, certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # From what was read, not from the files, which may be others by now.
    with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
        try:
            context.load_cert_chain(certificate_path, key_path)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"cannot use {files.listener}.key, {files.key}: it does not belong to the"
                    f" certificate {files.certificate}"
                ) from error
            raise ConfigError(
                f"cannot use {files.listener}.certificate, {files.certificate}, and the key"
                f" {files.key}: {error.reason or error}"
            ) from error
    return context


def _checked(files: TlsFiles, context: ssl.SSLContext, certificate: bytes) -> datetime:
    """Have a client that trusts this very certificate look at it; returns when it expires."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        client.load_verify_locations(cadata=certificate.decode("ascii", "replace"))
        client_side = client.wrap_bio(to_client, to_server)
        sides = [client_side, server_side]
        while sides:
            for side in list(sides):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
                    sides.remove(side)
        found = client_side.getpeercert() or {}
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), UTC)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"cannot use {files.listener}.certificate, {files.certificate}: {error.verify_message};"
            f" `openssl x509 -in {files.certificate} -noout -dates -purpose` says more"
        ) from error
    except ssl.SSLError as error:
        raise ConfigError(
            f"cannot use {files.listener}.certificate, {files.certificate}: {error.reason or error}"
        ) from error


def _trust(files: TlsFiles, context: ssl.SSLContext, clients: bytes) -> None:
    where = f"cannot use {files.listener}.client_ca, {files.client_ca}"
    try:
        context.load_verify_locations(cadata=clients.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise ConfigError(f"{where}: {error.reason or error}") from error
    now = datetime.now(UTC)
    authorities = context.get_ca_certs()
    if not authorities:
        raise ConfigError(
            f"{where}: none of its certificates is a CA's; wanted that which signs the clients'"
        )
    if all(now > _time(found["notAfter"]) for found in authorities):
        raise ConfigError(f"{where}: certificate has expired")
    context.verify_mode = ssl.CERT_REQUIRED


def _time(text: object) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(text)), UTC)


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to *content*, which is in memory only: OpenSSL's loader takes nothing else."""
    number = os.memfd_create("pem")
    try:
        os.write(number, content)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
