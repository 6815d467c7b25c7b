"""``python -m edged.compiler JOB_FOLDER --output FOLDER``: the compiler as a process.

Reads from the job folder ``model.onnx`` and, if they are there, ``calibration.npz`` (model input →
samples) and ``manifest.json`` (the bundle's, for the sizes of inputs that the model leaves open),
and writes the compiled model into the output folder. Speaks JSON on standard output, one object a
line: ``{"progress": 0.4, "step": "calibrating"}`` as it goes, and at last ``{"done": true}`` or
``{"error": "cannot …", "kind": "ModelError"}``, with the exit status of the error's class.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

# One thread: the process is a guest beside the model that serves, and confinement wants one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import msgspec
import numpy as np
import numpy.typing as npt
from google.protobuf.message import EncodeError

from edged import sandbox
from edged.compiler._compile import compile_model
from edged.compiler._import import MAX_MODEL_BYTES
from edged.errors import (
    EdgedError,
    LimitError,
    ModelError,
    of_os,
    stumbled,
)
from edged.nesting import NestingError, check_nesting
from edged.npu import Target

_MAX_CALIBRATION_BYTES: Final = 1 << 30
_MAX_CALIBRATION_ARRAYS: Final = 64
_MAX_MANIFEST_BYTES: Final = 4 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; the exit status."""
    options = _options(argv)
    try:
        if options.confine:
            sandbox.lock_down(
                sandbox.Confinement(
                    read_only=(options.job,),
                    writable=(options.output,),
                    memory_bytes=options.memory,
                )
            )
        _compile(options.job, options.output, options.target)
    except EdgedError as error:
        _say(error=str(error), kind=type(error).__name__)
        return error.exit_status
    except (MemoryError, EncodeError):
        # What is encoded was decoded before: without memory is the one way in which that fails.
        bound = f"{options.memory >> 20} MiB that it may use" if options.memory else "memory"
        _say(
            error=f"cannot compile model: the compiler needs more than the {bound}",
            kind=LimitError.__name__,
        )
        return LimitError.exit_status
    except OSError as error:
        kind = of_os(error)
        _say(error=f"cannot compile model: {error}", kind=kind.__name__)
        return kind.exit_status
    except Exception as error:  # Nobody who drops a model can do anything with a traceback.
        traceback.print_exc()
        _say(error=stumbled("compile model", error), kind=ModelError.__name__)
        return ModelError.exit_status
    _say(done=True)
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m edged.compiler", description="Compile an ONNX model for the NPU."
    )
    parser.add_argument(
        "job", type=_folder, metavar="JOB_FOLDER", help="holds model.onnx, calibration.npz"
    )
    parser.add_argument(
        "--output", type=_folder, required=True, metavar="FOLDER", help="an empty folder"
    )
    parser.add_argument(
        "--target",
        type=_target,
        default=Target(),
        help="MAC array, such as 16x32x4 (the default); with code for buffers of so many bytes:"
        " 16x32x4,2097152,1048576",
    )
    parser.add_argument("--memory", type=int, metavar="BYTES", help="with --confine: its bound")
    parser.add_argument("--confine", action="store_true", help="lock the process down first")
    return parser.parse_args(argv)


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path.absolute()


def _target(text: str) -> Target:
    try:
        return Target.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _compile(job: Path, output: Path, target: Target) -> None:
    compiled = compile_model(
        _read_model(job / "model.onnx"),
        target=target,
        calibration=_read_calibration(job / "calibration.npz"),
        shapes=_read_shapes(job / "manifest.json"),
        progress=_reporter(),
    )
    compiled.write(output)


def _read_model(path: Path) -> bytes:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise ModelError(f"cannot compile model: there is no {path.name} in the job") from error
    if size > MAX_MODEL_BYTES:
        raise LimitError(
            f"cannot read model: it has {size} bytes, at most {MAX_MODEL_BYTES} are read"
        )
    return path.read_bytes()


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int | None]


class _Declared(msgspec.Struct):
    inputs: list[_Tensor]


class _Manifest(msgspec.Struct):
    edged: _Declared


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """One sample of each input whose every size but the batch the manifest fixes."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        content = file.read(_MAX_MANIFEST_BYTES + 1)
    if len(content) > _MAX_MANIFEST_BYTES:
        raise LimitError(
            f"cannot compile model: {path.name} has more than {_MAX_MANIFEST_BYTES} bytes"
        )
    try:
        check_nesting(content)
        inputs = msgspec.json.decode(content, type=_Manifest).edged.inputs
    except (NestingError, msgspec.DecodeError) as error:
        raise ModelError(f"cannot compile model: {path.name} in the job: {error}") from error
    found = {}
    for tensor in inputs:
        sizes = [size for size in tensor.shape[1:] if size is not None]
        if tensor.shape[:1] in ([None], [1]) and len(sizes) == len(tensor.shape) - 1:
            found[tensor.name] = (1, *sizes)
    return found


def _read_calibration(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The samples, after their unpacked size is found to be within bounds."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > _MAX_CALIBRATION_BYTES or len(entries) > _MAX_CALIBRATION_ARRAYS:
            raise LimitError(
                f"cannot calibrate: {path.name} has {len(entries)} arrays of {total} bytes, at most"
                f" {_MAX_CALIBRATION_ARRAYS} of {_MAX_CALIBRATION_BYTES} are read"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"cannot calibrate: {path.name} is no archive of arrays as numpy.savez writes it:"
            f" {error}"
        ) from error


def _reporter() -> Callable[[float, str], None]:
    """Says each whole percentage, and each step, once."""
    last: tuple[int, str] | None = None

    def progress(fraction: float, step: str) -> None:
        nonlocal last
        if (round(fraction * 100), step) != last:
            last = (round(fraction * 100), step)
            _say(progress=round(fraction, 4), step=step)

    return progress


def _say(**message: object) -> None:
    sys.stdout.write(json.dumps(message, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
