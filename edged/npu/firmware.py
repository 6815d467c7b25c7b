"""A firmware file: what is written into a region of the card's flash, byte for byte.

A header, :data:`~edged.npu.regmap.FIRMWARE_HEADER`, and the payload, which is the gateware itself
(for an FPGA its bitstream).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from edged.errors import ImageError
from edged.npu.registers import Array
from edged.npu.regmap import (
    FIRMWARE_HEADER,
    FIRMWARE_MAGIC,
    FIRMWARE_VERSION,
    MAX_ARRAY_SIZE,
    MAX_FIRMWARE_BYTES,
    FirmwareKind,
)

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

FIRMWARE_HEADER_BYTES: Final = FIRMWARE_HEADER.size

EMULATOR_SHELL: Final = hashlib.blake2s(b"edged emulator's shell").digest()[:8]
"""The shell of the emulated card; each board has one of its own."""

_HEADER: Final = struct.Struct(FIRMWARE_HEADER.format)
_CRC_AT: Final = FIRMWARE_HEADER.offset("crc")
_MAX_NAME_BYTES: Final = 32


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
    if len(data) < FIRMWARE_HEADER_BYTES or data[:8] != FIRMWARE_MAGIC:
        raise ImageError(
            "cannot read firmware: it does not start with"
            f" {FIRMWARE_MAGIC.rstrip(bytes(1)).decode()!r} and a header; is this a firmware image?"
        )
    _, version, kind, abi, ti, to, tp, length, shell, digest, name, _, crc = _HEADER.unpack_from(
        data
    )
    if google_crc32c.value(bytes(data[:_CRC_AT])) != crc:
        raise ImageError("cannot read firmware: the CRC of its header is wrong; fetch it again")
    if version != FIRMWARE_VERSION:
        raise ImageError(f"cannot read firmware: format {version}, wanted {FIRMWARE_VERSION}")
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
        FIRMWARE_MAGIC,
        FIRMWARE_VERSION,
        kind,
        abi,
        array.ti,
        array.to,
        array.tp,
        len(payload),
        shell,
        digest,
        encoded,
        b"",
        0,
    )[:_CRC_AT]
    crc: int = google_crc32c.value(header)
    return header + crc.to_bytes(4, "little") + payload
