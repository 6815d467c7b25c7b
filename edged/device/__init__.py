"""The driver: one device, reached through VFIO's terms, whatever carries them.

:class:`Device` is for the one who manages it: banks, resets, health. :class:`InferenceQueue` is for
the one who computes on it; :class:`Monitor` keeps it fit for both. :mod:`~edged.device.vfio_user`
reaches the emulator, and a card through the process that has it; :mod:`~edged.device.vfio` the card
itself, and :mod:`~edged.device.uio` one without an IOMMU.
"""

from edged.device import uio, vfio, vfio_user
from edged.device._device import BankState, Device, Identity, Readings
from edged.device._flash import Booted, FlashState
from edged.device._health import Bound, Level, Reading, Thresholds
from edged.device._inference import InferenceQueue
from edged.device._inject import disarm, inject
from edged.device._ladder import Resets, Step
from edged.device._memory import DmaBuffer
from edged.device._monitor import Monitor, Report, Unfit
from edged.device._pci import LinkErrors, LinkState
from edged.device._transport import BusOwner, GivenMemory, Transport

__all__ = [
    "BankState",
    "Booted",
    "Bound",
    "BusOwner",
    "Device",
    "DmaBuffer",
    "FlashState",
    "GivenMemory",
    "Identity",
    "InferenceQueue",
    "Level",
    "LinkErrors",
    "LinkState",
    "Monitor",
    "Reading",
    "Readings",
    "Report",
    "Resets",
    "Step",
    "Thresholds",
    "Transport",
    "Unfit",
    "disarm",
    "inject",
    "uio",
    "vfio",
    "vfio_user",
]
