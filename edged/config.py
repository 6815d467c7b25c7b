"""The configuration: one TOML file in, frozen values out.

What a key is for is said here, once: the default file (``edged --print-config``) and
``docs/configuration.md`` are made from it.
"""

from __future__ import annotations

import difflib
import enum
import math
import os
import re
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from edged.errors import ConfigError
from edged.places import DEVICE_SOCKET, runtime_place, state_place

__all__ = [
    "Activation",
    "Address",
    "CompilerConfig",
    "Config",
    "ConsoleConfig",
    "ContainerConfig",
    "DeviceConfig",
    "DeviceUse",
    "DropConfig",
    "FileMode",
    "IommuUse",
    "LauncherUse",
    "ListenerConfig",
    "LogConfig",
    "LogLevel",
    "MetricsConfig",
    "Protocol",
    "Reloaded",
    "Sandbox",
    "ServingConfig",
    "Setting",
    "SlotConfig",
    "StateConfig",
    "TracingConfig",
    "Whose",
    "credentials_place",
    "default_file",
    "load_config",
    "reference",
    "reloaded",
    "settings",
]

MiB = 1 << 20
GiB = 1 << 30

_MAX_FILE_BYTES = MiB
# sun_path of a UNIX socket's address, without the closing zero; see unix(7).
_MAX_SOCKET_PATH = 107


_LIVE = {"live": True}
"""Marks a key whose new value is in force after a reload; the others need a restart."""


class Sandbox(enum.StrEnum):
    """How the processes that touch untrusted input are confined."""

    AUTO = "auto"
    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"


class LauncherUse(enum.StrEnum):
    """Who starts containers."""

    AUTO = "auto"
    PROCESS = "process"
    SYSTEMD = "systemd"


class Activation(enum.StrEnum):
    """When a model that is stored is loaded."""

    ON_DROP = "on-drop"
    ON_DEMAND = "on-demand"


class Whose(enum.StrEnum):
    """Whose calls."""

    ALL = "all"
    LOCAL = "local"
    NOBODY = "nobody"


class Protocol(enum.StrEnum):
    """What is spoken at an address."""

    GRPC = "grpc"
    HTTP = "http"


class DeviceUse(enum.StrEnum):
    """Which kind of device is used."""

    AUTO = "auto"
    CARD = "card"
    EMULATOR = "emulator"


class IommuUse(enum.StrEnum):
    """Whether a card may be used that nothing keeps to its own memory."""

    REQUIRED = "required"
    OPTIONAL = "optional"


class LogLevel(enum.StrEnum):
    """The least severe messages that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address to listen on.

    Attributes:
        host: a name, an IPv4 address, or an IPv6 address without brackets.
        port: 0 lets the system choose.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``, with an IPv6 address in brackets.

        Raises:
            ValueError: it is none.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not host or (":" in host and not bracketed):
            raise ValueError(text)
        if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError(text)
        return cls(host[1:-1] if bracketed else host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class FileMode:
    """Permissions of a file.

    Attributes:
        bits: as chmod(2) takes them.
    """

    bits: int

    @classmethod
    def parse(cls, text: str) -> FileMode:
        """Read three or four octal digits, ``0660``.

        Raises:
            ValueError: it is none.
        """
        bits = int(text, 8) if text.isascii() and text.isdigit() and len(text) in (3, 4) else -1
        if not 0 <= bits <= 0o777:
            raise ValueError(text)
        return cls(bits)

    def __str__(self) -> str:
        return f"{self.bits:04o}"


class ServingConfig(Struct, frozen=True):
    """How clients reach the model."""

    listen: Annotated[
        Address,
        Meta(
            description="Address of the gRPC service, HOST:PORT. The default is for clients on"
            ' this machine; "0.0.0.0:50051" or "[::]:50051" is for clients in the network.'
        ),
    ] = Address("127.0.0.1", 50051)
    socket: Annotated[
        Path,
        Meta(description="UNIX socket of the same service, for clients on this machine."),
    ] = Path("{runtime}/edged.sock")
    http_listen: Annotated[
        Address,
        Meta(
            description="Address of the same service by REST over HTTP: TensorFlow Serving's paths"
            " /v1 and the Open Inference Protocol's /v2."
        ),
    ] = Address("127.0.0.1", 8501)
    default_listeners: Annotated[
        bool,
        Meta(
            description="Whether those three are served at all; without them only what"
            " [listeners.NAME] says is."
        ),
    ] = True
    tokens: Annotated[
        Path,
        Meta(
            description="The file of bearer tokens, written by `edgectl token`. It has their"
            " hashes, not the tokens. A change is in force at the next call."
        ),
    ] = Path("{state}/tokens")
    max_message_bytes: Annotated[
        int,
        Meta(ge=MiB, le=2 * GiB - 1, description="The largest request and the largest response."),
    ] = 64 * MiB
    shared_memory: Annotated[
        bool,
        Meta(
            description="Whether clients on this machine may have tensors read from and written to"
            " files of theirs under /dev/shm, by the Open Inference Protocol. It is done with its"
            " rights; turn it off where a local proxy brings calls from elsewhere."
        ),
    ] = True
    model_control: Annotated[
        bool,
        Meta(
            description="Whether clients may have a stored model loaded, by the Open Inference"
            " Protocol's RepositoryModelLoad. Whoever can call could then change what serves."
        ),
    ] = False
    max_concurrent_calls: Annotated[
        int,
        Meta(ge=1, description="Calls beyond this number are refused with RESOURCE_EXHAUSTED."),
    ] = 512
    channelz: Annotated[
        bool,
        Meta(
            description="Whether the UNIX sockets have gRPC's channelz, which tells of every"
            " connection and what went over it; for finding out why a client is slow."
        ),
    ] = False
    call_seconds: Annotated[
        float,
        Meta(gt=0, description="The deadline of a call that brings none of its own."),
    ] = 60.0
    max_queued_calls: Annotated[
        int,
        Meta(
            extra=_LIVE,
            ge=0,
            description="Calls that may wait, for their turn or while models change. When there are"
            " more, those of the client that has the most waiting are refused with"
            " RESOURCE_EXHAUSTED.",
        ),
    ] = 256
    max_queued_bytes: Annotated[
        int,
        Meta(extra=_LIVE, ge=0, description="What the requests of those calls may have together."),
    ] = 256 * MiB
    high_priority: Annotated[
        Whose,
        Meta(
            extra=_LIVE,
            description="Whose calls go before others when they ask for it by the metadata"
            ' "edged-priority: high": "local" is those over a UNIX socket or from this machine.'
            ' For anybody else that means "normal". "low" is for everybody to ask for.',
        ),
    ] = Whose.LOCAL


class ListenerConfig(Struct, frozen=True):
    """One more address for calls, under a name of your choice; as many as there are names."""

    protocol: Annotated[
        Protocol,
        Meta(description="What is spoken there."),
    ] = Protocol.GRPC
    listen: Annotated[
        Address | None,
        Meta(description="A TCP address, HOST:PORT. Either this or socket is to be given."),
    ] = None
    socket: Annotated[
        Path | None,
        Meta(description="A UNIX socket."),
    ] = None
    mode: Annotated[
        FileMode,
        Meta(description="Permissions of that socket: whoever may write to it may call."),
    ] = FileMode(0o660)
    certificate: Annotated[
        Path | None,
        Meta(
            description="The server's certificate in PEM form, with those between it and the CA;"
            " calls are then encrypted (TLS). It, the key and the client CA are read again upon a"
            " reload, and no call is dropped."
        ),
    ] = None
    key: Annotated[
        Path | None,
        Meta(description="Its private key in PEM form."),
    ] = None
    client_ca: Annotated[
        Path | None,
        Meta(
            description="Certificates, in PEM form, of whoever signs the clients'; a client without"
            " a certificate by one of them is not let in (mutual TLS)."
        ),
    ] = None
    clients: Annotated[
        tuple[str, ...],
        Meta(
            extra=_LIVE,
            description="Of those, only the clients whose certificates have one of these names:"
            " a subject alternative name, or where there is none the common name. Empty is all.",
        ),
    ] = ()
    tokens: Annotated[
        bool,
        Meta(
            extra=_LIVE,
            description="Whether each call has to bring a bearer token of the file serving.tokens."
            " Health checks do without.",
        ),
    ] = False
    insecure: Annotated[
        bool,
        Meta(
            description="Be silent about an address that can be reached from the network without"
            " any of these, or by tokens that are not encrypted."
        ),
    ] = False


class StateConfig(Struct, frozen=True):
    """What has to survive a restart."""

    directory: Annotated[
        Path,
        Meta(description="The store: bundles, compiled models, and which of them serves."),
    ] = Path("{state}")
    keep_bundles: Annotated[
        int,
        Meta(
            extra=_LIVE,
            ge=1,
            description="How many bundles are kept besides the one that serves and the one that"
            " served before it. The oldest go first.",
        ),
    ] = 5


class DropConfig(Struct, frozen=True):
    """The folder that models are dropped into."""

    directory: Annotated[
        Path,
        Meta(description="The drop folder. It is made if it does not exist."),
    ] = Path("{state}/drop")
    rescan_seconds: Annotated[
        float,
        Meta(
            extra=_LIVE,
            gt=0,
            description="How often the folder is looked through in any case: over NFS and CIFS"
            " nothing announces a new file.",
        ),
    ] = 5.0
    settle_seconds: Annotated[
        float,
        Meta(
            extra=_LIVE,
            gt=0,
            description="A file is whole when its size and time have not changed for this long"
            " and, where the file system can tell, nobody has it open for writing.",
        ),
    ] = 1.0
    max_file_bytes: Annotated[
        int,
        Meta(extra=_LIVE, ge=1, description="Larger files are rejected without being read."),
    ] = 4 * GiB
    data_seconds: Annotated[
        float,
        Meta(
            extra=_LIVE,
            gt=0,
            description="How long an ONNX file waits for the files that it keeps its weights in"
            " (MODEL.onnx.data), counted from the last of them that came or grew.",
        ),
    ] = 900.0


class DeviceConfig(Struct, frozen=True):
    """The FPGA."""

    use: Annotated[
        DeviceUse,
        Meta(
            description='"card" is a card on the PCI bus, which `edged-card` takes and hands out;'
            ' "emulator" is the emulator; "auto" is a card where one is there, now or later, and'
            " the emulator before."
        ),
    ] = DeviceUse.AUTO
    address: Annotated[
        str,
        Meta(
            extra={"wanted": 'a PCI address, like "0000:01:00.0"'},
            pattern=r"^(([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7])?$",
            description="PCI address of the card, as `lspci -D` shows it, where there are several."
            " A card that is named is taken from whatever driver has it.",
        ),
    ] = ""
    serial: Annotated[
        str,
        Meta(
            max_length=64,
            description="Serial number of the card, as `edgectl device` shows it, instead of its"
            " address, which changes with the slot.",
        ),
    ] = ""
    iommu: Annotated[
        IommuUse,
        Meta(
            description='"required" leaves a card alone that no IOMMU keeps to the memory shared'
            ' with it. "optional" uses it all the same: the card, and whoever flashed it, can then'
            " read and write all memory of the machine. docs/cards.md says what that means, and"
            " what it takes."
        ),
    ] = IommuUse.REQUIRED
    card_socket: Annotated[
        Path,
        Meta(description="Socket on which `edged-card` hands the card out."),
    ] = Path("/run/edged-card/card.sock")
    socket: Annotated[
        Path,
        Meta(description="Socket on which the emulator listens, for vfio-user."),
    ] = Path("{runtime}", DEVICE_SOCKET)
    retry_seconds: Annotated[
        float,
        Meta(gt=0, description="Pause between attempts to open a device that is away."),
    ] = 0.2
    poll_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="How often its health is read; a fifth as often while nothing runs and all"
            " is well. What it says by an interrupt is read at once.",
        ),
    ] = 1.0
    watchdog_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=9,
            description="A run that takes longer is given up, its call fails, and the device is"
            " reset as far as it needs to be. 0 is never.",
        ),
    ] = 8.0
    temperature_warn: Annotated[
        float,
        Meta(extra=_LIVE, ge=0, description="Degrees Celsius from which on the log warns."),
    ] = 85.0
    temperature_throttle: Annotated[
        float,
        Meta(
            extra=_LIVE,
            ge=0,
            description="Degrees Celsius from which on calls are slowed down, until it is 3"
            " degrees cooler again.",
        ),
    ] = 95.0
    temperature_stop: Annotated[
        float,
        Meta(
            extra=_LIVE,
            ge=0,
            description="Degrees Celsius from which on the device is not used and calls are"
            " answered UNAVAILABLE, until it is 3 degrees cooler again.",
        ),
    ] = 100.0
    throttle_interval_seconds: Annotated[
        float,
        Meta(
            extra=_LIVE,
            gt=0,
            description="While calls are slowed down, one is let in this often.",
        ),
    ] = 0.1
    power_warn: Annotated[
        float,
        Meta(extra=_LIVE, gt=0, description="Watts from which on the log warns."),
    ] = 70.0
    ecc_corrected_warn: Annotated[
        int,
        Meta(
            extra=_LIVE,
            ge=1,
            description="Corrected memory errors since power-on from which on the log warns. A"
            " single one that cannot be corrected does as well.",
        ),
    ] = 100
    link_corrected_warn: Annotated[
        int,
        Meta(
            extra=_LIVE,
            ge=1,
            description="Correctable errors on the link, seen since edged started, from which on"
            " the log warns. A single one that is not correctable does as well.",
        ),
    ] = 100


class SlotConfig(Struct, frozen=True):
    """How one model takes the place of another."""

    drain_seconds: Annotated[
        float,
        Meta(
            extra=_LIVE,
            gt=0,
            description="How long a change of models, and the end of edged, waits for the calls"
            " that are being answered.",
        ),
    ] = 30.0
    attempts: Annotated[
        int,
        Meta(
            extra=_LIVE,
            ge=1,
            description="A model that fails this often when it starts is set aside, and the last"
            " good one is loaded.",
        ),
    ] = 3
    failures: Annotated[
        int,
        Meta(
            extra=_LIVE,
            ge=1,
            description="A model whose container ends by itself this often within"
            " failure_window_seconds is set aside, and the last good one is loaded; with no other,"
            " it is tried again after growing pauses.",
        ),
    ] = 5
    failure_window_seconds: Annotated[
        float,
        Meta(extra=_LIVE, gt=0, description="See failures."),
    ] = 60.0
    activation: Annotated[
        Activation,
        Meta(
            description='"on-drop" changes models only when one is dropped or activated;'
            ' "on-demand" does so as well when a call names a model that is stored but not loaded.'
        ),
    ] = Activation.ON_DROP
    residence_seconds: Annotated[
        float,
        Meta(
            extra=_LIVE,
            ge=0,
            description="How long a model stays before a call for another one has that loaded.",
        ),
    ] = 10.0


class ContainerConfig(Struct, frozen=True):
    """The confined process that holds the model."""

    launcher: Annotated[
        LauncherUse,
        Meta(
            description='"process" starts it as a child of edged, "systemd" has systemd start it in'
            ' a unit of its own, edged-container@.service, by the socket below. "auto" does that'
            " where edged is a unit itself and the socket is there, and otherwise the other."
        ),
    ] = LauncherUse.AUTO
    socket: Annotated[
        Path,
        Meta(description="Where edged-container.socket listens."),
    ] = Path("/run/edged/container.sock")
    sandbox: Annotated[
        Sandbox,
        Meta(
            description='"bubblewrap" uses namespaces, "landlock" does without them, "auto" takes'
            " bubblewrap where it is installed and works. A syscall filter and resource limits"
            " are in force in each case, for the compiler too. A container in a unit of its own"
            " has the namespaces of that and no use for bubblewrap."
        ),
    ] = Sandbox.AUTO
    memory_bytes: Annotated[
        int,
        Meta(
            ge=128 * MiB,
            description="The most memory that it may take. In a unit of its own, MemoryMax of that"
            " bounds it as well: 3 GiB, unless `systemctl edit edged-container@` says otherwise.",
        ),
    ] = 2 * GiB
    start_seconds: Annotated[
        float,
        Meta(gt=0, description="How long it may take to be ready."),
    ] = 30.0
    call_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="How long it may work on one call, whatever the client's own deadline is."
            " One that does not come back from a call is ended and replaced. What a call waits"
            " for its turn does not count.",
        ),
    ] = 60.0


class CompilerConfig(Struct, frozen=True):
    """The confined process that compiles a model for the device."""

    memory_bytes: Annotated[
        int,
        Meta(ge=128 * MiB, description="The most memory that it may take."),
    ] = 4 * GiB
    timeout_seconds: Annotated[
        float,
        Meta(gt=0, description="How long it may take."),
    ] = 600.0


class ConsoleConfig(Struct, frozen=True):
    """How edgectl reaches edged."""

    socket: Annotated[
        Path,
        Meta(description="UNIX socket of the management API."),
    ] = Path("{runtime}/control.sock")
    mode: Annotated[
        FileMode,
        Meta(
            description="Permissions of that socket: whoever may write to it may change what"
            " serves. Its group is the daemon's."
        ),
    ] = FileMode(0o660)


class MetricsConfig(Struct, frozen=True):
    """Numbers for Prometheus, and whether edged lives and serves: /metrics, /healthz, /readyz."""

    listen: Annotated[
        Address,
        Meta(
            description="HTTP address, HOST:PORT. Whoever can reach it can read the names of models"
            " and how much they are used."
        ),
    ] = Address("127.0.0.1", 9464)


class TracingConfig(Struct, frozen=True):
    """Calls as spans of OpenTelemetry; needs the extra otel. Off unless an endpoint is named."""

    endpoint: Annotated[
        str,
        Meta(
            extra={"wanted": "an address that begins with http:// or https://, or nothing"},
            pattern=r"^(https?://\S+)?$",
            description="Where a collector takes OTLP over HTTP, such as"
            " http://127.0.0.1:4318/v1/traces. It gets names and times of calls, models and"
            " clients, and nothing of what they send.",
        ),
    ] = ""
    part: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Which part of the calls begins a trace, of those that are not part of one"
            " by their traceparent. Those that are follow their caller.",
        ),
    ] = 0.01


class LogConfig(Struct, frozen=True):
    """The log, which goes to the journal under systemd and to standard error otherwise."""

    level: Annotated[
        LogLevel,
        Meta(extra=_LIVE, description="The least severe messages that are logged."),
    ] = LogLevel.INFO
    access_lines_per_second: Annotated[
        int,
        Meta(
            extra=_LIVE,
            ge=0,
            description="Calls that are logged one by one, with client, model, sizes and times: so"
            " many a second that were answered, and as many that failed. How many more there were"
            " is logged as a number. 0 logs none.",
        ),
    ] = 10


class Config(Struct, frozen=True):
    """All of it. Each attribute is a table of the file, or a table of tables with names."""

    serving: ServingConfig = ServingConfig()
    listeners: dict[str, ListenerConfig] = msgspec.field(default_factory=dict)
    state: StateConfig = StateConfig()
    drop: DropConfig = DropConfig()
    device: DeviceConfig = DeviceConfig()
    slot: SlotConfig = SlotConfig()
    container: ContainerConfig = ContainerConfig()
    compiler: CompilerConfig = CompilerConfig()
    console: ConsoleConfig = ConsoleConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    log: LogConfig = LogConfig()


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration.

    Args:
        path: the file; None for the defaults. The files ``*.toml`` in the folder ``PATH.d`` are
            read after it, in the order of their names; for each key the last one counts.
        environment: says where state and sockets go by default: systemd's ``STATE_DIRECTORY`` and
            ``RUNTIME_DIRECTORY``, or else the XDG base directory specification's variables.

    Returns:
        the configuration, each of its paths absolute.

    Raises:
        ConfigError: a file cannot be read, or says something that cannot be used.
    """
    values: dict[str, dict[str, Any]] = {}
    for setting in settings(path, environment):
        values.setdefault(setting.table, {})[setting.key] = setting.value
    tables: dict[str, Any] = {
        t.name: {name: t.type(**values[f"{t.name}.{name}"]) for name in _names(t, values)}
        if t.is_named
        else t.type(**values[t.name])
        for t in _tables()
    }
    return Config(**tables)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is in force for one key.

    Attributes:
        value: as in :class:`Config`.
        file: that says so; None where it is the default.
    """

    table: str
    key: str
    value: Any
    file: Path | None

    def __str__(self) -> str:
        """As a file would say it, with its table: ``slot.attempts = 3``."""
        return f"{self.table}.{self.key} = {_toml(self.value)}"

    @property
    def plain(self) -> int | float | str | list[str] | None:
        """The value as TOML and JSON have it; None where there is none."""
        value = self.value.value if isinstance(self.value, enum.Enum) else self.value
        if isinstance(value, tuple):
            return list(value)
        return value if value is None or isinstance(value, int | float) else str(value)


def settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[Setting, ...]:
    """Every key, what is in force for it, and which file says so.

    Args and raises as :func:`load_config`.
    """
    said: dict[tuple[str, str], Setting] = {}
    for file in _files(path):
        for setting in _said(file):
            said[setting.table, setting.key] = setting
    found = [
        said.get((name, key.name), Setting(name, key.name, key.default, None))
        for table in _tables()
        for name in _full_names(table, [table for table, _ in said])
        for key in table.keys
    ]
    state = next(s for s in found if (s.table, s.key) == ("state", "directory"))
    places = {"{state}": state_place(environment)}
    places["{state}"] = _resolved(state, places)
    places["{runtime}"] = runtime_place(environment, places["{state}"])
    places["{credentials}"] = credentials_place(environment)
    all_settings = tuple(
        replace(
            setting, value=places["{state}"] if setting is state else _resolved(setting, places)
        )
        if isinstance(setting.value, Path)
        else setting
        for setting in found
    )
    _check_listeners(all_settings)
    return all_settings


def credentials_place(environment: Mapping[str, str]) -> Path:
    """Where ``{credentials}`` is: of the unit, for who asks from outside of it; systemd.exec(5)."""
    return Path(environment.get("CREDENTIALS_DIRECTORY") or "/run/credentials/edged.service")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a configuration that was read anew comes to.

    Attributes:
        config: what is in force from now on.
        changed: the settings that are, and were not.
        waiting: those that are in force after a restart only.
    """

    config: Config
    changed: tuple[Setting, ...]
    waiting: tuple[Setting, ...]


def reloaded(config: Config, wanted: Config) -> Reloaded:
    """*config*, which is in force, with those values of *wanted* that can change while it is."""
    changed: list[Setting] = []
    waiting: list[Setting] = []

    def merged(table: _TableInfo, name: str, old: Struct, new: Struct) -> Struct:
        values = {}
        for key in table.keys:
            value = getattr(new, key.name)
            if value == getattr(old, key.name):
                continue
            setting = Setting(name, key.name, value, None)
            if key.is_live:
                values[key.name] = value
                changed.append(setting)
            else:
                waiting.append(setting)
        return msgspec.structs.replace(old, **values)

    tables: dict[str, Any] = {}
    for table in _tables():
        old, new = getattr(config, table.name), getattr(wanted, table.name)
        if not table.is_named:
            tables[table.name] = merged(table, table.name, old, new)
            continue
        tables[table.name] = {
            name: merged(table, f"{table.name}.{name}", old[name], new.get(name, old[name]))
            for name in old
        }
        for name in old.keys() ^ new.keys():
            waiting.append(Setting(table.name, name, "new" if name in new else "gone", None))
    return Reloaded(Config(**tables), tuple(changed), tuple(waiting))


def default_file() -> str:
    """A configuration file that changes nothing: every key, explained, with its default."""
    lines = ["# Configuration of edged. What is commented out is the default.", "#", *_PATHS_TOML]
    for table in _tables():
        title = f"# [{table.name}.NAME]" if table.is_named else f"[{table.name}]"
        lines += ["", "", f"# {table.text}", title]
        for key in table.keys:
            lines += ["", *_wrap(f"{key.text} {key.bounds}".strip(), "# ")]
            lines.append(
                f"#     {key.name} = {_toml(key.default)}".rstrip()
                if table.is_named
                else f"# {key.name} = {_toml(key.default)}"
            )
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The reference of all keys, in Markdown: ``docs/configuration.md``."""
    lines = [*_REFERENCE_HEAD]
    for table in _tables():
        title = f"{table.name}.NAME" if table.is_named else table.name
        lines += ["", f"## `[{title}]`", "", table.text, ""]
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        for key in table.keys:
            text = f"{key.text} {key.bounds}".strip().replace("|", "\\|")
            wanted = key.wanted.removeprefix("a ")
            name = f"`{key.name}`" + (" ↻" if key.is_live else "")
            default = f"`{_toml(key.default)}`" if key.default is not None else ""
            lines.append(f"| {name} | {wanted} | {default} | {text} |")
    return "\n".join(lines) + "\n"


# What the tables and keys are, read from the types above.


class _Key(NamedTuple):
    name: str
    declared: Any  # the annotated type, which carries the bounds
    type: Any
    default: Any
    text: str

    @property
    def wanted(self) -> str:
        """The type in a reader's words."""
        if said := (get_args(self.declared)[1].extra or {}).get("wanted"):
            return str(said)
        if issubclass(self.type, enum.Enum):
            return "one of " + ", ".join(f'"{member.value}"' for member in self.type)
        return f"a {_WORDS[self.type]}"

    @property
    def is_live(self) -> bool:
        """Whether a reload is enough."""
        return bool((get_args(self.declared)[1].extra or {}).get("live"))

    @property
    def bounds(self) -> str:
        meta = get_args(self.declared)[1]
        said = [
            f"{word} {bound}"
            for word, bound in (
                ("At least", meta.ge),
                ("More than", meta.gt),
                ("At most", meta.le),
            )
            if bound is not None
        ]
        return f"{', '.join([said[0], *map(str.lower, said[1:])])}." if said else ""


class _TableInfo(NamedTuple):
    name: str
    type: type[Struct]
    text: str
    keys: tuple[_Key, ...]
    is_named: bool = False
    """Whether it stands for any number of tables, ``[name.ANY]``."""


_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")

_WORDS = {
    Path: "path",
    Address: '"HOST:PORT" text',
    FileMode: "text of octal digits",
    bool: "boolean, true or false",
    tuple: "list of texts",
    int: "whole number",
    str: "text",
    float: "number",
}


_MOVED = {
    ("slot", "max_held_calls"): "serving.max_queued_calls",
    ("slot", "max_held_bytes"): "serving.max_queued_bytes",
}


def _tables() -> Iterator[_TableInfo]:
    for table in msgspec.structs.fields(Config):
        is_named = get_origin(table.type) is dict
        struct = get_args(table.type)[1] if is_named else table.type
        keys = []
        for field in msgspec.structs.fields(struct):
            assert get_origin(field.type) is Annotated
            kind, meta = get_args(field.type)
            if isinstance(kind, types.UnionType):  # with None
                kind = get_args(kind)[0]
            kind = get_origin(kind) or kind
            keys.append(_Key(field.name, field.type, kind, field.default, meta.description))
        text = (struct.__doc__ or "").strip()
        yield _TableInfo(table.name, struct, text, tuple(keys), is_named)


def _names(table: _TableInfo, said: Iterable[str]) -> list[str]:
    """The tables ``[table.NAME]`` by their names, of the full names that were *said*."""
    start = f"{table.name}."
    return list(dict.fromkeys(n.removeprefix(start) for n in said if n.startswith(start)))


def _full_names(table: _TableInfo, said: Iterable[str]) -> list[str]:
    if not table.is_named:
        return [table.name]
    return [f"{table.name}.{name}" for name in _names(table, said)]


# From the file to values.


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror};"
            " `edged --print-config` prints one to start from"
        ) from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(
            f"cannot read the configuration {path}: it is larger than {_MAX_FILE_BYTES} bytes"
        )
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            f"cannot read the configuration {path}: no valid TOML: {error}"
        ) from error


def _files(path: Path | None) -> Iterator[Path]:
    """What is to be read, the least important first."""
    if path is None:
        return
    yield path
    folder = path.with_name(f"{path.name}.d")
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot read the configuration in {folder}: {error.strerror}") from error
    yield from (file for file in files if file.suffix == ".toml" and file.name[0] != ".")


def _said(file: Path) -> Iterator[Setting]:
    """What *file* says."""
    tables = {table.name: table for table in _tables()}
    for name, content in _read(file).items():
        if name not in tables:
            holders = [t.name for t in tables.values() if name in {k.name for k in t.keys}]
            hint = f"; it belongs in [{holders[0]}]" if holders else _suggestion(name, tables)
            what = "table" if isinstance(content, dict) else "key"
            raise ConfigError(f"cannot use {file}: there is no {what} {name!r}{hint}")
        if not isinstance(content, dict):
            raise ConfigError(
                f"cannot use {file}: {name} is {_found(content)}, wanted a table, [{name}]"
            )
        if tables[name].is_named:
            yield from _said_in_named(file, tables[name], content)
        else:
            yield from _said_in(file, tables[name], name, content)


def _said_in_named(file: Path, table: _TableInfo, content: dict[str, Any]) -> Iterator[Setting]:
    for name, inner in content.items():
        full = f"{table.name}.{name}"
        if name in {key.name for key in table.keys} and not isinstance(inner, dict):
            raise ConfigError(
                f"cannot use {file}: {full} is {_found(inner)}; it belongs in a table with a name,"
                f" [{table.name}.NAME]"
            )
        if not isinstance(inner, dict) or not inner:
            found = "an empty table" if inner == {} else _found(inner)
            raise ConfigError(f"cannot use {file}: {full} is {found}, wanted a table with keys")
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"cannot use {file}: {name[:80]!r} is no name for [{table.name}.NAME]; wanted up to"
                " 32 letters, digits, - and _"
            )
        yield from _said_in(file, table, full, inner)


def _said_in(
    file: Path, table: _TableInfo, name: str, content: dict[str, Any]
) -> Iterator[Setting]:
    keys = {key.name: key for key in table.keys}
    for key, value in content.items():
        if moved := _MOVED.get((name, key)):
            raise ConfigError(
                f"cannot use {file}: {name}.{key} is now {moved}, which bounds what waits for"
                " its turn as well; write that instead"
            )
        if key not in keys:
            raise ConfigError(
                f"cannot use {file}: there is no key {name}.{key}{_suggestion(key, keys)}"
            )
        yield Setting(name, key, _checked(keys[key], value, f"{file}: {name}.{key}"), file)


def _check_listeners(found: Iterable[Setting]) -> None:
    """See that the keys of each listener go together."""
    listeners: dict[str, dict[str, Setting]] = {}
    for setting in found:
        if setting.table.startswith("listeners."):
            listeners.setdefault(setting.table, {})[setting.key] = setting
    for name, keys in listeners.items():
        given = {key for key, setting in keys.items() if setting.value not in (None, (), False)}
        wrong = ""
        if ("listen" in given) == ("socket" in given):
            wrong = "wanted either listen or socket"
        elif "socket" in given and "certificate" in given:
            wrong = "a UNIX socket is not encrypted; leave certificate, or give listen"
        elif ("certificate" in given) != ("key" in given):
            wrong = "certificate and key belong together, wanted both or neither"
        elif "client_ca" in given and "certificate" not in given:
            wrong = "client_ca needs a certificate and a key of the server, too"
        elif "clients" in given and "client_ca" not in given:
            wrong = "clients are known by certificates; wanted client_ca, too"
        if wrong:
            file = next(s.file for s in reversed(keys.values()) if s.file is not None)
            has = ", ".join(sorted(given & {"listen", "socket", "certificate", "key", "client_ca"}))
            raise ConfigError(f"cannot use {file}: [{name}] has {has or 'no address'}: {wrong}")


def _checked(key: _Key, value: object, where: str) -> Any:
    try:
        return _value(key, value)
    except (ValueError, msgspec.ValidationError) as error:
        wanted = ", ".join(filter(None, (key.wanted, key.bounds.lower().rstrip("."))))
        raise ConfigError(
            f"cannot use {where} is {_found(value)}, wanted {wanted}"
            + (_suggestion(value, _choices(key)) if isinstance(value, str) else "")
        ) from error


def _value(key: _Key, found: object) -> object:
    if key.type in (Address, FileMode, Path):
        if not isinstance(found, str) or not found or "\0" in found:
            raise ValueError("no text, or an empty one")
        return Path(found) if key.type is Path else key.type.parse(found)
    value = msgspec.convert(found, key.declared)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    return value


def _resolved(setting: Setting, places: Mapping[str, Path]) -> Path:
    """An absolute path; a relative one is meant from the folder of the file that says it."""
    folder = setting.file.absolute().parent if setting.file is not None else Path.cwd()
    where = f"{setting.file or 'the default configuration'}: {setting.table}.{setting.key}"
    first, *rest = setting.value.parts
    meant = places[first].joinpath(*rest) if first in places else setting.value
    try:
        resolved = folder / meant.expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"cannot use {where} is {str(setting.value)!r}: there is no such user"
        ) from error
    length = len(os.fsencode(resolved))
    if setting.key.endswith("socket") and length > _MAX_SOCKET_PATH:
        raise ConfigError(
            f"cannot use {where} is {str(resolved)!r}, {length} bytes long; the path of a socket"
            f" has at most {_MAX_SOCKET_PATH}"
        )
    return resolved


def _found(value: object) -> str:
    words: dict[type, str] = {bool: "a boolean", dict: "a table", list: "a list"}
    if type(value) in words:
        return words[type(value)]
    text = str(value)
    return repr(value) if len(text) <= 80 else f"a value of {len(text)} characters"


def _choices(key: _Key) -> list[str]:
    return [member.value for member in key.type] if issubclass(key.type, enum.Enum) else []


def _suggestion(name: str, known: Mapping[str, object] | list[str]) -> str:
    if not known:
        return ""
    if close := difflib.get_close_matches(name, list(known), n=1):
        return f" (did you mean {close[0]}?)"
    return "" if isinstance(known, list) else f"; there are {', '.join(known)}"


# From values to text.


def _toml(value: object) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int | float):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _wrap(text: str, prefix: str, width: int = 96) -> list[str]:
    lines = [prefix.rstrip()]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append(prefix.rstrip())
        lines[-1] += f" {word}"
    return lines


_PATHS_TOML = (
    "# In a path, {state} stands for state.directory, {runtime} for the folder of sockets,",
    "# {credentials} for what systemd's LoadCredential= loads, and ~ for the home directory; a",
    "# relative path starts at the folder of this file.",
)

_REFERENCE_HEAD = (
    "# Configuration",
    "",
    "<!-- Made from edged/config.py by `make docs`. -->",
    "",
    "edged reads a TOML file: `edged --config FILE`. The files `*.toml` in the folder `FILE.d`"
    " beside it are read after it, in the order of their names; for each key the last one counts."
    " `edgectl config show` says what is in force and which file says so, `edgectl config check`"
    " whether it can be used. Without a file edged uses the defaults, which suit"
    " a normal user as well as the systemd unit. `edged --print-config` prints all keys with their"
    " defaults, to start from. A key that does not exist is an error, and so is a value of the"
    " wrong type: edged says which, and exits with status 78, upon which systemd does not restart"
    " it.",
    "",
    "`systemctl reload edged`, or SIGHUP, reads it anew. What is marked ↻ is in force at once, the"
    " log names what needs a restart, and a configuration that cannot be used changes nothing.",
    "",
    "Sizes are in bytes, times in seconds. A path may start with:",
    "",
    "| | stands for | under systemd | otherwise |",
    "|---|---|---|---|",
    "| `{state}` | `state.directory` | `$STATE_DIRECTORY`, `/var/lib/edged` |"
    " `$XDG_STATE_HOME/edged`, or `~/.local/state/edged` |",
    "| `{runtime}` | the folder of sockets | `$RUNTIME_DIRECTORY`, `/run/edged` |"
    " `$XDG_RUNTIME_DIR/edged`, or `{state}/run` |",
    "| `{credentials}` | what `LoadCredential=` of the unit loads | `$CREDENTIALS_DIRECTORY` |"
    " `/run/credentials/edged.service` |",
    "| `~` | the home directory | | |",
    "",
    "A relative path starts at the folder of the file that says it: one in `FILE.d`, there.",
)
