"""``edgectl inspect``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from edged import bundle
from edged.bundle import FileName, TensorDecl, VerifiedBundle
from edged.cli._bundle import verified
from edged.cli._control import Daemon, socket_path
from edged.cli._options import ConfigOption, JsonOption, SocketOption
from edged.cli._output import moment, print_json, stdout
from edged.errors import EdgedError, NotFoundError
from edged.management import ModelInfo
from edged.remarks import Remark

INSPECT_EXAMPLES = (
    "edgectl inspect mobilenet-v2-1.0.0.edgemodel · edgectl inspect model.onnx · "
    "edgectl inspect mobilenet-v2@1.0.0"
)

_SUFFIXES = (bundle.SUFFIX, ".onnx")


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME[@VERSION]",
            help="An .edgemodel or .onnx file, or a model in edged's store.",
        ),
    ],
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle says of its model, after checking all of it, and how it would run.

    Notes say what may cost accuracy or speed: made-up calibration, and how much of the work stays
    on the host. How coarse the outputs are is known once the model is compiled: `edgectl compile
    FILE --report` measures it, and a model in the store has been.
    """
    path = Path(model)
    if not path.exists() and path.suffix not in _SUFFIXES and "/" not in model:
        _inspect_stored(model, Daemon(socket_path(socket, config)), as_json)
    elif path.suffix == ".onnx":
        with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
            packed = Path(folder, f"bare{bundle.SUFFIX}")
            bundle.pack(path, name="bare", version="0.0.0", output=packed)
            with verified(packed) as found:
                _show(found, model, as_json, bare=True)
    else:
        with verified(path) as found:
            _show(found, model, as_json, bare=False)


def _inspect_stored(model: str, daemon: Daemon, as_json: bool) -> None:
    name, _, version = model.partition("@")
    try:
        stored = daemon.get("/v1/models", list[ModelInfo])
    except EdgedError as error:
        raise NotFoundError(
            f"cannot inspect {model}: there is no such file, and edged cannot be asked for a stored"
            f" model of that name: {error}"
        ) from error
    found = [m for m in stored if m.name == name and version in ("", m.version)]
    if not found:
        there = ", ".join(f"{m.name}@{m.version}" for m in stored) or "none"
        raise NotFoundError(
            f"cannot inspect {model}: there is no such file, and the store has no such model; it"
            f" has {there}"
        )
    chosen = max(found, key=lambda m: (m.serial, m.added))
    if as_json:
        print_json(msgspec.to_builtins(chosen))
        return
    facts = [
        ("model", f"{chosen} (serial {chosen.serial})"),
        ("digest", chosen.digest),
        ("size", f"{chosen.size / 1e6:.1f} MB"),
        ("added", f"{moment(chosen.added)} UTC"),
        ("source", chosen.source),
        ("set aside", chosen.set_aside or ""),
        *(("note", str(remark)) for remark in chosen.remarks),
    ]
    if not chosen.remarks:
        facts.append(("note", "it was not compiled yet: nothing is known of how it runs"))
    _print((key, value) for key, value in facts if value)


def _show(found: VerifiedBundle, called: str, as_json: bool, bare: bool) -> None:
    remarks, problem = _remarks(found)
    if as_json:
        facts: dict[str, Any] = {"remarks": msgspec.to_builtins(remarks), "problem": problem}
        if not bare:
            manifest = json.loads(found.manifest.serialize())
            facts = {"digest": found.digest, "manifest": manifest} | facts
        print_json(facts)
        return
    if not bare:
        _print(_identity(found))
    _print(_facts(found))
    if not bare:
        _print(_files(found))
    _print(("note", str(remark)) for remark in remarks)
    if problem:
        _print([("problem", problem)])
    else:
        _print([("more", f"edgectl compile {called} --report")])


def _remarks(found: VerifiedBundle) -> tuple[tuple[Remark, ...], str]:
    """What the compiler would remark, as far as it is known before; or why it refuses the model."""
    from edged.compiler import survey  # Heavy, and only wanted here.

    samples = 0
    if found.manifest.file(FileName.CALIBRATION) is not None:
        arrays = bundle.read_arrays(found.folder / FileName.CALIBRATION)
        samples = len(next(iter(arrays.values())))
    try:
        model = (found.folder / FileName.MODEL).read_bytes()
        return survey(model, samples, found.manifest.shapes).remarks, ""
    except EdgedError as error:
        return (), str(error)


def _print(facts: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
    for key, value in facts:
        stdout().print(f"[bold]{key:10}[/bold] {escape(value)}")


def _identity(found: VerifiedBundle) -> Iterator[tuple[str, str]]:
    manifest = found.manifest
    yield "model", f"{manifest} (serial {manifest.serial})"
    yield "digest", found.digest


def _facts(found: VerifiedBundle) -> Iterator[tuple[str, str]]:
    manifest = found.manifest
    for tensor in manifest.inputs:
        yield "input", _tensor(tensor)
    for tensor in manifest.outputs:
        yield "output", _tensor(tensor)
    spec = manifest.preprocess
    if spec is None:
        yield "images", "not taken: no preprocessing is given"
    else:
        size = f"{spec.width}x{spec.height}"
        yield "images", f"{spec.transform} to {size} into {spec.input}, {spec.recipe()}"
    if manifest.epilogue is not None:
        names = ", ".join(tensor.name for tensor in manifest.answers)
        yield "epilogue", f"{manifest.epilogue} gives {names}"
    state = manifest.state
    if state is not None:
        pairs = ", ".join(f"{pair.output} into {pair.input}" for pair in state.pairs)
        yield (
            "state",
            f"{pairs}; kept for {state.sequences} sequences, each for {state.idle_seconds:g} s",
        )
    test = manifest.self_test
    if test is not None:
        tolerances = ", ".join(f"{tolerance:g}" for tolerance in test.tolerances)
        yield "self-test", f"{test.samples} samples, tolerance {tolerances}"
    yield (
        "needs",
        (
            f"device ABI {manifest.requirements.abi}, "
            f"{manifest.requirements.memory_bytes / 1e6:.1f} MB for weights"
        ),
    )


def _files(found: VerifiedBundle) -> Iterator[tuple[str, str]]:
    manifest = found.manifest
    yield "licence", manifest.licence or "not given"
    if manifest.source_revision:
        yield "source", manifest.source_revision
    if manifest.created:
        yield "created", manifest.created
    for file in manifest.files:
        yield "file", f"{file.name}, {file.size} bytes, {file.digest}"


def _tensor(tensor: TensorDecl) -> str:
    dimensions = ", ".join("N" if d is None else str(d) for d in tensor.shape)
    alias = f", also {tensor.alias}" if tensor.alias else ""
    return f"{tensor.name} {tensor.dtype} [{dimensions}]{alias}"
