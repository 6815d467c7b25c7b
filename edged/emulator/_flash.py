"""The flash of the emulated card: what it boots, kept in a file if it is to outlive the process."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edged.errors import ConfigError, ImageError
from edged.npu import (
    ABI,
    EMULATOR_SHELL,
    MAX_FIRMWARE_BYTES,
    Array,
    FirmwareHeader,
    FirmwareKind,
    parse_firmware_header,
    serialize_firmware,
)
from edged.npu.firmware import FIRMWARE_HEADER_BYTES
from edged.npu.registers import FLASH_KEY, FlashCommand, FlashStatus

__all__ = ["REGION_BYTES", "FlashChip", "FlashRefusal"]

REGION_BYTES: Final = MAX_FIRMWARE_BYTES

_LOG = logging.getLogger(__name__)
_SECTOR: Final = 64 << 10
_ERASED: Final = b"\xff" * _SECTOR
_SECTOR_SECONDS: Final = 0.1
"""To erase one, by the model: what NOR flash takes."""
_CHUNK: Final = 1 << 20
_FILE_BYTES: Final = REGION_BYTES * len(FirmwareKind)


class FlashRefusal(Exception):  # noqa: N818  (becomes a status; never leaves the emulator)
    """A write that does not follow what was erased and written before."""


class FlashChip:
    """Two regions with a firmware each, and which of them runs.

    Commands are carried out by a thread of their own; a queue's thread writes.

    Args:
        path: of the file that keeps it; made, with the emulator's own firmware in it, if there is
            none. Without a path it is as new each time.
        array: of the role that a new one has.
        slow: whether to take the time that hardware does.

    Attributes:
        booted: the region that runs.
        header: of what runs; None if not even the golden image is sound.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path | None, array: Array, *, slow: bool = False) -> None:
        self.status = FlashStatus.IDLE
        self.progress = 0
        self.region = 0
        self.length = 0
        self.booted = FirmwareKind.GOLDEN
        self.header: FirmwareHeader | None = None
        self._slow = slow
        self._unlocked = False
        self._lock = threading.Lock()
        self._writable: tuple[FirmwareKind, int] | None = None
        self._next = 0
        self._digests: dict[FirmwareKind, bytes] = {}
        self._fd = _open(path, array)
        for kind in FirmwareKind:
            self._note(kind, self._check(kind))
        self.boot(FirmwareKind.ROLE)

    def digest(self, kind: FirmwareKind) -> bytes:
        """That of the sound firmware in a region; zeros without one."""
        return self._digests.get(kind, bytes(32))

    def boot(self, kind: FirmwareKind) -> None:
        """Load the role, if that is asked for and sound; else the golden image."""
        self._writable = None
        for region in (kind, FirmwareKind.GOLDEN):
            header = self._check(region)
            self._note(region, header)
            self.booted, self.header = region, header
            if header is not None:
                _LOG.info("booted %s", header)
                return
            _LOG.warning("there is no sound %s image in the flash", region.name)

    def unlock(self, key: int) -> None:
        self._unlocked = key == FLASH_KEY

    def command(self, command: FlashCommand) -> None:
        """Begin ERASE or VERIFY; passed over while BUSY."""
        with self._lock:
            if self.status is FlashStatus.BUSY:
                return
            refusal = self._refusal(command)
            self._writable = None
            self._unlocked = False
            self.progress = 0
            self.status = refusal or FlashStatus.BUSY
        if not refusal:
            step = self._erase if command is FlashCommand.ERASE else self._verify
            arguments = (step, FirmwareKind(self.region), self.length)
            threading.Thread(target=self._carry_out, args=arguments, daemon=True).start()

    def write(self, offset: int, data: bytes | bytearray) -> None:
        """Go on writing the region that was erased last.

        Raises:
            FlashRefusal: not there, or not now.
        """
        with self._lock:
            if self._writable is None or self.status is FlashStatus.BUSY:
                raise FlashRefusal("nothing was erased to be written")
            kind, length = self._writable
            if offset != self._next or len(data) > length - offset:
                raise FlashRefusal(f"flash range {offset:#x} + {len(data)}, wanted {self._next:#x}")
            try:
                _write(self._fd, data, kind * REGION_BYTES + offset)
            except OSError as error:
                self.status = FlashStatus.FAILED
                raise FlashRefusal(str(error)) from error
            self._next = offset + len(data)

    def close(self) -> None:
        os.close(self._fd)

    def _refusal(self, command: FlashCommand) -> FlashStatus | None:
        if self.region not in FirmwareKind.__members__.values():
            return FlashStatus.BAD_LENGTH
        if command is FlashCommand.ERASE:
            if not 0 < self.length <= REGION_BYTES:
                return FlashStatus.BAD_LENGTH
            if self.region == FirmwareKind.GOLDEN and not self._unlocked:
                return FlashStatus.LOCKED
        return None

    def _carry_out(
        self, step: Callable[[FirmwareKind, int], FlashStatus], kind: FirmwareKind, length: int
    ) -> None:
        try:
            status = step(kind, length)
        except OSError as error:
            _LOG.error("the file of the flash: %s", error)
            status = FlashStatus.FAILED
        with self._lock:
            self.status = status

    def _erase(self, kind: FirmwareKind, length: int) -> FlashStatus:
        # The header goes first: what is interrupted after that is not taken for sound.
        self._note(kind, None)
        for at in range(0, length, _SECTOR):
            _write(self._fd, _ERASED, kind * REGION_BYTES + at)
            if at == 0:
                os.fdatasync(self._fd)
            if self._slow:
                time.sleep(_SECTOR_SECONDS)
            self.progress = min(length, at + _SECTOR)
        self._next = 0
        self._writable = (kind, length)
        return FlashStatus.IDLE

    def _verify(self, kind: FirmwareKind, _length: int) -> FlashStatus:
        os.fdatasync(self._fd)
        header = self._read_header(kind)
        if header is not None and header.shell != EMULATOR_SHELL:
            return FlashStatus.INCOMPATIBLE
        header = self._check(kind)
        self._note(kind, header)
        return FlashStatus.BAD_IMAGE if header is None else FlashStatus.IDLE

    def _note(self, kind: FirmwareKind, header: FirmwareHeader | None) -> None:
        self._digests[kind] = header.digest if header is not None else bytes(32)

    def _read_header(self, kind: FirmwareKind) -> FirmwareHeader | None:
        data = os.pread(self._fd, FIRMWARE_HEADER_BYTES, kind * REGION_BYTES)
        try:
            return parse_firmware_header(data)
        except ImageError as error:
            _LOG.info("%s region: %s", kind.name, error)
            return None

    def _check(self, kind: FirmwareKind) -> FirmwareHeader | None:
        """The header of the firmware in a region, if all of it is sound and for this card."""
        header = self._read_header(kind)
        if header is None or header.kind is not kind or header.shell != EMULATOR_SHELL:
            return None
        digest = hashlib.blake2s()
        begin = kind * REGION_BYTES + FIRMWARE_HEADER_BYTES
        for at in range(0, header.length, _CHUNK):
            digest.update(os.pread(self._fd, min(_CHUNK, header.length - at), begin + at))
            self.progress = at
        self.progress = FIRMWARE_HEADER_BYTES + header.length
        return header if digest.digest() == header.digest else None


def _open(path: Path | None, array: Array) -> int:
    """The file with both regions, made as the factory does if there is none."""
    if path is None:
        fd = os.memfd_create("edged-flash", os.MFD_CLOEXEC)
        _fill(fd, array)
        return fd
    try:
        if not path.exists():
            _make(path, array)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigError(f"cannot use {path} as flash: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != _FILE_BYTES:
            raise ConfigError(
                f"cannot use {path} as flash: wanted a file of {_FILE_BYTES} bytes, as an emulator"
                " makes it; give the name of one that is not there"
            )
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise ConfigError(f"cannot use {path} as flash: another emulator does") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make(path: Path, array: Array) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _fill(fd, array)
        os.fsync(fd)
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _fill(fd: int, array: Array) -> None:
    os.ftruncate(fd, _FILE_BYTES)
    for kind, payload in (
        (FirmwareKind.ROLE, b"edged emulator"),
        (FirmwareKind.GOLDEN, b"edged emulator, golden"),
    ):
        name = f"emulator's {kind.name.lower()}"
        data = serialize_firmware(
            kind, payload, shell=EMULATOR_SHELL, abi=ABI, array=array, name=name
        )
        _write(fd, data, kind * REGION_BYTES)


def _write(fd: int, data: bytes | bytearray, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done
