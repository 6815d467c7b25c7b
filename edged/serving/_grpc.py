"""gRPC: the methods of its protocols as raw bytes, passed on to whoever answers them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from edged.calls import Answer, Call
from edged.errors import ConfigError, EdgedError, OverloadError, UnavailableError
from edged.serving._caller import (
    REQUEST_ID,
    client_of,
    priority_of,
    request_id_of,
    trace_of,
)
from edged.serving._health import HEALTH, Health, add_reflection
from edged.serving._reception import METHODS

__all__ = ["GrpcFront", "ServingLimits"]

_log = logging.getLogger(__name__)

_SERVICES = tuple(dict.fromkeys(method.rpartition("/")[0] for method in METHODS))
_RETRY_MS = 1000


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """Bounds of the front.

    Attributes:
        message_bytes: the largest request and response; gRPC's own default is 4 MiB.
        concurrent_calls: calls beyond it are refused with RESOURCE_EXHAUSTED.
        call_seconds: the deadline of a call that brings none.
    """

    message_bytes: int = 64 << 20
    concurrent_calls: int = 512
    call_seconds: float = 60.0


class GrpcFront:
    """A gRPC server for :data:`edged.serving.METHODS`.

    Args:
        answer: answers one call.
        addresses: ``host:port`` or ``unix:/path``.
        high_priority: whether a client of that address may ask for it; may be set at any time.
    """

    def __init__(
        self,
        answer: Answer,
        addresses: Sequence[str],
        limits: ServingLimits = ServingLimits(),
        high_priority: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._answer = answer
        self._addresses = addresses
        self._limits = limits
        self.high_priority = high_priority
        self._server: grpc.aio.Server | None = None
        self._health = Health(_SERVICES)

    def serves(self, model: str | None) -> None:
        """Be told the name of the model that serves, None for none; health checks say so."""
        self._health.serves(model)

    async def start(self) -> list[int]:
        """Listen on every address.

        Returns:
            the ports that were bound, in the order of the addresses; 1 for a UNIX socket.

        Raises:
            ConfigError: an address cannot be bound, with the reason.
        """
        server = grpc.aio.server(
            maximum_concurrent_rpcs=self._limits.concurrent_calls,
            options=[
                ("grpc.max_receive_message_length", self._limits.message_bytes),
                ("grpc.max_send_message_length", self._limits.message_bytes),
                # Two servers on one port would share the calls without a word.
                ("grpc.so_reuseport", 0),
            ],
        )
        server.add_generic_rpc_handlers((_Methods(self._call),))
        self._health.add_to(server)
        add_reflection(server, (*_SERVICES, HEALTH))
        ports = [_bind(server, address) for address in self._addresses]
        await server.start()
        self._server = server
        return ports

    async def stop(self, grace: float) -> None:
        """Take no new calls, and give those that run *grace* seconds."""
        if self._server is not None:
            self._health.stop()
            await self._server.stop(grace)

    async def _call(
        self, method: str, payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        left = context.time_remaining()
        timeout = self._limits.call_seconds if left is None else min(left, 86_400.0)
        deadline = time.monotonic() + timeout
        address = client_of(context.peer())
        metadata = dict(context.invocation_metadata() or ())
        request_id = request_id_of(metadata)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        try:
            call = Call(
                method,
                payload,
                deadline,
                client=address,
                priority=priority_of(metadata, self.high_priority(address)),
                request_id=request_id,
                trace=trace_of(metadata),
            )
            return await self._answer(call)
        except EdgedError as error:
            await _abort(context, error, request_id)
            raise  # abort() raises by itself; this line tells the type checker
        except Exception:
            _log.exception("cannot answer %s, request %s", method, request_id)
            await context.abort(
                grpc.StatusCode.INTERNAL, "cannot answer: an error inside edged; see its log"
            )
            raise


async def _abort(
    context: grpc.aio.ServicerContext[bytes, bytes], error: EdgedError, request_id: str
) -> None:
    trailers: tuple[tuple[str, str], ...] = ((REQUEST_ID, request_id),)
    if isinstance(error, UnavailableError | OverloadError):
        # How gRPC's own retry policy is told when to come again (gRFC A6).
        trailers += (("grpc-retry-pushback-ms", str(_RETRY_MS)),)
    await context.abort(getattr(grpc.StatusCode, error.grpc_status), str(error), trailers)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Hands the bytes of every known method to *call*, without a parser in between."""

    def __init__(
        self,
        call: Callable[[str, bytes, Any], Awaitable[bytes]],
    ) -> None:
        self._handlers = {
            f"/{method}": grpc.unary_unary_rpc_method_handler(_bound(call, method))
            for method in METHODS
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(details.method)


def _bound(
    call: Callable[[str, bytes, Any], Awaitable[bytes]], method: str
) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def handle(payload: bytes, context: Any) -> bytes:
        return await call(method, payload, context)

    return handle


def _bind(server: grpc.aio.Server, address: str) -> int:
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {address}: {error}; is another edged or a model server running"
            " there? See serving.listen in the configuration"
        ) from error
    if not port:
        raise ConfigError(f"cannot listen on {address}: it is no address; try 127.0.0.1:50051")
    return int(port)
