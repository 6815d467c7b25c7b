"""A dropped folder: what is in it, and which model of it is meant.

Model repositories are folders: Triton's ``NAME/config.pbtxt`` and ``NAME/1/model.onnx``, TensorFlow
Serving's ``NAME/1/…``, where the highest number is the version that serves; what exporters write is
one file, perhaps with its data beside it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edged._filekinds import MODEL_SUFFIXES, kind_of_folder

__all__ = ["Inside", "choose", "survey"]

_MAX_FILES: Final = 2000
_MAX_DEPTH: Final = 8
_GENERIC: Final = ("model", "onnx", "saved_model", "export")


@dataclass(frozen=True, slots=True)
class Inside:
    """What is in a folder.

    Attributes:
        files: paths of the plain files, relative to the folder.
        size: bytes of all of them.
        modified_ns: of the latest file or folder.
        digest: the same while nothing in it changes.
        model: path of the model that is meant; None where there is none, or no telling which.
        name: what to call that model.
        problem: why there is none, and what to do.
    """

    files: tuple[str, ...]
    size: int
    modified_ns: int
    digest: str
    model: str | None
    name: str
    problem: str


def survey(folder: Path) -> Inside:
    """Look through *folder*, at names and sizes only, through no link.

    Raises:
        OSError: it cannot be read.
    """
    seen, files, size, latest, too_many = hashlib.sha256(), [], 0, 0, False
    for count, (path, found) in enumerate(_walk(folder, PurePosixPath(), _MAX_DEPTH)):
        latest = max(latest, found.st_mtime_ns)
        seen.update(
            f"{path}\0{found.st_ino} {found.st_size} {found.st_mtime_ns}\0".encode(
                errors="surrogateescape"
            )
        )
        if stat.S_ISREG(found.st_mode):
            size += found.st_size
            files.append(str(path))
        if count >= _MAX_FILES:
            too_many = True
            break
    model, name, problem = choose(folder.name, files)
    if too_many:
        model, problem = (
            None,
            (f"it is a folder of more than {_MAX_FILES} files; copy the model alone"),
        )
    return Inside(tuple(files), size, latest, seen.hexdigest(), model, name, problem)


def choose(folder: str, files: Iterable[str]) -> tuple[str | None, str, str]:
    """The model that is meant by dropping a folder.

    Args:
        folder: its name.
        files: the paths in it.

    Returns:
        The path of the model or None, what to call it, and why there is none or no telling which.
    """
    files = list(files)
    models = [PurePosixPath(file) for file in files if file.lower().endswith(MODEL_SUFFIXES)]
    if not models:
        return None, folder, kind_of_folder(files).said_of(folder)
    groups: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path in models:
        groups.setdefault(path.parent.parent if _version(path) is not None else path, []).append(
            path
        )
    best = {group: _best(paths) for group, paths in groups.items()}
    if len(groups) > 1 or None in best.values():
        shown = ", ".join(sorted(map(str, models))[:4]) + (", …" if len(models) > 4 else "")
        return (
            None,
            folder,
            f"it is a folder of {len(models)} models ({shown}); copy the one that is to serve",
        )
    ((group, chosen),) = best.items()
    assert chosen is not None
    if chosen != group:
        return str(chosen), group.name or folder, ""
    return str(chosen), _name(folder, chosen), ""


def _version(path: PurePosixPath) -> int | None:
    """The number of the folder that a model is in, as in ``NAME/12/model.onnx``."""
    above = path.parent.name
    return int(above) if above.isascii() and above.isdecimal() and len(above) < 20 else None


def _best(paths: list[PurePosixPath]) -> PurePosixPath | None:
    """The model of the highest version; None where there is no telling which."""
    highest = max(_version(path) or 0 for path in paths)
    of_it = [path for path in paths if (_version(path) or 0) == highest]
    named = [path for path in of_it if path.stem == "model"]
    return of_it[0] if len(of_it) == 1 else named[0] if len(named) == 1 else None


def _name(folder: str, path: PurePosixPath) -> str:
    """The file's name where that says something, else that of the folder that does."""
    for name in (path.stem, *(above.name for above in path.parents)):
        if name and name.lower() not in _GENERIC:
            return name
    return folder


def _walk(
    folder: Path, within: PurePosixPath, depth: int
) -> Iterator[tuple[PurePosixPath, os.stat_result]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield within / entry.name, status
        if depth and stat.S_ISDIR(status.st_mode):
            yield from _walk(folder / entry.name, within / entry.name, depth - 1)
