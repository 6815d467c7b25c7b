"""``edgectl score``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from edged.bundle import FileName, verify_bundle
from edged.cli._output import print_json, stdout
from edged.client import PredictionClient, Score
from edged.errors import InputError, NotFoundError

SCORE_EXAMPLES = (
    "edgectl score leopard.jpg --labels labels.txt · "
    "edgectl score --port 50052 --bundle mobilenet-v2-1.0.0.edgemodel *.jpg"
)


def score(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE…", help="JPEG or PNG files, sent as they are.")
    ],
    address: Annotated[
        str, typer.Option(help="HOST:PORT or unix:/PATH of the server.")
    ] = "127.0.0.1:50051",
    port: Annotated[
        int | None, typer.Option(help="Short for --address 127.0.0.1:PORT.", min=1, max=65535)
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file, one class a line.")] = None,
    from_bundle: Annotated[
        Path | None, typer.Option("--bundle", help="A bundle to take the labels from.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to show.", min=1, max=100)] = 5,
    input_name: Annotated[str, typer.Option("--input", help="The input, or its alias.")] = "images",
    output_name: Annotated[
        str | None, typer.Option("--output", help="Which output, if there are several.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each image.", min=0.001)] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Have photographs scored by the model that a server has loaded, one call each.

    The milliseconds are those of the call, as a client sees them; the first has the connection's in
    it.
    """
    names = _labels(labels, from_bundle)
    contents = [_read(image) for image in images]
    results = []
    server = address if port is None else f"127.0.0.1:{port}"
    with PredictionClient(server, timeout=timeout) as client:
        for image, content in zip(images, contents, strict=True):
            start = time.perf_counter()
            (found,) = client.score_images(
                [content], input_name=input_name, output_name=output_name
            )
            milliseconds = (time.perf_counter() - start) * 1000
            classes = _classes(found, names, top)
            results.append(
                {"image": str(image), "milliseconds": round(milliseconds, 3), "top": classes}
            )
            if not as_json:
                _show(image, milliseconds, classes)
    if as_json:
        print_json(results)


def _classes(found: Score, names: list[str], top: int) -> list[dict[str, Any]]:
    flat = found.values.reshape(-1)
    return [
        {
            "class": index,
            "label": names[index] if index < len(names) else None,
            "value": float(flat[index]),
        }
        for index in found.top(top)
    ]


def _show(image: Path, milliseconds: float, classes: list[dict[str, Any]]) -> None:
    console = stdout()
    console.print(f"{escape(str(image))}: {milliseconds:.1f} ms")
    for entry in classes:
        label = entry["label"] if entry["label"] is not None else f"class {entry['class']}"
        console.print(f"  {entry['value']:.3f}  {escape(label)}")


def _labels(path: Path | None, bundle: Path | None) -> list[str]:
    if path is not None and bundle is not None:
        raise InputError("cannot take labels from two places: give --labels or --bundle")
    if path is not None:
        return _lines(_read(path), path)
    if bundle is None:
        return []
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        found = verify_bundle(bundle.resolve(), Path(folder))
        if not found.manifest.labels:
            raise NotFoundError(f"cannot take labels from {bundle}: it has none")
        return _lines((found.folder / FileName.LABELS).read_bytes(), bundle)


def _lines(content: bytes, path: Path) -> list[str]:
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read labels from {path}: not UTF-8 ({error})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
