"""REST: TensorFlow Serving's under ``/v1`` and the Open Inference Protocol's under ``/v2``.

Paths and headers are read here. Bodies are passed on as they came, compressed or not, to whoever
holds the model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from edged import __version__
from edged.calls import Answer, Call
from edged.errors import (
    ConfigError,
    DeadlineError,
    EdgedError,
    LimitError,
    OverloadError,
    RequestError,
    UnauthenticatedError,
    UnavailableError,
)
from edged.nesting import NestingError, check_nesting
from edged.notices import Notice, about
from edged.serving._caller import (
    REQUEST_ID,
    names_in_certificate,
    priority_of,
    request_id_of,
    trace_of,
)
from edged.serving._grpc import ServingLimits
from edged.serving._listener import InFlight, Listener
from edged.serving._models import Models, ModelVersion, Phase
from edged.serving._reception import EXTENSIONS, SERVER_NAME, STATES
from edged.wire import RequestedModel, rest

__all__ = ["RestFront"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = "1"
# Of a connection between two requests, before the first one, or in the midst of its headers.
_IDLE_SECONDS: Final = 60.0
_MOST_SMALL_BODY: Final = 64 << 10
_JSON_LENGTH: Final = "Inference-Header-Content-Length"
_ENCODINGS: Final = ("gzip", "deflate")
_VERBS: Final = {"predict": rest.PREDICT, "classify": rest.CLASSIFY, "regress": rest.REGRESS}
_TENSORFLOW: Final = r"/v1/models/{model:[^/:]+}"
_OPEN_INFERENCE: Final = r"/v2/models/{model:[^/]+}"

_LISTENER: Final = web.AppKey("listener", Listener)


class RestFront:
    """HTTP servers, one for each listener.

    Args:
        answer: answers calls about the model that is loaded; see :mod:`edged.wire.rest`.
        models: knows what there is.
        high_priority: whether a client of that address may ask for it; may be set at any time.
        in_flight: counts the calls, and ends them.
    """

    def __init__(
        self,
        answer: Answer,
        models: Models,
        listeners: Sequence[Listener],
        limits: ServingLimits,
        high_priority: Callable[[str], bool],
        in_flight: InFlight,
    ) -> None:
        self._answer = answer
        self._models = models
        self._listeners = listeners
        self._limits = limits
        self.high_priority = high_priority
        self._in_flight = in_flight
        self._runners: list[web.AppRunner] = []

    async def start(self) -> list[str]:
        """Listen on every address.

        Returns:
            where that is, with the port that was bound: ``http://127.0.0.1:8501``.

        Raises:
            ConfigError: an address cannot be bound, with the reason.
        """
        addresses = []
        for listener in self._listeners:
            # Signals belong to the daemon, and a body is inflated where it is parsed. A call is
            # called off with its connection.
            runner = _Runner(
                self._application(listener),
                self._limits.connections,
                access_log=None,
                auto_decompress=False,
                handler_cancellation=True,
                keepalive_timeout=_IDLE_SECONDS,
                shutdown_timeout=1.0,
            )
            await runner.setup()
            self._runners.append(runner)
            addresses.append(await _bind(runner, listener))
        return addresses

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give those that run *grace* seconds, and close the connections."""
        left = await self._in_flight.drain(grace)
        if left:
            _log.warning("%d calls were not answered within %g s", left, grace)
        for runner in self._runners:
            await runner.cleanup()

    def _application(self, listener: Listener) -> web.Application:
        app = web.Application(
            middlewares=[self._admitted], client_max_size=self._limits.message_bytes
        )
        app[_LISTENER] = listener
        for path in (
            _TENSORFLOW,
            rf"{_TENSORFLOW}/versions/{{version:[0-9]+}}",
            rf"{_TENSORFLOW}/labels/{{version:[^/:]+}}",
        ):
            app.router.add_get(path, self._tensorflow_status)
            app.router.add_get(f"{path}/metadata", self._calls(rest.GET_MODEL_METADATA))
            for verb, method in _VERBS.items():
                app.router.add_post(f"{path}:{verb}", self._calls(method))
        for path in (_OPEN_INFERENCE, rf"{_OPEN_INFERENCE}/versions/{{version:[^/]+}}"):
            app.router.add_get(path, self._calls(rest.MODEL_METADATA))
            app.router.add_get(f"{path}/config", self._calls(rest.MODEL_CONFIG))
            app.router.add_get(f"{path}/ready", self._model_ready)
            app.router.add_get(f"{path}/stats", self._calls(rest.MODEL_STATISTICS))
            app.router.add_post(f"{path}/infer", self._calls(rest.MODEL_INFER))
        app.router.add_get("/v2", self._server_metadata)
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/health/ready", self._ready)
        app.router.add_post("/v2/repository/index", self._index)
        app.router.add_post("/v2/repository/models/{model:[^/]+}/load", self._load)
        app.router.add_post("/v2/repository/models/{model:[^/]+}/unload", self._unload)
        return app

    # What stands around each request.

    @web.middleware
    async def _admitted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer those who may ask, and errors as JSON; count what is under way."""
        metadata = _metadata(request)
        request_id = request["id"] = request_id_of(metadata)
        listener = request.app[_LISTENER]
        client = None
        try:
            response: web.StreamResponse
            if handler in (self._live, self._ready):  # for everybody who can connect
                response = await handler(request)
            else:
                names = names_in_certificate(request.transport) if listener.tls else ()
                client = request["client"] = listener.admission.admit(
                    _address(request), metadata, names, request_id
                )
                with self._in_flight.one_more(client):
                    response = await handler(request)
        except EdgedError as error:
            response = _failed(error)
        except web.HTTPRequestEntityTooLarge:
            response = _failed(
                LimitError(
                    f"cannot take the request: it has more than {self._limits.message_bytes} bytes,"
                    " the limit of serving.max_message_bytes"
                )
            )
        except web.HTTPException as error:
            said = f"cannot {request.method} {request.path[:200]}: {error.reason}"
            response = _json({"error": said}, error.status)
        except ConnectionError:
            raise
        except Exception:
            _log.exception(
                "cannot answer %s, request %s",
                request.path,
                request_id,
                extra=about(Notice.CALL_BROKE, request_id=request_id),
            )
            response = _json({"error": "cannot answer: an error inside edged; see its log"}, 500)
        response.headers[REQUEST_ID] = request_id
        if client is not None:
            await self._send(request, response, client)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, client: str) -> None:
        """Count the answer to *client* until it is read, which it has to be in time."""
        read = self._in_flight.unread(client)
        try:
            async with asyncio.timeout(self._limits.call_seconds):
                await response.prepare(request)
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            # aiohttp, which goes on from here, is content with a connection that is closed.
            if request.transport is not None:
                request.transport.abort()
        finally:
            read(None)

    def _calls(self, method: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        """What answers by a call about the model."""

        async def handle(request: web.Request) -> web.Response:
            metadata = _metadata(request)
            extras = _extras(request, self._limits.message_bytes)
            version = extras.get(rest.VERSION, "")
            call = Call(
                method,
                await self._body(request),
                time.monotonic() + self._limits.call_seconds,
                model=RequestedModel(extras[rest.MODEL], version),
                client=request["client"],
                priority=priority_of(metadata, self.high_priority(_address(request))),
                request_id=request["id"],
                trace=trace_of(metadata),
                extras=extras,
            )
            body, json_bytes = rest.unframe(await self._answer(call))
            if json_bytes == len(body):
                return web.Response(body=body, content_type="application/json")
            return web.Response(
                body=body,
                content_type="application/octet-stream",
                headers={_JSON_LENGTH: str(json_bytes)},
            )

        return handle

    async def _body(self, request: web.Request) -> bytes:
        """What is sent, which has to be here in time."""
        seconds = self._limits.call_seconds
        try:
            async with asyncio.timeout(seconds), self._in_flight.receiving(request["client"]):
                return await request.read()
        except TimeoutError as error:
            raise DeadlineError(
                f"cannot take the request: its body was not here within {seconds:g} s, which is"
                " serving.call_seconds"
            ) from error

    async def _small_body(self, request: web.Request) -> dict[str, Any]:
        """The JSON object of a question that needs no model; an empty body is an empty one."""
        if (request.content_length or 0) > _MOST_SMALL_BODY:
            raise LimitError(f"cannot take the request: it has more than {_MOST_SMALL_BODY} bytes")
        data = await self._body(request)
        try:
            check_nesting(data)
            value = msgspec.json.decode(data or b"{}")
        except (msgspec.DecodeError, NestingError) as error:
            raise RequestError(f"cannot read the request: it is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise RequestError("cannot read the request: wanted a JSON object")
        return value

    # TensorFlow Serving.

    async def _tensorflow_status(self, request: web.Request) -> web.Response:
        found = await self._models.named(
            request.match_info["model"], request.match_info.get("version", "")
        )
        return _json({"model_version_status": [_status(each) for each in found]})

    # Open Inference Protocol.

    async def _live(self, _request: web.Request) -> web.Response:
        return _json({"live": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        ready = self._models.serving is not None
        return _json({"ready": ready}, 200 if ready else UnavailableError.http_status)

    async def _server_metadata(self, _request: web.Request) -> web.Response:
        return _json(
            {"name": SERVER_NAME, "version": __version__, "extensions": [*EXTENSIONS, _BINARY]}
        )

    async def _model_ready(self, request: web.Request) -> web.Response:
        name, version = request.match_info["model"], request.match_info.get("version", "")
        if self._models.is_ready(name, version):
            return _json({"name": name, "ready": True})
        (first, *_) = await self._models.named(name, version)
        raise UnavailableError(
            f"cannot answer for {first.record}: {first.reason or first.phase.name.lower()}"
        )

    async def _index(self, request: web.Request) -> web.Response:
        body = await self._small_body(request)
        return _json(
            [
                {
                    "name": each.record.manifest.name,
                    "version": each.version,
                    "state": STATES[each.phase],
                    "reason": each.reason,
                }
                for each in await self._models.all()
                if not body.get("ready") or each.phase is Phase.AVAILABLE
            ]
        )

    async def _load(self, request: web.Request) -> web.Response:
        parameters = (await self._small_body(request)).get("parameters", {})
        version = parameters.get("version", "") if isinstance(parameters, dict) else None
        name = request.match_info["model"]
        if not isinstance(version, str) or parameters.keys() - {"version"}:
            raise RequestError(
                f"cannot load {name[:200]!r} with those parameters: models come by the drop folder,"
                " with all that they need; only 'version' is taken"
            )
        await self._models.load(name, version, request["client"])
        return _json({})

    async def _unload(self, request: web.Request) -> web.Response:
        await self._models.unload(request.match_info["model"])
        return _json({})


class _Runner(web.AppRunner):
    """One whose connections have a bound: each takes a descriptor before it has said a word."""

    def __init__(self, app: web.Application, connections: int, **options: Any) -> None:
        super().__init__(app, **options)
        self._most = connections

    @property
    def server(self) -> Any:
        """What makes a protocol for each connection."""
        server = super().server
        if server is None:
            return None
        return lambda: server() if len(server.connections) < self._most else _TooMany()


class _TooMany(asyncio.Protocol):
    """For a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


_BINARY: Final = "binary_tensor_data"


def _metadata(request: web.Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def _address(request: web.Request) -> str:
    return request.remote or "unix"


def _extras(request: web.Request, most: int) -> dict[str, str]:
    """What the container has to know beside the body.

    Raises:
        RequestError: a header that cannot be read.
    """
    extras = {rest.MODEL: request.match_info["model"]}
    if version := request.match_info.get("version", ""):
        extras[rest.VERSION] = version
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        if encoding not in _ENCODINGS:
            raise RequestError(
                f"cannot read the request: its Content-Encoding is {encoding[:40]!r}, wanted"
                f" {' or '.join(_ENCODINGS)}"
            )
        extras |= {rest.ENCODING: encoding, rest.MOST_BYTES: str(most)}
    if (length := request.headers.get(_JSON_LENGTH)) is not None:
        if not (length.isascii() and length.isdigit() and len(length) < 16):
            raise RequestError(
                f"cannot read the request: {_JSON_LENGTH} is {length[:40]!r}, wanted a number"
            )
        extras[rest.JSON_BYTES] = length
    return extras


def _status(model: ModelVersion) -> dict[str, Any]:
    return {
        "version": model.version,
        "state": model.phase.name,
        "status": {
            "error_code": "FAILED_PRECONDITION" if model.failed else "OK",
            "error_message": model.reason,
        },
    }


def _failed(error: EdgedError) -> web.Response:
    response = _json({"error": str(error)}, error.http_status)
    if isinstance(error, UnavailableError | OverloadError):
        response.headers["Retry-After"] = _RETRY_SECONDS
    if isinstance(error, UnauthenticatedError):
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 wants it, RFC 6750 says how
    return response


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


async def _bind(runner: web.AppRunner, listener: Listener) -> str:
    context = listener.tls.context() if listener.tls is not None else None
    site: web.BaseSite
    if listener.address.startswith("unix:"):
        path = Path(listener.address.removeprefix("unix:"))
        await asyncio.to_thread(_make_way, path)
        site = web.UnixSite(runner, path, ssl_context=context)
    else:
        host, _, port = listener.address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        site = web.TCPSite(runner, host, int(port), ssl_context=context)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {listener.address}: {error.strerror or error}; is another edged or a"
            f" model server running there? See {listener.setting} in the configuration"
        ) from error
    if listener.address.startswith("unix:"):
        # Its folder is for all to enter; who may call is said by its mode.
        await asyncio.to_thread(path.chmod, listener.mode)
        return listener.address
    scheme = "https" if context is not None else "http"
    return f"{scheme}://{listener.address.rpartition(':')[0]}:{runner.addresses[-1][1]}"


def _make_way(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
