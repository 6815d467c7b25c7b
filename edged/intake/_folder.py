"""What is in the drop folder: which of it counts, whether it is whole, where it goes afterwards.

Everything here blocks, and raises OSError as the file system does.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from edged._filekinds import HEAD_BYTES, MODEL_SUFFIXES, FileKind, kind_of
from edged.faults import fault_point
from edged.intake._inside import Inside, survey

__all__ = [
    "STATUS_SUFFIX",
    "Dropped",
    "Form",
    "Rejected",
    "begin_work",
    "end_work",
    "identify",
    "is_being_written",
    "is_ignored",
    "is_there",
    "look",
    "move_to_rejected",
    "remove",
    "remove_data",
    "take_back",
]

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
    ".opdownload",
    ".aria2",
    ".!ut",
    ".swp",
    ".lnk",
    "~",
)
_DESKTOP_NAMES = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin"),
    *("system volume information", "lost+found", "@eadir", "#recycle"),
)
_TAKEN = ".edged.taken"
_AT_WORK = ".edged.at-work"
_MAX_NOTE = 1000


class Form(enum.StrEnum):
    """What a name in the drop folder stands for."""

    FILE = "a file"
    FOLDER = "a folder"
    LINK = "a symbolic link"
    OTHER = "a pipe, socket or device"


@dataclass(frozen=True, slots=True)
class Dropped:
    """One file or folder as it was seen: with another inode, size or time it is another one.

    Attributes:
        size: bytes; of a folder, of all its files.
        modified_ns: nanoseconds since the epoch; of a folder, the latest in it.
        inside: what is in a folder; None for all else.
    """

    path: Path
    inode: int
    size: int
    modified_ns: int
    form: Form = Form.FILE
    inside: Inside | None = None

    @property
    def is_model(self) -> bool:
        """Whether it has a name that edged takes, or a model in it."""
        if self.inside is not None:
            return self.inside.model is not None
        return self.form is Form.FILE and self.path.suffix.lower() in MODEL_SUFFIXES

    @property
    def model(self) -> Path:
        """The file with the model: itself, or in the folder."""
        if self.inside is None or self.inside.model is None:
            return self.path
        return self.path / self.inside.model

    @property
    def identity(self) -> str:
        """The same for the same file or folder, and for no other."""
        digest = f" {self.inside.digest}" if self.inside is not None else ""
        return f"{self.inode} {self.size} {self.modified_ns}{digest}"

    @property
    def shown(self) -> str:
        """The name as it can stand in a line of text."""
        name = self.path.name
        return name if name.isprintable() else ascii(name)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A model in ``rejected/``.

    Attributes:
        moved: the file as it is there.
        path: what it was called in the drop folder.
        data: the same of each file that it keeps data in.
    """

    moved: Dropped
    path: Path
    data: tuple[tuple[Dropped, Path], ...] = ()


def look(folder: Path) -> list[Dropped]:
    """What counts, oldest first: not what is hidden, unfinished, or left behind by a desktop."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            # It may be gone by now, or no longer ours to see.
            with contextlib.suppress(OSError):
                found.append(_seen(folder / entry.name))
    return sorted(found, key=lambda dropped: (dropped.modified_ns, dropped.path.name))


def is_ignored(name: str) -> bool:
    """Whether a file of this name is none of the intake's business."""
    low = name.lower()
    return (
        low.startswith((".", "~$"))
        or low.endswith((STATUS_SUFFIX, *_TEMPORARY_SUFFIXES))
        or low in (*_DESKTOP_NAMES, REJECTED)
    )


def identify(path: Path) -> FileKind | None:
    """What the plain file at *path* is; None for what may be a model.

    Raises:
        OSError: it is not there, not plain, or may not be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        return kind_of(path.name, opened.read(HEAD_BYTES))


def is_being_written(dropped: Dropped) -> bool:
    """Whether somebody on this machine has the file, or one in the folder, open for writing.

    A read lease is refused while there is a writer (fcntl(2), F_SETLEASE). Where leases do not
    exist, or the file is another user's and edged may not take one, the answer is False.
    """
    if dropped.inside is not None:
        return any(_has_writer(dropped.path / file) for file in dropped.inside.files)
    return dropped.form is Form.FILE and _has_writer(dropped.path)


def _has_writer(path: Path) -> bool:
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


def is_there(dropped: Dropped) -> bool:
    """Whether it is still there, and the same."""
    try:
        return _seen(dropped.path) == dropped
    except FileNotFoundError:
        return False


def remove_data(folder: Path, file: str) -> None:
    """Delete a data file, and the folders below *folder* that it leaves empty."""
    path = folder / file
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for above in path.relative_to(folder).parents[:-1]:
            (folder / above).rmdir()


def move_to_rejected(
    dropped: Dropped, reason: str, data: Mapping[str, Dropped | None] = MappingProxyType({})
) -> Rejected | None:
    """Move the file into ``rejected/``, with its data and with *reason* in a file beside it.

    A model finds its data by their names, so these are kept: where one of the names is taken, model
    and data get a folder of their own there.

    Args:
        data: the files that the model keeps its data in, by their names in the drop folder, and as
            they were when it was taken, where that is known. They are linked before the model is
            moved, and removed by the caller afterwards: at no time is one without the other.

    Returns:
        where it is now; None when it was gone, or another had taken its name.
    """
    folder = dropped.path.parent / REJECTED
    _make(folder, like=dropped.path.parent)
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    target = _free_place(dropped, folder, data)
    if target.parent != folder:
        _make(target.parent, like=folder)
    # Before the file, so that none is ever there without its reason, whatever ends edged.
    explanation = target.with_name(target.name + REASON_SUFFIX)
    explanation.unlink(missing_ok=True)  # of a file that is not there any more
    try:
        with explanation.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(reason)
        moved_data = _link_data(dropped.path.parent, target.parent, data)
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
    return Rejected(replace(dropped, path=target), dropped.path, moved_data)


def take_back(rejected: Rejected) -> bool | None:
    """Move a model and its data out of ``rejected/`` if one of them was written to there.

    Whoever copies it over a network has it open still, which nobody sees from here, and goes on
    after a pause: what was rejected was the beginning of it.

    Returns:
        whether it was; None when it is not there any more, or another has its name.
    """
    pairs = [(rejected.moved, rejected.path), *rejected.data]
    try:
        if all(_is_same(moved.path, moved) for moved, _ in pairs):
            return False
        for moved, path in pairs:
            if moved.path.lstat().st_ino != moved.inode or not _is_free(path, moved.path):
                return None
        # The model last: it finds its data there already.
        for moved, path in reversed(pairs):
            path.parent.mkdir(parents=True, exist_ok=True)
            moved.path.rename(path)
            moved.path.unlink(missing_ok=True)  # rename(2) leaves both names of the same file
    except FileNotFoundError:
        return None
    target = rejected.moved.path
    target.with_name(target.name + REASON_SUFFIX).unlink(missing_ok=True)
    if target.parent.name != REJECTED:
        with contextlib.suppress(OSError):
            target.parent.rmdir()
    return True


def _make(folder: Path, *, like: Path) -> None:
    """Make *folder*: whoever may drop may clear away."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        # The unit forbids to say so; the package made the folder.
        with contextlib.suppress(PermissionError):
            folder.chmod(stat.S_IMODE(like.stat().st_mode))


def _link_data(
    source: Path, target: Path, data: Mapping[str, Dropped | None]
) -> tuple[tuple[Dropped, Path], ...]:
    """Give each data file its second name; where there are no links, its new one at once."""
    pairs = []
    for name, seen in data.items():
        path, new = source / name, target / name
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, new, follow_symlinks=False)
        except FileExistsError:
            pass  # the same file, from a time that edged did not survive
        except FileNotFoundError:
            continue  # it never came
        except OSError:
            path.rename(new)
        with contextlib.suppress(FileNotFoundError):
            # As it was read, and not as it may have grown since.
            pairs.append((_seen(new) if seen is None else replace(seen, path=new), path))
    return tuple(pairs)


def _seen(path: Path) -> Dropped:
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        inside = survey(path)
        return Dropped(
            path, found.st_ino, inside.size, inside.modified_ns, Form.FOLDER, inside=inside
        )
    form = Form.FILE if stat.S_ISREG(found.st_mode) else Form.OTHER
    if stat.S_ISLNK(found.st_mode):
        form = Form.LINK
    return Dropped(path, found.st_ino, found.st_size, found.st_mtime_ns, form)


def _is_same(path: Path, dropped: Dropped) -> bool:
    found = path.lstat()
    return (found.st_ino, found.st_size, found.st_mtime_ns) == (
        dropped.inode,
        dropped.size,
        dropped.modified_ns,
    )


def _free_place(dropped: Dropped, folder: Path, data: Collection[str]) -> Path:
    """Where in *folder* the file can go: under its name, or with a number.

    One with data keeps its name, and so do they: together they go into a folder with a number.
    """
    name = dropped.path
    place, number = folder / name.name, 1
    while os.path.lexists(place) or not all(
        _is_free(place.parent / each, name.parent / each) for each in data
    ):
        number += 1
        numbered = folder / f"{name.stem}-{number}{'' if data else name.suffix}"
        place = numbered / name.name if data else numbered
    return place


def _is_free(place: Path, source: Path) -> bool:
    """Whether *source* can have its name at *place*: nothing is there, or the same file."""
    try:
        return place.lstat().st_ino == source.lstat().st_ino
    except FileNotFoundError:
        return not os.path.lexists(place)
