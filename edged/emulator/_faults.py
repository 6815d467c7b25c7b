"""Faults to rehearse: armed through the registers or by a file, struck at their events."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from edged.errors import ConfigError
from edged.npu.registers import Injection

__all__ = ["KINDS", "Armed", "Faults", "Scheduled", "read_schedule"]

KINDS: Final = {each.name.lower().replace("_", "-"): each for each in Injection}
"""What a fault is called in a file and on the command line."""

_AT_EVENTS_OF_THEIR_OWN: Final = {
    Injection.LOST_INTERRUPT,
    Injection.DMA_CRC,
    Injection.SLOW_LOAD,
    Injection.HANG,
    Injection.ECC_UNCORRECTED,
}
_MAX_FILE_BYTES: Final = 1 << 20
_MAX_ARMED: Final = 1024
_U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]


@dataclass(slots=True)
class Armed:
    """A fault that waits for its event.

    Attributes:
        value, milliseconds: as :class:`~edged.npu.registers.Injection` says.
        after: events that pass unharmed before.
        times: events that are struck, 0 is all.
        chance: that an event is, 0 … 1.
    """

    kind: Injection
    value: int = 0
    milliseconds: int = 0
    after: int = 0
    times: int = 1
    chance: float = 1.0


class Faults:
    """Which faults are armed. Safe to use from several threads.

    Args:
        seed: of the chances; the same events in the same order are struck by the same seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.struck = 0
        self.on_strike: Callable[[Armed], None] = lambda _fault: None
        """Carries out a fault that is not a matter of one operation; from any thread."""
        self._random = random.Random(seed)  # noqa: S311  (to be reproduced, not to be secret)
        self._armed: list[Armed] = []
        self._lock = threading.Lock()

    def arm(self, fault: Armed) -> None:
        """Have *fault* strike at its events, or at once if it needs none."""
        if fault.kind not in _AT_EVENTS_OF_THEIR_OWN and not fault.after and fault.chance >= 1:
            self.struck += 1
            self.on_strike(fault)
            return
        with self._lock:
            if len(self._armed) < _MAX_ARMED:
                self._armed.append(fault)

    def disarm(self) -> None:
        """Forget all that has not struck."""
        with self._lock:
            self._armed.clear()

    def strike(self, kind: Injection) -> Armed | None:
        """An event of *kind* happens: the fault that strikes it, if one does."""
        if not self._armed:
            return None
        with self._lock:
            struck = [fault for fault in self._armed if fault.kind is kind and self._is_hit(fault)]
            self._armed = [fault for fault in self._armed if fault.times >= 0]
            self.struck += len(struck)
        return struck[0] if struck else None

    def run_begins(self) -> None:
        """The event of all that has none of its own."""
        if self._armed:
            for kind in set(Injection) - _AT_EVENTS_OF_THEIR_OWN:
                fault = self.strike(kind)
                if fault is not None:
                    self.on_strike(fault)

    def _is_hit(self, fault: Armed) -> bool:
        if fault.after:
            fault.after -= 1
            return False
        if self._random.random() >= fault.chance:
            return False
        if fault.times:
            fault.times -= 1
            if not fault.times:
                fault.times = -1  # spent
        return True


class Scheduled(Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[fault]]`` of a file.

    Attributes:
        kind: one of :data:`KINDS`.
        at_seconds: since the emulator was ready; until then it is not armed.
        value, seconds, after, times: as :class:`Armed` has them.
        chance: likewise.
    """

    kind: str
    at_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    value: _U32 = 0
    seconds: Annotated[float, Meta(ge=0, le=4e6)] = 2.0
    after: _U32 = 0
    times: _U32 = 1
    chance: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def armed(self) -> Armed:
        return Armed(
            KINDS[self.kind],
            self.value,
            int(self.seconds * 1000),
            self.after,
            self.times,
            self.chance,
        )


class _Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    fault: list[Scheduled]


def read_schedule(path: Path) -> list[Scheduled]:
    """The faults in a TOML file, a table ``[[fault]]`` each.

    Raises:
        ConfigError: it cannot be read, or says something that cannot be done.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES)
        faults = msgspec.toml.decode(content, type=_Schedule).fault
    except OSError as error:
        raise ConfigError(f"cannot read faults from {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot read faults from {path}: {error}") from error
    for fault in faults:
        if fault.kind not in KINDS:
            raise ConfigError(
                f"cannot read faults from {path}: kind {fault.kind!r}; one of {', '.join(KINDS)}"
            )
    return faults
