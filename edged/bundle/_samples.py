"""Calibration samples: photographs, or arrays of the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.bundle._arrays import MAX_ARRAYS_BYTES, read_arrays
from edged.bundle._graph import Graph
from edged.errors import BundleError, InputError, LimitError, NotFoundError
from edged.preprocess import Preprocess, image_to_array

__all__ = ["load_samples"]

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
_MAX_FILE_BYTES: Final = 64 << 20


def load_samples(
    paths: Sequence[Path], graph: Graph, spec: Preprocess | None, limit: int
) -> dict[str, npt.NDArray[Any]]:
    """Samples for every input of *graph*.

    Args:
        paths: one ``.npz``, or photographs and folders of them.
        graph: the model.
        spec: how photographs become the input.
        limit: how many are kept, evenly spaced over those there are.

    Returns:
        Input name → [N, …] of its element type.

    Raises:
        InputError: they do not fit the model, or there are none.
        NotFoundError: a path is not there.
        LimitError: together they are larger than a bundle may carry.
    """
    for path in paths:
        if not path.exists():
            raise NotFoundError(f"cannot read calibration samples: {path} is not there")
    if any(path.suffix == ".npz" for path in paths):
        if len(paths) > 1:
            raise BundleError("cannot read calibration samples: wanted one .npz, or photographs")
        samples = _from_arrays(read_arrays(paths[0], max_bytes=1 << 30), graph, paths[0].name)
        samples = {name: array[_spread(len(array), limit)] for name, array in samples.items()}
    else:
        samples = _from_images(_images(paths), graph, spec, limit)
    size = sum(array.nbytes for array in samples.values())
    if size > MAX_ARRAYS_BYTES:
        raise LimitError(
            f"cannot pack the calibration samples: they take {size} bytes, at most "
            f"{MAX_ARRAYS_BYTES} are taken; give fewer"
        )
    return samples


def _spread(count: int, limit: int) -> npt.NDArray[np.intp]:
    """Indices of at most *limit* of *count*, evenly spaced."""
    return np.arange(min(count, limit)) * count // min(count, limit)


def _images(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        else:
            found.append(path)
    if not found:
        there = ", ".join(str(path) for path in paths)
        raise BundleError(
            f"cannot read calibration samples: no .jpg, .jpeg or .png in {there or 'nothing'}"
        )
    return found


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
    for index in _spread(len(images), limit):
        path = images[index]
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise LimitError(f"cannot read {path}: it has more than {_MAX_FILE_BYTES} bytes")
        try:
            arrays.append(image_to_array(path.read_bytes(), spec))
        except InputError as error:
            raise BundleError(f"cannot calibrate with {path}: {error}") from error
    return {spec.input: np.concatenate(arrays)}


def _from_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], graph: Graph, where: str
) -> dict[str, npt.NDArray[Any]]:
    wanted = {tensor.name: tensor for tensor in graph.inputs}
    if set(arrays) != set(wanted):
        raise BundleError(
            f"cannot use the calibration samples of {where}: found arrays {sorted(arrays)}; "
            f"wanted the model's inputs {sorted(wanted)}"
        )
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise BundleError(
            f"cannot use the calibration samples of {where}: found {sorted(counts)} samples; "
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
                f"cannot use the calibration samples of {where}: {name!r} is {array.dtype} "
                f"{list(array.shape)}; wanted {tensor.dtype} [N, "
                f"{', '.join(str(d) for d in tensor.shape[1:])}]"
            )
    return dict(arrays)
