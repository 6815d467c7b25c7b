"""The list of cases: where a fault strikes, which, and what is going on then."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["CASES", "SUBSET", "Act", "Case", "Deed"]


class Act(enum.Enum):
    """What is going on when the fault strikes. The value says so in the table."""

    DROP = "b is dropped while a serves"
    DROP_BAD = "a truncated bundle is dropped while a serves"
    BOOT = "edged starts, a is committed"
    FIRST_BOOT = "edged starts for the first time"
    UPGRADE = "edged starts on a catalogue of schema 1"
    SERVE = "a serves"
    PIN = "edgectl pin, unpin"
    REMOVE = "edgectl remove b"
    REDROP = "b is dropped, which is stored and compiled"


class Deed(enum.Enum):
    """What is done from outside while the process that struck stands still."""

    NOTHING = ""
    KILL_NEW_CONTAINER = "kill -9 of the new container"
    KILL_OLD_CONTAINER = "kill -9 of the old container"
    STOP_OLD_CONTAINER = "SIGSTOP of the container"
    KILL_COMPILER = "kill -9 of the compiler"
    KILL_EMULATOR = "power off the device, and on"
    STALL_EMULATOR = "the device stalls for 2 s"
    FREEZE_EMULATOR = "the device stalls for good, power off and on"
    POWER_CUT = "power cut of the whole box"
    FLIP_IMAGE_IN_FLIGHT = "a bit of the image flips on its way to the device"
    FLIP_CACHE = "a bit of a's compiled image flips on disk"
    FLIP_MODEL = "a bit of a's model flips on disk"
    FILL_DISK = "the disk is full"
    SHORT_OF_MEMORY = "the compiler may have 128 MiB only"
    KILL_DAEMON = "kill -9 of edged at a random moment"


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        point: the fault point's name, or in words when it is done from outside.
        kind: an action of `edged.faults`, or "outside".
        at: which passing of the point, counted by process; 0 for every one.
        before: faults that strike before, so that the point is passed at all.
        again: the fault strikes in every start of edged from then on, not only in the first.
        free: with FILL_DISK, KiB that are left.
    """

    point: str
    kind: str
    act: Act = Act.DROP
    at: int = 1
    deed: Deed = Deed.NOTHING
    before: str = ""
    again: bool = False
    free: int = 0

    def __str__(self) -> str:
        at = f"@{self.at}" if self.at > 1 else ""
        deed = f" {self.deed.name.lower()}" if self.deed is not Deed.NOTHING else ""
        again = " always" if self.again else ""
        free = f" {self.free}" if self.free else ""
        return f"{self.act.name.lower()} {self.point}:{self.kind}{at}{deed}{free}{again}"

    @property
    def fault(self) -> str:
        """For EDGED_FAULT."""
        if self.kind == "outside":
            return self.before
        own = f"{self.point}:{self.kind}{f'@{self.at}' if self.at else ''}"
        return ",".join(filter(None, (self.before, own)))

    @property
    def in_emulator(self) -> bool:
        return self.point.startswith("emulator.")


# Every start of edged passes these once, before b is dropped.
_IN_BOOT = {
    *("store.attempt.counted", "slot.materialised", "slot.compiled", "slot.started"),
    *("container.spawned", "slot.activated", "slot.attached", "slot.tested"),
    "store.attempts.cleared",
    *("emulator.loading", "emulator.loaded", "emulator.activating", "emulator.activated"),
}


def _at(point: str) -> int:
    return 2 if point in _IN_BOOT else 1


_INTAKE = (
    *("intake.noticed", "intake.settled", "intake.status.written", "intake.status.shown"),
    *("intake.removing", "intake.removed"),
)
_VERIFY = ("bundle.copied", "bundle.checked", "bundle.extracted", "deploy.verified")
_STORE = (
    *("store.add.before", "store.blob.linked", "store.add.linked", "store.add.blobs"),
    *("store.add.done", "deploy.stored"),
)
_PREPARE = (
    *("slot.materialised", "slot.compiler.started", "slot.compiler.done"),
    *("store.compiled.staged", "store.compiled.renamed", "slot.compiled"),
    *("container.spawned", "slot.started", "store.attempt.counted", "slot.preloaded"),
)
_CLOSED = (
    *("slot.closed", "slot.detached", "slot.drained", "slot.activated", "slot.attached"),
    "slot.tested",
)
_COMMIT = (
    *("slot.opened", "store.commit.before", "store.commit.within", "store.commit.after"),
    *("slot.committed", "slot.old.stopped"),
)
_LOAD = (
    *("store.attempt.counted", "slot.materialised", "slot.compiled", "container.spawned"),
    *("slot.started", "slot.load.prepared", "slot.load.preloaded", "slot.activated"),
    *("slot.attached", "slot.tested", "slot.load.entered"),
    "store.attempts.cleared",
)
_EMULATOR = ("emulator.loading", "emulator.loaded", "emulator.activating", "emulator.activated")
_DROP = (*_INTAKE, *_VERIFY, *_STORE, *_PREPARE, *_CLOSED, *_COMMIT)
_ROLLBACK = "slot.tested:raise@2"


def _cases() -> list[Case]:
    cases = [Case(point, "exit", at=_at(point)) for point in _DROP]
    cases += [Case(f"intake.status.{what}", "exit", at=2) for what in ("written", "shown")]
    raising = (
        *("intake.noticed", "intake.settled", "bundle.copied", "deploy.verified"),
        *("store.add.before", "store.add.linked", "deploy.stored", "slot.materialised"),
        *("slot.compiler.done", "store.compiled.renamed", "container.spawned", "slot.started"),
        *("store.attempt.counted", "slot.preloaded", *_CLOSED, *_COMMIT),
    )
    cases += [Case(point, "raise", at=_at(point)) for point in raising]
    full = (
        *("intake.status.written", "intake.removing", "bundle.copied", "bundle.extracted"),
        *("store.blob.linked", "store.add.linked", "slot.materialised", "store.compiled.staged"),
        *("slot.compiled", "store.commit.within", "store.attempt.counted"),
    )
    cases += [Case(point, "enospc", at=_at(point)) for point in full]
    hanging = (
        *("bundle.copied", "store.add.linked", "slot.compiled", "slot.closed", "slot.attached"),
        *("store.commit.within", "intake.removed", "intake.status.written"),
    )
    cases += [Case(point, "stall", at=_at(point)) for point in hanging]
    cases += [Case(point, "exit", Act.DROP_BAD) for point in ("intake.rejecting", "intake.moved")]
    # Rolling back.
    for point in ("slot.rollback.begun", "slot.rollback.entered"):
        for kind in ("exit", "raise"):
            cases.append(Case(point, kind, before=_ROLLBACK))
    for point in ("store.set_aside.before", "store.set_aside.within", "store.set_aside.after"):
        cases.append(Case(point, "exit", before=_ROLLBACK))
    # Starting: once, and whenever it is tried.
    cases += [Case(point, "exit", Act.BOOT) for point in _LOAD]
    cases += [Case(point, "raise", Act.BOOT) for point in _LOAD[6:]]
    cases.append(Case("store.attempt.counted", "raise", Act.BOOT))
    for point in ("slot.load.prepared", "slot.load.entered"):
        cases.append(Case(point, "exit", Act.BOOT, at=0, again=True))
    cases.append(Case("slot.load.prepared", "raise", Act.BOOT, at=0, again=True))
    for point in ("bundle.extracted", "slot.compiled", "slot.preloaded", "slot.opened"):
        cases.append(Case(point, "exit", at=_at(point), again=True))
    cases.append(Case("store.catalogue.written", "exit", Act.FIRST_BOOT))
    for what in ("before", "within", "after"):
        cases.append(Case(f"store.migrate.{what}", "exit", Act.UPGRADE))
    # What edgectl asks for.
    cases += [Case(f"store.pin.{what}", "exit", Act.PIN) for what in ("before", "after")]
    removal = ("remove.before", "remove.within", "remove.after", "compiled.removed", "blob.removed")
    cases += [Case(f"store.{what}", "exit", Act.REMOVE) for what in removal]
    # The device.
    for point in _EMULATOR:
        cases.append(Case(point, "exit", at=2))
    cases.append(Case("emulator.running", "exit", Act.SERVE, at=60))
    cases.append(Case("emulator.loading", "stall", at=2))
    cases.append(Case("emulator.running", "stall", Act.SERVE, at=60))
    cases.append(Case("emulator.loading", "pause", at=2, deed=Deed.FLIP_IMAGE_IN_FLIGHT))
    for point in ("slot.preloaded", "slot.drained", "slot.activated", "slot.tested", "slot.opened"):
        cases.append(Case(point, "pause", at=_at(point), deed=Deed.KILL_EMULATOR))
    cases += [
        Case("serving", "outside", Act.SERVE, deed=Deed.KILL_EMULATOR),
        Case("serving", "outside", Act.SERVE, deed=Deed.STALL_EMULATOR),
        Case("serving", "outside", Act.SERVE, deed=Deed.FREEZE_EMULATOR),
        Case("slot.drained", "pause", deed=Deed.STALL_EMULATOR),
        Case("slot.activated", "pause", at=2, deed=Deed.FREEZE_EMULATOR),
    ]
    # Other processes.
    cases += [
        Case("slot.compiler.started", "pause", deed=Deed.KILL_COMPILER),
        Case("container.spawned", "pause", at=2, deed=Deed.KILL_NEW_CONTAINER),
        Case("slot.started", "pause", at=2, deed=Deed.KILL_NEW_CONTAINER),
        Case("slot.started", "pause", at=2, deed=Deed.KILL_OLD_CONTAINER),
        Case("slot.closed", "pause", deed=Deed.KILL_OLD_CONTAINER),
        Case("slot.attached", "pause", at=2, deed=Deed.KILL_NEW_CONTAINER),
        Case("slot.opened", "pause", deed=Deed.KILL_NEW_CONTAINER),
        Case("serving", "outside", Act.SERVE, deed=Deed.KILL_OLD_CONTAINER),
        Case("serving", "outside", Act.SERVE, deed=Deed.STOP_OLD_CONTAINER),
        Case("compiling", "outside", deed=Deed.SHORT_OF_MEMORY),
    ]
    # The box.
    for point in ("slot.preloaded", "slot.activated", "slot.opened", "slot.committed"):
        cases.append(Case(point, "pause", at=_at(point), deed=Deed.POWER_CUT))
    cases += [
        Case("serving", "outside", Act.SERVE, deed=Deed.POWER_CUT),
        Case("off", "outside", Act.BOOT, deed=Deed.FLIP_CACHE),
        Case("off", "outside", Act.BOOT, deed=Deed.FLIP_MODEL),
    ]
    cases += [Case("dropping", "outside", deed=Deed.FILL_DISK, free=n) for n in (0, 140, 300, 420)]
    cases += [Case(f"anywhere, {n}", "outside", deed=Deed.KILL_DAEMON) for n in range(1, 6)]
    return cases


CASES: list[Case] = _cases()

SUBSET: tuple[str, ...] = (
    "drop intake.removing:exit",
    "drop slot.activated:exit@2",
    "drop store.commit.after:exit",
    "drop slot.tested:raise@2",
    "drop slot.attached:pause@2 kill_new_container",
    "boot slot.load.entered:exit",
)
"""The cases that run whenever the tests do."""
