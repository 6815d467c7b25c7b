"""Which cards there are: found in the kernel's list, watched as they come and go, one chosen.

What is found is values; :class:`Watch` alone waits for the kernel. Nothing here takes a card from
anyone.
"""

from edged.discovery._card import KNOWN, UIO_DRIVER, VFIO_DRIVER, Card, PciAddress, read_card
from edged.discovery._choice import Choice, Wanted, choose
from edged.discovery._probe import Probe, Verdict, probe
from edged.discovery._survey import Survey, survey
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
