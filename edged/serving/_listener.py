"""Where calls come in, and who may make them there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from edged.errors import (
    ConfigError,
    ForbiddenError,
    OverloadError,
    UnauthenticatedError,
    UnavailableError,
)
from edged.notices import Notice, about
from edged.serving._tls import Tls
from edged.tokens import Token, TokenFile, owner_of

__all__ = ["Admission", "InFlight", "Listener", "Tokens"]

_log = logging.getLogger(__name__)

AUTHORIZATION: Final = "authorization"
_COUNTED_FOR: Final = 10.0
_RECEIVED_AT_ONCE: Final = 16
"""Messages of one client that are taken in at the same time; the others wait on the wire."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address.

    Attributes:
        setting: the key of the configuration that gives it, such as ``listeners.lan.listen``.
        address: ``host:port`` or ``unix:/path``.
        mode: permissions of a UNIX socket.
        admission: who may call there.
        tls: what encrypts the calls; None for none.
    """

    setting: str
    address: str
    admission: Admission
    mode: int = 0o660
    tls: Tls | None = None


class Tokens:
    """The tokens of a file, which is looked at by each call: what that costs is microseconds.

    Raises:
        ConfigError: it cannot be read.
    """

    def __init__(self, file: TokenFile) -> None:
        self._file = file
        self._tokens: tuple[Token, ...] = ()
        self._seen: object = None
        self._look(strictly=True)

    def __len__(self) -> int:
        return len(self._tokens)

    def owner(self, secret: str) -> str | None:
        """The name of the token that *secret* is; None when it is none."""
        self._look()
        return owner_of(secret, self._tokens)

    def _look(self, strictly: bool = False) -> None:
        try:
            found = self._file.path.stat()
            seen: object = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError as error:
            seen = error.errno
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._tokens = self._file.read()
        except ConfigError as error:
            if strictly:
                raise
            _log.error(
                "%s; the tokens that were valid stay so", error, extra=about(Notice.NOT_RELOADED)
            )


class Admission:
    """Who may call by one listener.

    Args:
        where: the listener, for the log.
        tokens: those that are valid.

    Attributes:
        needs_token: whether each call has to bring one. May be set at any time.
        clients: the names that certificates may have; empty for any. May be set at any time.
    """

    def __init__(
        self,
        where: str,
        tokens: Callable[[str], str | None] = lambda _: None,
        *,
        needs_token: bool = False,
        clients: Sequence[str] = (),
    ) -> None:
        self._where = where
        self._owner_of = tokens
        self.needs_token = needs_token
        self.clients = frozenset(clients)
        self._refused = 0
        self._refused_last = ""
        self._telling: asyncio.TimerHandle | None = None

    def admit(
        self,
        address: str,
        metadata: Mapping[str, str],
        names: Sequence[str] = (),
        request_id: str = "",
    ) -> str:
        """See that a call may be made.

        Args:
            address: of the caller, without its port.
            metadata: or HTTP headers, by lower-case names.
            names: those of the caller's certificate.
            request_id: what the log is to know the call by.

        Returns:
            the client's name: that of its token or certificate, or else its address.

        Raises:
            UnauthenticatedError: it needs a token, and brings none that is valid.
            ForbiddenError: its certificate's names are not among those that may call.
        """
        try:
            named = self._by_certificate(names)
            return (self._by_token(metadata) if self.needs_token else named) or address
        except (UnauthenticatedError, ForbiddenError) as error:
            self._count(address, error, request_id)
            raise

    def _by_certificate(self, names: Sequence[str]) -> str:
        if not self.clients:
            return names[0] if names else ""
        for name in names:
            if name in self.clients:
                return name
        shown = ", ".join(names)[:200] or "none"
        raise ForbiddenError(
            f"cannot let the client in: the names in its certificate, {shown}, are not among those"
            " that may call here; they are in the configuration, under clients"
        )

    def _by_token(self, metadata: Mapping[str, str]) -> str:
        given = metadata.get(AUTHORIZATION, "").strip()
        if not given:
            raise UnauthenticatedError(
                'cannot let the client in: it brings no token; wanted "authorization: Bearer TOKEN"'
                " with a token that `edgectl token add` printed"
            )
        scheme, _, rest = given.partition(" ")
        if rest and scheme.lower() != "bearer":
            raise UnauthenticatedError(
                'cannot let the client in: wanted "authorization: Bearer TOKEN", not another scheme'
            )
        # Some of the original clients sent the key by itself.
        owner = self._owner_of(rest.strip() or given)
        if owner is None:
            raise UnauthenticatedError(
                "cannot let the client in: its token is not valid here; it may have been revoked"
            )
        return owner

    def _count(self, address: str, error: Exception, request_id: str) -> None:
        """Log the first refusal at once, and how many followed it later."""
        self._refused += 1
        self._refused_last = address
        if self._telling is None:
            _log.warning(
                "%s: %s: %s",
                self._where,
                address,
                error,
                extra=about(Notice.REFUSED_CALLS, request_id=request_id),
            )
            self._refused = 0
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(_COUNTED_FOR, self._tell)

    def _tell(self) -> None:
        self._telling = None
        if self._refused:
            _log.warning(
                "%s: refused %d more calls in %.0f s, the last from %s",
                self._where,
                self._refused,
                _COUNTED_FOR,
                self._refused_last,
                extra=about(Notice.REFUSED_CALLS),
            )
            self._refused = 0
            self._telling = asyncio.get_running_loop().call_later(_COUNTED_FOR, self._tell)


class InFlight:
    """The calls that are being answered, of all listeners together.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[object]] = set()
        self._of_client: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._stopping = False
        self._taking_in: set[asyncio.Task[object]] = set()
        self._cut_off: set[asyncio.Task[object]] = set()
        # Each is there for as long as someone holds it or waits for it.
        self._receiving: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._nobody = asyncio.Event()
        self._nobody.set()

    @property
    def calls(self) -> int:
        """How many there are, with those whose answers were not read yet."""
        return len(self._tasks) + self._unread.total()

    @contextlib.contextmanager
    def one_more(self, client: str) -> Iterator[None]:
        """While the task that enters this answers a call of *client*.

        Raises:
            UnavailableError: edged stops; also in the midst of the call, when its time is up.
            OverloadError: there are as many as there may be, or as many of that client: a quarter
                of the places is for others.
        """
        if self._stopping:
            raise _stopping()
        if len(self._tasks) >= self._most:
            raise OverloadError(
                f"cannot take the call: {len(self._tasks)} are being answered, and"
                f" serving.max_concurrent_calls is {self._most}; try again in a second"
            )
        of_client = self._of_client[client] + self._unread[client]
        if of_client >= max(1, self._most * 3 // 4):
            raise OverloadError(
                f"cannot take the call: {of_client} of this client are being answered, or their"
                f" answers were not read yet, three quarters of serving.max_concurrent_calls,"
                f" {self._most}; try again in a second"
            )
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._of_client[client] += 1
        self._nobody.clear()
        try:
            yield
        except asyncio.CancelledError as error:
            if task not in self._cut_off:
                raise
            task.uncancel()
            raise _stopping() from error
        finally:
            self._tasks.discard(task)
            self._cut_off.discard(task)
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]
            if not self._tasks:
                self._nobody.set()

    def unread(self, client: str) -> Callable[[object], None]:
        """Count an answer that goes to *client* until what is returned is called."""
        self._unread[client] += 1

        def read(_: object) -> None:
            self._unread[client] -= 1
            if not self._unread[client]:
                del self._unread[client]

        return read

    @contextlib.asynccontextmanager
    async def receiving(self, client: str) -> AsyncIterator[None]:
        """While a message of *client* is taken in, which takes memory before its size is known."""
        turns = self._receiving.setdefault(client, asyncio.Semaphore(_RECEIVED_AT_ONCE))
        task = asyncio.current_task()
        assert task is not None
        self._taking_in.add(task)
        try:
            async with turns:
                yield
        finally:
            self._taking_in.discard(task)

    async def drain(self, seconds: float) -> int:
        """Refuse calls from now on, and wait for those that are inside.

        A call whose message is not here yet is refused as well: it may never come.

        Returns:
            how many were still not answered after *seconds*, and were told so instead.
        """
        self._stopping = True
        self._end(self._taking_in)
        try:
            async with asyncio.timeout(seconds):
                await self._nobody.wait()
        except TimeoutError:
            return self._end(self._tasks)
        return 0

    def _end(self, tasks: Set[asyncio.Task[object]]) -> int:
        """Have the calls of *tasks* told that edged stops; how many there are."""
        ended = tasks - self._cut_off
        self._cut_off |= ended
        for task in ended:
            task.cancel()
        return len(tasks)


def _stopping() -> UnavailableError:
    return UnavailableError("cannot answer: edged is stopping; try again in a few seconds")
