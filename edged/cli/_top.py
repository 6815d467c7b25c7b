"""``edgectl top``: calls as they come, by stage and by client."""

from __future__ import annotations

import time
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edged.cli._control import Daemon, socket_path
from edged.cli._options import ConfigOption, JsonOption, SocketOption
from edged.cli._output import print_json, stdout
from edged.errors import EdgedError
from edged.management import ClientLoad, Load, Status, Times

TOP_EXAMPLES = "edgectl top · edgectl top --once · edgectl top --json"

_CLIENTS: Final = 15
_MS: Final = 1000.0


def top(
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")
    ] = 1.0,
) -> None:
    """Show the calls of the last ten seconds, anew every second, until interrupted.

    How many, how long they took, where the time went, who waits, and which client makes them. With
    --json once, as one object.
    """
    daemon = Daemon(socket_path(socket, config))
    if as_json:
        print_json(msgspec.to_builtins(daemon.get("/v1/load", Load)))
    elif once:
        stdout().print(_look(daemon))
    else:
        _watch(daemon, interval)


def _watch(daemon: Daemon, interval: float) -> None:
    """Until interrupted; a daemon that is away meanwhile ends nothing."""
    shown: RenderableType = _look(daemon)  # Who may not ask is told so at once.
    try:
        with Live(shown, console=stdout(), auto_refresh=False, screen=stdout().is_terminal) as live:
            while True:
                time.sleep(interval)
                try:
                    shown = _look(daemon)
                except EdgedError as error:
                    shown = Text(str(error))
                live.update(shown, refresh=True)
    except KeyboardInterrupt:
        return


def _look(daemon: Daemon) -> Group:
    return _screen(daemon.get("/v1/status", Status), daemon.get("/v1/load", Load))


def _screen(status: Status, load: Load) -> Group:
    busy = "" if load.device_busy is None else f", device busy {load.device_busy:.0%}"
    model = str(status.model) if status.model is not None else status.problem
    head = Text.from_markup(
        f"[bold]{escape(status.state)}[/]  {escape(model)}\n"
        f"{load.calls.per_second:.1f} calls/s, {_failed(load.calls)}"
        f"{load.running} running, {load.queued} of them waiting{busy}\n"
    )
    stages = Table("stage", *_RIGHT, box=None, header_style="bold")
    stages.add_row("whole call", *_ms(load.calls.times))
    for stage, times in load.stages.items():
        if times.p50 is not None:
            stages.add_row(f"  {stage}", *_ms(times))
    clients = Table("client", "calls/s", "failed/s", *_RIGHT, box=None, header_style="bold")
    for client in load.clients[:_CLIENTS]:
        failed = f"{client.failed_per_second:.1f}" if client.failed_per_second else ""
        name = escape(client.name or "others")
        clients.add_row(name, f"{client.per_second:.1f}", failed, *_ms(client.times))
    return Group(head, stages, Text(), clients)


_RIGHT: Final = ("p50 ms", "p99 ms")


def _failed(calls: ClientLoad) -> str:
    return f"{calls.failed_per_second:.1f} failed/s, " if calls.failed_per_second else ""


def _ms(times: Times) -> tuple[str, str]:
    return _text(times.p50), _text(times.p99)


def _text(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * _MS:.2f}"
