"""The firmware file: what is written is read back, and nothing else is."""

from __future__ import annotations

import hashlib

import google_crc32c
import pytest

from edged.errors import ImageError
from edged.npu import Array, FirmwareKind, parse_firmware, serialize_firmware

SHELL = bytes(range(8))


def made(payload: bytes = b"gateware", name: str = "first") -> bytes:
    return serialize_firmware(
        FirmwareKind.ROLE, payload, shell=SHELL, abi=1, array=Array(8, 4, 2), name=name
    )


def test_round_trip() -> None:
    firmware = parse_firmware(made())
    header = firmware.header
    assert (header.kind, header.shell, header.abi) == (FirmwareKind.ROLE, SHELL, 1)
    assert (header.array, header.length, header.name) == (Array(8, 4, 2), 8, "first")
    assert header.gateware_id == hashlib.blake2s(b"gateware").digest()[:8]
    assert str(header) == (
        f"role image 'first', gateware {header.gateware_id.hex()}, ABI 1, array 8x4x2,"
        " for shell 0001020304050607"
    )


def sealed(data: bytes) -> bytes:
    """With the CRC that its header has to have."""
    return data[:124] + google_crc32c.value(data[:124]).to_bytes(4, "little") + data[128:]


def with_bytes(at: int, content: bytes) -> bytes:
    data = made()
    return sealed(data[:at] + content + data[at + len(content) :])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not start with 'EDGEFW'"),
        (b"\x7fELF" + bytes(200), "does not start with 'EDGEFW'"),
        (made()[:100], "does not start with 'EDGEFW' and a header"),
        (made()[:-1], "payload of 7 bytes, its header says 8"),
        (made() + b"x", "payload of 9 bytes, its header says 8"),
        (made()[:-1] + b"X", "digest of its payload"),
        (made()[:70] + b"X" + made()[71:], "CRC of its header"),
        (with_bytes(8, b"\x02"), "format 2, wanted 1"),
        (with_bytes(10, b"\x02"), "kind 2, wanted 0"),
        (with_bytes(14, bytes(2)), "array 0x4x2"),
        (with_bytes(20, b"\xff\xff\xff\xff"), "payload of 4294967295 bytes"),
        (bytes((64 << 20) + 1), "at most 67108864"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=f"cannot read firmware: .*{message}"):
        parse_firmware(data)


def test_what_does_not_fit_is_not_written() -> None:
    with pytest.raises(ImageError, match="33 bytes, 32 fit"):
        made(name="x" * 33)
    with pytest.raises(ImageError, match="payload of 0 bytes"):
        made(b"")
