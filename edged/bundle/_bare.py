"""A bare ONNX file, dropped by anyone: packed by a confined process, since it has to be parsed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from edged import sandbox
from edged.bundle._digest import Digest
from edged.bundle._manifest import FileName
from edged.bundle._pack import MAX_MODEL_BYTES
from edged.errors import BundleError, DeadlineError, LimitError, ModelError, by_grpc_status
from edged.nesting import check_nesting

__all__ = ["PACKED_NAME", "pack_bare"]

PACKED_NAME: Final = "packed.edgemodel"
_MAX_ANSWER: Final = 64 << 10
_MEMORY_BYTES: Final = 4 << 30


def pack_bare(
    model: Path,
    output: Path,
    *,
    memory_bytes: int = _MEMORY_BYTES,
    timeout: float = 300.0,
    bubblewrap: str = "auto",
) -> Digest:
    """Pack an ONNX file with what it says of itself.

    The name is the file's; the version is ``MODEL_VERSION.0.0`` of the graph and, as build
    metadata, the first digits of the content's digest; no labels and no calibration; photographs
    are stretched where the only image input takes bytes.

    Args:
        model: the file; it may come from anyone.
        output: the bundle to write.
        memory_bytes: bound on the memory of the process that reads it.
        timeout: bound on its time, in seconds.
        bubblewrap: as `edged.sandbox.command` takes it.

    Returns:
        What the confined process says the digest is; `verify_bundle` finds out.

    Raises:
        ModelError: it is no ONNX model, or not one that a bundle can carry.
        LimitError: it is too large, or the process needs more memory.
        DeadlineError: the process needs more time.
        SandboxError: this host cannot confine a process.
    """
    name = _name_of(model)
    with (
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".job-") as job,
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".packed-") as packed,
    ):
        _copy(model, Path(job) / FileName.MODEL)
        confinement = sandbox.Confinement(
            read_only=(Path(job).absolute(),),
            writable=(Path(packed).absolute(),),
            memory_bytes=memory_bytes,
            file_bytes=2 * MAX_MODEL_BYTES,
        )
        answer = _run(name, confinement, timeout, bubblewrap)
        (Path(packed) / PACKED_NAME).replace(output)
    return Digest.parse(str(answer.get("digest")))


def _name_of(model: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.stem)[:100].strip("._-")
    if not name:
        raise BundleError(
            f"cannot name a bundle after {model.name!r}: wanted a letter or digit in it"
        )
    return name


def _copy(model: Path, copy: Path) -> None:
    """A copy of our own: what was dropped may change, and be a link to what is not for anyone."""
    if model.is_symlink() or not model.is_file():
        raise BundleError(f"cannot read {model.name}: it is no plain file")
    size = model.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise LimitError(
            f"cannot read {model.name}: it has {size} bytes, at most {MAX_MODEL_BYTES} are taken"
        )
    shutil.copyfile(model, copy, follow_symlinks=False)


def _run(
    name: str, confinement: sandbox.Confinement, timeout: float, bubblewrap: str
) -> dict[str, Any]:
    (job,), (packed,) = confinement.read_only, confinement.writable
    argv = [sys.executable, "-m", "edged.bundle", str(job), str(packed), name]
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
        raise DeadlineError(f"cannot pack {name}: not done after {timeout:g} s") from error
    try:
        line = done.stdout[-_MAX_ANSWER:].splitlines()[-1]
        check_nesting(line)
        answer = json.loads(line)
    except (ValueError, IndexError):
        last = done.stderr.decode(errors="replace").strip()[-400:]
        answer = {"error": f"cannot pack {name}: its process ended with {done.returncode}: {last}"}
    if not isinstance(answer, dict) or "error" in answer:
        status = str(answer.get("status", "INVALID_ARGUMENT"))
        kind = ModelError if status == "INVALID_ARGUMENT" else by_grpc_status(status)
        raise kind(str(answer["error"]))
    return answer
