"""What stands between this machine and a card that works, for a person to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged.discovery._card import UIO_DRIVER, VFIO_DRIVER, Card, read_card

__all__ = ["Survey", "survey"]

_SYSFS: Final = Path("/sys")


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is.

    Attributes:
        cards: those whose ids and class are like ours.
        iommu: whether the kernel uses an IOMMU.
        vfio: whether the kernel has the driver that hands cards out, loaded.
        missing: what to do before a card can be used, in sentences; empty if nothing, or no card.
    """

    cards: tuple[Card, ...]
    iommu: bool
    vfio: bool
    missing: tuple[str, ...]


def survey(sysfs: Path = _SYSFS, *, needs_iommu: bool = True) -> Survey:
    """Look; this opens nothing and changes nothing, and needs no privilege.

    Args:
        needs_iommu: whether a card is to be used only behind one.
    """
    try:
        folders = sorted((sysfs / "bus/pci/devices").iterdir())
    except FileNotFoundError:
        folders = []
    # Resolved: what is bound to a function stands beside it under its real name.
    found = (read_card(folder.resolve()) for folder in folders)
    cards = tuple(card for card in found if card is not None and card.is_like_ours)
    iommu = any((sysfs / "class/iommu").glob("*"))
    vfio = (sysfs / "bus/pci/drivers" / VFIO_DRIVER).exists()
    missing = []
    bare = any(card.iommu_group is None for card in cards)
    if bare and not needs_iommu:
        if not _huge_pages(sysfs):
            missing.append(
                "cannot give a card memory: no huge pages are set aside, which takes the place of"
                " an IOMMU; sysctl -w vm.nr_hugepages=64, and a file in /etc/sysctl.d"
                " (docs/cards.md)"
            )
    elif cards and not iommu:
        missing.append(
            "cannot give a card to a process: the kernel uses no IOMMU; switch VT-d or AMD-Vi on in"
            " the firmware, and boot with intel_iommu=on (docs/cards.md)"
        )
    elif bare:
        missing.append("cannot give a card to a process: the IOMMU does not cover its slot")
    driver = UIO_DRIVER if bare and not needs_iommu else VFIO_DRIVER
    if cards and not (sysfs / "bus/pci/drivers" / driver).exists():
        missing.append(f"cannot bind a card: the driver is not loaded; modprobe {driver}")
    return Survey(cards, iommu, vfio, tuple(missing))


def _huge_pages(sysfs: Path) -> int:
    try:
        return int((sysfs / "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").read_text())
    except (OSError, ValueError):
        return 0
