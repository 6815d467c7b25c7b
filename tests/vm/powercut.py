"""A disk that loses, when the power fails, what disks lose: writes that no flush has followed.

A killed QEMU loses nothing that the guest has written, flushed or not: it is in this host's page
cache. So all writes are logged (QEMU's blklogwrites, in the format of the kernel's dm-log-writes),
and after a power cut the disk is made anew: what it was at boot, all writes before the last flush,
and of those after it some, a few of them cut off in the middle.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vm.image import Debian, Qemu

__all__ = ["Disk", "Lost"]

_SECTOR = 512
_SUPER = struct.Struct("<QQQI")
"""Magic, version, number of entries when there was a flush last, size of a sector."""
_ENTRY = struct.Struct("<QQQQ")
"""Sector, sectors, flags, bytes of a mark's text."""
_MAGIC = 0x6A736677736872
_FLUSH, _THROUGH, _DISCARD = 1, 2, 4


@dataclass(frozen=True)
class Lost:
    """What became of the writes after the last flush."""

    kept: int
    torn: int
    lost: int

    def __str__(self) -> str:
        return f"{self.kept} kept, {self.torn} torn, {self.lost} lost"


class Disk:
    """The machine's disk, in *folder*.

    Attributes:
        options: for QEMU; the node is called ``disk``.
    """

    def __init__(self, folder: Path, qemu: Qemu, debian: Debian) -> None:
        self._qemu = qemu
        self._image = folder / "disk.raw"
        self._layer = folder / "layer.qcow2"
        self._log = folder / "writes"
        # Flushes are logged; this host's disk need not take part in them.
        file = "driver=file,cache.no-flush=on"
        self.options = (
            *("-blockdev", f"{file},node-name=layer,filename={self._layer}"),
            *("-blockdev", "driver=qcow2,node-name=image,file=layer"),
            *("-blockdev", f"{file},node-name=log,filename={self._log}"),
            *("-blockdev", "driver=blklogwrites,node-name=disk,file=image,log=log"),
        )
        if not self._image.exists():
            copy = ["cp", "--sparse=always", "--reflink=auto", debian.disk, self._image]
            subprocess.run(copy, check=True)

    def attach(self) -> None:
        """Before each boot."""
        self._log.write_bytes(b"")
        words = ("create", "-q", "-f", "qcow2", "-b", self._image, "-F", "raw", self._layer)
        subprocess.run(
            self._qemu.command("qemu-img", *words), check=True, env=self._qemu.environment
        )

    def detach(self, chance: random.Random | None = None) -> Lost:
        """After QEMU's end: keep what was written, or lose what can be lost, by *chance*."""
        kept = torn = lost = 0
        with self._log.open("rb") as log, self._image.open("r+b") as image:
            flushed = 0
            for index, (flags, _, _) in enumerate(_entries(log)):
                flushed = index if flags & _FLUSH else flushed
            for index, (flags, sector, data) in enumerate(_entries(log)):
                safe = index <= flushed or flags & _THROUGH
                if data and not safe and chance is not None:
                    luck = chance.random()
                    if luck < 0.45:
                        lost += 1
                        continue
                    if luck < 0.55 and len(data) > _SECTOR:
                        data = data[: chance.randrange(_SECTOR, len(data), _SECTOR)]
                        torn += 1
                    else:
                        kept += 1
                image.seek(sector * _SECTOR)
                image.write(data)
        self._layer.unlink()
        return Lost(kept, torn, lost)


def _entries(log: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Flags, sector and data of each write, in the order in which they were begun."""
    log.seek(0)
    header = log.read(_SUPER.size)
    if len(header) < _SUPER.size:
        return
    magic, _, _, size = _SUPER.unpack(header)
    assert (magic, size) == (_MAGIC, _SECTOR), "no log of writes"
    at = _SECTOR
    while True:
        log.seek(at)
        entry = log.read(_ENTRY.size)
        sector, sectors, flags, _ = _ENTRY.unpack(entry.ljust(_ENTRY.size, b"\0"))
        if not sectors and not flags:
            return  # what comes now was never written
        at += _SECTOR
        data = b""
        if sectors and not flags & _DISCARD:
            log.seek(at)
            data = log.read(sectors * _SECTOR)
            if len(data) < sectors * _SECTOR:
                return
            at += len(data)
        yield flags, sector, data
