"""The PCI configuration space of the emulated card.

Layout after "PCI Local Bus Specification" 3.0, chapter 6, and "PCI Express Base Specification" 3.0,
sections 7.8 and 7.10: a type 0 header, the capabilities MSI and PCI Express, and in the extended
space Advanced Error Reporting.
"""

from __future__ import annotations

import struct
from typing import Final

from edged.npu.registers import BAR0_SIZE, PCI_CLASS

__all__ = ["CONFIG_SIZE", "LINK_SPEED", "LINK_WIDTH", "MSI_VECTORS", "ConfigSpace"]

CONFIG_SIZE: Final = 4096
MSI_VECTORS: Final = 4
"""Device event and one per queue need three; MSI counts in powers of two."""
LINK_SPEED: Final = 3
"""At best: 8 GT/s, as the specification numbers it."""
LINK_WIDTH: Final = 8
"""At best: lanes."""

_VENDOR, _DEVICE = 0x8086, 0x09C4
_SUBSYSTEM_VENDOR, _SUBSYSTEM = 0x8086, 0x0000
_MSI_AT, _EXPRESS_AT, _AER_AT = 0x50, 0x70, 0x100
_STATUS_AT: Final = 0x06
_STATUS_CAPABILITIES: Final = 0x0010
_STATUS_INTERRUPT: Final = 0x08
_MSI_64BIT: Final = 0x80
_EXPRESS_ENDPOINT_V2: Final = 0x0002
_ROLE_BASED_ERRORS: Final = 1 << 15
_EXPRESS_FLR: Final = 1 << 28
_DEVICE_STATUS_AT: Final = _EXPRESS_AT + 0x0A
_LINK_STATUS_AT: Final = _EXPRESS_AT + 0x12
_AER_VERSION: Final = 2
_UNCORRECTABLE_AT, _UNCORRECTABLE_MASK_AT, _SEVERITY_AT = _AER_AT + 4, _AER_AT + 8, _AER_AT + 0xC
_CORRECTABLE_AT, _CORRECTABLE_MASK_AT = _AER_AT + 0x10, _AER_AT + 0x14
_UNCORRECTABLE_BITS: Final = 0x007F_F030
_CORRECTABLE_BITS: Final = 0x0000_F1C1
_SEVERITY: Final = 0x0046_2030
"""What is fatal unless the system says otherwise: link and flow control, malformed packets."""
_CORRECTABLE_MASK: Final = 0x0000_6000
_CORRECTABLE_SEEN, _NON_FATAL_SEEN, _FATAL_SEEN = 1, 2, 4

_WRITABLE: Final = (
    # offset, mask
    (0x04, 0x0547.to_bytes(2, "little")),  # IO, memory, bus master, parity, SERR, INTx disable
    (0x0C, b"\xff"),  # cache line size
    (0x10, (0xFFFFFFFF & ~(BAR0_SIZE - 1)).to_bytes(4, "little")),  # BAR 0: address bits only
    (0x3C, b"\xff"),  # interrupt line
    (_MSI_AT + 2, b"\x71\x00"),  # MSI enable, vectors enabled
    (_MSI_AT + 4, b"\xfc\xff\xff\xff\xff\xff\xff\xff\xff\xff"),  # MSI address, data
    (_EXPRESS_AT + 8, b"\xff\x7f"),  # device control; bit 15 starts a function-level reset
    (_UNCORRECTABLE_MASK_AT, _UNCORRECTABLE_BITS.to_bytes(4, "little")),
    (_SEVERITY_AT, _UNCORRECTABLE_BITS.to_bytes(4, "little")),
    (_CORRECTABLE_MASK_AT, _CORRECTABLE_BITS.to_bytes(4, "little")),
)
_CLEARED_BY_ONES: Final = (
    (_DEVICE_STATUS_AT, b"\x0f"),
    (_UNCORRECTABLE_AT, _UNCORRECTABLE_BITS.to_bytes(4, "little")),
    (_CORRECTABLE_AT, _CORRECTABLE_BITS.to_bytes(4, "little")),
)


class ConfigSpace:
    """4096 bytes that read and write as the hardware's would."""

    def __init__(self) -> None:
        self._mask = _spread(_WRITABLE)
        self._ones = _spread(_CLEARED_BY_ONES)
        self._data = bytearray(CONFIG_SIZE)
        self._link = LINK_SPEED | LINK_WIDTH << 4
        self.reset()

    def reset(self) -> None:
        """As at power-on; the link stays as it was trained."""
        data = bytearray(CONFIG_SIZE)
        struct.pack_into("<HHHH", data, 0x00, _VENDOR, _DEVICE, 0, _STATUS_CAPABILITIES)
        data[0x09:0x0C] = PCI_CLASS.to_bytes(3, "little")
        struct.pack_into("<HH", data, 0x2C, _SUBSYSTEM_VENDOR, _SUBSYSTEM)
        data[0x34] = _MSI_AT
        data[0x3D] = 1  # interrupt pin A
        messages = MSI_VECTORS.bit_length() - 1
        struct.pack_into("<BBH", data, _MSI_AT, 0x05, _EXPRESS_AT, _MSI_64BIT | messages << 1)
        abilities = _EXPRESS_FLR | _ROLE_BASED_ERRORS
        struct.pack_into("<BBHI", data, _EXPRESS_AT, 0x10, 0, _EXPRESS_ENDPOINT_V2, abilities)
        struct.pack_into("<I", data, _EXPRESS_AT + 0x0C, LINK_SPEED | LINK_WIDTH << 4)
        struct.pack_into("<H", data, _LINK_STATUS_AT, self._link)
        struct.pack_into("<I", data, _AER_AT, 0x0001 | _AER_VERSION << 16)
        struct.pack_into("<I", data, _SEVERITY_AT, _SEVERITY)
        struct.pack_into("<I", data, _CORRECTABLE_MASK_AT, _CORRECTABLE_MASK)
        self._data = data

    def train(self, *, speed: int | None = None, width: int | None = None) -> None:
        """Have the link come up anew, as it can be now; 0 is at best.

        Args:
            speed: 1 … :data:`LINK_SPEED`, as the specification numbers them.
            width: lanes, 1 … :data:`LINK_WIDTH`.
        """
        if speed is not None:
            speed = speed if 0 < speed < LINK_SPEED else LINK_SPEED
            self._link = self._link & ~0xF | speed
        if width is not None:
            width = width if 0 < width < LINK_WIDTH else LINK_WIDTH
            self._link = self._link & ~0x3F0 | width << 4
        struct.pack_into("<H", self._data, _LINK_STATUS_AT, self._link)

    def note_error(self, bit: int, *, correctable: bool) -> None:
        """Have an error stand in the status registers of Advanced Error Reporting.

        Args:
            bit: of the status register; one that it does not have is passed over.
        """
        error = 1 << (bit & 31) & (_CORRECTABLE_BITS if correctable else _UNCORRECTABLE_BITS)
        if not error:
            return
        if correctable:
            self._raise(_CORRECTABLE_AT, error)
            self._raise(_DEVICE_STATUS_AT, _CORRECTABLE_SEEN)
        else:
            self._raise(_UNCORRECTABLE_AT, error)
            (severity,) = struct.unpack_from("<I", self._data, _SEVERITY_AT)
            self._raise(_DEVICE_STATUS_AT, _FATAL_SEEN if severity & error else _NON_FATAL_SEEN)

    def read(self, offset: int, size: int, *, line: bool = False) -> bytes:
        """What stands there; zeros past the end.

        Args:
            line: whether INTx is up, by which its handlers know whose interrupt it is.
        """
        data = bytearray(self._data[offset : offset + size].ljust(size, b"\0"))
        if line and 0 <= _STATUS_AT - offset < size:
            data[_STATUS_AT - offset] |= _STATUS_INTERRUPT
        return bytes(data)

    def write(self, offset: int, data: bytes) -> bool:
        """Change what can be changed.

        Returns:
            Whether a function-level reset was asked for.
        """
        for at, value in enumerate(data, offset):
            if at < CONFIG_SIZE:
                mask = self._mask[at]
                kept = self._data[at] & ~mask & ~(value & self._ones[at])
                self._data[at] = kept | (value & mask)
        reset_at = _EXPRESS_AT + 9 - offset
        return 0 <= reset_at < len(data) and bool(data[reset_at] & 0x80)

    def _raise(self, at: int, bits: int) -> None:
        for index, byte in enumerate(bits.to_bytes(4, "little")):
            self._data[at + index] |= byte


def _spread(masks: tuple[tuple[int, bytes], ...]) -> bytearray:
    """A mask for each byte of the space."""
    spread = bytearray(CONFIG_SIZE)
    for offset, mask in masks:
        spread[offset : offset + len(mask)] = mask
    return spread
