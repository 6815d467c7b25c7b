"""The model as it was compiled: the device's program, and the host's parts around its entries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from edged._compiledfiles import PROGRAM_FILE, host_file
from edged._pipeline import Arrays, Pipeline, check_there
from edged.bundle import MANIFEST_NAME, FileName, Manifest, parse_labels, read_arrays
from edged.container._files import Files
from edged.errors import ModelError
from edged.npu import MAX_IMAGE_BYTES, ProgramImage, parse_image
from edged.remarks import FILE_NAME as REMARKS
from edged.remarks import MAX_BYTES, Remark, parse

__all__ = ["Arrays", "Model"]

_MAX_MANIFEST: Final = 4 << 20
_MAX_LABELS: Final = 16 << 20
_LOOK_FOR_NAN: Final = (b"IsNaN", b"IsInf")


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One model, ready to run.

    Attributes:
        manifest: what the bundle says of it.
        image: the device's program.
        vectors: for the self-test: ``in:NAME`` and ``out:NAME``, empty when the bundle has none.
        pipeline: runs it, with a device.
        labels: of the classes, in the order of the output; empty when the bundle has none.
        takes_nan: whether the host's first part looks for NaN or infinity, and so is made to be
            given them.
        remarks: of the compiler; empty where it wrote none.
    """

    manifest: Manifest
    image: ProgramImage
    vectors: Mapping[str, npt.NDArray[Any]]
    pipeline: Pipeline
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
        image = parse_image(_read(files, PROGRAM_FILE, MAX_IMAGE_BYTES))
        vectors = _vectors(files, "selftest.npz") if manifest.self_test else {}
        names = map(host_file, range(len(image.entries) + 1))
        host = [_read(files, name, MAX_IMAGE_BYTES) for name in names]
        model = cls(
            manifest,
            image,
            vectors,
            Pipeline(image, host),
            parse_labels(_read(files, FileName.LABELS, _MAX_LABELS)) if manifest.labels else (),
            # An operator's name is in the file as it is written here.
            takes_nan=any(operator in host[0] for operator in _LOOK_FOR_NAN),
            remarks=_remarks(files),
        )
        model._check()
        return model

    def _check(self) -> None:
        """Whether the pipeline fits the manifest, by the names of tensors."""
        declared = [tensor.name for tensor in self.manifest.outputs]
        check_there(declared, {*self.pipeline.outputs}, "the manifest", "the last part of the host")
        given = {tensor.name for tensor in self.manifest.inputs}
        check_there(self.pipeline.inputs, given, host_file(0), "the manifest")


def _vectors(files: Files, name: str) -> Arrays:
    try:
        with files.open(name) as file:
            return read_arrays(file, called=name)
    except OSError as error:
        raise ModelError(f"cannot load the model: {name}: {error.strerror}") from error


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
