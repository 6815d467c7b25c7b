"""``edgectl push``: a file into the drop folder, and what becomes of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edged._filekinds import HEAD_BYTES, MODEL_SUFFIXES, kind_of
from edged.cli._control import configuration
from edged.cli._options import ConfigOption, JsonOption
from edged.cli._output import print_json, stderr, stdout
from edged.errors import (
    DeadlineError,
    IncompleteError,
    InputError,
    ModelError,
    NotFoundError,
    UnavailableError,
)
from edged.intake import Fate, FileStatus, read_status, survey

PUSH_EXAMPLES = (
    "edgectl push kws-1.0.0.edgemodel · edgectl push model.onnx --drop /mnt/edge/drop · "
    "edgectl push repository/resnet/"
)

_INTERRUPTED: Final = 130
_LOOK_SECONDS: Final = 0.1
_NOTICED_SECONDS: Final = 30.0


def push(
    file: Annotated[
        Path,
        typer.Argument(
            help="A bundle, an ONNX model, or a folder with one (a model repository).", exists=True
        ),
    ],
    drop: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The drop folder, for instance where a share of it is mounted. By default that of"
            " the configuration.",
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to follow it.", min=0.0)
    ] = 900.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a model into the drop folder, and follow it until it serves or is rejected.

    Of an ONNX model that keeps its weights in other files (model.onnx.data), one file that holds
    all is sent.

    Exit status 0 when it serves or, because edged is pinned, is stored; 65 when it is rejected.
    """
    file = file.absolute()  # "." has no name
    _check(file)
    folder = drop if drop is not None else configuration(config).drop.directory
    target = folder / file.name
    before = _status(target)
    try:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=stderr(),
            transient=True,
            disable=not stderr().is_terminal,
        ) as progress:
            task = progress.add_task("copying", total=None)
            _copy(file, target)
            last = before
            for last in _statuses(target, before, wait):
                step, fraction = last.step
                progress.update(
                    task,
                    description=escape(step),
                    total=None if fraction is None else 1.0,
                    completed=fraction or 0.0,
                )
    except KeyboardInterrupt:
        stderr().print(f"edgectl: not waiting any longer; remove {target} to call it off")
        raise typer.Exit(_INTERRUPTED) from None
    assert last is not None
    if last.fate is Fate.REJECTED:
        raise InputError(last.text.removeprefix(Fate.REJECTED))
    if as_json:
        print_json({"file": file.name, "fate": str(last.fate).split()[0].strip(";")} | _model(last))
    else:
        stdout().print(escape(last.text))


def _model(status: FileStatus) -> dict[str, str]:
    lines = status.text.splitlines()
    return {"model": lines[1] if len(lines) > 1 else "", "text": status.text}


def _check(file: Path) -> None:
    """Refuse what edged would refuse, before it is copied.

    Raises:
        InputError: says what it is, and what to do.
    """
    if file.is_dir():
        problem = survey(file).problem
        if problem:
            raise InputError(f"cannot push {file}: {problem}")
        return
    try:
        with file.open("rb") as opened:
            kind = kind_of(file.name, opened.read(HEAD_BYTES))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    if kind is not None:
        said = [] if kind.silent else [kind.said_of(file.name)]
        if not file.name.lower().endswith(MODEL_SUFFIXES):
            said.append(f"edged takes files that end in {' and '.join(MODEL_SUFFIXES)}")
        raise InputError(f"cannot push {file}: {'; '.join(said)}")


def _write(file: Path, part: Path) -> None:
    """Copy *file*; a model that keeps data in other files comes with all of them in one."""
    if file.is_dir():
        shutil.copytree(file, part)
        return
    if file.suffix.lower() == ".onnx":
        from edged._onnxfile import read_onnx_bytes  # onnx takes its time to import

        try:
            part.write_bytes(read_onnx_bytes(file))
        except IncompleteError:
            raise
        except ModelError:
            shutil.copyfile(file, part)  # edged says what is wrong with it, where others see it too
        return
    shutil.copyfile(file, part)


def _put(part: Path, target: Path) -> None:
    """Give *part* its name; a folder of that name goes."""
    if not (part.is_dir() and target.is_dir()):
        part.replace(target)
        return
    old = target.with_name(f".{target.name}.old.part")
    _remove(old)
    target.replace(old)
    part.replace(target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(file: Path, target: Path) -> None:
    """Whole or not at all: under a name that edged passes over, and then renamed."""
    part = target.with_name(f".{target.name}.part")
    try:
        _remove(part)
        _write(file, part)
        _put(part, target)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"cannot copy to {target.parent}: there is no such folder; --drop says which one, or"
            " --config where edged's configuration is"
        ) from error
    except OSError as error:
        said = f"cannot copy to {target.parent}: {error.strerror}{_cure(error)}"
        raise InputError(said) from error
    finally:
        with contextlib.suppress(OSError):  # where it cannot be made, it cannot be removed either
            _remove(part)


def _cure(error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return "; members of its group may: `usermod -aG edged USER` as root, then log in anew"
        case errno.ENOSPC | errno.EDQUOT:
            return (
                "; make room there, `edgectl remove NAME@VERSION` takes a model that is not in use"
            )
        case errno.EROFS:
            return "; mount it for writing"
    return ""


def _statuses(target: Path, before: FileStatus | None, wait: float) -> Iterator[FileStatus]:
    """What edged says, each time that it says something else; ends with the file's fate."""
    began = time.monotonic()
    last = before
    while True:
        now = _status(target)
        if now is not None and now != last:
            last = now
            yield now
            # "Served from" may still be about an earlier file of that name.
            gone = target.is_dir() or not target.exists()  # a folder stays
            if now.fate is not None and (now.fate is not Fate.SERVED or gone):
                return
        waited = time.monotonic() - began
        if last is before and waited > _NOTICED_SECONDS and target.exists():
            raise UnavailableError(
                f"cannot follow {target.name}: nobody took it up within {_NOTICED_SECONDS:g} s; it"
                f" is in {target.parent}; is edged running, and is that its drop folder?"
            )
        if waited > wait:
            step = last.text if last is not None else "nothing"
            raise DeadlineError(
                f"cannot follow {target.name} any longer than {wait:g} s; edged goes on with it,"
                f" and said last: {step}"
            )
        time.sleep(_LOOK_SECONDS)


def _status(target: Path) -> FileStatus | None:
    try:
        return read_status(target)
    except OSError as error:
        raise InputError(
            f"cannot read the status of {os.fspath(target)}: {error.strerror}{_cure(error)}"
        ) from error
