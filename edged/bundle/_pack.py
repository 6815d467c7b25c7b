"""From an ONNX file, and what its maker knows about it, to a bundle."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edged.bundle._arrays import serialize_arrays
from edged.bundle._digest import Digest
from edged.bundle._layout import Descriptor, layer_annotations, write_layout
from edged.bundle._manifest import (
    MEDIA_TYPES,
    BundleFile,
    FileName,
    Manifest,
    Requirements,
    TensorDecl,
    check_name,
)
from edged.bundle._state import State
from edged.bundle._version import Version
from edged.detection import Epilogue, count_classes
from edged.errors import BundleError, InputError, LimitError, ModelError, NotFoundError
from edged.preprocess import ImageInput, PixelType, Preprocess

if TYPE_CHECKING:
    from edged.bundle._graph import Graph

__all__ = [
    "MAX_MODEL_BYTES",
    "MAX_SAMPLES",
    "SUFFIX",
    "Progress",
    "bundle_name",
    "check_order",
    "check_output",
    "pack",
    "silent",
]

SUFFIX: Final = ".edgemodel"
MAX_SAMPLES: Final = 64
"""Calibration samples that a bundle carries at most: more hardly move an exponent."""

MAX_MODEL_BYTES: Final = 1 << 30
_MAX_LABELS_BYTES: Final = 4 << 20
_IMAGE_ALIAS: Final = "images"
_OUTPUT_ALIAS: Final = "output_alias"

Progress = Callable[[float, str], None]


def silent(fraction: float, step: str) -> None: ...


def bundle_name(name: str, version: Version) -> str:
    """The file name of a bundle: ``NAME-VERSION.edgemodel``."""
    return f"{name}-{version}{SUFFIX}"


def pack(
    model: Path,
    *,
    name: str,
    version: Version | str,
    output: Path,
    serial: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    labels: Path | None = None,
    preprocess: str | Preprocess | None = None,
    epilogue: str | Epilogue | None = None,
    calibration: Path | Sequence[Path] | None = None,
    aliases: Mapping[str, str] | None = None,
    tolerance: float | None = None,
    state: State | None = None,
    licence: str = "",
    source_revision: str = "",
    progress: Progress = silent,
) -> Digest:
    """Pack *model* into a bundle: the same arguments and files give the same bytes.

    Args:
        model: a float ONNX file; its external data, if any, are in files in its folder.
        name: of the model; letters, digits, ``.``, ``_``, ``-``.
        version: semantic.
        output: the bundle's path, or a folder to put ``NAME-VERSION.edgemodel`` into. Written under
            a dot name beside it and renamed.
        serial: grows with every bundle of that name; by default from the version, 1.2.3 → 1002003.
        shapes: sizes of inputs that the model leaves open, by name, with a batch of 1 first; ""
            stands for the only input. *preprocess* and *calibration* fix those that they tell.
        labels: a text file, one class a line.
        preprocess: as `Preprocess.parse` reads it, or what that gave. By default, a model whose
            only image input takes bytes of a fixed size gets ``stretch``; others take tensors only.
        epilogue: as `Epilogue.parse` reads it, or what that gave: what the container makes of the
            outputs. By default, they are answered as they are.
        calibration: photographs, folders of them, or one ``.npz`` of the model's inputs by name;
            at most `MAX_SAMPLES` samples are kept, evenly spaced.
        aliases: tensor name to second name. By default the image input answers to ``images`` and a
            sole output to ``output_alias``, as the clients of old ask.
        tolerance: of the self-test, absolute, for all outputs; by default by what the output is.
        state: what the container keeps for each sequence of calls. *calibration* may leave out the
            inputs that are in it: its samples are one sequence then, which the float model runs
            through from zeros.
        licence: SPDX expression.
        source_revision: what the model was built from.
        progress: told the fraction done and the step.

    ``SOURCE_DATE_EPOCH`` in the environment becomes the time of creation; otherwise none is given.

    Returns:
        The digest of the bundle.

    Raises:
        InputError: one of the files or arguments cannot be used; says which and why.
        NotFoundError: a file is not there.
        LimitError: a file is too large.
    """
    # Only packing needs onnx and ONNX Runtime; whoever verifies bundles does without them.
    from edged._onnxfile import read_onnx_bytes
    from edged._onnxshapes import free_sizes
    from edged.bundle._graph import Graph
    from edged.bundle._samples import load_samples
    from edged.bundle._selftest import OUTPUT_PREFIX, make_self_test

    paths = [calibration] if isinstance(calibration, Path) else list(calibration or ())
    output = check_order(
        name=name,
        version=version,
        output=output,
        serial=serial,
        labels=labels,
        preprocess=preprocess,
        epilogue=epilogue,
        calibration=paths,
        tolerance=tolerance,
    )
    version = version if isinstance(version, Version) else Version.parse(version)
    progress(0.0, "reading the model")
    content = read_onnx_bytes(model, MAX_MODEL_BYTES)
    graph = Graph.load(content, model.name).sized(shapes or {})
    spec = _preprocess(preprocess, graph)
    ending = Epilogue.parse(epilogue) if isinstance(epilogue, str) else epilogue
    if spec is not None:
        graph = graph.sized({spec.input: spec.shape})
    _check_aliases(aliases or {}, graph)
    files: dict[FileName, bytes] = {}
    if labels is not None:
        files[FileName.LABELS] = _labels(labels, graph, ending)
    samples = None
    if calibration is not None:
        progress(0.1, "reading the calibration samples")
        samples = load_samples(paths, graph, spec, MAX_SAMPLES, state)
        files[FileName.CALIBRATION] = serialize_arrays(samples)
        graph = graph.sized({name: (1, *array.shape[1:]) for name, array in samples.items()})
    if not graph.is_sized and (problem := free_sizes(graph.content, model.name)):
        raise ModelError(f"cannot pack {model.name}: {problem}")
    files[FileName.MODEL] = graph.content
    progress(0.4, "running the float model for the self-test")
    states = () if state is None else tuple(state.outputs.values())
    vectors, self_test = make_self_test(graph, samples, tolerance, states)
    files[FileName.SELF_TEST] = serialize_arrays(vectors)
    graph = graph.answering(
        {
            name.removeprefix(OUTPUT_PREFIX): array
            for name, array in vectors.items()
            if name.startswith(OUTPUT_PREFIX)
        }
    )
    progress(0.8, "writing the bundle")
    manifest = Manifest(
        name=name,
        version=version,
        serial=_serial(version) if serial is None else serial,
        inputs=_aliased(graph.inputs, aliases, {spec.input: _IMAGE_ALIAS} if spec else None),
        outputs=_aliased(
            graph.outputs,
            aliases,
            {graph.outputs[0].name: _OUTPUT_ALIAS} if len(graph.outputs) == 1 else None,
        ),
        files=tuple(_describe(file, data) for file, data in sorted(files.items())),
        preprocess=spec,
        epilogue=ending,
        self_test=self_test,
        state=state,
        requirements=Requirements(memory_bytes=graph.weights),
        licence=licence,
        source_revision=source_revision,
        created=_created(),
    )
    digest = _write(output, manifest, files)
    progress(1.0, "done")
    return digest


def check_order(
    *,
    name: str,
    version: Version | str,
    output: Path,
    serial: int | None = None,
    labels: Path | None = None,
    preprocess: str | Preprocess | None = None,
    epilogue: str | Epilogue | None = None,
    calibration: Sequence[Path] = (),
    tolerance: float | None = None,
) -> Path:
    """Check all arguments of `pack` that can be checked without the model: before long work.

    Returns:
        The path of the bundle to be.

    Raises:
        InputError, NotFoundError, LimitError: as `pack`.
    """
    from edged.bundle._samples import check_samples

    version = version if isinstance(version, Version) else Version.parse(version)
    check_name(name)
    if serial is None:
        _serial(version)
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise BundleError(f"cannot use the tolerance {tolerance}: wanted a number above zero")
    if labels is not None:
        _lines(labels)
    if isinstance(preprocess, str):
        Preprocess.check(preprocess)
    if isinstance(epilogue, str):
        Epilogue.parse(epilogue)
    if calibration:
        check_samples(calibration)
    _created()
    if output.is_dir():
        output = output / bundle_name(name, version)
    check_output(output)
    return output


def check_output(path: Path) -> None:
    """Check that a file can be written to *path*, its folders made if need be.

    Raises:
        InputError: it is a folder, or nobody lets us.
    """
    if path.is_dir():
        raise BundleError(f"cannot write {path}: it is a folder")
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not place.is_dir():
        raise BundleError(f"cannot write {path}: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise BundleError(f"cannot write {path}: {place} does not let us")


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {path}: there is no such file") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise LimitError(f"cannot read {path}: it has more than {max_bytes} bytes")
    return content


def _preprocess(text: str | Preprocess | None, graph: Graph) -> Preprocess | None:
    if isinstance(text, Preprocess):
        return text
    inputs = [ImageInput(tensor.name, tensor.dtype, tensor.shape) for tensor in graph.inputs]
    if text is not None:
        return Preprocess.parse(text, inputs)
    try:
        spec = Preprocess.parse("stretch", inputs)
    except InputError:
        return None
    return spec if spec.dtype is PixelType.UINT8 else None


def _lines(path: Path) -> list[str]:
    try:
        text = _read(path, _MAX_LABELS_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BundleError(f"cannot read {path}: it is not UTF-8 ({error})") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def _labels(path: Path, graph: Graph, epilogue: Epilogue | None) -> bytes:
    """The labels with plain line ends; their number has to be the classes of an output."""
    lines = _lines(path)
    classes = {tensor.shape[-1] for tensor in graph.outputs if tensor.shape}
    if epilogue is not None:
        classes = {count_classes(epilogue.name, {each.name: each.shape for each in graph.outputs})}
    if None not in classes and len(lines) not in classes:
        counts = " or ".join(str(count) for count in classes)
        raise BundleError(
            f"cannot use the labels of {path.name}: it has {len(lines)} lines; wanted {counts}, "
            "one for each class of the output"
        )
    return "".join(f"{line}\n" for line in lines).encode()


def _serial(version: Version) -> int:
    serial = version.serial
    if serial is None:
        raise BundleError(
            f"cannot make a serial of version {version}: minor or patch is above 999; give one"
        )
    return serial


def _check_aliases(aliases: Mapping[str, str], graph: Graph) -> None:
    names = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
    for name in aliases:
        if name not in names:
            raise BundleError(
                f"cannot give {name!r} an alias: the tensors are {', '.join(map(repr, names))}"
            )


def _aliased(
    tensors: tuple[TensorDecl, ...],
    wanted: Mapping[str, str] | None,
    default: Mapping[str, str] | None,
) -> tuple[TensorDecl, ...]:
    aliases = {**(default or {}), **(wanted or {})}
    return tuple(TensorDecl(t.name, t.dtype, t.shape, alias=aliases.get(t.name)) for t in tensors)


def _describe(name: FileName, content: bytes) -> BundleFile:
    return BundleFile(
        name=name, media_type=MEDIA_TYPES[name], digest=Digest.of(content), size=len(content)
    )


def _created() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not epoch:
        return ""
    try:
        return datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        raise BundleError(
            f"cannot use SOURCE_DATE_EPOCH {epoch!r}: wanted seconds since 1970"
        ) from error


def _write(output: Path, manifest: Manifest, files: Mapping[FileName, bytes]) -> Digest:
    layers = [
        (
            Descriptor(
                media_type=file.media_type,
                digest=file.digest,
                size=file.size,
                annotations=layer_annotations(file.name),
            ),
            files[file.name],
        )
        for file in manifest.files
    ]
    # A dot name beside it: whoever watches the folder sees a whole bundle or none.
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                digest = write_layout(file, manifest.serialize(), layers)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BundleError(f"cannot write {output}: {error.strerror}") from error
    return digest
