"""Standard services beside TensorFlow Serving's: health that is true, and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from edged import wire

__all__ = ["HEALTH", "LIST", "Health", "add_channelz", "add_reflection"]

HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
LIST: Final = f"{HEALTH}/List"

_SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """grpc.health.v1: SERVING while a model serves, and not before or after.

    Asked about by the empty name, by the name of a service, or by that of a model. A model that was
    loaded once is NOT_SERVING later; one that never was is unknown.

    Not the servicer of grpcio-health-checking: it writes to a watcher under a lock that every
    change takes, so one that does not read would hold up all, and its watches cannot be ended.

    Args:
        services: full names of the services that answer as the model does.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._models: set[str] = set()
        self._model: str | None = None
        self._stopping = False
        self._changed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Answer on *server*, which has not started yet."""
        # Not add_HealthServicer_to_server(), which knows of methods that a later release adds: the
        # servicer would answer them by an exception, with its traces in the log.
        check = health_pb2.HealthCheckRequest.FromString
        one = health_pb2.HealthCheckResponse.SerializeToString
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, check, one),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, check, one),
        }
        if hasattr(health_pb2, "HealthListRequest"):  # older releases have no messages for it
            handlers["List"] = grpc.unary_unary_rpc_method_handler(
                self.list,
                health_pb2.HealthListRequest.FromString,
                health_pb2.HealthListResponse.SerializeToString,
            )
        handler = grpc.method_handlers_generic_handler(HEALTH, handlers)
        server.add_generic_rpc_handlers((handler,))

    def serves(self, model: str | None) -> None:
        """Be told the name of the model that serves, None for none."""
        self._model = model
        if model is not None:
            self._models.add(model)
        self._tell()

    def stop(self) -> None:
        """Be NOT_SERVING from now on: whoever watches goes elsewhere while calls finish."""
        self._stopping = True
        self._tell()

    async def check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        status = self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"cannot tell the health of {request.service[:200]!r}: there is no such service,"
                " and no model of that name was loaded since edged started",
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Tell the status now and whenever it is another; who reads slowly misses some."""
        told = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            elif self._stopping:
                # Else the server would wait for the stream for as long as it may.
                return
            else:
                await changed.wait()

    async def list(self, request: Any, context: Any) -> Any:
        """The status of every service, and of every model that was loaded."""
        known = (*self._services, *self._models)
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in known
            }
        )

    def _status(self, service: str) -> int:
        if service in self._services:
            healthy = self._model is not None
        elif service in self._models:
            healthy = service == self._model
        else:
            return _UNKNOWN
        return _SERVING if healthy and not self._stopping else _NOT_SERVING

    def _tell(self) -> None:
        """Wake everybody who watches."""
        self._changed.set()
        self._changed = asyncio.Event()


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Have *server* describe *services*, of edged's pool or protobuf's, and reflection itself."""
    names = (*services, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_Pools())


def add_channelz(server: grpc.aio.Server) -> str:
    """Have *server* tell of servers and connections in this process; returns the service's name."""
    # Half a megabyte that few need.
    from grpc_channelz.v1 import channelz, channelz_pb2

    channelz.add_channelz_servicer(server)
    return str(channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name)


class _Pools:
    """edged's messages and protobuf's own as one pool, as far as reflection asks."""

    def __getattr__(self, name: str) -> Any:
        def find(*words: Any) -> Any:
            try:
                return getattr(wire.POOL, name)(*words)
            except KeyError:
                return getattr(descriptor_pool.Default(), name)(*words)

        return find
