"""``edgectl status``: the appliance on one screen, with what is wrong and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from edged.cli._control import Daemon, socket_path
from edged.cli._options import ConfigOption, JsonOption, SocketOption
from edged.cli._output import held, moment, print_json, stdout
from edged.errors import EdgedError
from edged.management import CallFigures, DeviceReport, ModelInfo, Status, Swap

STATUS_EXAMPLES = "edgectl status · edgectl status --watch · edgectl status --json"

_SWAPS: Final = 3
_WATCH_SECONDS: Final = 2.0
_FAILING: Final = 0.05
_FEW_FAILURES: Final = 2
# What a reading that is not as it should be calls for, by how its name begins.
_CURES: Final = {
    "temperature": "look at the fans and what is in the way of the air",
    "power": "lighten the load, or see what the board's supply can give",
    "link": "seat the card anew, or try another slot or riser",
    "correctable link": "seat the card anew, or try another slot or riser",
    "uncorrectable link": "seat the card anew, or try another slot or riser",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        text: what.
        cure: what to do about it.
    """

    text: str
    cure: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """All that one look at the daemon brought."""

    status: Status
    device: DeviceReport
    models: list[ModelInfo]
    swaps: list[Swap]

    @property
    def problems(self) -> list[Problem]:
        return list(_problems(self.status, self.device, self.models))


def status(
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it anew every 2 s, until interrupted.")
    ] = False,
) -> None:
    """Show on one screen what edged is doing, what is wrong, and what to do about it.

    Device, model, calls of the last minute as the daemon times them, last changes of models,
    problems.
    """
    daemon = Daemon(socket_path(socket, config))
    if not watch:
        _show(_look(daemon), as_json)
        return
    try:
        _watch(daemon, as_json)
    except KeyboardInterrupt:
        return


def _look(daemon: Daemon) -> _Seen:
    return _Seen(
        daemon.get("/v1/status", Status),
        daemon.get("/v1/device", DeviceReport),
        daemon.get("/v1/models", list[ModelInfo]),
        daemon.get(f"/v1/history?limit={_SWAPS}", list[Swap]),
    )


def _show(seen: _Seen, as_json: bool) -> None:
    if as_json:
        print_json(_plain(seen))
    else:
        stdout().print(_screen(seen))


def _watch(daemon: Daemon, as_json: bool) -> None:
    """Show it until interrupted; a daemon that is away meanwhile ends nothing."""
    _look(daemon)  # Who may not ask, or asks nobody, is told so at once.
    if as_json:
        while True:
            _show(_look(daemon), as_json=True)
            time.sleep(_WATCH_SECONDS)
    with Live(console=stdout(), auto_refresh=False, screen=stdout().is_terminal) as live:
        while True:
            try:
                shown = _screen(_look(daemon))
            except EdgedError as error:
                shown = Group(Text(str(error)))
            live.update(shown, refresh=True)
            time.sleep(_WATCH_SECONDS)


def _plain(seen: _Seen) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(seen.status),
        "device": msgspec.to_builtins(seen.device),
        "swaps": msgspec.to_builtins(seen.swaps),
        "problems": [asdict(problem) for problem in seen.problems],
    }


def _screen(seen: _Seen) -> Group:
    lines = [f"[bold]{key:8}[/bold] {escape(value)}" for key, value in _facts(seen)]
    for problem in seen.problems:
        lines.append(f"[bold red]problem[/]  {escape(problem.text)}")
        lines.append(f"         → {escape(problem.cure)}")
    return Group(*(Text.from_markup(line) for line in lines))


def _facts(seen: _Seen) -> Iterator[tuple[str, str]]:
    status, device = seen.status, seen.device
    yield "edged", status.version
    yield "state", status.state
    if status.model is not None:
        since = f", since {moment(status.since)} UTC" if status.since is not None else ""
        yield "model", f"{status.model} (serial {status.model.serial}){since}"
        for remark in status.model.remarks:
            yield "note", str(remark)
    if status.calls is not None:
        yield "calls", _calls(status.calls)
    yield "device", _device(device)
    yield "pinned", "yes: what is dropped is stored, and not activated" if status.pinned else "no"
    for swap in seen.swaps:
        model = swap.model or swap.digest[:19]
        yield "change", f"{moment(swap.at)} UTC  {model}, calls held {held(swap)}, {swap.cause}"


def _calls(calls: CallFigures) -> str:
    text = f"{calls.per_minute:.0f} a minute"
    if calls.p50_seconds is not None and calls.p99_seconds is not None:
        text += f", p50 {calls.p50_seconds * 1000:.3g} ms, p99 {calls.p99_seconds * 1000:.3g} ms"
    return text + (f", {calls.failed} failed" if calls.failed else "")


def _device(device: DeviceReport) -> str:
    if not device.present:
        return f"{device.kind} is not in use" if device.kind else "not in use"
    readings = {each.name: each for each in device.readings}
    shown = [readings[name].text for name in ("temperature", "power") if name in readings]
    return ", ".join(filter(None, (device.kind, device.state, *shown, device.identity)))


def _problems(status: Status, device: DeviceReport, models: list[ModelInfo]) -> Iterator[Problem]:
    if status.problem:
        yield Problem(status.problem, _why_nothing_serves(status, models))
    for drop in status.waiting:
        yield Problem(
            f"{drop.name} waits: {drop.reason}",
            f"it was tried {drop.tries}×, and is again in {drop.seconds:.0f} s: leave it there",
        )
    for reading in device.readings if device.present else ():
        if reading.level != "ok":
            begins = (cure for name, cure in _CURES.items() if reading.name.startswith(name))
            cure = next(begins, "`edgectl logs` says since when")
            meaning = {"throttle": ": calls are slowed down", "stop": ": it is not used"}
            text = f"{reading.name} is {reading.text}{meaning.get(reading.level, '')}"
            yield Problem(text, f"{cure}; `edgectl device` shows all readings")
    for step, count in device.resets_failed.items():
        if count:
            yield Problem(
                f"the device was reset in vain: {step}, {count} times",
                "`edgectl logs` says why it was needed; switch the machine off and on, and if it"
                " comes again, see whether the card works elsewhere",
            )
    for model in models:
        if model.set_aside is not None:
            yield Problem(
                f"{model} is set aside: {model.set_aside}",
                f"`edgectl activate {model.name}@{model.version}` tries it once more, `edgectl"
                f" remove {model.name}@{model.version}` forgets it",
            )
    calls = status.calls
    if calls is not None and calls.failed > max(_FEW_FAILURES, _FAILING * calls.per_minute):
        yield Problem(
            f"{calls.failed} calls of the last minute failed",
            "edged_calls_total at /metrics counts them by code; `edgectl logs` has more",
        )
    for found in status.store_problems:
        yield Problem(found, "drop again the bundles that `edgectl models` no longer lists")


def _why_nothing_serves(status: Status, models: list[ModelInfo]) -> str:
    if status.state == "no device":
        return "`edgectl doctor` looks for it; the model is loaded by itself once it is there"
    if status.state == "loading":
        return "it serves by itself when that is done; calls are held meanwhile"
    if models:
        return "`edgectl models` says what there is, `edgectl activate NAME` loads one"
    return "`edgectl push FILE` takes an .edgemodel or .onnx file there"
