"""The driver: one device, reached through VFIO's terms, whatever carries them.

:class:`Device` is for the one who manages it: banks, resets, health. :class:`InferenceQueue` is for
the one who computes on it. :mod:`~edged.device.vfio_user` reaches the emulator.
"""

from edged.device import vfio_user
from edged.device._device import BankState, Device, Identity, Readings
from edged.device._inference import InferenceQueue
from edged.device._transport import Transport

__all__ = [
    "BankState",
    "Device",
    "Identity",
    "InferenceQueue",
    "Readings",
    "Transport",
    "vfio_user",
]
