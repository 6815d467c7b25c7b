"""From the configuration to the listeners: where calls come in, encrypted or not, and from whom."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from edged.config import Address, Config, ListenerConfig, Protocol
from edged.errors import ConfigError
from edged.notices import Notice, about
from edged.serving import Admission, Listener, Tls, TlsFiles, Tokens
from edged.tokens import TokenFile

__all__ = ["Listening", "troubles"]

_log = logging.getLogger(__name__)

_SOON: Final = timedelta(days=14)


class Listening:
    """The listeners, and what of them changes with the configuration while edged runs.

    Raises:
        ConfigError: a certificate, a key or the tokens cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._tokens = Tokens(TokenFile(config.serving.tokens))
        self._by_name: dict[str, tuple[Protocol, Listener]] = {}
        for name, wanted in _wanted(config):
            self._by_name[name] = (wanted.protocol, self._listener(name, wanted))
            _say_what_is_open(name, wanted)
            if wanted.tokens and not len(self._tokens):
                _log.warning(
                    "%s lets in nobody yet: it wants tokens, and %s has none; `edgectl token add"
                    " NAME` makes one",
                    name,
                    config.serving.tokens,
                )

    def of(self, protocol: Protocol) -> tuple[Listener, ...]:
        """Those that speak *protocol*."""
        return tuple(listener for spoken, listener in self._by_name.values() if spoken is protocol)

    def apply(self, config: Config) -> None:
        """Have of *config* in force what can be while calls run: who may call.

        The certificates are read again as well. One that cannot be used is logged, and the one
        before stays.
        """
        for name, wanted in _wanted(config):
            if name not in self._by_name:
                continue
            _, listener = self._by_name[name]
            listener.admission.needs_token = wanted.tokens
            listener.admission.clients = frozenset(wanted.clients)
            if listener.tls is not None:
                try:
                    listener.tls.load()
                except ConfigError as error:
                    _log.error(
                        "%s; the certificate that was in force stays so",
                        error,
                        extra=about(Notice.NOT_RELOADED),
                    )
                else:
                    _say_until_when(name, listener.tls.until)

    def __str__(self) -> str:
        """The addresses, for the log."""
        return ", ".join(
            listener.address + (" (TLS)" if listener.tls is not None else "")
            for _, listener in self._by_name.values()
        )

    def _listener(self, name: str, wanted: ListenerConfig) -> Listener:
        tls = _tls(name, wanted)
        if tls is not None:
            _say_until_when(name, tls.until)
        admission = Admission(
            name, self._tokens.owner, needs_token=wanted.tokens, clients=wanted.clients
        )
        key = "listen" if wanted.listen is not None else "socket"
        setting = name if name.startswith("serving.") else f"{name}.{key}"
        return Listener(setting, _address(wanted), admission, wanted.mode.bits, tls)


def troubles(config: Config) -> list[ConfigError]:
    """What of the listeners' files cannot be used, each by itself; says what is open to all."""
    found: list[ConfigError] = []
    try:
        Tokens(TokenFile(config.serving.tokens))
    except ConfigError as error:
        found.append(error)
    for name, wanted in _wanted(config):
        try:
            _tls(name, wanted)
        except ConfigError as error:
            found.append(error)
        else:
            _say_what_is_open(name, wanted)
    return found


def _tls(name: str, wanted: ListenerConfig) -> Tls | None:
    if wanted.certificate is None or wanted.key is None:
        return None
    return Tls(TlsFiles(name, wanted.certificate, wanted.key, wanted.client_ca))


def _wanted(config: Config) -> Iterator[tuple[str, ListenerConfig]]:
    """Each listener by the name of its table, or of its key where it has no table."""
    if config.serving.default_listeners:
        yield "serving.listen", ListenerConfig(listen=config.serving.listen)
        yield (
            "serving.http_listen",
            ListenerConfig(protocol=Protocol.HTTP, listen=config.serving.http_listen),
        )
        yield (
            "serving.socket",
            ListenerConfig(socket=config.serving.socket, mode=config.console.mode),
        )
    for name, wanted in config.listeners.items():
        yield f"listeners.{name}", wanted


def _address(wanted: ListenerConfig) -> str:
    return f"unix:{wanted.socket}" if wanted.listen is None else str(wanted.listen)


def _say_what_is_open(name: str, wanted: ListenerConfig) -> None:
    if wanted.listen is None or _is_loopback(wanted.listen) or wanted.insecure:
        return
    if wanted.client_ca is None and not wanted.tokens:
        found = "whoever reaches it may call"
        cure = "give it a certificate and a key, and tokens = true or a client_ca"
    elif wanted.certificate is None:
        found = "tokens come over it without encryption, for all on the way to read"
        cure = "give it a certificate and a key"
    else:
        return
    if name.startswith("serving."):
        cure = "use a table [listeners.NAME] instead, with a certificate, a key and tokens = true"
    _log.warning(
        "%s, %s, is open to the network: %s; %s, or say insecure = true in a table"
        " [listeners.NAME] if that is meant",
        name,
        wanted.listen,
        found,
        cure,
        extra=about(Notice.OPEN_LISTENER),
    )


def _is_loopback(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"


def _say_until_when(name: str, until: datetime) -> None:
    soon = until - datetime.now(UTC) < _SOON
    _log.log(
        logging.WARNING if soon else logging.INFO,
        "the certificate of %s is valid until %s%s",
        name,
        f"{until:%Y-%m-%d %H:%M} UTC",
        "; renew it and `systemctl reload edged`" if soon else "",
    )
