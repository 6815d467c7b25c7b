"""The files in the drop folder: which count, whether one is whole, where it goes afterwards.

Everything here blocks, and raises OSError as the file system does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from edged.faults import fault_point

__all__ = [
    "MODEL_SUFFIXES",
    "STATUS_SUFFIX",
    "Dropped",
    "begin_work",
    "end_work",
    "is_being_written",
    "is_ignored",
    "look",
    "move_to_rejected",
    "remove",
    "take_back",
]

MODEL_SUFFIXES = (".edgemodel", ".onnx")
STATUS_SUFFIX = ".status.txt"
REASON_SUFFIX = ".reason.txt"
REJECTED = "rejected"

# What copying programs call a file that they have not finished, and what desktops leave behind.
# rsync's ".name.XXXXXX" is a dot name.
_TEMPORARY_SUFFIXES = (
    ".part",
    ".partial",
    ".filepart",
    ".tmp",
    ".temp",
    ".crdownload",
    ".download",
    ".swp",
    "~",
)
_DESKTOP_NAMES = ("thumbs.db", "desktop.ini")
_TAKEN = ".edged.taken"
_AT_WORK = ".edged.at-work"
_MAX_NOTE = 1000


@dataclass(frozen=True, slots=True)
class Dropped:
    """One file as it was seen: another inode, size or time is another file.

    Attributes:
        modified_ns: nanoseconds since the epoch.
    """

    path: Path
    inode: int
    size: int
    modified_ns: int

    @property
    def is_model(self) -> bool:
        """Whether the name is one of those that edged takes."""
        return self.path.suffix.lower() in MODEL_SUFFIXES

    @property
    def identity(self) -> str:
        """The same for the same file, and for no other."""
        return f"{self.inode} {self.size} {self.modified_ns}"

    @property
    def shown(self) -> str:
        """The name as it can stand in a line of text."""
        name = self.path.name
        return name if name.isprintable() else ascii(name)


def look(folder: Path) -> list[Dropped]:
    """The files that count, oldest first: regular ones whose names say neither hidden nor
    unfinished."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            # It may be gone by now, or no longer ours to see.
            with contextlib.suppress(OSError):
                dropped = _seen(folder / entry.name)
                if dropped is not None:
                    found.append(dropped)
    return sorted(found, key=lambda dropped: (dropped.modified_ns, dropped.path.name))


def is_ignored(name: str) -> bool:
    """Whether a file of this name is none of the intake's business."""
    low = name.lower()
    return (
        low.startswith((".", "~$"))
        or low.endswith((STATUS_SUFFIX, *_TEMPORARY_SUFFIXES))
        or low in _DESKTOP_NAMES
    )


def is_being_written(path: Path) -> bool:
    """Whether somebody on this machine has the file open for writing.

    A read lease is refused while there is a writer (fcntl(2), F_SETLEASE). Where leases do not
    exist, or the file is another user's and edged may not take one, the answer is False.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # Whoever reads it next says what is wrong with it.
    try:
        # A writer who comes while the lease is held makes the kernel send a signal. SIGIO, the
        # default, would end the process; SIGURG is ignored unless somebody asks for it.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    else:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(file)


def begin_work(dropped: Dropped) -> int:
    """Note on disk that *dropped* is at work, for the case that edged does not survive it.

    Returns:
        how often its work was begun before, without an end.
    """
    note = dropped.path.with_name(_AT_WORK)
    times = 0
    with contextlib.suppress(OSError):
        file = os.open(note, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(file, encoding="utf-8", errors="replace") as text:
            identity, _, count = text.read(_MAX_NOTE).rpartition(" ")
        if identity == dropped.identity and count.isdecimal():
            times = int(count)
    note.unlink(missing_ok=True)
    with note.open("x", encoding="utf-8") as text:
        text.write(f"{dropped.identity} {times + 1}")
        text.flush()
        os.fsync(text.fileno())
    return times


def end_work(folder: Path) -> None:
    """Note that the work on a file in *folder* has ended, well or not."""
    with contextlib.suppress(OSError):  # The folder may have gone; that is told by who looks at it.
        (folder / _AT_WORK).unlink()


def remove(dropped: Dropped) -> bool:
    """Delete the file; not one that took its name in the meantime.

    Returns:
        whether it was there.
    """
    taken = dropped.path.with_name(_TAKEN)
    try:
        dropped.path.rename(taken)
    except FileNotFoundError:
        return False
    fault_point("intake.removing")
    if _is_same(taken, dropped) or dropped.path.exists():
        taken.unlink()
        fault_point("intake.removed")
        return True
    taken.rename(dropped.path)
    return False


def move_to_rejected(dropped: Dropped, reason: str) -> Dropped | None:
    """Move the file into ``rejected/``, under a free name, with *reason* in a file beside it.

    Returns:
        what it is now; None when it was gone, or another had taken its name.
    """
    folder = dropped.path.parent / REJECTED
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        # Whoever may drop may clear away. The unit forbids to say so; the package made the folder.
        with contextlib.suppress(PermissionError):
            folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    target = _free_name(folder, dropped.path.name)
    # Before the file, so that none is ever there without its reason, whatever ends edged.
    explanation = target.with_name(target.name + REASON_SUFFIX)
    explanation.unlink(missing_ok=True)  # of a file that is not there any more
    try:
        with explanation.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(reason)
        fault_point("intake.rejecting")
        dropped.path.rename(target)
    except OSError as error:
        explanation.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):
            return None
        raise
    fault_point("intake.moved")
    if not _is_same(target, dropped) and not dropped.path.exists():
        target.rename(dropped.path)
        explanation.unlink()
        return None
    return replace(dropped, path=target)


def take_back(rejected: Dropped, path: Path) -> bool | None:
    """Move a file out of ``rejected/`` if it was written to there.

    Whoever copies it over a network has it open still, which nobody sees from here, and goes on
    after a pause: what was rejected was the beginning of it.

    Args:
        path: what it was called in the drop folder.

    Returns:
        whether it was; None when it is not there any more, or another has its name.
    """
    try:
        if _is_same(rejected.path, rejected):
            return False
        if rejected.path.lstat().st_ino != rejected.inode or os.path.lexists(path):
            return None
        rejected.path.rename(path)
    except FileNotFoundError:
        return None
    rejected.path.with_name(rejected.path.name + REASON_SUFFIX).unlink(missing_ok=True)
    return True


def _seen(path: Path) -> Dropped | None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return None
    return Dropped(path, found.st_ino, found.st_size, found.st_mtime_ns)


def _is_same(path: Path, dropped: Dropped) -> bool:
    found = path.lstat()
    return (found.st_ino, found.st_size, found.st_mtime_ns) == (
        dropped.inode,
        dropped.size,
        dropped.modified_ns,
    )


def _free_name(folder: Path, name: str) -> Path:
    """*name*, or *name* with a number, so that no file is called that."""
    wanted = Path(name)
    path, number = folder / name, 1
    while os.path.lexists(path):
        number += 1
        path = folder / f"{wanted.stem}-{number}{wanted.suffix}"
    return path
