"""The PCI configuration space of the emulated card.

Layout after "PCI Local Bus Specification" 3.0, chapter 6, and "PCI Express Base Specification",
section 7.8: a type 0 header, then the capabilities MSI and PCI Express.
"""

from __future__ import annotations

import struct
from typing import Final

from edged.npu.registers import BAR0_SIZE, PCI_CLASS

__all__ = ["CONFIG_SIZE", "MSI_VECTORS", "ConfigSpace"]

CONFIG_SIZE: Final = 256
MSI_VECTORS: Final = 4
"""Device event and one per queue need three; MSI counts in powers of two."""

_VENDOR, _DEVICE = 0x8086, 0x09C4
_SUBSYSTEM_VENDOR, _SUBSYSTEM = 0x8086, 0x0000
_MSI_AT, _EXPRESS_AT = 0x50, 0x70
_STATUS_CAPABILITIES: Final = 0x0010
_MSI_64BIT: Final = 0x80
_EXPRESS_ENDPOINT_V2: Final = 0x0002
_EXPRESS_FLR: Final = 1 << 28

_WRITABLE: Final = (
    # offset, mask
    (0x04, 0x0547.to_bytes(2, "little")),  # IO, memory, bus master, parity, SERR, INTx disable
    (0x0C, b"\xff"),  # cache line size
    (0x10, (0xFFFFFFFF & ~(BAR0_SIZE - 1)).to_bytes(4, "little")),  # BAR 0: address bits only
    (0x3C, b"\xff"),  # interrupt line
    (_MSI_AT + 2, b"\x71\x00"),  # MSI enable, vectors enabled
    (_MSI_AT + 4, b"\xfc\xff\xff\xff\xff\xff\xff\xff\xff\xff"),  # MSI address, data
    (_EXPRESS_AT + 8, b"\xff\x7f"),  # device control; bit 15 starts a function-level reset
)


class ConfigSpace:
    """256 bytes that read and write as the hardware's would."""

    def __init__(self) -> None:
        self._mask = bytearray(CONFIG_SIZE)
        for offset, mask in _WRITABLE:
            self._mask[offset : offset + len(mask)] = mask
        self._data = bytearray(CONFIG_SIZE)
        self.reset()

    def reset(self) -> None:
        """As at power-on."""
        data = bytearray(CONFIG_SIZE)
        struct.pack_into("<HHHH", data, 0x00, _VENDOR, _DEVICE, 0, _STATUS_CAPABILITIES)
        data[0x09:0x0C] = PCI_CLASS.to_bytes(3, "little")
        struct.pack_into("<HH", data, 0x2C, _SUBSYSTEM_VENDOR, _SUBSYSTEM)
        data[0x34] = _MSI_AT
        data[0x3D] = 1  # interrupt pin A
        messages = MSI_VECTORS.bit_length() - 1
        struct.pack_into("<BBH", data, _MSI_AT, 0x05, _EXPRESS_AT, _MSI_64BIT | messages << 1)
        struct.pack_into("<BBHI", data, _EXPRESS_AT, 0x10, 0, _EXPRESS_ENDPOINT_V2, _EXPRESS_FLR)
        link = 3 | 8 << 4  # 8 GT/s, eight lanes
        struct.pack_into("<I", data, _EXPRESS_AT + 0x0C, link)
        struct.pack_into("<HH", data, _EXPRESS_AT + 0x10, 0, link)
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        """What stands there; zeros past the end."""
        return bytes(self._data[offset : offset + size]).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> bool:
        """Change what can be changed.

        Returns:
            Whether a function-level reset was asked for.
        """
        for at, value in enumerate(data, offset):
            if at < CONFIG_SIZE:
                mask = self._mask[at]
                self._data[at] = (self._data[at] & ~mask) | (value & mask)
        reset_at = _EXPRESS_AT + 9 - offset
        return 0 <= reset_at < len(data) and bool(data[reset_at] & 0x80)
