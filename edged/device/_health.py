"""What a device's readings mean: fine, worth a warning, too much, or the end."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edged.device._device import Identity, Readings
from edged.device._pci import LinkState
from edged.npu.registers import Capability

__all__ = ["Bound", "Level", "Reading", "Thresholds", "assess"]


class Level(enum.IntEnum):
    """The higher, the worse."""

    OK = 0
    WARN = 1
    """Someone should look."""
    THROTTLE = 2
    """Calls are slowed down."""
    STOP = 3
    """The device is not used."""


@dataclass(frozen=True, slots=True)
class Bound:
    """From which value on a reading has which level.

    Attributes:
        hysteresis: by how much it has to fall below a bound to be under it again.
    """

    warn: float = math.inf
    throttle: float = math.inf
    stop: float = math.inf
    hysteresis: float = 0.0

    def level(self, value: float, before: Level) -> Level:
        """Of *value*, when it was *before* until now."""
        limits = {Level.WARN: self.warn, Level.THROTTLE: self.throttle, Level.STOP: self.stop}
        for level in (Level.STOP, Level.THROTTLE, Level.WARN):
            limit = limits[level] - (self.hysteresis if before >= level else 0.0)
            if value >= limit:
                return level
        return Level.OK


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The bounds that are a matter of taste.

    Attributes:
        temperature: degrees Celsius.
        power: watts.
        ecc_corrected: errors in memory since power-on.
        link_corrected: kinds of errors on the link that it made good, each counted once a look.
    """

    temperature: Bound = Bound(85.0, 95.0, 100.0, 3.0)
    power: Bound = Bound(70.0, hysteresis=3.0)
    ecc_corrected: Bound = Bound(100.0)
    link_corrected: Bound = Bound(100.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """One value with what it means.

    Attributes:
        name: in words.
        unit: empty for a count.
        text: the value as a person reads it, with its unit.
    """

    name: str
    value: float
    unit: str
    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.text}"


_ANY = Bound(1.0)


def assess(
    readings: Readings,
    link: LinkState,
    link_errors: tuple[int, int],
    identity: Identity,
    thresholds: Thresholds,
    before: Mapping[str, Level],
) -> tuple[Reading, ...]:
    """Each reading with its level.

    Args:
        link_errors: counts of the correctable and of the uncorrectable ones.
        before: the levels by name, as they were until now.
    """

    def reading(name: str, value: float, unit: str, bound: Bound, text: str = "") -> Reading:
        level = bound.level(value, before.get(name, Level.OK))
        return Reading(name, value, unit, level, text or f"{value:g} {unit}".strip())

    # Nobody should take what an emulator makes up for a measurement.
    modelled = bool(identity.capabilities & Capability.MODELLED_READINGS)

    def physical(name: str, value: float, unit: str, bound: Bound) -> Reading:
        return reading(name, value, unit, bound, f"{value:g} {unit}{' (modelled)' * modelled}")

    # Less than it could be, whatever that is, is worth a warning.
    narrow = Bound(0.0) if link.width < link.max_width else Bound()
    slow = Bound(0.0) if link.speed < link.max_speed else Bound()
    return (
        physical("temperature", round(readings.temperature, 1), "°C", thresholds.temperature),
        physical("power", round(readings.power, 1), "W", thresholds.power),
        physical("clock", identity.clock_khz / 1000, "MHz", Bound()),
        reading("corrected ECC errors", readings.ecc_corrected, "", thresholds.ecc_corrected),
        reading("uncorrected ECC errors", readings.ecc_uncorrected, "", _ANY),
        reading("configuration upsets", readings.seu_count, "", _ANY),
        reading("timeouts", readings.timeouts, "", _ANY),
        reading(
            "DRAM calibration",
            0 if readings.calibrated else 1,
            "",
            Bound(stop=1.0),
            "done" if readings.calibrated else "failed",
        ),
        reading("link width", link.width, "lanes", narrow),
        reading("link speed", link.speed, "GT/s", slow),
        reading("correctable link errors", link_errors[0], "", thresholds.link_corrected),
        reading("uncorrectable link errors", link_errors[1], "", _ANY),
    )
