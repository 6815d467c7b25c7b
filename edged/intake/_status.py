"""The status files, through which people who only have the folder are told what is going on."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edged.faults import fault_point
from edged.intake._folder import STATUS_SUFFIX

__all__ = ["Fate", "FileStatus", "StatusBoard", "moment", "read_status"]

_log = logging.getLogger(__name__)

_TEMPORARY = ".edged.status.tmp"
_MAX_BYTES = 64 << 10
# The last line of each status file: tells people when, and edged that it wrote the file.
_SIGNATURE = re.compile(r"edged, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")


_FRACTION = re.compile(r"(.*) (\d{1,3}) %")


class Fate(enum.StrEnum):
    """How a status begins that is the last word on a file, until another model takes its place."""

    SERVING = "serving since "
    SERVED = "served from "
    STORED = "stored; "
    REJECTED = "rejected: "


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What edged says of a file.

    Attributes:
        text: all of it but the last line.
        signature: the last line, which says who wrote it when.
    """

    text: str
    signature: str

    @property
    def fate(self) -> Fate | None:
        """None while the file is on its way."""
        return next((fate for fate in Fate if self.text.startswith(fate)), None)

    @property
    def step(self) -> tuple[str, float | None]:
        """What is being done, and how much of it is done, 0 … 1, where that can be told."""
        line = self.text.partition("\n")[0]
        counted = _FRACTION.fullmatch(line)
        return (counted[1], int(counted[2]) / 100) if counted else (line, None)


def read_status(file: Path) -> FileStatus | None:
    """What edged says of *file*, which was dropped; None while there is nothing.

    Raises:
        OSError: the status file is there and cannot be read.
    """
    try:
        *lines, last = _read(file.with_name(file.name + STATUS_SUFFIX)).splitlines()
    except (FileNotFoundError, UnicodeDecodeError, ValueError):
        return None
    return FileStatus("\n".join(lines), last) if _SIGNATURE.fullmatch(last) else None


class StatusBoard:
    """Writes ``NAME.status.txt``: whole or not at all, the latest text, not too often.

    A status file that cannot be written is a pity, and no reason to stop: it is logged, once.

    Args:
        folder: where the files are.
        interval: seconds between two writes of what was posted.
    """

    def __init__(self, folder: Path, interval: float = 0.25) -> None:
        self._folder = folder
        self._interval = interval
        # Texts not yet written, by name; None stands for a file to be removed.
        self._latest: dict[str, str | None] = {}
        self._posted = asyncio.Event()
        self._writing = threading.Lock()
        self._complaint = ""

    def post(self, name: str, text: str | None) -> None:
        """Have *text* written soon, unless another text comes first; None removes the file."""
        self._latest[name] = text
        self._posted.set()

    async def write(self, name: str, text: str | None) -> None:
        """Write *text* now; None removes the file."""
        self._latest[name] = text
        await asyncio.to_thread(self._write_latest, name)

    def write_blocking(self, name: str, text: str | None) -> None:
        """The same for where nothing can be awaited."""
        self._latest[name] = text
        self._write_latest(name)

    async def run(self) -> None:
        """Write what is posted, until cancelled."""
        while True:
            await self._posted.wait()
            self._posted.clear()
            for name in list(self._latest):
                await asyncio.to_thread(self._write_latest, name)
            await asyncio.sleep(self._interval)

    async def revise(self, change: Callable[[str, list[str]], str | None]) -> None:
        """Rewrite the files that edged wrote.

        Args:
            change: given a name and the lines of its status, returns the new text, or None to
                remove the file, or the same lines joined to leave it as it is.
        """
        await asyncio.to_thread(self._revise, change)

    def _revise(self, change: Callable[[str, list[str]], str | None]) -> None:
        for name, lines in self._written():
            text = change(name, lines)
            if text != "\n".join(lines) and name not in self._latest:
                self.write_blocking(name, text)

    def _written(self) -> Iterator[tuple[str, list[str]]]:
        with contextlib.suppress(OSError):
            for path in list(self._folder.glob(f"*{STATUS_SUFFIX}")):
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    lines = _read(path).splitlines()
                    if lines and _SIGNATURE.fullmatch(lines[-1]):
                        yield path.name.removesuffix(STATUS_SUFFIX), lines[:-1]

    def _write_latest(self, name: str) -> None:
        # Whoever comes last finds either the latest text or that it has been written already.
        with self._writing:
            if name not in self._latest:
                return
            text = self._latest.pop(name)
            try:
                self._replace(self._folder / f"{name}{STATUS_SUFFIX}", text)
            except OSError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _log.error("cannot write the status of %r: %s", name, error)

    def _replace(self, path: Path, text: str | None) -> None:
        if text is None:
            path.unlink(missing_ok=True)
            return
        temporary = self._folder / _TEMPORARY
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{text}\nedged, {moment(datetime.now(UTC))}\n")
        fault_point("intake.status.written")
        temporary.replace(path)
        fault_point("intake.status.shown")


def moment(when: datetime) -> str:
    """A time as people read it, to the second."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _read(path: Path) -> str:
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(file, encoding="utf-8") as text:
        return text.read(_MAX_BYTES)
