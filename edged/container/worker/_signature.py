"""From the tensors of a request to samples of the model, by the names that clients use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.bundle import Manifest, TensorDecl
from edged.container.worker._model import Arrays
from edged.errors import LimitError, RequestError
from edged.preprocess import Preprocess, image_to_array

__all__ = ["MAX_BATCH", "SIGNATURE_NAME", "STRING", "Given", "Signature", "first"]

SIGNATURE_NAME: Final = "serving_default"

_OLDEST: Final = "images"
"""What the oldest clients call the input, to find the answer under an alias."""

_CONVENTIONAL: Final = (_OLDEST, "Placeholder:0")
"""What the clients of the original service call the input, whatever its name."""

MAX_BATCH: Final = 256
"""Samples in a call."""

STRING: Final = "string"
"""What stands for a dtype where the elements are strings of bytes."""


@dataclass(frozen=True, slots=True)
class Given:
    """A tensor as a request gives it, by whichever protocol, and not read yet.

    Attributes:
        dtype: of its elements, by numpy's name; `STRING`; or the protocol's where numpy has none.
        shape: as declared, of known dimensions.
        read: the array of that dtype and shape, or the strings in row major order; raises
            RequestError and LimitError.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any] | list[bytes]]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Signature:
    """The names of a model's tensors, and what may stand under them.

    Args:
        takes_nan: whether NaN and infinity may be in the inputs.
    """

    def __init__(self, manifest: Manifest, *, takes_nan: bool = False) -> None:
        self._manifest = manifest
        self._takes_nan = takes_nan
        self._inputs = _by_name(manifest.inputs)
        self._outputs = _by_name(_answerable(manifest))
        if len(manifest.inputs) == 1:
            for name in _CONVENTIONAL:
                self._inputs.setdefault(name, manifest.inputs[0])

    def input(self, key: str) -> TensorDecl:
        """The input that goes by that name.

        Raises:
            RequestError: there is none; says what there is.
        """
        declared = self._inputs.get(key)
        if declared is None:
            raise RequestError(
                f"cannot answer: the model has no input {key!r}; it has"
                f" {_listed(self._manifest.inputs)}"
            )
        return declared

    def samples(
        self, given: Iterable[tuple[str, Given]], spared: Collection[str] = ()
    ) -> list[Arrays]:
        """The samples of a request, each with every input of the model by its name, batch 1.

        Args:
            spared: inputs that are kept for the sequence of the request, and not sent.

        Raises:
            RequestError: a name, dtype, shape or image; says what there is. An element that is NaN
                or infinite, in a model that does not look for them.
            LimitError: too many samples, or an image too large.
        """
        arrays: dict[str, list[npt.NDArray[Any]]] = {}
        for key, tensor in given:
            declared = self.input(key)
            if declared.name in arrays:
                raise RequestError(f"cannot answer: input {declared.name!r} is given twice")
            if declared.name in spared:
                raise RequestError(
                    f"cannot answer: input {key!r} is given, which is kept for the sequence; send"
                    " it without sequence_id, or leave it out"
                )
            arrays[declared.name] = self._samples(key, declared, tensor)
        missing = [
            tensor
            for tensor in self._manifest.inputs
            if tensor.name not in arrays and tensor.name not in spared
        ]
        if missing:
            raise RequestError(
                f"cannot answer: the request lacks input {_listed(missing)}{self._hint(missing)}"
            )
        counts = {len(samples) for samples in arrays.values()}
        if len(counts) != 1:
            raise RequestError(
                "cannot answer: the inputs differ in their number of samples: "
                + ", ".join(f"{name!r} has {len(samples)}" for name, samples in arrays.items())
            )
        return [
            {name: samples[index] for name, samples in arrays.items()}
            for index in range(counts.pop())
        ]

    def _hint(self, missing: Iterable[TensorDecl]) -> str:
        state = self._manifest.state
        if state is None or not all(tensor.name in state.outputs for tensor in missing):
            return ""
        return (
            "; it is a state: give the calls of a sequence a sequence_id by the Open Inference"
            " Protocol, and it is kept"
        )

    def wanted(
        self, asked: Sequence[str], given: Iterable[str], kept: Collection[str] = ()
    ) -> dict[str, str]:
        """What the answer is to hold: key → name of the output.

        Who asks for names gets these as keys. Who asks for nothing gets every output, by aliases if
        the inputs came by aliases (or as ``images``, although they have none), else by names.

        Args:
            asked: the outputs that the request names.
            given: the names by which its inputs came.
            kept: outputs that are kept for the sequence of the request, and answered only to who
                asks for them.

        Raises:
            RequestError: an output that the model does not have.
        """
        if not asked:
            by_alias = all(
                key != self._inputs[key].name and key in (self._inputs[key].alias, _OLDEST)
                for key in given
                if key in self._inputs
            )
            return {
                (tensor.alias if by_alias and tensor.alias else tensor.name): tensor.name
                for tensor in self._manifest.answers
                if tensor.name not in kept
            }
        wanted: dict[str, str] = {}
        for key in asked:
            declared = self._outputs.get(key)
            if declared is None:
                raise RequestError(
                    f"cannot answer: the model has no output {key!r}; it has"
                    f" {_listed(self.answerable)}"
                )
            wanted[key] = declared.name
        return wanted

    @property
    def answerable(self) -> tuple[TensorDecl, ...]:
        """All that can be asked for; what is answered unasked comes first."""
        return _answerable(self._manifest)

    def zeros(self) -> Arrays:
        """A sample of zeros; open dimensions are 1."""
        return {
            tensor.name: np.zeros((1, *(size or 1 for size in tensor.shape[1:])), str(tensor.dtype))
            for tensor in self._manifest.inputs
        }

    def _samples(self, key: str, declared: TensorDecl, given: Given) -> list[npt.NDArray[Any]]:
        if given.dtype == STRING:
            return self._images(key, declared, given)
        wanted = [None, *declared.shape[1:]]
        fits = len(given.shape) == len(wanted) and all(
            size in (None, found) for size, found in zip(wanted, given.shape, strict=True)
        )
        if not fits or given.dtype != declared.dtype:
            images = ", or images as strings" if self._preprocess(declared) else ""
            raise RequestError(
                f"cannot answer: input {key!r} is {given}, wanted {_described(declared)}{images}"
            )
        _check_batch(key, given.shape[0])
        array = given.read()
        assert isinstance(array, np.ndarray)
        if array.dtype.kind == "f" and not self._takes_nan:
            _check_finite(key, array)
        return [array[index : index + 1] for index in range(given.shape[0])]

    def _images(self, key: str, declared: TensorDecl, given: Given) -> list[npt.NDArray[Any]]:
        spec = self._preprocess(declared)
        if spec is None:
            raise RequestError(
                f"cannot answer: input {key!r} takes no images but {_described(declared)}; pack the"
                " model with --preprocess to send images"
            )
        if not given.shape or given.shape[1:] not in ((), (1,)):
            raise RequestError(
                f"cannot answer: input {key!r} is {given}, wanted images as strings of shape [N]"
            )
        _check_batch(key, given.shape[0])
        strings = given.read()
        assert isinstance(strings, list)
        return [image_to_array(string, spec) for string in strings]

    def _preprocess(self, declared: TensorDecl) -> Preprocess | None:
        spec = self._manifest.preprocess
        return spec if spec is not None and spec.input == declared.name else None


def first(wrong: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """The index of the first element that is true; there is one."""
    return tuple(int(index) for index in np.unravel_index(int(wrong.argmax()), wrong.shape))


def _check_finite(key: str, array: npt.NDArray[Any]) -> None:
    """Refuse what the integers of the device cannot express, and would answer like any number."""
    finite = np.isfinite(array)
    if not finite.all():
        index = first(~finite)
        raise RequestError(
            f"cannot answer: element {list(index)} of input {key!r} is {array[index]}, wanted a"
            " finite number: the model computes with integers, which know neither NaN nor infinity"
        )


def _check_batch(key: str, count: int) -> None:
    if not count:
        raise RequestError(f"cannot answer: input {key!r} has no samples")
    if count > MAX_BATCH:
        raise LimitError(
            f"cannot answer: input {key!r} has {count} samples, at most {MAX_BATCH} are taken"
            " in a call"
        )


def _answerable(manifest: Manifest) -> tuple[TensorDecl, ...]:
    """All that can be asked for; what is answered unasked comes first."""
    if manifest.epilogue is None:
        return manifest.outputs
    return (*manifest.answers, *manifest.outputs)


def _by_name(tensors: Iterable[TensorDecl]) -> dict[str, TensorDecl]:
    """By name, alias, and the name with or without TensorFlow's ``:0``, where that is free."""
    found = {tensor.name: tensor for tensor in tensors}
    found |= {tensor.alias: tensor for tensor in tensors if tensor.alias}
    for tensor in tensors:
        bare = tensor.name.removesuffix(":0")
        found.setdefault(bare, tensor)
        found.setdefault(f"{bare}:0", tensor)
    return found


def _listed(tensors: Sequence[TensorDecl]) -> str:
    return ", ".join(
        f"{tensor.name!r}{f' (alias {tensor.alias!r})' if tensor.alias else ''}"
        f" {_described(tensor)}"
        for tensor in tensors
    )


def _described(tensor: TensorDecl) -> str:
    sizes = ("?" if size is None else str(size) for size in tensor.shape[1:])
    return f"{tensor.dtype} [{', '.join(('N', *sizes))}]"
