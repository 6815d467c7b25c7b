"""The model as it was compiled: prologue, device program, epilogue."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged._onnxruntime import InferenceSession, session
from edged.bundle import MANIFEST_NAME, FileName, Manifest, read_arrays
from edged.container._files import Files
from edged.errors import ModelError
from edged.npu import MAX_IMAGE_BYTES, ProgramImage, parse_image
from edged.remarks import FILE_NAME as REMARKS
from edged.remarks import MAX_BYTES, Remark, parse

__all__ = ["Arrays", "Model"]

Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[Sequence[npt.NDArray[Any]]], list[npt.NDArray[Any]]]

_MAX_MANIFEST: Final = 4 << 20
_MAX_LABELS: Final = 16 << 20
_LOOK_FOR_NAN: Final = (b"IsNaN", b"IsInf")


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One model, ready to run.

    Attributes:
        manifest: what the bundle says of it.
        image: the device's program. Only its inputs and outputs are of interest here.
        vectors: for the self-test: ``in:NAME`` and ``out:NAME``, empty when the bundle has none.
        labels: of the classes, in the order of the output; empty when the bundle has none.
        takes_nan: whether the prologue looks for NaN or infinity, and so is made to be given them.
        remarks: of the compiler; empty where it wrote none.
    """

    manifest: Manifest
    image: ProgramImage
    vectors: Mapping[str, npt.NDArray[Any]]
    prologue: InferenceSession
    epilogue: InferenceSession
    labels: tuple[str, ...] = ()
    takes_nan: bool = False
    remarks: tuple[Remark, ...] = ()

    @classmethod
    def load(cls, files: Files) -> Model:
        """Read the files of bundle and compiled model.

        Raises:
            BundleError, ImageError, ModelError: what is wrong with which file.
        """
        manifest = Manifest.parse(_read(files, MANIFEST_NAME, _MAX_MANIFEST))
        image = parse_image(_read(files, "program.img", MAX_IMAGE_BYTES))
        vectors = _vectors(files, "selftest.npz") if manifest.self_test else {}
        prologue = _read(files, "prologue.onnx", MAX_IMAGE_BYTES)
        epilogue = _read(files, "epilogue.onnx", MAX_IMAGE_BYTES)
        model = cls(
            manifest,
            image,
            vectors,
            # The work is small and the calls are many: a thread each, none for the operators.
            session(prologue),
            session(epilogue),
            _labels(files, FileName.LABELS) if manifest.labels else (),
            # An operator's name is in the file as it is written here.
            takes_nan=any(operator in prologue for operator in _LOOK_FOR_NAN),
            remarks=_remarks(files),
        )
        model._check()
        return model

    def run(self, inputs: Arrays, device: Run) -> Arrays:
        """One sample: the model's inputs and outputs by name, batch 1.

        Args:
            inputs: dtypes and shapes as the manifest has them.
            device: runs the program.
        """
        names = [output.name for output in self.prologue.get_outputs()]
        wanted = {tensor.name: inputs[tensor.name] for tensor in self.prologue.get_inputs()}
        values = dict(zip(names, self.prologue.run(None, wanted), strict=True))
        given = device([values[tensor.name] for tensor in self.image.input_tensors])
        values |= zip((tensor.name for tensor in self.image.output_tensors), given, strict=True)
        results = self.epilogue.run(
            None, {tensor.name: values[tensor.name] for tensor in self.epilogue.get_inputs()}
        )
        outputs = (output.name for output in self.epilogue.get_outputs())
        return dict(zip(outputs, results, strict=True))

    def blank(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """What a device would answer that computes nothing but zeros."""
        return [
            np.zeros((1, *tensor.shape), tensor.dtype.numpy) for tensor in self.image.output_tensors
        ]

    def _check(self) -> None:
        """Whether the three parts fit each other and the manifest, by their names."""
        given = {output.name for output in self.prologue.get_outputs()}
        _all_there(self.image.input_tensors, given, "the program", "prologue.onnx")
        given |= {tensor.name for tensor in self.image.output_tensors}
        _all_there(self.epilogue.get_inputs(), given, "epilogue.onnx", "what comes before")
        given = {output.name for output in self.epilogue.get_outputs()}
        _all_there(self.manifest.outputs, given, "the manifest", "epilogue.onnx")
        given = {tensor.name for tensor in self.manifest.inputs}
        _all_there(self.prologue.get_inputs(), given, "prologue.onnx", "the manifest")


def _all_there(wanted: Sequence[Any], given: set[str], who: str, where: str) -> None:
    missing = [tensor.name for tensor in wanted if tensor.name not in given]
    if missing:
        raise ModelError(
            f"cannot load the model: {who} wants tensor {missing[0]!r}, {where} has"
            f" {', '.join(sorted(given))}"
        )


def _vectors(files: Files, name: str) -> Arrays:
    try:
        with files.open(name) as file:
            return read_arrays(file, called=name)
    except OSError as error:
        raise ModelError(f"cannot load the model: {name}: {error.strerror}") from error


def _labels(files: Files, name: str) -> tuple[str, ...]:
    text = _read(files, name, _MAX_LABELS).decode(errors="replace")
    return tuple(text.removesuffix("\n").split("\n"))


def _remarks(files: Files) -> tuple[Remark, ...]:
    try:
        with files.open(REMARKS) as file:
            return parse(file.read(MAX_BYTES + 1))
    except OSError:
        return ()


def _read(files: Files, name: str, most: int) -> bytes:
    try:
        with files.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise ModelError(
                    f"cannot load the model: {name} has {size} bytes, at most {most} are taken"
                )
            return file.read(size)
    except OSError as error:
        raise ModelError(f"cannot load the model: {name}: {error.strerror}") from error
