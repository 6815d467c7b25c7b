"""The HTTP side: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from edged.errors import ConfigError
from edged.metrics._metrics import Metrics

__all__ = ["MetricsServer"]

_SHUTDOWN_SECONDS: Final = 1.0
_JUST_CONNECTED: Final = 0.2


class MetricsServer:
    """Answers GET; changes nothing, and asks nobody who they are.

    ``/healthz`` is 200 while the loop that serves turns. ``/readyz`` is 200 while a model serves,
    and 503 with the reason in a line of text while none does.

    Args:
        host, port: where to listen; port 0 lets the system choose.
        problem: why no model serves; empty while one does.
        given: sockets that listen already; if there are any, they are used instead.
    """

    def __init__(
        self,
        metrics: Metrics,
        host: str,
        port: int,
        problem: Callable[[], str],
        given: Sequence[socket.socket] = (),
    ) -> None:
        self._metrics = metrics
        self._host, self._port = host, port
        self._problem = problem
        self._given = given
        self._runner: web.AppRunner | None = None

    async def start(self) -> list[str]:
        """Listen; returns where.

        Raises:
            ConfigError: the address cannot be bound.
        """
        app = web.Application(client_max_size=1)
        app.add_routes(
            [
                web.get("/metrics", self._get_metrics),
                web.get("/healthz", self._get_healthz),
                web.get("/readyz", self._get_readyz),
            ]
        )
        # Signals belong to the daemon.
        runner = web.AppRunner(
            app, handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        try:
            for given in self._given:
                await web.SockSite(runner, given).start()
            if not self._given:
                await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(
                f"cannot listen on {self._host} port {self._port}: {error.strerror or error};"
                " see metrics.listen in the configuration"
            ) from error
        self._runner = runner
        return [_shown(address) for address in runner.addresses]

    async def stop(self) -> None:
        """Answer nothing more."""
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            # Who has just connected is answered: systemd's socket was open to them.
            await asyncio.sleep(_JUST_CONNECTED if self._given else 0)
            await self._runner.cleanup()
            self._runner = None

    async def _get_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _get_healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_readyz(self, _request: web.Request) -> web.Response:
        problem = self._problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)


def _shown(address: object) -> str:
    """An address as the socket module has it, in a form that people know."""
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
