"""``edgectl models``, ``history``, ``activate``, ``rollback``, ``pin``, ``remove``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edged.cli._control import Daemon, socket_path
from edged.cli._options import ConfigOption, JsonOption, SocketOption
from edged.cli._output import held, moment, print_json, print_table, stderr, stdout
from edged.errors import InputError
from edged.management import Activate, Cancelled, Change, ModelInfo, Pin, Status, Swap
from edged.remarks import Code

ACTIVATE_EXAMPLES = "edgectl activate mobilenet-v2 · edgectl activate mobilenet-v2@1.0.0"
REMOVE_EXAMPLES = "edgectl remove mobilenet-v2@1.0.0"

_INTERRUPTED = 130


def models(
    socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the models in the store: loaded, available, set aside and why.

    ON DEVICE is the share of the multiply-accumulates that the device computes, known once a model
    was compiled. Below the table stands what may cost accuracy or speed, a line each.
    """
    daemon = _daemon(socket, config)
    pinned = daemon.get("/v1/status", Status).pinned
    found = daemon.get("/v1/models", list[ModelInfo])
    if as_json:
        print_json({"pinned": pinned, "models": msgspec.to_builtins(found)})
        return
    rows = [
        (
            f"{m.name}@{m.version}",
            str(m.serial),
            f"{m.size / 1e6:.1f} MB",
            moment(m.added),
            _on_device(m),
            " · ".join(filter(None, (_state(m, pinned), m.source))),
        )
        for m in found
    ]
    print_table(("MODEL", "SERIAL", "SIZE", "ADDED (UTC)", "ON DEVICE", "STATE"), rows)
    notes = [f"{m.name}@{m.version}: {each}" for m in found for each in m.remarks if each.warning]
    if notes:
        stdout().print()
    for note in notes:
        stdout().print(escape(note))


def history(
    limit: Annotated[int, typer.Option(help="How many changes.", min=1, max=10_000)] = 20,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which model began to serve when, who wanted it, and how long calls were held."""
    found = _daemon(socket, config).get(f"/v1/history?limit={limit}", list[Swap])
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [
        (moment(swap.at), swap.model or swap.digest[:19], held(swap), swap.cause or "–")
        for swap in found
    ]
    print_table(("WHEN (UTC)", "MODEL", "CALLS HELD", "CAUSE"), rows)


def activate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME[@VERSION]",
            help="A model in the store; without a version, the one with the highest serial.",
        ),
    ],
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model in the store serve: pinned or not, older or newer, set aside or not.

    Calls are held while models change places. Whatever fails, what served before serves on.
    """
    name, at, version = model.partition("@")
    if not name or (at and not version):
        raise InputError(f"cannot activate {model!r}: wanted NAME or NAME@VERSION")
    body = Activate(name, version or None)
    _follow(_daemon(socket, config).follow("/v1/activate", body), as_json)


def rollback(
    socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Make the model serve that did before the present one."""
    _follow(_daemon(socket, config).follow("/v1/rollback", None), as_json)


def cancel(
    socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Call off what is on its way into the slot; what serves goes on serving."""
    found = _daemon(socket, config).post("/v1/cancel", None, Cancelled)
    if as_json:
        print_json(msgspec.to_builtins(found))
    elif found.models:
        stdout().print(f"called off {escape(', '.join(found.models))}")
    else:
        stdout().print("nothing was on its way")


def pin(
    socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Have what serves stay: what is dropped is stored, and not activated.

    Nor has a call a model loaded on demand. `edgectl activate` still does what it says.
    """
    _set_pin(True, socket, config, as_json)


def unpin(
    socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Have what is dropped serve again."""
    _set_pin(False, socket, config, as_json)


def remove(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A model in the store.")],
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a model from the store. One that is in use is not removed."""
    _daemon(socket, config).delete(f"/v1/models/{quote(model, safe='@')}")
    if as_json:
        print_json({"removed": model})
    else:
        stdout().print(f"removed {escape(model)}")


def _daemon(socket: Path | None, config: Path | None) -> Daemon:
    return Daemon(socket_path(socket, config))


def _set_pin(pinned: bool, socket: Path | None, config: Path | None, as_json: bool) -> None:
    daemon = _daemon(socket, config)
    found = daemon.post("/v1/pin", Pin(pinned), Pin)
    model = daemon.get("/v1/status", Status).model
    if as_json:
        print_json(msgspec.to_builtins(found))
    elif found.pinned:
        stdout().print(f"pinned to {escape(str(model))}" if model else "pinned; no model is loaded")
    else:
        stdout().print("not pinned: what is dropped serves")


def _follow(changes: Iterator[Change], as_json: bool) -> None:
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    done = None
    try:
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task("asking", total=None)
            for change in changes:
                done = change.done
                progress.update(
                    task,
                    description=escape(change.text),
                    total=None if change.fraction is None else 1.0,
                    completed=change.fraction or 0.0,
                )
    except KeyboardInterrupt:
        console.print(
            "edgectl: not waiting any longer; edged goes on with it (`edgectl cancel` calls it off)"
        )
        raise typer.Exit(_INTERRUPTED) from None
    if done is None:
        return  # the last line has it, or the iterator raised
    if as_json:
        print_json(msgspec.to_builtins(done))
    elif done.already:
        stdout().print(f"{escape(done.model)} was serving already; nothing changed")
    else:
        held = done.gate_closed_seconds * 1000
        stdout().print(f"{escape(done.model)} serves; calls were held for {held:.0f} ms")


def _on_device(model: ModelInfo) -> str:
    shares = (each.value for each in model.remarks if each.code == Code.HOST_SHARE)
    share = next(shares, None)
    return "–" if share is None else f"{1 - share:.0%}"


def _state(model: ModelInfo, pinned: bool) -> str:
    words = []
    if model.loaded:
        words.append("loaded, pinned" if pinned else "loaded")
    elif model.set_aside is None:
        words.append("available")
    if model.committed and not model.loaded:
        words.append("loaded after a restart")
    if model.last_good and not model.loaded:
        words.append("what a rollback leads to")
    if model.set_aside is not None:
        since = f" on {moment(model.set_aside_at)}" if model.set_aside_at is not None else ""
        words.append(f"set aside{since}: {model.set_aside}")
    return "; ".join(words)
