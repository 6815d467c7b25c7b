"""What a model is evaluated on: photographs in folders, or arrays in an ``.npz``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from edged.bundle import (
    Manifest,
    check_arrays,
    evenly_spaced,
    photographs,
    read_arrays,
    read_photograph,
)
from edged.errors import EdgedError, InputError, NotFoundError
from edged.preprocess import Preprocess, decode, image_to_array

__all__ = ["LABELS_ARRAY", "Example", "Examples", "load_examples"]

LABELS_ARRAY: Final = "labels"
"""The array of an ``.npz`` with the class of each sample: its number, or its label."""

_MAX_FILE_BYTES: Final = 1 << 30
_MOST_CLASSES: Final = 1 << 24
_DIGITS: Final = 9
_SHOWN: Final = 5
_CHANNELS: Final = (1, 3)
_SMALLEST_SIDE: Final = 8


@dataclass(frozen=True, slots=True)
class Example:
    """One input, and what it should be answered with.

    Attributes:
        name: a path below the folder, or the number of the sample.
        label: the class it is of; None where that is not known.
        photograph: the file, if it is one.
    """

    name: str
    label: int | None
    photograph: Path | None


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Examples in order; what each feeds to the model is made when it is asked for.

    Attributes:
        source: the folder or file.
        in_sequence: whether they are steps of one sequence, and lack the model's state.
    """

    source: Path
    entries: tuple[Example, ...]
    in_sequence: bool
    _spec: Preprocess | None
    _arrays: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def labelled(self) -> bool:
        """Whether each has a label."""
        return all(entry.label is not None for entry in self.entries)

    def picture(self, index: int) -> Image.Image | None:
        """What one of them looks like, if it is a photograph, or an array of 1 or 3 channels.

        Raises:
            InputError, LimitError, NotFoundError: the photograph cannot be read.
        """
        photograph = self.entries[index].photograph
        if photograph is not None:
            return decode(read_photograph(photograph))
        for array in self._arrays.values():
            if (pixels := _pixels(array[index])) is not None:
                return Image.fromarray(pixels)
        return None

    def inputs(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """The model's inputs for one of them, by name, batch 1.

        Raises:
            InputError, LimitError, NotFoundError: the photograph cannot be read; says which.
        """
        photograph = self.entries[index].photograph
        if photograph is None or self._spec is None:
            return {name: array[index : index + 1] for name, array in self._arrays.items()}
        content = read_photograph(photograph)
        try:
            return {self._spec.input: image_to_array(content, self._spec)}
        except EdgedError as error:
            raise type(error)(f"cannot evaluate on {photograph}: {error}") from error


def load_examples(
    source: Path,
    manifest: Manifest,
    labels: Sequence[str] = (),
    *,
    labelled: bool = True,
    limit: int | None = None,
) -> Examples:
    """The examples of a folder or an ``.npz``.

    A folder's photographs are taken at any depth. Where they are in folders of their own, the name
    of the folder is the label; where all are in *source* itself, there are no labels. An ``.npz``
    has an array for each input of the model, samples along the first dimension, and may have
    one more, ``labels`` [N].

    Args:
        labels: the model's, by class; without them labels are numbers of classes.
        labelled: whether labels are looked for.
        limit: how many are taken at most, evenly spaced over those there are.

    Raises:
        NotFoundError: *source* is not there.
        InputError: it has no examples for this model, or a label that the model has not.
        LimitError: the ``.npz`` is too large.
    """
    if not source.exists():
        raise NotFoundError(f"cannot evaluate on {source}: there is no such file or folder")
    if not source.is_dir():
        return _from_arrays(source, manifest, labels, labelled, limit)
    if manifest.preprocess is None or len(manifest.inputs) > 1:
        names = ", ".join(repr(tensor.name) for tensor in manifest.inputs)
        raise InputError(
            f"cannot evaluate {manifest} on the photographs of {source}: it takes the tensors"
            f" {names}; give an .npz with an array for each, or pack it with --preprocess"
        )
    files = photographs([source])
    files = [files[index] for index in evenly_spaced(len(files), limit or len(files))]
    folders = ["" if file.parent == source else file.parent.name for file in files]
    if "" in folders and any(folders) and labelled:
        raise InputError(
            f"cannot tell the labels of the photographs in {source}: some are in folders and some"
            " are not; sort all of them into folders by class, or give --no-labels"
        )
    classes: Sequence[int | None] = [None] * len(files)
    if labelled and "" not in folders:
        known = _Labels(labels, f"the folders of {source}")
        classes = [known.index(name) for name in folders]
    entries = [
        Example(str(file.relative_to(source)), label, file)
        for file, label in zip(files, classes, strict=True)
    ]
    return Examples(source, tuple(entries), False, manifest.preprocess, {})


def _from_arrays(
    source: Path, manifest: Manifest, labels: Sequence[str], labelled: bool, limit: int | None
) -> Examples:
    if source.suffix != ".npz":
        raise InputError(
            f"cannot evaluate on {source}: wanted a folder of photographs, or an .npz with an array"
            " for each input of the model"
        )
    arrays = read_arrays(source, max_bytes=_MAX_FILE_BYTES)
    inputs = {tensor.name for tensor in manifest.inputs}
    given = None if LABELS_ARRAY in inputs else arrays.pop(LABELS_ARRAY, None)
    in_sequence = manifest.state is not None and not arrays.keys() & manifest.state.outputs.keys()
    declared = manifest.fed if in_sequence else manifest.inputs
    count = check_arrays(arrays, declared, f"the samples of {source}")
    classes: Sequence[int | None] = [None] * count
    if labelled and given is not None:
        if given.shape != (count,) or given.dtype.kind not in "iuU":
            raise InputError(
                f"cannot use the samples of {source}: {LABELS_ARRAY!r} is {given.dtype}"
                f" {list(given.shape)}; wanted the number or the label of a class for each of"
                f" {count} samples"
            )
        known = _Labels(labels, f"{LABELS_ARRAY!r} in {source}")
        find = known.index if given.dtype.kind == "U" else known.number
        classes = [find(value) for value in given.tolist()]
    wanted = min(count, limit or count)
    # Of a sequence no step can be left out.
    chosen = np.arange(wanted) if in_sequence else evenly_spaced(count, wanted)
    entries = [Example(str(index), classes[index], None) for index in chosen.tolist()]
    samples = {name: array[chosen] for name, array in arrays.items()}
    return Examples(source, tuple(entries), in_sequence, None, samples)


def _pixels(sample: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """uint8 [H, W] or [H, W, 3] of a sample that has such a shape; numbers from black to white."""
    if sample.ndim != 3 or sample.dtype.kind not in "uif":
        return None
    if sample.shape[2] not in _CHANNELS:
        sample = sample.transpose(1, 2, 0)
    if sample.shape[2] not in _CHANNELS or min(sample.shape[:2]) < _SMALLEST_SIDE:
        return None
    if sample.dtype != np.uint8:
        values = np.nan_to_num(sample.astype(np.float64), posinf=0, neginf=0)
        spread = np.ptp(values) or 1.0
        sample = ((values - values.min()) / spread * 255).astype(np.uint8)
    return np.ascontiguousarray(sample[..., 0] if sample.shape[2] == 1 else sample)


class _Labels:
    """Finds the class of a label: by the whole of it, or by one of its names between commas.

    Upper and lower case are one, as in names of folders.
    """

    def __init__(self, labels: Sequence[str], where: str) -> None:
        self._labels = labels
        self._where = where
        self._whole: dict[str, set[int]] = {}
        self._parts: dict[str, set[int]] = {}
        for index, label in enumerate(labels):
            self._whole.setdefault(_key(label), set()).add(index)
            for part in label.split(","):
                self._parts.setdefault(_key(part), set()).add(index)

    def index(self, text: str) -> int:
        """Raises InputError: the model has no such class, or several."""
        label = _key(text)
        found = self._whole.get(label) or self._parts.get(label, set())
        if len(found) == 1:
            return next(iter(found))
        if found:
            raise InputError(
                f"cannot use {self._where}: the classes {sorted(found)} are all called {text!r};"
                " name the one that is meant by its number"
            )
        if label.isascii() and label.isdecimal():
            return self.number(int(label[:_DIGITS]))
        raise self._unknown(text)

    def number(self, number: int) -> int:
        """Raises InputError: the model has no such class."""
        if 0 <= number < (len(self._labels) or _MOST_CLASSES):
            return number
        raise self._unknown(str(number))

    def _unknown(self, text: str) -> InputError:
        shown = ", ".join(repr(each) for each in self._labels[:_SHOWN])
        wanted = f"one of {shown}" + (", …" if len(self._labels) > _SHOWN else "")
        if not self._labels:
            wanted = "the number of a class: the bundle has no labels"
        return InputError(
            f"cannot use {self._where}: {text!r} is no class of the model; wanted {wanted},"
            " or --no-labels to compare the answers alone"
        )


def _key(label: str) -> str:
    return label.strip().casefold()
