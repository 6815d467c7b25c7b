"""What the PCI configuration space says of the link, and of the errors seen on it.

After "PCI Express Base Specification" 3.0, sections 7.8 (link) and 7.10 (Advanced Error Reporting).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edged.device._ring import ALL_ONES
from edged.device._transport import Transport

__all__ = ["Link", "LinkErrors", "LinkState"]

_FIRST_CAPABILITY_AT: Final = 0x34
_EXPRESS: Final = 0x10
_FIRST_EXTENDED_AT: Final = 0x100
_CONFIG_BYTES: Final = 4096
_AER: Final = 0x0001
_UNCORRECTABLE_AT: Final = 0x04
_CORRECTABLE_AT: Final = 0x10
_GIGATRANSFERS: Final = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}
_CORRECTABLE: Final = {
    0: "receiver error",
    6: "bad TLP",
    7: "bad DLLP",
    8: "replay number rollover",
    12: "replay timer timeout",
    13: "advisory non-fatal error",
    14: "corrected internal error",
    15: "header log overflow",
}
_UNCORRECTABLE: Final = {
    4: "data link protocol error",
    5: "surprise down",
    12: "poisoned TLP",
    13: "flow control protocol error",
    14: "completion timeout",
    15: "completer abort",
    16: "unexpected completion",
    17: "receiver overflow",
    18: "malformed TLP",
    19: "ECRC error",
    20: "unsupported request",
    21: "ACS violation",
    22: "uncorrectable internal error",
}


@dataclass(frozen=True, slots=True)
class LinkState:
    """The PCI Express link, from the configuration space.

    Attributes:
        speed, max_speed: GT/s per lane, 0 where the device does not say.
        width, max_width: lanes.
    """

    speed: float
    width: int
    max_speed: float
    max_width: int

    def __str__(self) -> str:
        return f"{self.speed:g} GT/s ×{self.width}"


@dataclass(frozen=True, slots=True)
class LinkErrors:
    """Errors that the card reported since it was last asked, by the specification's names.

    A kind of error that came several times in between stands here once.
    """

    correctable: tuple[str, ...] = ()
    uncorrectable: tuple[str, ...] = ()


class Link:
    """The registers of one function's link. Where they are is looked up once.

    Args:
        transport: to the function.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._express_at = 0
        self._errors_at = 0

    def state(self) -> LinkState:
        """Speed and width of the link, now and at best; zeros where the device does not say."""
        if not self._express_at and not self._find_express():
            return LinkState(0.0, 0, 0.0, 0)
        best = self._transport.config_read(self._express_at + 0x0C, 4)
        now = self._transport.config_read(self._express_at + 0x12, 2)
        return LinkState(*_speed_and_width(now), *_speed_and_width(best))

    def take_errors(self) -> LinkErrors:
        """The errors that stand in the registers of Advanced Error Reporting, which are cleared."""
        if not self._errors_at and not self._find_errors():
            return LinkErrors()
        return LinkErrors(
            _taken(self._transport, self._errors_at + _CORRECTABLE_AT, _CORRECTABLE),
            _taken(self._transport, self._errors_at + _UNCORRECTABLE_AT, _UNCORRECTABLE),
        )

    def _find_express(self) -> bool:
        at = self._transport.config_read(_FIRST_CAPABILITY_AT, 1)
        for _ in range(48):  # as many as fit: a list that goes in circles ends, too
            if not 0x40 <= at <= 0xF0:
                break
            header = self._transport.config_read(at, 2)
            if header & 0xFF == _EXPRESS:
                self._express_at = at
                return True
            at = header >> 8
        return False

    def _find_errors(self) -> bool:
        at = _FIRST_EXTENDED_AT
        for _ in range(64):
            if not _FIRST_EXTENDED_AT <= at <= _CONFIG_BYTES - 0x2C:
                break
            header = self._transport.config_read(at, 4)
            if header in (0, ALL_ONES):
                break
            if header & 0xFFFF == _AER:
                self._errors_at = at
                return True
            at = header >> 20 & 0xFFC
        return False


def _taken(transport: Transport, at: int, names: Mapping[int, str]) -> tuple[str, ...]:
    status = transport.config_read(at, 4)
    if status in (0, ALL_ONES):
        return ()
    transport.config_write(at, status, 4)  # what is written as one is cleared
    return tuple(name for bit, name in names.items() if status >> bit & 1)


def _speed_and_width(register: int) -> tuple[float, int]:
    """Of the link capabilities, or of the link status."""
    return _GIGATRANSFERS.get(register & 0xF, 0.0), register >> 4 & 0x3F
