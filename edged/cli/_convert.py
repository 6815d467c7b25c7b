"""``edgectl convert``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edged import bundle
from edged.cli._output import print_json, stderr, stdout
from edged.errors import InputError

CONVERT_EXAMPLES = (
    "edgectl convert saved_model/ --name parts --calibration photos/ -o drop/ · "
    "edgectl convert frozen.pb --result classifier/Softmax:0 --name parts -o parts.edgemodel"
)


def convert(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A SavedModel's folder, or a frozen graph.")
    ],
    name: Annotated[str, typer.Option(help="Of the new model: letters, digits, '.', '_', '-'.")],
    version: Annotated[str, typer.Option(help="Of the new model, semantic.")] = "1.0.0",
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The bundle, or a folder for NAME-VERSION.edgemodel."),
    ] = Path(),
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="TENSOR",
            help="Where the model begins; repeat it. Its shape may follow: NAME[1,224,224,3]. "
            "Default: the placeholders.",
        ),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            "--result",
            metavar="TENSOR",
            help="What the model gives; repeat it. Default: what the signature says.",
        ),
    ] = None,
    signature: Annotated[str, typer.Option(help="Of a SavedModel.")] = "serving_default",
    preprocess: Annotated[
        str | None,
        typer.Option(
            metavar="TRANSFORM[=WxH][,KEY=VALUE…]",
            help="As for `edgectl pack`, where the model begins behind its own.",
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file, one class a line.")] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="As for `edgectl pack`; repeat it."),
    ] = None,
    licence: Annotated[str, typer.Option(help="SPDX expression, such as Apache-2.0.")] = "",
    python: Annotated[
        str,
        typer.Option(
            envvar="EDGED_TENSORFLOW_PYTHON",
            help="An interpreter that has tensorflow and tf2onnx.",
        ),
    ] = sys.executable,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Convert a TensorFlow model into a bundle.

    Decoding, resizing and scaling of images inside of its graph become the bundle's preprocessing;
    what cannot be recognised is refused, with the operator that stopped it. TensorFlow runs the
    graph: convert what you trust. Needs an interpreter that has tensorflow and tf2onnx: --python
    names it, and docs/from-tensorflow.md says how to make one.
    """
    from edged.convert import convert as convert_model

    # TensorFlow takes minutes: what can be wrong is found before.
    output = bundle.check_order(
        name=name,
        version=version,
        output=output,
        labels=labels,
        preprocess=preprocess,
        calibration=calibration or (),
    )
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder, _progress() as progress:
        task = progress.add_task("converting", total=1.0)
        found = convert_model(
            model,
            Path(folder) / "model.onnx",
            inputs=inputs or (),
            outputs=results or (),
            signature=signature,
            python=python,
            progress=lambda done, step: progress.update(
                task, completed=0.8 * done, description=step
            ),
        )
        if found.preprocess is not None and preprocess is not None:
            raise InputError(
                "cannot use --preprocess: the graph has its own, which was recognised; leave it"
                " out, or begin behind it with --input"
            )
        digest = bundle.pack(
            found.model,
            name=name,
            version=version,
            output=output,
            labels=labels,
            preprocess=found.preprocess or preprocess,
            calibration=calibration or None,
            aliases=found.aliases,
            licence=licence,
            progress=lambda done, step: progress.update(
                task, completed=0.8 + 0.2 * done, description=step
            ),
        )
    spec = found.preprocess
    if as_json:
        print_json(
            {
                "path": str(output),
                "digest": digest,
                "preprocess": str(spec.transform) if spec else None,
            }
        )
        return
    stdout().print(f"{escape(str(output))}: {output.stat().st_size / 1e6:.1f} MB, {digest}")
    if spec is not None:
        stdout().print(
            f"images    {spec.transform} to {spec.width}x{spec.height}, {spec.recipe()}, as the "
            "graph did it"
        )


def _progress() -> Progress:
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
