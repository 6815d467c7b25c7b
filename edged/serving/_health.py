"""Standard services beside TensorFlow Serving's: health that is true, and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edged import wire

__all__ = ["HEALTH", "Health", "add_reflection"]

HEALTH: Final = health.SERVICE_NAME

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """grpc.health.v1: SERVING while a model serves, and not before or after.

    Asked about by the empty name, by the name of a service, or by that of a model. A model that was
    loaded once is NOT_SERVING later; one that never was is unknown.

    Args:
        services: full names of the services that answer as the model does.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = _Servicer()
        self._services = ("", *services)
        self._models: set[str] = set()
        self._model: str | None = None
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self, server: grpc.aio.Server) -> None:
        """Answer on *server*, which has not started yet."""
        await self._show()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        self._keeper = asyncio.create_task(self._keep(), name="health")

    async def stop(self) -> None:
        """Be NOT_SERVING from now on: whoever watches goes elsewhere while calls finish."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._servicer.enter_graceful_shutdown()
        self._servicer.stopping.set()

    def serves(self, model: str | None) -> None:
        """Be told the name of the model that serves, None for none."""
        self._model = model
        self._changed.set()

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._show()

    async def _show(self) -> None:
        model = self._model
        for service in self._services:
            await self._servicer.set(service, _SERVING if model else _NOT_SERVING)
        if model is not None:
            self._models.add(model)
        for name in self._models:
            await self._servicer.set(name, _SERVING if name == model else _NOT_SERVING)


class _Servicer(health.aio.HealthServicer):  # type: ignore[misc]  # grpc ships no types
    """Whose watches end when the server does, which else would wait for them as long as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802  (gRPC calls it so)
        watching = asyncio.create_task(super().Watch(request, context))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            stopping.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)
        if self.stopping.is_set():
            await context.write(health_pb2.HealthCheckResponse(status=_NOT_SERVING))


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Have *server* describe *services*, of edged's pool or protobuf's, and reflection itself."""
    names = (*services, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_Pools())


class _Pools:
    """edged's messages and protobuf's own as one pool, as far as reflection asks."""

    def __getattr__(self, name: str) -> Any:
        def find(*words: Any) -> Any:
            try:
                return getattr(wire.POOL, name)(*words)
            except KeyError:
                return getattr(descriptor_pool.Default(), name)(*words)

        return find
