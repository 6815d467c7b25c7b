"""Which device this machine is for; ``python -m edged.cli.which emulator`` asks by exit status.

systemd asks at each boot whether the emulator is to run, and edged waits for the answer: so this
imports little, where ``edgectl`` itself would take three times as long.
"""

from __future__ import annotations

import argparse
import enum
import sys
from collections.abc import Sequence
from pathlib import Path

from edged.config import DeviceUse, load_config
from edged.discovery import Card, survey
from edged.errors import EdgedError

__all__ = ["DeviceKind", "device_for"]


class DeviceKind(enum.StrEnum):
    """What may be the device."""

    CARD = "card"
    EMULATOR = "emulator"


def device_for(use: DeviceUse, cards: Sequence[Card]) -> tuple[DeviceKind, str]:
    """What is the device of a machine with *cards*, and why.

    Args:
        cards: those whose ids and class are like ours.
    """
    match use:
        case DeviceUse.CARD:
            return DeviceKind.CARD, "device.use says so"
        case DeviceUse.EMULATOR:
            return DeviceKind.EMULATOR, "device.use says so"
        case DeviceUse.AUTO if cards:
            return DeviceKind.CARD, "; ".join(map(str, cards))
        case DeviceUse.AUTO:
            return DeviceKind.EMULATOR, "there is no card that could be ours"


def main() -> int:
    """Say it; 0 if it is the one that was asked for, 1 if not, or as edged for an error."""
    parser = argparse.ArgumentParser(prog="python -m edged.cli.which", description=__doc__)
    parser.add_argument("wanted", type=DeviceKind, choices=list(DeviceKind))
    parser.add_argument("--config", type=Path, help="the configuration file")
    options = parser.parse_args()
    try:
        kind, why = device_for(load_config(options.config).device.use, survey().cards)
    except EdgedError as error:
        print(error, file=sys.stderr)  # noqa: T201  (it is a command)
        return error.exit_status
    print(f"{kind}: {why}")  # noqa: T201
    return 0 if kind is options.wanted else 1


if __name__ == "__main__":
    sys.exit(main())
