"""Weights of the user's: from an .npz of TensorFlow's variables, or from an ONNX file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from edged._onnxfile import read_onnx
from edged.errors import InputError, LimitError, ModelError, NotFoundError
from edged.zoo._skeleton import Kind, Parameter, Skeleton

__all__ = ["read_weights"]

_MAX_BYTES: Final = 2 << 30
_LISTED: Final = 8
_BOOKKEEPING: Final = ("global_step", "mean_rgb", "Momentum", "RMSProp", "RMSProp_1", "Adam")
"""Last parts of the names of variables that only training had a use for."""

_Arrays = Mapping[str, npt.NDArray[Any]]


def read_weights(path: Path, skeleton: Skeleton) -> dict[str, npt.NDArray[np.float32]]:
    """The weights in *path*, by the names of the parameters of *skeleton* and in its layouts.

    Args:
        path: an ``.npz`` with arrays by the names and in the layouts of TensorFlow's variables, or
            an ``.onnx`` with initializers of these names, in ONNX's layouts.

    Raises:
        NotFoundError: there is no such file.
        ModelError: some are missing, of another shape, unknown or not finite; says which.
        LimitError: it is too large.
    """
    if path.suffix == ".onnx":
        model = read_onnx(path)
        found: _Arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        # Shapes for Reshape and the like are no weights.
        found = {name: array for name, array in found.items() if array.dtype.kind == "f"}
        tensorflow = False
    elif path.suffix == ".npz":
        found = {name.removesuffix(":0"): array for name, array in _read_npz(path).items()}
        tensorflow = True
    else:
        raise InputError(f"cannot read weights from {path}: wanted an .onnx or .npz file")
    _check(path.name, skeleton.parameters, found, tensorflow)
    return {
        p.name: np.ascontiguousarray(
            p.from_tensorflow(found[p.name]) if tensorflow else found[p.name], np.float32
        )
        for p in skeleton.parameters
    }


def _read_npz(path: Path) -> _Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_BYTES:
            raise LimitError(
                f"cannot read weights: {path.name} unpacks to {size} bytes, at most {_MAX_BYTES}"
                " are read"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read weights: there is no file {path}") from error
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise ModelError(
            f"cannot read weights: {path.name} is no archive of arrays as numpy.savez writes it:"
            f" {error}"
        ) from error


def _check(file: str, parameters: Sequence[Parameter], found: _Arrays, tensorflow: bool) -> None:
    """Say everything that is wrong at once: nobody wants to learn it name by name."""
    wanted = {p.name: p for p in parameters}
    missing = [name for name in wanted if name not in found]
    unknown = [
        name for name in found if name not in wanted and name.rpartition("/")[2] not in _BOOKKEEPING
    ]
    misshapen = []
    faulty = []
    for name, array in found.items():
        if (p := wanted.get(name)) is None:
            continue
        shape = p.tensorflow_shape if tensorflow else p.shape
        flat = tensorflow and p.kind is Kind.MATRIX and array.shape == p.shape
        if array.shape != shape and not flat:
            misshapen.append(f"{name} is {list(array.shape)}, wanted {list(shape)}")
        elif array.dtype.kind != "f" or not np.isfinite(array).all():
            faulty.append(f"{name} ({array.dtype})")
    problems = [
        f"{len(names)} {what}: {', '.join(names[:_LISTED])}"
        + (f", and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        for names, what in (
            (missing, "missing"),
            (misshapen, "of the wrong shape"),
            (unknown, "unknown"),
            (faulty, "not finite floating-point numbers"),
        )
        if names
    ]
    if problems:
        layout = "TensorFlow's variables" if tensorflow else "ONNX initializers"
        raise ModelError(
            f"cannot use the weights of {file}, read as {layout}: {'; '.join(problems)}."
            " docs/zoo.md has the names and layouts, and how to export them"
        )
