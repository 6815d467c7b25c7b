"""gRPC: the methods of its protocols as raw bytes, passed on to whoever answers them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from edged.calls import Answer, Call, Stopwatch
from edged.errors import (
    ConfigError,
    DeadlineError,
    EdgedError,
    OverloadError,
    RequestError,
    UnavailableError,
)
from edged.notices import Notice, about
from edged.serving._caller import (
    REQUEST_ID,
    SERVER_TIMING,
    TIMING,
    client_of,
    is_local,
    priority_of,
    request_id_of,
    timing_of,
    trace_of,
)
from edged.serving._health import HEALTH, LIST, Health, add_channelz, add_reflection
from edged.serving._listener import InFlight, Listener
from edged.serving._reception import METHODS

__all__ = ["GrpcFront", "ServingLimits"]

_log = logging.getLogger(__name__)

_SERVICES = tuple(dict.fromkeys(method.rpartition("/")[0] for method in METHODS))
# Their calls are admitted by themselves, or are for everybody.
_ADMITTED_ELSEWHERE = frozenset((*_SERVICES, HEALTH))
_RETRY_MS = 1000
# What is answered when the last call is over still has to get out; streams that nobody ends do not
# hold up the end for longer.
_LAST_WORDS = 0.5
# No call came for so long: none is on its way in, or they come so often that some always are.
_QUIET = 0.05
_QUIET_AT_THE_LATEST = 0.3
# Connections that say nothing, or whose other end is gone, are closed.
_AGAINST_STRANGERS = (
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.absolute_max_metadata_size", 32 << 10),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_idle_ms", 600_000),
)
# Health checks and descriptions of services, at the same time, besides the calls.
_OTHER_CALLS = 128


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """Bounds of the front.

    Attributes:
        message_bytes: the largest request and response; gRPC's own default is 4 MiB.
        concurrent_calls: calls beyond it are refused with RESOURCE_EXHAUSTED.
        call_seconds: the deadline of a call that brings none.
        connections: to one address; those beyond it are closed.
    """

    message_bytes: int = 64 << 20
    concurrent_calls: int = 512
    call_seconds: float = 60.0
    connections: int = 1024


class GrpcFront:
    """gRPC servers for :data:`edged.serving.METHODS`, one for each listener.

    Args:
        answer: answers one call.
        high_priority: whether a client of that address may ask for it; may be set at any time.
        in_flight: counts the calls, and ends them.
        channelz: whether those who may open a UNIX socket are told of all connections there.
    """

    def __init__(
        self,
        answer: Answer,
        listeners: Sequence[Listener],
        limits: ServingLimits = ServingLimits(),
        high_priority: Callable[[str], bool] = lambda _: True,
        in_flight: InFlight | None = None,
        channelz: bool = False,
    ) -> None:
        self._answer = answer
        self._listeners = listeners
        self._limits = limits
        self.high_priority = high_priority
        self._in_flight = in_flight or InFlight(limits.concurrent_calls)
        self._channelz = channelz
        self._servers: list[grpc.aio.Server] = []
        self._health = Health(_SERVICES)
        self._held_back: asyncio.Event | None = None
        self._refused_at = 0.0

    def serves(self, model: str | None) -> None:
        """Be told the name of the model that serves, None for none; health checks say so."""
        self._health.serves(model)

    async def start(self) -> list[int]:
        """Listen on every address.

        Returns:
            the ports that were bound, in the order of the listeners; 1 for a UNIX socket.

        Raises:
            ConfigError: an address cannot be bound, with the reason.
        """
        logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_of_us)
        ports = []
        for listener in self._listeners:
            server = grpc.aio.server(
                interceptors=(_Admitted(listener),),
                maximum_concurrent_rpcs=self._limits.concurrent_calls + _OTHER_CALLS,
                options=[
                    ("grpc.max_receive_message_length", self._limits.message_bytes),
                    ("grpc.max_send_message_length", self._limits.message_bytes),
                    # Of one connection. Calls beyond the bound are to be refused with a reason.
                    ("grpc.max_concurrent_streams", 2 * self._limits.concurrent_calls + 1000),
                    # Two servers on one port would share the calls without a word.
                    ("grpc.so_reuseport", 0),
                    ("grpc.max_allowed_incoming_connections", self._limits.connections),
                    *_AGAINST_STRANGERS,
                ],
            )
            server.add_generic_rpc_handlers((_Methods(self._call, listener),))
            self._health.add_to(server)
            local = listener.address.startswith("unix:")
            further = [add_channelz(server)] if self._channelz and local else []
            add_reflection(server, (*_SERVICES, HEALTH, *further))
            # From here on it has to be stopped, also when the next one cannot start.
            self._servers.append(server)
            ports.append(_bind(server, listener))
            await server.start()
            if local:
                # Its folder is for all to enter; who may call is said by its mode.
                path = Path(listener.address.removeprefix("unix:"))
                await asyncio.to_thread(path.chmod, listener.mode)
        return ports

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give those that run *grace* seconds, and close the connections."""
        self._health.stop()
        left = await self._in_flight.drain(grace)
        if left:
            _log.warning("%d calls were not answered within %g s", left, grace)
        await self._close()

    async def _close(self) -> None:
        """Close the connections, when no call is on its way in.

        gRPC answers calls that have arrived and were not looked at yet with CANCELLED, which a
        client does not repeat. So refusals are held back for a moment: whoever waits for one makes
        no call. They go out while the servers stop.
        """
        self._held_back = asyncio.Event()
        last = time.monotonic() + _QUIET_AT_THE_LATEST
        self._refused_at = time.monotonic()
        while True:
            left = min(last, self._refused_at + _QUIET) - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(left)
        stopping = asyncio.gather(*(server.stop(_LAST_WORDS) for server in self._servers))
        # Until each has begun to.
        await asyncio.sleep(0.01)
        self._held_back.set()
        await stopping

    async def _call(self, listener: Listener, method: str, context: Any) -> bytes:
        left = context.time_remaining()
        timeout = self._limits.call_seconds if left is None else min(left, 86_400.0)
        deadline = time.monotonic() + timeout
        address = client_of(context.peer())
        metadata = dict(context.invocation_metadata() or ())
        request_id = request_id_of(metadata)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        try:
            # Both before the message is taken in: who may not call costs next to nothing.
            names = _names(listener, context)
            client = listener.admission.admit(address, metadata, names, request_id)
            with self._in_flight.one_more(client):
                priority = priority_of(metadata, self.high_priority(address))
                watch = Stopwatch()
                payload = await self._received(client, context)
                watch.lap("receive")
                call = Call(
                    method,
                    payload,
                    deadline,
                    client=client,
                    priority=priority,
                    request_id=request_id,
                    trace=trace_of(metadata),
                    local=is_local(address),
                    watch=watch,
                )
                response = await self._answer(call)
                if TIMING in metadata:
                    trailers = ((REQUEST_ID, request_id), (SERVER_TIMING, timing_of(call)))
                    context.set_trailing_metadata(trailers)
            context.add_done_callback(self._in_flight.unread(client))
            return response
        except EdgedError as error:
            if self._held_back is not None:
                self._refused_at = time.monotonic()
                await self._held_back.wait()
            await _abort(context, error, request_id)
            raise  # abort() raises by itself; this line tells the type checker
        except Exception:
            _log.exception(
                "cannot answer %s, request %s",
                method,
                request_id,
                extra=about(Notice.CALL_BROKE, request_id=request_id),
            )
            await context.abort(
                grpc.StatusCode.INTERNAL, "cannot answer: an error inside edged; see its log"
            )
            raise

    async def _received(self, client: str, context: Any) -> bytes:
        """The message, which has to be here in time."""
        seconds = self._limits.call_seconds
        try:
            async with asyncio.timeout(seconds), self._in_flight.receiving(client):
                payload = await context.read()
        except TimeoutError as error:
            raise DeadlineError(
                f"cannot take the call: its message was not here within {seconds:g} s, which is"
                " serving.call_seconds"
            ) from error
        if payload is grpc.aio.EOF:
            raise RequestError("cannot answer: the call brings no message")
        assert isinstance(payload, bytes)
        return payload


def _tells_of_us(record: logging.LogRecord) -> bool:
    """Not that a client went away before its answer was sent, which gRPC logs as an error."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, grpc.aio.InternalError)


async def _abort(
    context: grpc.aio.ServicerContext[bytes, bytes], error: EdgedError, request_id: str
) -> None:
    trailers: tuple[tuple[str, str], ...] = ((REQUEST_ID, request_id),)
    if isinstance(error, UnavailableError | OverloadError):
        # How gRPC's own retry policy is told when to come again (gRFC A6).
        trailers += (("grpc-retry-pushback-ms", str(_RETRY_MS)),)
    try:
        await context.abort(getattr(grpc.StatusCode, error.grpc_status), str(error), trailers)
    except grpc.aio.InternalError as gone:
        # The call is over: gRPC itself refused its message for its size, or the client is gone.
        # gRPC would log any other error with all its traces.
        raise asyncio.CancelledError from gone


def _names(listener: Listener, context: Any) -> Sequence[str]:
    """The names in the client's certificate, where it has one."""
    if listener.tls is None or not listener.tls.names_clients:
        return ()
    known = context.auth_context()
    names = known.get("x509_subject_alternative_name") or known.get("x509_common_name") or ()
    return [name.decode("utf-8", "replace") for name in names]


_Call = Callable[[Listener, str, Any], Awaitable[bytes]]


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Hands every known method to *call*, which reads the bytes of the message itself.

    For gRPC they are methods with a stream of requests, of which the first is read: on the wire
    that is the same, and no message is taken in before *call* wants it.
    """

    def __init__(self, call: _Call, listener: Listener) -> None:
        self._handlers = {
            f"/{method}": grpc.stream_unary_rpc_method_handler(_bound(call, listener, method))
            for method in METHODS
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(details.method)


def _bound(call: _Call, listener: Listener, method: str) -> Callable[[Any, Any], Awaitable[bytes]]:
    async def handle(_requests: object, context: Any) -> bytes:
        return await call(listener, method, context)

    return handle


class _Admitted(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Has whoever asks of the server itself, by reflection or channelz, bring what callers bring.

    Calls of :class:`_Methods` see to it themselves; health checks are for all who can connect, but
    for the list of them, which has the names of models.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        method = details.method.removeprefix("/")
        admitted = method != LIST and method.rpartition("/")[0] in _ADMITTED_ELSEWHERE
        if handler is None or admitted:
            return handler
        deserializer, serializer = handler.request_deserializer, handler.response_serializer
        if handler.stream_stream is not None:

            async def streams(requests: Any, context: Any) -> None:
                await self._admit(context)
                async for answer in handler.stream_stream(requests, context):
                    await context.write(answer)

            return grpc.stream_stream_rpc_method_handler(streams, deserializer, serializer)

        async def answers(request: Any, context: Any) -> Any:
            await self._admit(context)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answers, deserializer, serializer)

    async def _admit(self, context: Any) -> None:
        """Abort the call of who may not make it."""
        metadata = dict(context.invocation_metadata() or ())
        names = _names(self._listener, context)
        address, request_id = client_of(context.peer()), request_id_of(metadata)
        try:
            self._listener.admission.admit(address, metadata, names, request_id)
        except EdgedError as error:
            await _abort(context, error, request_id)


def _bind(server: grpc.aio.Server, listener: Listener) -> int:
    address = listener.address
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    try:
        if listener.tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, listener.tls.grpc_credentials())
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {address}: {error}; is another edged or a model server running"
            f" there? See {listener.setting} in the configuration"
        ) from error
    if not port:
        raise ConfigError(
            f"cannot listen on {address}: it is no address; try 127.0.0.1:50051 for"
            f" {listener.setting}"
        )
    return int(port)
