"""Which cards there are: found in the kernel's list, watched as they come and go, one chosen.

What is found is values; :class:`Watch` alone waits for the kernel. Nothing here takes a card from
anyone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edged.discovery._card import KNOWN, UIO_DRIVER, VFIO_DRIVER, Card, PciAddress, read_card
from edged.discovery._choice import Choice, Wanted, choose
from edged.discovery._probe import Probe, Verdict, probe
from edged.discovery._survey import Survey, survey

if TYPE_CHECKING:
    from edged.discovery._watch import Watch

__all__ = [
    "KNOWN",
    "UIO_DRIVER",
    "VFIO_DRIVER",
    "Card",
    "Choice",
    "PciAddress",
    "Probe",
    "Survey",
    "Verdict",
    "Wanted",
    "Watch",
    "choose",
    "probe",
    "read_card",
    "survey",
]


def __getattr__(name: str) -> object:
    """Import on first use: a look at what is there needs neither udev nor asyncio."""
    if name != "Watch":
        raise AttributeError(name)
    return import_module("edged.discovery._watch").Watch
