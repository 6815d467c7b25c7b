"""What the management API says: the console writes it, ``edgectl`` reads it.

JSON over HTTP on the control socket; ``docs/management.md`` describes it. Times are in seconds
since 1970, durations in seconds. Fields may be added; a client passes over those that it does not
know.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edged.remarks import Remark

__all__ = [
    "Activate",
    "CallFigures",
    "Cancelled",
    "Change",
    "ClientLoad",
    "DeviceBank",
    "DeviceReading",
    "DeviceReport",
    "Failure",
    "Flashed",
    "Load",
    "ModelInfo",
    "Pin",
    "Status",
    "Swap",
    "Swapped",
    "Times",
]

_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class ModelInfo(Struct, frozen=True):
    """A bundle in the store.

    Attributes:
        name, version, serial, digest: as its manifest says.
        size: the sizes of its files together.
        added: when it came.
        loaded: it is in the slot.
        committed: it is loaded after a restart.
        last_good: it is what a rollback leads to.
        set_aside: why it is not loaded by itself, or None.
        set_aside_at: since when.
        source: what its maker says it was built from, such as "random weights, seed 7".
        remarks: of the compiler; none before it was compiled.
    """

    name: str
    version: str
    serial: int
    digest: str
    size: int
    added: float
    loaded: bool = False
    committed: bool = False
    last_good: bool = False
    set_aside: str | None = None
    set_aside_at: float | None = None
    source: str = ""
    remarks: tuple[Remark, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class CallFigures(Struct, frozen=True):
    """The calls of the last minute.

    Attributes:
        per_minute: how many; in the first minute, as many as there would be at this rate.
        failed: how many of them were answered with an error.
        p50_seconds, p99_seconds: what half of them, and 99 of 100, took in the daemon at most; None
            without any.
    """

    per_minute: float
    failed: int = 0
    p50_seconds: float | None = None
    p99_seconds: float | None = None


class WaitingDrop(Struct, frozen=True):
    """A model in the drop folder that is tried again later, for no fault of its own.

    Attributes:
        name: of the file or folder, as it was dropped.
        reason: what of the machine, or of the moment, is in the way.
        tries: how often it was tried.
        seconds: until it is tried again.
    """

    name: str
    reason: str
    tries: int
    seconds: float


class Status(Struct, frozen=True):
    """The appliance at a glance.

    Attributes:
        version: of edged.
        state: of the slot, in a word or two.
        model: the one that is in the slot.
        since: when it began to serve; None while it does not.
        problem: why nothing serves, in a sentence; else empty.
        pinned: whether what serves is to stay, whatever is dropped.
        store_problems: what was found wrong with the state on disk when edged started.
        calls: how many there are and how long they take; None from an edged that does not say so.
        waiting: what was dropped and is tried again later.
    """

    version: str
    state: str
    model: ModelInfo | None
    since: float | None
    problem: str
    pinned: bool
    store_problems: tuple[str, ...] = ()
    calls: CallFigures | None = None
    waiting: tuple[WaitingDrop, ...] = ()


class Times(Struct, frozen=True):
    """What half of them, and 99 of 100, took at most, in seconds; None without any."""

    p50: float | None = None
    p99: float | None = None


class ClientLoad(Struct, frozen=True):
    """The calls of one client.

    Attributes:
        name: of its token or certificate, or its address; empty for all that are not told apart.
        per_second: how many were answered, with an error or without.
        failed_per_second: with an error.
        times: of its calls.
    """

    name: str
    per_second: float
    failed_per_second: float = 0.0
    times: Times = Times()


class Load(Struct, frozen=True):
    """The calls of the last seconds.

    Attributes:
        seconds: how many.
        calls: of all clients.
        running: calls in the daemon now.
        queued: those of them that wait for their turn.
        stages: by stage, in the order in which a call goes through them.
        clients: those with the most calls first.
        device_busy: for what part of the time the array was at work when it was last looked at.
    """

    seconds: float
    calls: ClientLoad
    running: int
    queued: int
    stages: dict[str, Times]
    clients: tuple[ClientLoad, ...]
    device_busy: float | None = None


class DeviceReading(Struct, frozen=True):
    """One value of the device's health.

    Attributes:
        unit: empty for a count.
        level: ``ok``, ``warn``, ``throttle`` (calls are slowed down) or ``stop`` (it is not used).
        text: the value as a person reads it.
    """

    name: str
    value: float
    unit: str
    level: str
    text: str


class DeviceBank(Struct, frozen=True):
    """One of the places for a program.

    Attributes:
        status: ``empty``, ``loading``, ``valid`` or ``corrupt``.
        digest: of the program image, in hex.
        active: it is the one that runs.
    """

    status: str
    digest: str
    active: bool


class DeviceReport(Struct, frozen=True):
    """The device.

    Attributes:
        present: whether it is in use; if not, what follows is what was read last.
        at: when that was; None if never, and all that follows is empty then.
        problem: why it is not in use, or empty.
        state, fault: as it says itself, in a word.
        identity: gateware, array, clock and memory, in a line.
        link: speed and width.
        probe_seconds: what a round trip over the management queue took.
        resets: steps of the reset ladder, how often each was taken since edged started.
        resets_failed: how often each did not help.
        kind: "the emulated FPGA", or which card it is; empty from an edged that does not say so.
        flash: shell and firmware, in a line; empty where the host cannot change them.
    """

    present: bool
    problem: str = ""
    at: float | None = None
    state: str = ""
    fault: str = ""
    identity: str = ""
    link: str = ""
    probe_seconds: float | None = None
    readings: tuple[DeviceReading, ...] = ()
    banks: tuple[DeviceBank, ...] = ()
    resets: dict[str, int] = {}
    resets_failed: dict[str, int] = {}
    kind: str = ""
    flash: str = ""


class Swap(Struct, frozen=True):
    """That a model took the place of another.

    Attributes:
        at: when.
        model: name and version; empty where that was not noted.
        digest: of its bundle, which may have been removed since.
        cause: who wanted it and why.
        gate_closed_seconds: for how long calls were held; None where that was not noted.
    """

    at: float
    model: str
    digest: str
    cause: str
    gate_closed_seconds: float | None


class Activate(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/activate``; without a version, the highest serial of that name."""

    name: _Name
    version: _Name | None = None


class Cancelled(Struct, frozen=True):
    """The answer to ``POST /v1/cancel``: which models were called off, by name and version."""

    models: list[str]


class Pin(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/pin``, and its answer."""

    pinned: bool


class Swapped(Struct, frozen=True):
    """How a change of models ended.

    Attributes:
        model: the one that serves, by name and version.
        since: when it began to.
        already: it served before; nothing changed.
        gate_closed_seconds: for how long calls were held.
    """

    model: str
    since: float
    already: bool
    gate_closed_seconds: float


class Flashed(Struct, frozen=True):
    """That the firmware was changed.

    Attributes:
        kind: ``role`` or ``golden``.
        gateware: the id of the gateware, in hex.
        firmware: what it says of itself, in a line.
    """

    kind: str
    gateware: str
    firmware: str


class Failure(Struct, frozen=True):
    """An error.

    Attributes:
        error: what cannot be done, why, and what to do about it.
        status: the name of the gRPC status code that stands for its class.
    """

    error: str
    status: str


class Change(Struct, frozen=True, omit_defaults=True):
    """A line of the answer to a change of models or firmware: how far it has come, or how it ended.

    Attributes:
        text: what is being done.
        fraction: how much of that is done, 0 … 1, where it can be told.
        done: it went well; the last line.
        flashed: likewise of a change of firmware.
        error, status: it did not, as :class:`Failure` says it; the last line.
    """

    text: str = ""
    fraction: float | None = None
    done: Swapped | None = None
    flashed: Flashed | None = None
    error: str = ""
    status: str = ""
