"""Writes that are on disk when they return."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edged.errors import ShortageError, StoreError, of_os

__all__ = ["DISK_FULL", "quarantine", "sync_file", "sync_folder", "translated"]

_REASON: Final = "reason.txt"

DISK_FULL: Final = (
    "no space is left on the disk; free some, for instance with `edgectl remove NAME@VERSION`, and"
    " try again"
)


def sync_file(path: Path) -> None:
    """Have the content of *path* on disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Have the names in the folder *path* on disk: without it, a rename may be undone."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def quarantine(root: Path, paths: list[Path], reason: str, *, keep: Path | None = None) -> Path:
    """Put what cannot be read out of the way, with the reason beside it. Nothing is deleted.

    Args:
        root: the store's folder.
        paths: files or folders, of the same file system.
        reason: one or more sentences.
        keep: the one of *paths* that also stays where it is, until something replaces it.

    Returns:
        The folder that they are in now.
    """
    folder = root / "quarantine" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns():x}"
    folder.mkdir(parents=True)
    (folder / _REASON).write_text(f"{reason}\n")
    sync_file(folder / _REASON)
    for path in paths:
        if path == keep:
            shutil.copyfile(path, folder / path.name)
            sync_file(folder / path.name)
        else:
            path.rename(folder / path.name)
    for changed in (folder, folder.parent, root, *{path.parent for path in paths}):
        sync_folder(changed)
    return folder


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the errors of the operating system into ours, which start with *doing*.

    Raises:
        ShortageError: the disk is full.
        StoreError: anything else.
    """
    try:
        yield
    except OSError as error:
        if of_os(error) is ShortageError:
            raise ShortageError(f"{doing}: {DISK_FULL}") from error
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"{doing}: {error.strerror or error}{where}") from error
