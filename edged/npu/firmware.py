"""A firmware file: what is written into a region of the card's flash, byte for byte.

Little endian, a header of 128 bytes and the payload, which is the gateware itself (for an FPGA its
bitstream):

====== ===== =================================================================
offset bytes
====== ===== =================================================================
0      8     ``EDGEFW\\0\\0``
8      2     version of this format, 1
10     2     :class:`FirmwareKind`
12     2     ABI that the gateware implements
14     6     its array: TI, TO, TP
20     4     length of the payload
24     8     shell that it was built for: the part of the FPGA that stays
32     32    blake2s of the payload; its first 8 bytes are the gateware id
64     32    name, UTF-8, padded with zeros
96     28    zeros
124    4     CRC32C of the 124 bytes before
====== ===== =================================================================
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from edged.errors import ImageError
from edged.npu.registers import MAX_ARRAY_SIZE, Array

__all__ = [
    "EMULATOR_SHELL",
    "FIRMWARE_HEADER_BYTES",
    "MAX_FIRMWARE_BYTES",
    "Firmware",
    "FirmwareHeader",
    "FirmwareKind",
    "parse_firmware",
    "parse_firmware_header",
    "serialize_firmware",
]

FIRMWARE_HEADER_BYTES: Final = 128
MAX_FIRMWARE_BYTES: Final = 64 << 20
"""Header and payload."""

EMULATOR_SHELL: Final = hashlib.blake2s(b"edged emulator's shell").digest()[:8]
"""The shell of the emulated card; each board has one of its own."""

_MAGIC: Final = b"EDGEFW\0\0"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHHHHHI8s32s32s28x")
_CRC: Final = struct.Struct("<I")
_MAX_NAME_BYTES: Final = 32


class FirmwareKind(enum.IntEnum):
    """Which region of the flash it is for; the value is the region's number."""

    ROLE = 0
    """What computes."""
    GOLDEN = 1
    """What boots when there is no sound role: it can be flashed, and nothing else."""


@dataclass(frozen=True, slots=True)
class FirmwareHeader:
    """What a firmware says of itself.

    Attributes:
        shell: 8 bytes, the shell that it was built for.
        abi: of :mod:`edged.npu.registers` that it implements.
        length: of the payload, in bytes.
        digest: blake2s of the payload, 32 bytes.
        name: for people, at most 32 bytes of UTF-8.
    """

    kind: FirmwareKind
    shell: bytes
    abi: int
    array: Array
    length: int
    digest: bytes
    name: str

    @property
    def gateware_id(self) -> bytes:
        """What ``GATEWARE_ID`` says once this runs."""
        return self.digest[:8]

    def __str__(self) -> str:
        name = f"{self.name!r}, " if self.name else ""
        return (
            f"{self.kind.name.lower()} image {name}gateware {self.gateware_id.hex()}, ABI"
            f" {self.abi}, array {self.array}, for shell {self.shell.hex()}"
        )


@dataclass(frozen=True, slots=True)
class Firmware:
    """A whole firmware, as it is flashed."""

    header: FirmwareHeader
    data: bytes


def parse_firmware(data: bytes) -> Firmware:
    """Read a firmware file, and check all of it.

    Raises:
        ImageError: it is none, or damaged; what is wrong with it.
    """
    if len(data) > MAX_FIRMWARE_BYTES:
        raise ImageError(
            f"cannot read firmware: {len(data)} bytes, at most {MAX_FIRMWARE_BYTES} are possible"
        )
    header = parse_firmware_header(data[:FIRMWARE_HEADER_BYTES])
    payload = data[FIRMWARE_HEADER_BYTES:]
    if len(payload) != header.length:
        raise ImageError(
            f"cannot read firmware: a payload of {len(payload)} bytes, its header says"
            f" {header.length}; fetch it again"
        )
    if hashlib.blake2s(payload).digest() != header.digest:
        raise ImageError(
            "cannot read firmware: the digest of its payload is not the header's; fetch it again"
        )
    return Firmware(header, data)


def parse_firmware_header(data: bytes) -> FirmwareHeader:
    """Read the first :data:`FIRMWARE_HEADER_BYTES` of a firmware.

    Raises:
        ImageError: it is no header, or a damaged one.
    """
    if len(data) < FIRMWARE_HEADER_BYTES or data[:8] != _MAGIC:
        raise ImageError(
            f"cannot read firmware: it does not start with {_MAGIC.rstrip(bytes(1)).decode()!r}"
            " and a header; is this a firmware image?"
        )
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if google_crc32c.value(bytes(data[: _HEADER.size])) != crc:
        raise ImageError("cannot read firmware: the CRC of its header is wrong; fetch it again")
    _, version, kind, abi, ti, to, tp, length, shell, digest, name = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise ImageError(f"cannot read firmware: format {version}, wanted {_VERSION}")
    if kind not in FirmwareKind.__members__.values():
        raise ImageError(f"cannot read firmware: kind {kind}, wanted 0 (role) or 1 (golden)")
    if not 0 < length <= MAX_FIRMWARE_BYTES - FIRMWARE_HEADER_BYTES:
        raise ImageError(f"cannot read firmware: a payload of {length} bytes")
    if not all(0 < size <= MAX_ARRAY_SIZE for size in (ti, to, tp)):
        raise ImageError(f"cannot read firmware: array {ti}x{to}x{tp}; sizes are 1 … 1024")
    return FirmwareHeader(
        FirmwareKind(kind),
        shell,
        abi,
        Array(ti, to, tp),
        length,
        digest,
        name.rstrip(b"\0").decode("utf-8", "replace"),
    )


def serialize_firmware(
    kind: FirmwareKind, payload: bytes, *, shell: bytes, abi: int, array: Array, name: str = ""
) -> bytes:
    """Write a firmware file.

    Raises:
        ImageError: the payload or the name does not fit, or the shell has not 8 bytes.
    """
    if not 0 < len(payload) <= MAX_FIRMWARE_BYTES - FIRMWARE_HEADER_BYTES:
        raise ImageError(f"cannot write firmware: a payload of {len(payload)} bytes")
    encoded = name.encode()
    if len(encoded) > _MAX_NAME_BYTES:
        raise ImageError(
            f"cannot write firmware: name {name!r} has {len(encoded)} bytes, {_MAX_NAME_BYTES} fit"
        )
    if len(shell) != 8:
        raise ImageError(f"cannot write firmware: a shell of {len(shell)} bytes, wanted 8")
    digest = hashlib.blake2s(payload).digest()
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        kind,
        abi,
        array.ti,
        array.to,
        array.tp,
        len(payload),
        shell,
        digest,
        encoded,
    )
    return header + _CRC.pack(google_crc32c.value(header)) + payload
