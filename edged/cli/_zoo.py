"""``edgectl zoo``."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edged import bundle
from edged.cli._output import print_json, print_table, stderr, stdout
from edged.errors import InputError

if TYPE_CHECKING:
    from edged.zoo import ZooModel

ZOO_EXAMPLES = (
    "edgectl zoo · edgectl zoo resnet-50 --seed 1 -o drop/ · "
    "edgectl zoo vgg-16 --weights vgg_16.npz --labels labels.txt --calibration photos/ "
    "-o vgg-16.edgemodel · edgectl zoo densenet-121 -o densenet.onnx"
)
_MADE_UP_SAMPLES: Final = 16


def zoo(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of a network; none lists them all.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="NAME.edgemodel for a bundle, NAME.onnx for the bare model, or a folder for "
            "NAME-VERSION.edgemodel.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .npz of TensorFlow's variables or an .onnx; docs/zoo.md has the names.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of random weights; 0 if nothing is said.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Of the classifier; SSD counts the background.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Of the network; `edgectl zoo` lists them.")
    ] = None,
    version: Annotated[str, typer.Option(help="Of the bundle.")] = "1.0.0",
    labels: Annotated[Path | None, typer.Option(help="A text file, one class a line.")] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Typical photographs, folders of them (repeat it), or one .npz; made-up images "
            "by default.",
        ),
    ] = None,
    epilogue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE…]",
            help="As for `edgectl pack`: ssd has the container answer with boxes.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Make a classic network, as a bundle or an ONNX file; without a name, list them."""
    if name is None:
        _list(as_json)
        return
    if output is None:
        raise InputError(f"cannot make {name}: -o says where to: a bundle, an .onnx or a folder")
    if weights is not None and seed is not None:
        raise InputError("cannot use both --weights and --seed: random weights replace the others")
    if not (output.is_dir() or output.suffix in (".onnx", bundle.SUFFIX)):
        raise InputError(
            f"cannot write {output}: wanted a name that ends in .onnx or {bundle.SUFFIX}, or a"
            " folder that exists"
        )
    if not output.parent.is_dir():
        raise InputError(f"cannot write {output}: there is no folder {output.parent}")
    if output.suffix != ".onnx":
        output = bundle.check_order(
            name=name,
            version=version,
            output=output,
            labels=labels,
            epilogue=epilogue,
            calibration=calibration or (),
        )
    # Heavy, and only wanted here.
    from edged.zoo import build

    with _progress() as progress:
        task = progress.add_task("building", total=1.0)

        def show(begin: float, end: float) -> Callable[[float, str], None]:
            return lambda done, step: progress.update(
                task, completed=begin + (end - begin) * done, description=step
            )

        model = build(
            name,
            weights=weights,
            seed=seed or 0,
            classes=classes,
            variant=variant,
            progress=show(0.0, 0.5),
        )
        if output.suffix == ".onnx":
            _write(output, model.onnx())
            digest = None
        else:
            digest = _pack(model, output, version, labels, epilogue, calibration, show(0.5, 1.0))
    if digest is not None and not calibration:
        stderr().print(
            "edgectl: no --calibration: the compiler takes ranges from made-up images; with real "
            "weights give 16 or more photographs"
        )
    _report(model, output, digest, as_json)


def _pack(
    model: ZooModel,
    output: Path,
    version: str,
    labels: Path | None,
    epilogue: str | None,
    calibration: list[Path] | None,
    progress: Callable[[float, str], None],
) -> str:
    """The digest of the bundle written."""
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        source = Path(folder, f"{model.network.name}.onnx")
        source.write_bytes(model.onnx())
        samples = Path(folder, "calibration.npz")
        if not calibration:
            # numpy's types take the arrays' names for its own options.
            np.savez(samples, **model.samples(_MADE_UP_SAMPLES))  # type: ignore[arg-type]
        return bundle.pack(
            source,
            name=model.network.name,
            version=version,
            output=output,
            labels=labels,
            preprocess=model.network.preprocess,
            epilogue=epilogue,
            calibration=calibration or samples,
            source_revision=model.weights,
            progress=progress,
        )


def _write(output: Path, content: bytes) -> None:
    """A whole file or none."""
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        try:
            partial.write_bytes(content)
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from error


def _report(model: ZooModel, output: Path, digest: str | None, as_json: bool) -> None:
    size = output.stat().st_size
    facts = {
        "path": str(output),
        "network": model.network.name,
        "weights": model.weights,
        "parameters": model.skeleton.trainable,
        "macs": model.skeleton.macs,
        "size": size,
        "digest": digest,
    }
    if as_json:
        print_json(facts)
        return
    stdout().print(
        escape(
            f"{output}: {model.network.name}, {model.weights}, {size / 1e6:.1f} MB"
            + (f", {digest}" if digest else "")
        )
    )


def _list(as_json: bool) -> None:
    from edged.zoo import NETWORKS

    rows = []
    for network in NETWORKS.values():
        skeleton = network.skeleton()
        rows.append(
            {
                "name": network.name,
                "parameters": skeleton.trainable,
                "macs": skeleton.macs,
                "height": skeleton.height,
                "width": skeleton.width,
                "classes": network.classes,
                "variants": list(network.variants),
                "features": skeleton.features,
                "outputs": {output: ["N", *shape] for output, shape in skeleton.outputs.items()},
                "paper": network.paper,
            }
        )
    if as_json:
        print_json(rows)
        return
    print_table(
        ("NAME", "PARAMETERS", "GMACS", "IMAGE", "CLASSES", "VARIANTS", "PAPER"),
        [
            (
                network.name,
                f"{skeleton.trainable / 1e6:.2f} M",
                f"{skeleton.macs / 1e9:.2f}",
                f"{skeleton.width}x{skeleton.height}",
                str(network.classes),
                ", ".join(network.variants),
                network.paper,
            )
            for network in NETWORKS.values()
            for skeleton in (network.skeleton(),)
        ],
    )


def _progress() -> Progress:
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
