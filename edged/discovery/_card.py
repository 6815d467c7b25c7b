"""What the kernel says of a PCI function that may be a card of ours."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edged.npu.registers import PCI_CLASS

__all__ = ["KNOWN", "UIO_DRIVER", "VFIO_DRIVER", "Card", "PciAddress", "read_card"]

VFIO_DRIVER: Final = "vfio-pci"
"""The kernel's driver that hands a function out to a process."""

UIO_DRIVER: Final = "uio_pci_generic"
"""The one that does so where no IOMMU is in use."""

_INTEL, _XILINX, _AMAZON = 0x8086, 0x10EE, 0x1D0F

KNOWN: Final = {
    # After drivers/fpga/dfl-pci.c of Linux.
    (_INTEL, 0x09C4): "Intel PAC with Arria 10 GX",
    (_INTEL, 0x09C5): "Intel PAC with Arria 10 GX, virtual function",
    (_INTEL, 0x0B2B): "Intel FPGA PAC D5005",
    (_INTEL, 0x0B2C): "Intel FPGA PAC D5005, virtual function",
    (_INTEL, 0x0B30): "Intel FPGA PAC N3000",
    (_INTEL, 0x0B31): "Intel FPGA PAC N3000, virtual function",
    (_INTEL, 0xBCCE): "Intel FPGA card with the Open FPGA Stack",
    (_INTEL, 0xBCCF): "Intel FPGA card with the Open FPGA Stack, virtual function",
    # Of XRT's and XDMA's lists of devices.
    (_XILINX, 0x5000): "AMD Xilinx Alveo U200",
    (_XILINX, 0x5004): "AMD Xilinx Alveo U250",
    (_XILINX, 0x5020): "AMD Xilinx Alveo U50",
    (_XILINX, 0x505C): "AMD Xilinx Alveo U55C",
    (_XILINX, 0x9038): "AMD Xilinx FPGA with a PCI Express Gen3 ×8 endpoint",
    (_XILINX, 0x903F): "AMD Xilinx FPGA with a PCI Express Gen3 ×16 endpoint",
    # Of the AWS FPGA developer kit; the last two are its examples' ids.
    (_AMAZON, 0x9048): "Amazon EC2 F2 FPGA",
    (_AMAZON, 0xF000): "Amazon EC2 FPGA",
    (_AMAZON, 0xF001): "Amazon EC2 FPGA",
}
"""What may carry the gateware, by vendor and device. Other designs have the same ids."""

_ADDRESS: Final = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.A)
_COMMAND_MEMORY: Final = 2
_HEADER_BYTES: Final = 64
_EXTENDED: Final = 0x100
_SERIAL_NUMBER: Final = 3
"""PCI Express extended capability (section 7.9.3 of its Base Specification 4.0)."""


@dataclass(frozen=True, slots=True, order=True)
class PciAddress:
    """Where a PCI function is: domain, bus, device, function."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``0000:01:00.0``, or ``01:00.0``.

        Raises:
            ValueError: it is none.
        """
        match = _ADDRESS.fullmatch(text.lower())
        if match is None:
            raise ValueError(
                f"{text!r} is no PCI address (try '0000:01:00.0'; lspci -D lists them)"
            )
        return cls(*(int(part or "0", 16) for part in match.groups()))

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"


@dataclass(frozen=True, slots=True)
class Card:
    """A PCI function, at one moment.

    Attributes:
        folder: of the kernel's, with all that follows in it.
        pci_class: base class, subclass, interface.
        driver: bound to it, None with none.
        iommu_group: None where the kernel uses no IOMMU for it.
        decodes: whether it answers in memory, so that its registers can be read.
        serial: its Device Serial Number, empty where it has none or we may not read it.
    """

    address: PciAddress
    folder: Path
    vendor: int
    device: int
    pci_class: int
    driver: str | None
    iommu_group: int | None
    decodes: bool
    serial: str = ""

    @property
    def what(self) -> str:
        """What its ids stand for, empty if they are not known here."""
        return KNOWN.get((self.vendor, self.device), "")

    @property
    def is_like_ours(self) -> bool:
        """Whether ids and class are those of a card with our gateware. Its magic decides."""
        return bool(self.what) and self.pci_class == PCI_CLASS

    @property
    def is_taken(self) -> bool:
        """Whether a driver has it that keeps it for itself."""
        return self.driver not in (None, VFIO_DRIVER, UIO_DRIVER)

    def __str__(self) -> str:
        serial = f", serial {self.serial}" if self.serial else ""
        what = self.what or "unknown device"
        return f"{self.address} ({what}, {self.vendor:04x}:{self.device:04x}{serial})"


def read_card(folder: Path) -> Card | None:
    """The function whose folder in sysfs this is; None if it goes away meanwhile, or is none."""
    try:
        config = (folder / "config").read_bytes()
        return Card(
            PciAddress.parse(folder.name),
            folder,
            int((folder / "vendor").read_text(), 16),
            int((folder / "device").read_text(), 16),
            int((folder / "class").read_text(), 16),
            _linked(folder / "driver"),
            int(group) if (group := _linked(folder / "iommu_group")) else None,
            len(config) >= _HEADER_BYTES and bool(config[4] & _COMMAND_MEMORY),
            _serial(config),
        )
    except (OSError, ValueError):
        return None


def _linked(link: Path) -> str | None:
    try:
        return link.readlink().name
    except FileNotFoundError:
        return None


def _serial(config: bytes) -> str:
    """As ``lspci -vv`` writes it. Who is not root is given the first 64 bytes of *config* only."""
    at = _EXTENDED
    for _ in range(64):  # a list that goes in circles ends, too
        if not _EXTENDED <= at <= len(config) - 12:
            break
        header, serial = struct.unpack_from("<IQ", config, at)
        if header & 0xFFFF == _SERIAL_NUMBER:
            return f"{serial:016x}"
        at = header >> 20
    return ""
