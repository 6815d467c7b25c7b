"""The composition root: builds every part, and owns the order in which they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edged import __version__, compiler
from edged.calls import Answer, Call, Observed
from edged.card import Places, Way
from edged.config import Activation, Config, DeviceUse, LauncherUse, Protocol, Whose, reloaded
from edged.console import Console
from edged.container import (
    ContainerLimits,
    Launcher,
    ProcessLauncher,
    Regions,
    SystemdLauncher,
)
from edged.deploy import Deployer
from edged.device import Bound, Device, Monitor, Thresholds, vfio_user
from edged.errors import ConfigError
from edged.host import AccessLog, LoadMeter, Notifier, set_level, sockets_given
from edged.intake import Intake
from edged.listening import Listening
from edged.management import DeviceBank, DeviceReading, DeviceReport
from edged.metrics import Metrics, MetricsServer
from edged.notices import Notice, about
from edged.serving import (
    GrpcFront,
    InFlight,
    Models,
    Reception,
    RestFront,
    ServingLimits,
    is_local,
)
from edged.slot import (
    CompilerProcess,
    DeviceLink,
    FirmwareUpdate,
    Renewal,
    Slot,
    SlotLimits,
    SlotStatus,
    Standbys,
    State,
)
from edged.store import Store
from edged.tracing import Tracing
from edged.wire import requested_model

__all__ = ["run"]

_log = logging.getLogger(__name__)

# By how much a reading has to fall below a threshold to be under it again: degrees, watts.
_COOLER: Final = 3.0
_LESS_POWER: Final = 3.0


async def run(config: Config, read_again: Callable[[], Config]) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    Args:
        config: what is in force until SIGHUP.
        read_again: called then, in a thread; raises ConfigError when what it reads cannot be used.

    Raises:
        ConfigError: an address or a folder of the configuration cannot be used.
        StoreError: the state cannot be read.
    """
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    asked_to_reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, asked_to_reload.set)
    with _only_one(config.state.directory):
        store = await asyncio.to_thread(Store, config.state.directory)
        try:
            await _serve(config, store, asked_to_stop, _Reload(asked_to_reload, read_again))
        finally:
            await asyncio.to_thread(store.close)


@dataclass(frozen=True)
class _Reload:
    """Set when the configuration is to be read again, and what reads it."""

    asked: asyncio.Event
    read: Callable[[], Config]


async def _serve(
    config: Config, store: Store, asked_to_stop: asyncio.Event, reload: _Reload
) -> None:
    given = sockets_given("metrics")
    bubblewrap = config.container.sandbox.value
    monitor = Monitor(
        _thresholds(config),
        poll_seconds=config.device.poll_seconds,
        watchdog_seconds=config.device.watchdog_seconds,
    )
    regions = Regions(_launcher(config))
    standbys = Standbys(
        store,
        regions,
        CompilerProcess(config.compiler.memory_bytes, config.compiler.timeout_seconds, bubblewrap),
        compiler.COMPILER_VERSION,
    )
    way = _way(config)
    link = DeviceLink(
        way.connect,
        way.opening(lambda connection: monitor.open(vfio_user.VfioUserTransport(connection))),
        config.device.retry_seconds,
        way.watching(monitor.unfit),
    )
    slot = Slot(store, standbys, link, _slot_limits(config))
    renewal = Renewal(store, standbys, compiler.COMPILER_VERSION, slot)
    interval = config.device.throttle_interval_seconds

    def slow_down(throttled: bool) -> None:
        slot.slow_down(interval if throttled else 0.0)

    monitor.on_throttle = slow_down
    limits = ServingLimits(
        config.serving.max_message_bytes,
        config.serving.max_concurrent_calls,
        config.serving.call_seconds,
    )
    in_flight = InFlight(limits.concurrent_calls)
    access = AccessLog(config.log.access_lines_per_second)

    def device_report() -> DeviceReport:
        return _device_report(monitor, slot.status.problem, str(way))

    metrics = Metrics(__version__, lambda: in_flight.calls, lambda: slot.queued, device_report)
    slot.on_event(metrics.slot_event)
    deployer = Deployer(
        store,
        slot,
        keep=config.state.keep_bundles,
        attempts=config.slot.attempts,
        bubblewrap=bubblewrap,
    )
    on_demand = config.slot.activation is Activation.ON_DEMAND
    models = Models(
        store,
        lambda: slot.status,
        lambda: slot.in_use,
        deployer.activate if config.serving.model_control else None,
        on_demand,
    )
    reception = Reception(
        models, _answer(slot, on_demand), regions if config.serving.shared_memory else None
    )
    listening = await asyncio.to_thread(Listening, config)
    meter = LoadMeter(
        lambda: in_flight.calls,
        lambda: slot.queued,
        lambda: monitor.report.busy if monitor.report is not None else None,
    )
    observers = [metrics.observe, access.observe, meter.observe]
    tracing = (
        Tracing(config.tracing.endpoint, config.tracing.part) if config.tracing.endpoint else None
    )
    if tracing is not None:
        observers.append(tracing.observe)
    answer = Observed(reception.answer, observers)
    rest = RestFront(
        answer,
        models,
        listening.of(Protocol.HTTP),
        limits,
        _high_priority(config),
        in_flight,
    )
    front = GrpcFront(
        answer,
        listening.of(Protocol.GRPC),
        limits,
        _high_priority(config),
        in_flight,
        config.serving.channelz,
    )
    intake = Intake(
        config.drop.directory,
        deployer.accept,
        rescan_seconds=config.drop.rescan_seconds,
        settle_seconds=config.drop.settle_seconds,
        max_file_bytes=config.drop.max_file_bytes,
        data_seconds=config.drop.data_seconds,
    )
    console = Console(
        store,
        lambda: slot.status,
        deployer,
        config.console.socket,
        config.console.mode.bits,
        device_report,
        meter.figures,
        meter.load,
        FirmwareUpdate(
            slot,
            link,
            lambda: Device.open(vfio_user.VfioUserTransport(way.connect()), any_abi=True),
        ),
        intake.waiting,
    )
    notifier = Notifier()

    def tell_manager() -> None:
        figures = [f"{meter.figures().per_minute:.0f} requests/min"]
        if monitor.report is not None:
            figures += [
                reading.text for reading in monitor.report.readings if reading.name == "temperature"
            ]
        notifier.status(describe(slot.status, way, figures))

    slot.on_change(lambda _: tell_manager())
    slot.on_change(lambda status: _tell_folder(intake, status))
    slot.on_change(lambda status: front.serves(_serving(status)))

    def apply(config: Config) -> None:
        nonlocal interval
        slot.limits = _slot_limits(config)
        front.high_priority = rest.high_priority = _high_priority(config)
        listening.apply(config)
        monitor.thresholds = _thresholds(config)
        interval = config.device.throttle_interval_seconds
        slow_down(monitor.throttled)
        deployer.keep = config.state.keep_bundles
        deployer.attempts = config.slot.attempts
        intake.rescan_seconds = config.drop.rescan_seconds
        intake.settle_seconds = config.drop.settle_seconds
        intake.max_file_bytes = config.drop.max_file_bytes
        intake.data_seconds = config.drop.data_seconds
        set_level(config.log.level)
        access.lines_per_second = config.log.access_lines_per_second

    async with contextlib.AsyncExitStack() as stack:
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.stop)
        await slot.start()
        stack.push_async_callback(slot.stop, config.slot.drain_seconds)
        renewal.start()
        stack.push_async_callback(renewal.stop)
        await console.start()
        stack.push_async_callback(console.stop)
        stack.push_async_callback(models.stop)
        stack.push_async_callback(lambda: rest.stop(slot.limits.drain_seconds))
        stack.push_async_callback(lambda: front.stop(slot.limits.drain_seconds))
        await front.start()
        for address in await rest.start():
            _log.info("REST at %s", address)
        await intake.start()
        stack.push_async_callback(intake.stop)
        server = MetricsServer(
            metrics,
            config.metrics.listen.host,
            config.metrics.listen.port,
            lambda: "" if slot.status.since is not None else describe(slot.status, way),
            given["metrics"],
        )
        addresses = await server.start()
        stack.push_async_callback(server.stop)
        _log.info("metrics at %s", ", ".join(addresses))
        _log.info(
            "listening on %s; drop models into %s",
            listening,
            config.drop.directory,
            extra=about(Notice.STARTED),
        )
        notifier.ready()
        watchdog = asyncio.create_task(notifier.feed_watchdog(tell_manager))
        reloading = asyncio.create_task(_reload_when_asked(config, reload, apply, notifier))
        await asked_to_stop.wait()
        watchdog.cancel()
        reloading.cancel()
        _log.info(
            "stopping: calls that are being answered may finish", extra=about(Notice.STOPPING)
        )
        notifier.stopping()


def _launcher(config: Config) -> Launcher:
    """Starts the containers.

    Raises:
        ConfigError: systemd shall, and does not listen.
    """
    chosen = config.container
    limits = ContainerLimits(chosen.memory_bytes, chosen.start_seconds, chosen.call_seconds)
    child = ProcessLauncher(limits, chosen.sandbox.value)
    listens = os.access(chosen.socket, os.W_OK)
    match chosen.launcher:
        case LauncherUse.SYSTEMD if not listens:
            raise ConfigError(
                f'cannot start containers: container.launcher is "systemd" and {chosen.socket} is'
                " not there, or not for this user; `systemctl start edged-container.socket`, or"
                ' set container.launcher = "auto"'
            )
        case LauncherUse.PROCESS:
            return child
        # Set for what systemd starts: systemd.exec(5).
        case LauncherUse.AUTO if not listens or "INVOCATION_ID" not in os.environ:
            return child
    otherwise = child if chosen.launcher is LauncherUse.AUTO else None
    return SystemdLauncher(chosen.socket, otherwise, limits)


def _slot_limits(config: Config) -> SlotLimits:
    return SlotLimits(
        drain_seconds=config.slot.drain_seconds,
        attempts=config.slot.attempts,
        max_queued=config.serving.max_queued_calls,
        max_queued_bytes=config.serving.max_queued_bytes,
        failures=config.slot.failures,
        failure_window=config.slot.failure_window_seconds,
        on_demand=config.slot.activation is Activation.ON_DEMAND,
        residence_seconds=config.slot.residence_seconds,
    )


def _high_priority(config: Config) -> Callable[[str], bool]:
    """Which clients may have it, by their addresses."""
    match config.serving.high_priority:
        case Whose.ALL:
            return lambda _: True
        case Whose.LOCAL:
            return is_local
        case Whose.NOBODY:
            return lambda _: False


async def _reload_when_asked(
    config: Config, reload: _Reload, apply: Callable[[Config], None], notifier: Notifier
) -> None:
    """Have what can be applied of a configuration in force whenever it is to be read again."""
    while True:
        await reload.asked.wait()
        reload.asked.clear()
        notifier.reloading()
        try:
            config = await _read_again(config, reload.read, apply)
        except ConfigError as error:
            _log.error(
                "cannot reload: %s; what was in force stays so",
                error,
                extra=about(Notice.NOT_RELOADED),
            )
        finally:
            notifier.ready()


async def _read_again(
    config: Config, read: Callable[[], Config], apply: Callable[[Config], None]
) -> Config:
    """What is in force from now on.

    Raises:
        ConfigError: what is read cannot be used.
    """
    found = reloaded(config, await asyncio.to_thread(read))
    apply(found.config)
    _log.info(
        "reloaded: %s",
        ", ".join(map(str, found.changed)) or "nothing new is in force",
        extra=about(Notice.RELOADED),
    )
    if found.waiting:
        _log.warning(
            "cannot change while edged runs, needs a restart: %s",
            ", ".join(map(str, found.waiting)),
            extra=about(Notice.RESTART_NEEDED),
        )
    return found.config


def _answer(slot: Slot, by_name: bool) -> Answer:
    async def answer(call: Call) -> bytes:
        # The name costs a look into the message, which only on-demand loading needs.
        if by_name and call.model is None:
            call.model = requested_model(call.method, call.payload)
        return await slot.call(call)

    return answer


def _thresholds(config: Config) -> Thresholds:
    device = config.device
    return Thresholds(
        Bound(
            device.temperature_warn, device.temperature_throttle, device.temperature_stop, _COOLER
        ),
        Bound(device.power_warn, hysteresis=_LESS_POWER),
        Bound(device.ecc_corrected_warn),
        Bound(device.link_corrected_warn),
    )


def _way(config: Config) -> Way:
    use = config.device.use
    card = None if use is DeviceUse.EMULATOR else Places.beside(config.device.card_socket)
    return Way(card, None if use is DeviceUse.CARD else config.device.socket)


def _device_report(monitor: Monitor, problem: str, kind: str) -> DeviceReport:
    """What the monitor knows, as the management API says it."""
    report = monitor.report
    resets = {step.value: count for step, count in monitor.resets.taken().items()}
    failed = {step.value: count for step, count in monitor.resets.failed().items()}
    if report is None:
        return DeviceReport(False, problem, resets=resets, resets_failed=failed, kind=kind)
    return DeviceReport(
        monitor.present,
        "" if monitor.present else problem,
        report.at,
        report.state.name,
        report.fault.name,
        str(report.identity),
        str(report.link),
        report.probe,
        tuple(
            DeviceReading(each.name, each.value, each.unit, each.level.name.lower(), each.text)
            for each in report.readings
        ),
        tuple(
            DeviceBank(bank.status.name.lower(), bank.digest.hex(), bank.active)
            for bank in report.banks
        ),
        resets,
        failed,
        kind,
        str(report.flash) if report.flash is not None else "",
    )


def _serving(status: SlotStatus) -> str | None:
    if status.since is None or status.model is None:
        return None
    return status.model.manifest.name


def _tell_folder(intake: Intake, status: SlotStatus) -> None:
    if status.since is not None:
        since = datetime.fromtimestamp(status.since, UTC)
        intake.serving(str(status.model), since, status.remarks)


def describe(status: SlotStatus, way: Way, figures: Sequence[str] = ()) -> str:
    """The slot in a line, as ``systemctl status`` shows it.

    Args:
        way: to the device that it is on.
        figures: are said of a model that serves, as they are.
    """
    if status.since is not None:
        return ", ".join((f"serving {status.model} on {way}", *figures))
    if status.problem and status.state in (State.ABSENT, State.EMPTY, State.LOADING):
        return status.problem
    return status.state.value


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the state folder: two daemons on one would undo each other's work."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = (state / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot use {state} for state: {error.strerror}; see state.directory in the"
            " configuration"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"cannot use {state} for state: another edged is running on it; stop that one, or"
                " set another state.directory"
            ) from error
        yield
