"""Calibration samples: photographs, or arrays of the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.bundle._arrays import MAX_ARRAYS_BYTES, read_arrays
from edged.bundle._graph import Graph
from edged.bundle._manifest import TensorDecl
from edged.bundle._state import State
from edged.errors import BundleError, InputError, LimitError, NotFoundError
from edged.preprocess import Preprocess, image_to_array

__all__ = [
    "check_arrays",
    "check_samples",
    "evenly_spaced",
    "load_samples",
    "photographs",
    "read_photograph",
]

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
_MAX_FILE_BYTES: Final = 64 << 20


def load_samples(
    paths: Sequence[Path],
    graph: Graph,
    spec: Preprocess | None,
    limit: int,
    state: State | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Samples for every input of *graph*.

    Args:
        paths: one ``.npz``, or photographs and folders of them.
        graph: the model.
        spec: how photographs become the input.
        limit: how many are kept, evenly spaced over those there are.
        state: inputs that an ``.npz`` may leave out; they are what the float model hands on when
            it runs through the samples in order, from zeros.

    Returns:
        Input name → [N, …] of its element type.

    Raises:
        InputError: they do not fit the model, or there are none.
        NotFoundError: a path is not there.
        LimitError: together they are larger than a bundle may carry.
    """
    images = check_samples(paths)
    if not images:
        arrays = read_arrays(paths[0], max_bytes=1 << 30)
        what = f"the calibration samples of {paths[0].name}"
        if state is not None and not arrays.keys() & state.outputs.keys():
            fed = [tensor for tensor in graph.inputs if tensor.name not in state.outputs]
            check_arrays(arrays, fed, what)
            arrays |= _states(arrays, graph, state)
        count = check_arrays(arrays, graph.inputs, what)
        samples = {name: array[evenly_spaced(count, limit)] for name, array in arrays.items()}
    else:
        samples = _from_images(images, graph, spec, limit)
    size = sum(array.nbytes for array in samples.values())
    if size > MAX_ARRAYS_BYTES:
        raise LimitError(
            f"cannot pack the calibration samples: they take {size} bytes, at most "
            f"{MAX_ARRAYS_BYTES} are taken; give fewer"
        )
    return samples


def _states(
    arrays: Mapping[str, npt.NDArray[Any]], graph: Graph, state: State
) -> dict[str, npt.NDArray[Any]]:
    """For each input of the state what it is at each sample: input name → [N, …]."""
    graph = graph.sized({name: (1, *array.shape[1:]) for name, array in arrays.items()})
    run = graph.float_model()
    now = state.zeros(graph.inputs)
    found: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in now}
    for index in range(len(next(iter(arrays.values())))):
        for name, value in now.items():
            found[name].append(value)
        outputs = run({name: array[index : index + 1] for name, array in arrays.items()} | now)
        now = state.after(outputs)
    return {name: np.concatenate(values) for name, values in found.items()}


def evenly_spaced(count: int, limit: int) -> npt.NDArray[np.intp]:
    """Indices of at most *limit* of *count*, evenly spaced."""
    return np.arange(min(count, limit)) * count // min(count, limit)


def check_samples(paths: Sequence[Path]) -> list[Path]:
    """Check what can be known of calibration samples before the model is: that they are there.

    Returns:
        The photographs; none where *paths* is one ``.npz``.

    Raises:
        InputError, NotFoundError: as `load_samples`.
    """
    if not any(path.suffix == ".npz" for path in paths):
        return photographs(paths)
    if len(paths) > 1:
        raise BundleError("cannot read calibration samples: wanted one .npz, or photographs")
    if not paths[0].exists():
        raise NotFoundError(f"cannot read {paths[0]}: there is no such file or folder")
    return []


def photographs(paths: Sequence[Path]) -> list[Path]:
    """The JPEG and PNG files of *paths*: files as they are given, folders at any depth, sorted.

    Hidden files and folders are passed over, as a file manager leaves them.

    Raises:
        NotFoundError: a path is not there.
        InputError: there are none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if _is_photograph(file, path))
        elif path.exists():
            found.append(path)
        else:
            raise NotFoundError(f"cannot read {path}: there is no such file or folder")
    if not found:
        raise BundleError(
            "cannot find photographs: there is no .jpg, .jpeg or .png in"
            f" {', '.join(map(str, paths)) or 'nothing'}"
        )
    return found


def _is_photograph(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in IMAGE_SUFFIXES and not hidden and file.is_file()


def _from_images(
    images: Sequence[Path], graph: Graph, spec: Preprocess | None, limit: int
) -> dict[str, npt.NDArray[Any]]:
    if spec is None:
        raise BundleError(
            "cannot calibrate with photographs: nothing says how they become the model's input; "
            "give a preprocessing such as 'stretch', or the samples as an .npz"
        )
    if len(graph.inputs) > 1:
        names = ", ".join(repr(tensor.name) for tensor in graph.inputs)
        raise BundleError(
            f"cannot calibrate with photographs: the model has the inputs {names}; "
            "give the samples as an .npz"
        )
    arrays = []
    for index in evenly_spaced(len(images), limit):
        path = images[index]
        try:
            arrays.append(image_to_array(read_photograph(path), spec))
        except InputError as error:
            raise BundleError(f"cannot calibrate with {path}: {error}") from error
    return {spec.input: np.concatenate(arrays)}


def read_photograph(path: Path) -> bytes:
    """The bytes of a photograph's file.

    Raises:
        LimitError: it has more than 64 MiB.
        NotFoundError, InputError: it is not there, or cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise LimitError(f"cannot read {path}: it has more than {_MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], declared: Sequence[TensorDecl], what: str
) -> int:
    """Check that *arrays* are samples of the inputs *declared*, stacked along the first dimension.

    Args:
        what: they are, for messages.

    Returns:
        How many samples there are.

    Raises:
        BundleError: says what was found and what was wanted.
    """
    wanted = {tensor.name: tensor for tensor in declared}
    if set(arrays) != set(wanted):
        raise BundleError(
            f"cannot use {what}: found arrays {sorted(arrays)}; "
            f"wanted the model's inputs {sorted(wanted)}"
        )
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise BundleError(
            f"cannot use {what}: found {sorted(counts)} samples; "
            "wanted the same number, above zero, for each input"
        )
    for name, array in arrays.items():
        tensor = wanted[name]
        fits = len(array.shape) == len(tensor.shape) and all(
            dimension in (None, found)
            for dimension, found in zip(tensor.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or str(array.dtype) != tensor.dtype:
            raise BundleError(
                f"cannot use {what}: {name!r} is {array.dtype} "
                f"{list(array.shape)}; wanted {tensor.dtype} [N, "
                f"{', '.join(str(d) for d in tensor.shape[1:])}]"
            )
    return counts.pop()
