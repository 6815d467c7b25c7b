"""``edgectl featurize`` and ``edgectl head``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edged import bundle
from edged.cli._bundle import verified
from edged.cli._output import print_json, stderr, stdout
from edged.errors import EdgedError, InputError, NotFoundError

if TYPE_CHECKING:
    from edged.transfer import Featurizer

FEATURIZE_EXAMPLES = (
    "edgectl featurize photographs/ --bundle mobilenet-v2-1.0.0.edgemodel -o features.npz"
)
HEAD_EXAMPLES = (
    "edgectl head features.npz --bundle mobilenet-v2-1.0.0.edgemodel --name animals "
    "--version 1.0.0 -o drop/"
)

_Bundle = Annotated[
    Path, typer.Option("--bundle", metavar="BUNDLE", help="An .edgemodel that takes photographs.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def featurize(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE…", help="JPEG or PNG files, and folders of them at any depth."
        ),
    ],
    source: _Bundle,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz to write.")],
    tensor: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="TENSOR",
            help="Where the device's part is to end. Default: what the model's metadata say, else "
            "what its last layer with weights reads.",
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Compute the features of photographs with a bundle's network, for a classifier of one's own.

    The network is compiled and run in this process, to the bit as a device does it: no daemon and
    no device is needed. The label of a photograph is the name of the folder that it is in.
    """
    from edged import transfer  # brings the compiler along, which other commands do without

    paths = bundle.photographs(images)
    bundle.check_output(output)
    with verified(source) as found, _progress() as progress:
        task = progress.add_task("compiling", total=100)
        featurizer = transfer.Featurizer.of(
            found,
            tensor,
            lambda done, step: progress.update(task, completed=int(100 * done), description=step),
        )
        progress.update(task, completed=0, total=len(paths), description="featurizing")
        rows = []
        for path in paths:
            rows.append(_featurized(featurizer, path))
            progress.advance(task)
        features = transfer.Features(
            np.stack(rows),
            tuple(map(str, paths)),
            tuple(path.absolute().parent.name for path in paths),
            featurizer.tensor,
            featurizer.program,
            found.digest,
        )
    features.save(output)
    counts = Counter(features.labels)
    if as_json:
        print_json(
            {
                "path": str(output),
                "images": len(paths),
                "features": features.values.shape[1],
                "tensor": features.tensor,
                "program": features.program,
                "labels": dict(sorted(counts.items())),
            }
        )
        return
    labels = ", ".join(f"{label} ({count})" for label, count in sorted(counts.items()))
    stdout().print(
        f"{escape(str(output))}: {len(paths)} images, {features.values.shape[1]} features each of "
        f"{escape(features.tensor)}\n{escape(labels)}"
    )


def head(
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES.npz", help="What `edgectl featurize` wrote.")
    ],
    source: _Bundle,
    name: Annotated[str, typer.Option(help="Of the new model.")],
    version: Annotated[str, typer.Option(help="Of the new model, semantic.")] = "1.0.0",
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The bundle, or a folder for NAME-VERSION.edgemodel."),
    ] = Path(),
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A text file with the label of each image, a line each, in the order of the "
            "features. Default: the folders' names."
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option(help="The larger, the closer to the samples: scikit-learn's C.")
    ] = 1.0,
    as_json: _Json = False,
) -> None:
    """Train a classifier on features, and pack it with the network that they are from.

    The device's part of the new bundle is the same to the byte, which is checked; the classifier
    runs on the host. Needs scikit-learn (docs/transfer-learning.md says how to install it).
    """
    from edged import transfer

    output = bundle.check_order(name=name, version=version, output=output)
    known = transfer.Features.load(features)
    chosen = known.labels if labels is None else _lines(labels)
    trained = transfer.train_head(known.values, chosen, strength=strength)
    with verified(source) as found, _progress() as progress:
        task = progress.add_task("compiling", total=100)
        digest = transfer.pack_head(
            found,
            known,
            trained,
            name=name,
            version=version,
            output=output,
            progress=lambda done, step: progress.update(
                task, completed=int(100 * done), description=step
            ),
        )
    if as_json:
        print_json(
            {
                "path": str(output),
                "digest": digest,
                "classes": trained.classes,
                "accuracy": trained.accuracy,
                "program": known.program,
            }
        )
        return
    accuracy = "not measured: a class has one image only"
    if trained.accuracy is not None:
        accuracy = f"{100 * trained.accuracy:.1f} % of images that it was not trained on"
        accuracy += f" ({trained.folds}-fold cross-validation)"
    stdout().print(
        f"{escape(str(output))}: {len(trained.classes)} classes, {digest}\n"
        f"accuracy  {accuracy}\n"
        f"device    program {known.program}, as before"
    )


def _featurized(featurizer: Featurizer, path: Path) -> npt.NDArray[Any]:
    content = bundle.read_photograph(path)
    try:
        return featurizer(content)
    except EdgedError as error:
        raise type(error)(f"cannot featurize {path}: {error}") from error


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read labels from {path}: {error}") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def _progress() -> Progress:
    console = stderr()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
