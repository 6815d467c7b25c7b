"""The gateware, simulated, as a kind of device: small, so that it is built in a minute or two."""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

from edged.npu import Array, ProgramImage
from edged.scheduler import schedule

if TYPE_CHECKING:
    from firmware.sim.device import RtlTransport

__all__ = ["ARRAY", "CLOCK_KHZ", "is_possible", "scheduled", "switched_on"]

ARRAY = Array(8, 8, 1)
CLOCK_KHZ = 1000
_ACTIVATION_BUFFER = 16 << 10
_WEIGHT_BUFFER = 8 << 10


def is_possible() -> bool:
    """Whether what it takes is installed."""
    return importlib.util.find_spec("amaranth") is not None and all(
        shutil.which(tool) for tool in ("verilator", "g++", "make")
    )


def scheduled(image: ProgramImage) -> ProgramImage:
    """*image* with the code that the gateware executes."""
    return schedule(image, _ACTIVATION_BUFFER, _WEIGHT_BUFFER)


def switched_on() -> RtlTransport:
    """A new one."""
    from firmware.rtl.parameters import Parameters
    from firmware.sim.device import simulated

    return simulated(Parameters(ARRAY, _ACTIVATION_BUFFER, _WEIGHT_BUFFER))
