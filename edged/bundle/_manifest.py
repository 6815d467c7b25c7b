"""What a bundle says of its model: the manifest, carried in the ModelPack config.

Document (docs/adr/0003-bundle-format.md has the reasons)::

    descriptor   ModelPack: name, version, licenses, revision, createdAt
    config       ModelPack: format, precision
    modelfs      ModelPack: the digests of the files, in the order of edged.files
    edged        ours: all that ModelPack has no word for
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from edged.bundle._digest import Digest
from edged.bundle._state import State
from edged.bundle._strict import decode, encode
from edged.bundle._version import Version
from edged.detection import Epilogue, check_epilogue, shapes_of_tensors
from edged.errors import BundleError, InputError
from edged.npu import ABI
from edged.preprocess import Preprocess

__all__ = [
    "MAX_SERIAL",
    "BundleFile",
    "ElementType",
    "FileName",
    "Manifest",
    "MediaType",
    "Requirements",
    "SelfTest",
    "TensorDecl",
]

MAX_SERIAL: Final = (1 << 53) - 1
"""Every JSON reader keeps an integer up to here."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", re.ASCII)
_MAX_TENSORS: Final = 256
_MAX_TEXT: Final = 1024
_MAX_DIMENSION: Final = 1 << 31


class FileName(enum.StrEnum):
    """The files that a bundle may carry."""

    MODEL = "model.onnx"
    LABELS = "labels.txt"
    CALIBRATION = "calibration.npz"
    SELF_TEST = "selftest.npz"


class MediaType(enum.StrEnum):
    """ModelPack's names for what a layer is; ``raw`` is a file as it is."""

    WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
    WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
    DATASET = "application/vnd.cncf.model.dataset.v1.raw"


class ElementType(enum.StrEnum):
    """The element type of a tensor, by numpy's name."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    FLOAT16 = "float16"
    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"
    UINT64 = "uint64"
    INT64 = "int64"
    BOOL = "bool"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Frozen, and nothing that is not named here."""


class TensorDecl(_Strict, frozen=True):
    """An input or output of the model.

    Attributes:
        name: as the graph has it.
        dtype: of its elements.
        shape: its dimensions; ``None`` where the graph leaves one open, as it does for the batch.
        alias: a second name that clients may use.
    """

    name: str
    dtype: ElementType
    shape: tuple[int | None, ...]
    alias: str | None = None


class SelfTest(_Strict, frozen=True):
    """What the vectors in ``selftest.npz`` are held to.

    The file has ``in:NAME`` for every input and ``out:NAME`` for every output, stacked along the
    first dimension. An output whose size depends on the values has none, and is not judged.

    Attributes:
        samples: how many there are.
        tolerances: per output, in the order of the manifest's: the largest absolute difference
            from the expected value that any element may have; of labels, indices and masks the
            largest share of elements that may differ (`Judge`).
    """

    samples: int
    tolerances: tuple[float, ...]


class Requirements(_Strict, frozen=True):
    """What the model needs of the device.

    Attributes:
        abi: the ABI of the program image that it was packed for.
        memory_bytes: device memory that its weights alone take; a lower bound.
    """

    abi: int = ABI
    memory_bytes: int = 0


_ANY_DEVICE: Final = Requirements()


class BundleFile(_Strict, frozen=True):
    """One file of the bundle, by name, kind, content and size."""

    name: FileName
    media_type: MediaType
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that a bundle says of itself; an inconsistent one cannot be made.

    Attributes:
        name: of the model: letters, digits, ``.``, ``_``, ``-``.
        version: semantic version, for people.
        serial: grows from one bundle of that name to the next; a lower one is no upgrade.
        inputs, outputs: tensors, in the order of the graph.
        files: name, kind, digest and size of every file; ``model.onnx`` is always there.
        preprocess: how an image becomes an input; ``None`` when the model takes tensors only.
        epilogue: what is made of the outputs before they are answered; ``None``: nothing.
        self_test: ``None`` when there are no vectors.
        state: what is kept for each sequence of calls; ``None``: nothing.
        requirements: what the device must offer.
        licence: SPDX expression, or empty.
        source_revision: what the model was built from, or empty.
        created: RFC 3339, or empty; only written on request, for the bytes to stay the same.

    Raises:
        BundleError: names or sizes out of range, files or tensors that contradict each other.
    """

    name: str
    version: Version
    serial: int
    inputs: tuple[TensorDecl, ...]
    outputs: tuple[TensorDecl, ...]
    files: tuple[BundleFile, ...]
    preprocess: Preprocess | None = None
    epilogue: Epilogue | None = None
    self_test: SelfTest | None = None
    state: State | None = None
    requirements: Requirements = _ANY_DEVICE
    licence: str = ""
    source_revision: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 0 <= self.serial <= MAX_SERIAL:
            raise _bad(f"edged.serial: found {self.serial}; wanted 0 to {MAX_SERIAL}")
        _check_tensors("inputs", self.inputs)
        _check_tensors("outputs", self.outputs)
        _check_files(self.files)
        _check_preprocess(self.preprocess, self.inputs)
        _check_epilogue(self.epilogue, self.outputs)
        self._check_self_test()
        if self.state is not None and (problem := self.state.misfit(self.inputs, self.outputs)):
            raise _bad(problem)
        for key, text in (("licence", self.licence), ("source revision", self.source_revision)):
            if len(text) > _MAX_TEXT or not text.isprintable():
                raise _bad(f"the {key} is no printable line of at most {_MAX_TEXT} characters")
        if self.requirements.abi < 0 or self.requirements.memory_bytes < 0:
            raise _bad("edged.requirements: a number is below zero")

    @property
    def labels(self) -> bool:
        """Whether there is a ``labels.txt``: one class a line, in the order of the output."""
        return self.file(FileName.LABELS) is not None

    @property
    def fed(self) -> tuple[TensorDecl, ...]:
        """The inputs that are not the state: what a call of a sequence sends."""
        kept = {} if self.state is None else self.state.outputs
        return tuple(tensor for tensor in self.inputs if tensor.name not in kept)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """One sample of each input whose every size but the batch is fixed."""
        sizes = {t.name: tuple(d for d in t.shape[1:] if d is not None) for t in self.inputs}
        return {
            tensor.name: (1, *sizes[tensor.name])
            for tensor in self.inputs
            if tensor.shape[:1] in ((None,), (1,)) and None not in tensor.shape[1:]
        }

    @property
    def answers(self) -> tuple[TensorDecl, ...]:
        """What a client gets that names no outputs: those of the epilogue, else the model's."""
        if self.epilogue is None:
            return self.outputs
        return tuple(
            TensorDecl(name, ElementType.FLOAT32, (None, *shape))
            for name, shape in shapes_of_tensors(self.epilogue.top).items()
        )

    def file(self, name: FileName) -> BundleFile | None:
        """The file of that name, if the bundle has it."""
        return next((file for file in self.files if file.name == name), None)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @classmethod
    def parse(cls, data: bytes, what: str = "manifest.json") -> Manifest:
        """Read the config's bytes, strictly: unknown, duplicate and missing keys are refused.

        Raises:
            BundleError: names the field, what was found and what was wanted.
        """
        document = decode(data, _Document, what)
        ours = document.edged
        found, wanted = document.modelfs.diff_ids, tuple(file.digest for file in ours.files)
        if found != wanted:
            raise BundleError(f"cannot read {what}: modelfs.diffIds differ from edged.files")
        try:
            return cls(
                name=document.descriptor.name,
                version=Version.parse(document.descriptor.version),
                serial=ours.serial,
                inputs=ours.inputs,
                outputs=ours.outputs,
                files=ours.files,
                preprocess=ours.preprocess,
                epilogue=ours.epilogue,
                self_test=ours.self_test,
                state=ours.state,
                requirements=ours.requirements,
                licence=" AND ".join(document.descriptor.licenses),
                source_revision=document.descriptor.revision,
                created=document.descriptor.created_at,
            )
        except BundleError as error:
            raise BundleError(f"cannot read {what}: {error}") from error

    def serialize(self) -> bytes:
        """The config's bytes; parsing them gives an equal manifest."""
        return encode(
            _Document(
                descriptor=_Descriptor(
                    name=self.name,
                    version=str(self.version),
                    created_at=self.created,
                    licenses=(self.licence,) if self.licence else (),
                    revision=self.source_revision,
                ),
                config=_Technical(),
                modelfs=_ModelFs(diff_ids=tuple(file.digest for file in self.files)),
                edged=_Ours(
                    format=FORMAT,
                    serial=self.serial,
                    inputs=self.inputs,
                    outputs=self.outputs,
                    files=self.files,
                    preprocess=self.preprocess,
                    epilogue=self.epilogue,
                    self_test=self.self_test,
                    state=self.state,
                    requirements=self.requirements,
                ),
            )
        )

    def _check_self_test(self) -> None:
        has_file = self.file(FileName.SELF_TEST) is not None
        if has_file != (self.self_test is not None):
            raise _bad(f"edged.self_test and the file {FileName.SELF_TEST} go together")
        if self.self_test is None:
            return
        if not 1 <= self.self_test.samples <= 1024:
            raise _bad(f"edged.self_test.samples: found {self.self_test.samples}; wanted 1 to 1024")
        if len(self.self_test.tolerances) != len(self.outputs):
            raise _bad(
                f"edged.self_test.tolerances: found {len(self.self_test.tolerances)}; "
                f"wanted one for each of {len(self.outputs)} outputs"
            )
        if not all(math.isfinite(t) and t > 0 for t in self.self_test.tolerances):
            raise _bad("edged.self_test.tolerances: wanted finite numbers above zero")


FORMAT: Final = 1


class _Descriptor(_Strict, frozen=True, rename="camel"):
    name: str
    version: str
    created_at: str = ""
    licenses: tuple[str, ...] = ()
    revision: str = ""


class _Technical(_Strict, frozen=True, omit_defaults=False):
    format: Literal["onnx"] = "onnx"
    precision: Literal["float32"] = "float32"


class _ModelFs(_Strict, frozen=True, rename="camel", omit_defaults=False):
    diff_ids: tuple[Digest, ...]
    type: Literal["layers"] = "layers"


class _Ours(_Strict, frozen=True):
    format: Literal[1]
    serial: int
    inputs: tuple[TensorDecl, ...]
    outputs: tuple[TensorDecl, ...]
    files: tuple[BundleFile, ...]
    preprocess: Preprocess | None = None
    epilogue: Epilogue | None = None
    self_test: SelfTest | None = None
    state: State | None = None
    requirements: Requirements = _ANY_DEVICE


class _Document(_Strict, frozen=True):
    descriptor: _Descriptor
    config: _Technical
    modelfs: _ModelFs
    edged: _Ours


def check_name(name: str) -> None:
    """Raise `BundleError` unless *name* can be the name of a model."""
    if _NAME.fullmatch(name) is None:
        raise BundleError(
            f"cannot use the name {name[:120]!r}: wanted 1 to 100 letters, digits, '.', '_' or "
            "'-', the first and the last a letter or digit"
        )


def _bad(problem: str) -> BundleError:
    return BundleError(f"cannot use the manifest: {problem}")


def _check_tensors(where: str, tensors: Sequence[TensorDecl]) -> None:
    if not 1 <= len(tensors) <= _MAX_TENSORS:
        raise _bad(f"edged.{where}: found {len(tensors)} tensors; wanted 1 to {_MAX_TENSORS}")
    names = [tensor.name for tensor in tensors]
    names += [tensor.alias for tensor in tensors if tensor.alias not in (None, tensor.name)]
    if twice := _twice(names):
        raise _bad(f"edged.{where}: two tensors answer to {twice!r}")
    for name in names:
        if not 1 <= len(name) <= _MAX_TEXT or not name.isprintable():
            raise _bad(f"edged.{where}: {name[:80]!r} is no name of a tensor")
    for tensor in tensors:
        if len(tensor.shape) > 8 or not all(
            d is None or 1 <= d < _MAX_DIMENSION for d in tensor.shape
        ):
            raise _bad(f"edged.{where}: {tensor.name!r} has the shape {list(tensor.shape)}")


def _check_files(files: Sequence[BundleFile]) -> None:
    names = [file.name for file in files]
    if twice := _twice(names):
        raise _bad(f"edged.files: {twice} is there twice")
    if FileName.MODEL not in names:
        raise _bad(f"edged.files: there is no {FileName.MODEL}")
    for file in files:
        if file.size < 1:
            raise _bad(f"edged.files: {file.name} has the size {file.size}")
        if file.media_type != MEDIA_TYPES[file.name]:
            raise _bad(
                f"edged.files: {file.name} is {file.media_type}; wanted {MEDIA_TYPES[file.name]}"
            )


MEDIA_TYPES: Final = {
    FileName.MODEL: MediaType.WEIGHT,
    FileName.LABELS: MediaType.WEIGHT_CONFIG,
    FileName.CALIBRATION: MediaType.DATASET,
    FileName.SELF_TEST: MediaType.DATASET,
}


def _check_preprocess(preprocess: Preprocess | None, inputs: Sequence[TensorDecl]) -> None:
    if preprocess is None:
        return
    fed = next((tensor for tensor in inputs if tensor.name == preprocess.input), None)
    if fed is None:
        there = ", ".join(repr(tensor.name) for tensor in inputs)
        raise _bad(f"edged.preprocess.input: found {preprocess.input!r}; the inputs are {there}")
    fits = len(fed.shape) == 4 and all(
        dimension in (None, given)
        for dimension, given in zip(fed.shape, preprocess.shape, strict=True)
    )
    if not fits or str(fed.dtype) != str(preprocess.dtype):
        raise _bad(
            f"edged.preprocess: it gives {preprocess.dtype} {list(preprocess.shape)}; "
            f"input {fed.name!r} wants {fed.dtype} {list(fed.shape)}"
        )


_FLOATS: Final = (ElementType.FLOAT32, ElementType.FLOAT64, ElementType.FLOAT16)


def _check_epilogue(epilogue: Epilogue | None, outputs: Sequence[TensorDecl]) -> None:
    if epilogue is None:
        return
    try:
        floats = {tensor.name: tensor.shape for tensor in outputs if tensor.dtype in _FLOATS}
        check_epilogue(epilogue.name, floats)
    except InputError as error:
        raise _bad(f"edged.epilogue: {epilogue.name} does not fit the model: {error}") from error
    taken = shapes_of_tensors(epilogue.top).keys()
    for tensor in outputs:
        if tensor.name in taken or tensor.alias in taken:
            raise _bad(f"edged.epilogue: output {tensor.name!r} has the name of one of its own")


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
