"""A bare ONNX file, dropped by anyone: packed by a confined process, since it has to be parsed."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from edged import sandbox
from edged._datafiles import MAX_DATA_FILES, is_inside
from edged.bundle._digest import Digest
from edged.bundle._pack import MAX_MODEL_BYTES
from edged.errors import (
    BundleError,
    DeadlineError,
    IncompleteError,
    LimitError,
    ModelError,
    NotFoundError,
    UnavailableError,
    by_name,
)
from edged.nesting import check_nesting

__all__ = ["PACKED_NAME", "pack_bare"]

PACKED_NAME: Final = "packed.edgemodel"
_MAX_ANSWER: Final = 8 << 20
_MEMORY_BYTES: Final = 4 << 30
_CHUNK: Final = 1 << 20
_DEFAULT_NAME: Final = "model"


def pack_bare(
    model: Path,
    output: Path,
    *,
    name: str | None = None,
    data: Sequence[str] = (),
    memory_bytes: int = _MEMORY_BYTES,
    timeout: float = 300.0,
    bubblewrap: str = "auto",
) -> Digest:
    """Pack an ONNX file with what it says of itself.

    The version is ``MODEL_VERSION.0.0`` of the graph and, as build
    metadata, the first digits of the content's digest; no labels and no calibration; photographs
    are stretched where the only image input takes bytes.

    Args:
        model: the file; it may come from anyone.
        output: the bundle to write.
        name: what to call the model; by default as the file. What a bundle's name may not have is
            left out, and what that leaves is told apart by a digest.
        data: the files that the model keeps data in, relative to its folder and inside of it.
        memory_bytes: bound on the memory of the process that reads it.
        timeout: bound on its time, in seconds.
        bubblewrap: as `edged.sandbox.command` takes it.

    Returns:
        What the confined process says the digest is; `verify_bundle` finds out.

    Raises:
        IncompleteError: it keeps data in files that *data* does not list, or that are not there.
        UnavailableError: it changed while it was copied.
        ModelError: it is no ONNX model, or not one that a bundle can carry.
        LimitError: it is too large, or the process needs more memory.
        DeadlineError: the process needs more time.
        SandboxError: this host cannot confine a process.
    """
    name = _name_of(model.stem if name is None else name)
    with (
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".job-") as job,
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".packed-") as packed,
    ):
        left = MAX_MODEL_BYTES
        for file in (model.name, *data):
            left -= _copy(model.parent, file, Path(job), left)
        confinement = sandbox.Confinement(
            read_only=(Path(job).absolute(),),
            writable=(Path(packed).absolute(),),
            memory_bytes=memory_bytes,
            file_bytes=2 * MAX_MODEL_BYTES,
        )
        answer = _run(model.name, name, confinement, timeout, bubblewrap)
        (Path(packed) / PACKED_NAME).replace(output)
    return Digest.parse(str(answer.get("digest")))


def _name_of(wanted: str) -> str:
    """A bundle's name; where letters of *wanted* cannot be in one, a digest stands for them."""
    plain = unicodedata.normalize("NFKD", wanted)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:100].strip("._-")
    if not any(letter.isalnum() and not letter.isascii() for letter in plain):
        return name or _DEFAULT_NAME
    return f"{name or _DEFAULT_NAME}-{Digest.of(os.fsencode(wanted)).short}"


def _copy(folder: Path, file: str, job: Path, max_bytes: int) -> int:
    """Copy ``folder/file`` to ``job/file``, through no link; the number of its bytes.

    What was dropped may change, and be or become a link to what is not for anyone.
    """
    with _open_inside(folder, file) as source:
        before = os.fstat(source.fileno())
        if before.st_size > max_bytes:
            raise LimitError(
                f"cannot read {file}: it has {before.st_size} bytes; {max_bytes} are left of what a"
                " model may have"
            )
        target = job / file
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
        after = os.fstat(source.fileno())
        if (after.st_size, after.st_mtime_ns, target.stat().st_size) != (
            before.st_size,
            before.st_mtime_ns,
            before.st_size,
        ):
            raise UnavailableError(f"cannot read {file} yet: it changed while it was read")
    return before.st_size


def _open_inside(folder: Path, file: str) -> IO[bytes]:
    """Open a plain file in *folder* or below it; one folder after the other, through no link."""
    *folders, name = PurePosixPath(file).parts
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ".." in folders or PurePosixPath(file).is_absolute():
            raise BundleError(f"cannot read {file}: it is outside of its folder")
        for each in folders:
            inner = os.open(each, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
        opened = os.open(name, flags, dir_fd=at)
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {file}: it is not there any more") from error
    except OSError as error:
        raise BundleError(f"cannot read {file}: it is no plain file ({error.strerror})") from error
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise BundleError(f"cannot read {file}: it is no plain file")
    return os.fdopen(opened, "rb")


def _run(
    file: str, name: str, confinement: sandbox.Confinement, timeout: float, bubblewrap: str
) -> dict[str, Any]:
    (job,), (packed,) = confinement.read_only, confinement.writable
    argv = [sys.executable, "-m", "edged.bundle", str(job), str(packed), file, name]
    argv.append(str(confinement.memory_bytes))
    try:
        done = subprocess.run(  # noqa: S603  (our own words)
            sandbox.command(argv, confinement, bubblewrap=bubblewrap),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(f"cannot pack {file}: not done after {timeout:g} s") from error
    try:
        line = done.stdout[-_MAX_ANSWER:].splitlines()[-1]
        check_nesting(line)
        answer = json.loads(line)
    except (ValueError, IndexError):
        words = done.stderr.decode(errors="replace")
        limit = f"{(confinement.memory_bytes or 0) >> 20} MiB"
        raise sandbox.no_answer(f"cannot pack {file}", done.returncode, words, limit) from None
    if not isinstance(answer, dict):
        raise ModelError(f"cannot pack {file}: its process answered with no object")
    if "error" in answer:
        if "files" in answer:
            raise IncompleteError(str(answer["error"]), _files(answer["files"], file))
        raise by_name(str(answer.get("kind")))(str(answer["error"]))
    return answer


def _files(found: Any, model: str) -> list[str]:
    """The files that the confined process says the model wants; what it says is checked."""
    files = [str(each) for each in found] if isinstance(found, list) else []
    if not files or len(files) > MAX_DATA_FILES or not all(map(is_inside, files)):
        raise ModelError(
            f"cannot read {model}: its data are in other files, and not well described"
        )
    return files
