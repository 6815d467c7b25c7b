"""``edgectl pack`` and ``verify``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edged import bundle
from edged.bundle import VerifiedBundle
from edged.cli._options import shapes
from edged.cli._output import print_json, stderr, stdout
from edged.errors import EdgedError, InputError

PACK_EXAMPLES = (
    "edgectl pack mobilenet.onnx --name mobilenet-v2 --version 1.0.0 --labels labels.txt "
    "--preprocess stretch --calibration photos/ -o drop/"
)
VERIFY_EXAMPLES = "edgectl verify *.edgemodel"

_BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="An .edgemodel file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def pack(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A float ONNX model.")],
    name: Annotated[str, typer.Option(help="Of the model: letters, digits, '.', '_', '-'.")],
    version: Annotated[str, typer.Option(help="Semantic: 1.0.0, 2.1.0-rc.1.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The bundle, or a folder for NAME-VERSION.edgemodel."),
    ] = Path(),
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1,3,480,640",
            help="Sizes of an input that the model leaves open, the batch of 1 first; repeat it. "
            "--preprocess and --calibration fix the sizes that they tell.",
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file, one class a line.")] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            metavar="TRANSFORM[=WxH][,KEY=VALUE…]",
            help="How a photograph becomes the input: stretch, crop, imagenet or ssd; with "
            "input=NAME, short=PIXELS, sampling=antialias|tf1, channels=rgb|bgr, scale=1/255, "
            "mean=R:G:B, std=R:G:B (docs/preprocessing.md). Default: stretch where the input "
            "takes bytes.",
        ),
    ] = None,
    epilogue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE…]",
            help="What the container makes of the outputs: ssd turns those of SSD-VGG-300 into "
            "boxes, scores and classes, yunet those of YuNet; with threshold=0.5, top=400, "
            "overlap=0.45 (docs/detection.md). Default: nothing.",
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Typical inputs to measure ranges on: photographs, folders of them (repeat it), "
            f"or one .npz of arrays by input name. At most {bundle.MAX_SAMPLES} are kept.",
        ),
    ] = None,
    serial: Annotated[
        int | None,
        typer.Option(help="Grows with every bundle of that name. Default: 1.2.3 gives 1002003."),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="TENSOR=ALIAS", help="A second name for clients to use; repeat it."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Of the self-test: the largest absolute difference, or, of labels, indices and"
            " masks, the largest share of elements that differ."
        ),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=OUTPUT",
            help="A recurrent state that the container keeps for each sequence of calls, so that "
            "clients need not send it (docs/sequences.md); repeat it. --calibration may leave it "
            "out: its samples are one sequence then.",
        ),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="With --state: how many are kept at a time.")
    ] = 256,
    sequence_idle: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="With --state: drop one that is idle for longer."),
    ] = 60,
    licence: Annotated[str, typer.Option(help="SPDX expression, such as Apache-2.0.")] = "",
    source_revision: Annotated[str, typer.Option(help="What the model was built from.")] = "",
    as_json: _Json = False,
) -> None:
    """Pack an ONNX model into a bundle that edged loads.

    The same arguments and files give the same bytes; SOURCE_DATE_EPOCH sets a time of creation.
    """
    if output.is_dir():
        output = output / bundle.bundle_name(name, bundle.Version.parse(version))
    with _progress() as progress:
        task = progress.add_task("packing", total=1.0)
        digest = bundle.pack(
            model,
            name=name,
            version=version,
            output=output,
            serial=serial,
            shapes=shapes(shape),
            labels=labels,
            preprocess=preprocess,
            epilogue=epilogue,
            calibration=calibration or None,
            aliases=dict(_alias(text) for text in alias or ()),
            tolerance=tolerance,
            state=_state(state or [], sequences, sequence_idle),
            licence=licence,
            source_revision=source_revision,
            progress=lambda done, step: progress.update(task, completed=done, description=step),
        )
    if not calibration:
        stderr().print(
            "edgectl: no --calibration: the compiler takes ranges from made-up inputs, which "
            "costs accuracy; give 16 or more typical inputs"
        )
    size = output.stat().st_size
    if as_json:
        print_json({"path": str(output), "digest": digest, "size": size})
    else:
        stdout().print(f"{escape(str(output))}: {size / 1e6:.1f} MB, {digest}")


def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="BUNDLE…", help=".edgemodel files.")],
    as_json: _Json = False,
) -> None:
    """Check bundles as edged does before it loads one: archive, digests, sizes, manifest."""
    results: list[dict[str, Any]] = []
    status = 0
    for path in paths:
        try:
            with verified(path) as found:
                line = f"{path}: ok, {found.manifest}, {found.digest}"
                results.append({"path": str(path), "ok": True, "digest": found.digest})
        except EdgedError as error:
            status = status or error.exit_status
            line = f"edgectl: {error}"
            results.append({"path": str(path), "ok": False, "error": str(error)})
        if not as_json:
            console = stdout() if results[-1]["ok"] else stderr()
            console.print(escape(line))
    if as_json:
        print_json(results)
    sys.exit(status)


@contextmanager
def verified(path: Path) -> Iterator[VerifiedBundle]:
    """The bundle at *path*, checked and unpacked for as long as that is needed.

    Raises:
        InputError: it is a model that is in no bundle yet.
        BundleError, LimitError, ShortageError: see :func:`edged.bundle.verify_bundle`.
    """
    if path.suffix.lower() == ".onnx":
        raise InputError(
            f"cannot use {path}: it is a model by itself, wanted a bundle; make one of it: `edgectl"
            f" pack {shlex.quote(str(path))} --name NAME --version 1.0.0`"
        )
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        # One's own link is followed; in a drop folder it would not be.
        yield bundle.verify_bundle(path.resolve(), Path(folder))


def _progress() -> Progress:
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _state(texts: list[str], sequences: int, idle_seconds: float) -> bundle.State | None:
    pairs = []
    for text in texts:
        source, equals, target = text.partition("=")
        if not (equals and source and target):
            raise InputError(f"cannot use --state {text!r}: wanted INPUT=OUTPUT, as in h=hn")
        pairs.append(bundle.StatePair(source, target))
    return bundle.State(tuple(pairs), sequences, idle_seconds) if pairs else None


def _alias(text: str) -> tuple[str, str]:
    # Tensor names have colons and slashes, and may have '='; aliases do not.
    name, equals, alias = text.rpartition("=")
    if not (equals and name and alias):
        raise InputError(f"cannot use --alias {text!r}: wanted TENSOR=ALIAS, as in input:0=images")
    return name, alias
