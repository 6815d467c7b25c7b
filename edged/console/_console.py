"""The management API over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from edged import __version__
from edged.console._control_socket import listen, peer_uid
from edged.errors import EdgedError, InputError, LimitError, NotFoundError, UnavailableError
from edged.management import (
    Activate,
    CallFigures,
    Cancelled,
    Change,
    DeviceReport,
    Failure,
    Flashed,
    Load,
    ModelInfo,
    Pin,
    Status,
    Swap,
    Swapped,
    WaitingDrop,
)
from edged.nesting import NestingError, check_nesting
from edged.npu import MAX_FIRMWARE_BYTES, Firmware
from edged.remarks import Remark
from edged.slot import Deployed, SlotStatus
from edged.store import BundleRecord, Store

__all__ = ["Console", "Control", "Tell"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_MAX_BODY_BYTES: Final = 64 << 10
_MAX_CHANGES: Final = 8
_MOST_HISTORY: Final = 10_000
_SHUTDOWN_SECONDS: Final = 1.0
_STATUS_OF_HTTP: Final = {404: "NOT_FOUND", 405: "UNIMPLEMENTED", 413: "RESOURCE_EXHAUSTED"}


class Tell(Protocol):
    """Told how far a change has come; from any thread."""

    def __call__(self, text: str, fraction: float | None = None) -> None: ...


class Control(Protocol):
    """Who changes what serves. Every method raises EdgedError when it cannot."""

    async def activate(
        self, name: str, version: str | None, cause: str, tell: Tell
    ) -> Deployed: ...

    async def rollback(self, cause: str, tell: Tell) -> Deployed: ...

    async def cancel(self, who: str) -> list[str]: ...

    async def remove(self, name: str, version: str) -> None: ...

    async def pin(self, pinned: bool) -> None: ...


class FirmwareControl(Protocol):
    """Who changes the device's firmware; raises EdgedError when it cannot."""

    async def flash(self, image: bytes, golden: bool, force: bool, tell: Tell) -> Firmware: ...


class Console:
    """Answers on the control socket.

    A change that was begun goes on when whoever asked for it hangs up.

    Args:
        store: what there is.
        slot_status: what is loaded.
        control: changes it.
        path: of the socket.
        mode: its permissions.
        device_report: what is known of the device.
        firmware: changes what runs on it.
        call_figures: how many calls there are, and how long they take.
        load: the calls of the last seconds, by stage and client.
        waiting: what was dropped and is tried again later.
    """

    def __init__(
        self,
        store: Store,
        slot_status: Callable[[], SlotStatus],
        control: Control,
        path: Path,
        mode: int = 0o660,
        device_report: Callable[[], DeviceReport] = lambda: DeviceReport(present=False),
        call_figures: Callable[[], CallFigures | None] = lambda: None,
        load: Callable[[], Load] | None = None,
        firmware: FirmwareControl | None = None,
        waiting: Callable[[], Iterable[WaitingDrop]] = tuple,
    ) -> None:
        self._store = store
        self._slot_status = slot_status
        self._control = control
        self._path = path
        self._mode = mode
        self._device_report = device_report
        self._call_figures = call_figures
        self._load = load
        self._firmware = firmware
        self._waiting = waiting
        self._changes: set[asyncio.Task[Change]] = set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the socket cannot be made.
        """
        app = web.Application(middlewares=[_errors_as_json], client_max_size=_MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/v1/status", self._get_status),
                web.get("/v1/models", self._get_models),
                web.get("/v1/history", self._get_history),
                web.get("/v1/device", self._get_device),
                web.get("/v1/load", self._get_load),
                web.put("/v1/device/firmware", self._put_firmware),
                web.post("/v1/activate", self._post_activate),
                web.post("/v1/rollback", self._post_rollback),
                web.post("/v1/cancel", self._post_cancel),
                web.post("/v1/pin", self._post_pin),
                web.delete("/v1/models/{model}", self._delete_model),
            ]
        )
        # Signals belong to the daemon.
        runner = web.AppRunner(
            app, handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        self._runner = runner
        try:
            listener = await asyncio.to_thread(listen, self._path, self._mode)
            await web.SockSite(runner, listener).start()
        except BaseException:
            await runner.cleanup()
            raise

    async def stop(self) -> None:
        """Break off the changes that are under way, and answer nothing more."""
        for change in self._changes:
            change.cancel()
        if self._changes:
            await asyncio.wait(self._changes)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            await asyncio.to_thread(self._path.unlink, missing_ok=True)

    # Questions.

    async def _get_status(self, _request: web.Request) -> web.Response:
        slot = self._slot_status()
        models, pinned = await asyncio.to_thread(lambda: (self._models(), self._store.pinned()))
        loaded = [model for model in models if model.loaded]
        return _json(
            Status(
                version=__version__,
                state=slot.state.value,
                model=loaded[0] if loaded else None,
                since=slot.since,
                problem=slot.problem,
                pinned=pinned,
                store_problems=self._store.problems,
                calls=self._call_figures(),
                waiting=tuple(self._waiting()),
            )
        )

    async def _get_models(self, _request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._models))

    async def _get_history(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", "100")
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST_HISTORY):
            raise InputError(
                f"cannot show history: limit is {text[:40]!r}, wanted a number from 1 to"
                f" {_MOST_HISTORY}"
            )
        commits = await asyncio.to_thread(self._store.history, int(text))
        return _json([Swap(c.at, c.model, str(c.digest), c.cause, c.gate_closed) for c in commits])

    async def _get_device(self, _request: web.Request) -> web.Response:
        return _json(self._device_report())

    async def _get_load(self, _request: web.Request) -> web.Response:
        if self._load is None:
            raise NotFoundError("cannot tell the load: nobody measures it here")
        return _json(self._load())

    def _models(self) -> list[ModelInfo]:
        status = self._slot_status()
        loaded = status.model.digest if status.model else None
        committed, last_good = self._store.committed(), self._store.last_good()
        remarks = self._store.remarks()
        return [
            _info(
                record,
                loaded=record.digest == loaded,
                committed=committed is not None and record.digest == committed.digest,
                last_good=last_good is not None and record.digest == last_good.digest,
                remarks=remarks.get(str(record.digest), ()),
            )
            for record in self._store.list()
        ]

    # Changes.

    async def _post_activate(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, Activate)
        cause = f"edgectl activate by {_who(request)}"

        async def change(tell: Tell) -> Change:
            return _swapped(await self._control.activate(body.name, body.version, cause, tell))

        return await self._follow(request, change)

    async def _post_rollback(self, request: web.Request) -> web.StreamResponse:
        cause = f"edgectl rollback by {_who(request)}"

        async def change(tell: Tell) -> Change:
            return _swapped(await self._control.rollback(cause, tell))

        return await self._follow(request, change)

    async def _put_firmware(self, request: web.Request) -> web.StreamResponse:
        control = self._firmware
        if control is None:
            raise UnavailableError("cannot flash: edged has no device to change the firmware of")
        golden, force = _flag(request, "golden"), _flag(request, "force")
        image = await _bounded(request, MAX_FIRMWARE_BYTES)
        _log.warning("%s has the firmware changed%s", _who(request), ", by force" if force else "")

        async def change(tell: Tell) -> Change:
            header = (await control.flash(image, golden, force, tell)).header
            flashed = Flashed(header.kind.name.lower(), header.gateware_id.hex(), str(header))
            return Change(flashed=flashed)

        return await self._follow(request, change)

    async def _post_cancel(self, request: web.Request) -> web.Response:
        models = await self._control.cancel(f"edgectl cancel by {_who(request)}")
        _log.info("%s called off: %s", _who(request), ", ".join(models) or "nothing to call off")
        return _json(Cancelled(models))

    async def _post_pin(self, request: web.Request) -> web.Response:
        body = await _body(request, Pin)
        await self._control.pin(body.pinned)
        _log.info("%s by %s", "pinned" if body.pinned else "unpinned", _who(request))
        return _json(body)

    async def _delete_model(self, request: web.Request) -> web.Response:
        name, at, version = request.match_info["model"].partition("@")
        if not (name and at and version):
            raise InputError(
                f"cannot remove {request.match_info['model'][:200]!r}: wanted NAME@VERSION;"
                " `edgectl models` lists them"
            )
        await self._control.remove(name, version)
        _log.info("%s %s was removed by %s", name, version, _who(request))
        return web.Response(status=204)

    async def _follow(
        self, request: web.Request, change: Callable[[Tell], Awaitable[Change]]
    ) -> web.StreamResponse:
        """Make the change, and tell of it line by line."""
        if len(self._changes) >= _MAX_CHANGES:
            raise LimitError(
                f"cannot change models: {len(self._changes)} changes are under way; try again"
            )
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[Change | None] = asyncio.Queue()

        def tell(text: str, fraction: float | None = None) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, Change(text, fraction))

        async def make() -> Change:
            return await change(tell)

        task = asyncio.create_task(make(), name="console change")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        # After the last line: what was told before it came through call_soon as well.
        task.add_done_callback(lambda _: loop.call_soon(lines.put_nowait, None))
        line = await lines.get()
        if line is None and (error := _failure(task)) is not None:
            raise error  # before anything was begun: an answer with a status of its own
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            while line is not None:
                await response.write(msgspec.json.encode(line) + b"\n")
                line = await lines.get()
            await response.write(msgspec.json.encode(_end(task)) + b"\n")
            await response.write_eof()
        return response


def _failure(task: asyncio.Task[Change]) -> EdgedError | None:
    if task.cancelled():
        return UnavailableError(
            "cannot change models: edged is stopping; try again when it is back"
        )
    error = task.exception()
    if error is None or isinstance(error, EdgedError):
        return error
    _log.error("cannot change models", exc_info=error)
    return EdgedError("cannot change models: an error inside edged; see its log")


def _end(task: asyncio.Task[Change]) -> Change:
    if (error := _failure(task)) is not None:
        return Change(error=str(error), status=error.grpc_status)
    return task.result()


def _swapped(deployed: Deployed) -> Change:
    return Change(
        done=Swapped(
            str(deployed.model), deployed.since, deployed.already, deployed.gate_closed_seconds
        )
    )


def _info(
    record: BundleRecord,
    *,
    loaded: bool,
    committed: bool,
    last_good: bool,
    remarks: tuple[Remark, ...],
) -> ModelInfo:
    manifest = record.manifest
    return ModelInfo(
        name=manifest.name,
        version=str(manifest.version),
        serial=manifest.serial,
        digest=str(record.digest),
        size=sum(file.size for file in manifest.files),
        added=record.added,
        loaded=loaded,
        committed=committed,
        last_good=last_good,
        set_aside=record.set_aside,
        set_aside_at=record.set_aside_at,
        source=manifest.source_revision,
        remarks=remarks,
    )


async def _body(request: web.Request, kind: type[_T]) -> _T:
    try:
        body = await request.read()
        check_nesting(body)
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, NestingError) as error:
        raise InputError(f"cannot use the body of {request.path}: {error}") from error


async def _bounded(request: web.Request, most: int) -> bytes:
    """The body, which may be larger than others are."""
    body = bytearray()
    async for part in request.content.iter_chunked(1 << 20):
        body += part
        if len(body) > most:
            raise LimitError(f"cannot take the image: it has more than {most} bytes")
    return bytes(body)


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "0")
    if text not in ("0", "1"):
        raise InputError(f"cannot use the query: {name} is {text[:40]!r}, wanted 0 or 1")
    return text == "1"


def _who(request: web.Request) -> str:
    if request.transport is None:
        raise UnavailableError("cannot tell who asks: the connection is gone")
    return f"uid {peer_uid(request.transport.get_extra_info('socket'))}"


def _json(value: Any, http_status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=http_status, content_type="application/json"
    )


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except EdgedError as error:
        return _json(Failure(str(error), error.grpc_status), error.http_status)
    except web.HTTPException as error:
        said = f"cannot {request.method} {request.path[:200]}: {error.reason}"
        return _json(Failure(said, _STATUS_OF_HTTP.get(error.status, "INTERNAL")), error.status)
    except Exception:
        _log.exception("cannot answer %s %s", request.method, request.path)
        said = "cannot answer: an error inside edged; see its log"
        return _json(Failure(said, "INTERNAL"), 500)
