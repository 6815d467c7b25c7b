"""``edgectl score``."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from edged import detection
from edged.bundle import verify_bundle
from edged.cli import _draw
from edged.cli._output import print_json, stdout
from edged.client import PredictionClient, Score
from edged.detection import Detections
from edged.errors import InputError, NotFoundError

SCORE_EXAMPLES = (
    "edgectl score leopard.jpg · edgectl score leopard.jpg --labels labels.txt · "
    "edgectl score --port 50052 --bundle mobilenet-v2-1.0.0.edgemodel *.jpg · "
    "edgectl score street.jpg --bundle ssd-vgg-300-1.0.0.edgemodel --draw out.jpg"
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
    labels: Annotated[
        Path | None,
        typer.Option(help="A text file, one class a line. Default: the labels of the model."),
    ] = None,
    from_bundle: Annotated[
        Path | None, typer.Option("--bundle", help="A bundle to take the labels from instead.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to show.", min=1, max=100)] = 5,
    input_name: Annotated[str, typer.Option("--input", help="The input, or its alias.")] = "images",
    output_name: Annotated[
        str | None, typer.Option("--output", help="Which output, if there are several.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each image.", min=0.001)] = 30.0,
    draw: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For detectors: where to draw the boxes with labels and scores, a .jpg or .png, "
            "or a folder for several images.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Use TLS, and check the server's certificate against this one."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="This client's certificate, where the server wants one.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key", help="The private key of --certificate.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with a bearer token; without it, the variable EDGED_TOKEN."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Have photographs scored by the model that a server has loaded, one call each.

    A detector's answer is shown as boxes: ymin, xmin, ymax, xmax, as parts of the photograph.

    The milliseconds are those of the call, as a client sees them; the first has the connection's in
    it.
    """
    names = _labels(labels, from_bundle)
    if draw is not None:
        _draw.check_target(draw, len(images))
    contents = [_read(image) for image in images]
    results = []
    server = address if port is None else f"127.0.0.1:{port}"
    # Not an argument: those can be read by everybody on the machine.
    token = os.environ.get("EDGED_TOKEN", "") if token_file is None else _token(token_file)
    with PredictionClient(
        server,
        access_token=token,
        ca_file=ca,
        certificate_file=certificate,
        key_file=key_file,
        timeout=timeout,
    ) as client:
        if labels is None and from_bundle is None:
            names = client.labels()
        for image, content in zip(images, contents, strict=True):
            start = time.perf_counter()
            found = _ask(client, content, input_name, output_name)
            milliseconds = (time.perf_counter() - start) * 1000
            key = "detections" if isinstance(found, Detections) else "top"
            entries = _entries(found, names, top)
            results.append(
                {"image": str(image), "milliseconds": round(milliseconds, 3), key: entries}
            )
            if not as_json:
                _show(image, milliseconds, entries)
            if draw is not None:
                if not isinstance(found, Detections):
                    raise InputError("cannot draw: the model that is loaded is no detector")
                _draw.draw(content, found, names, _draw.target_of(draw, image))
    if as_json:
        print_json(results)


def _ask(
    client: PredictionClient, content: bytes, input_name: str, output_name: str | None
) -> Score | Detections:
    if output_name is not None:
        return client.score_images([content], input_name=input_name, output_name=output_name)[0]
    outputs = client.score_arrays({input_name: np.array([content], object)})
    if detection.are_readable(outputs):
        return detection.read(outputs)[0]
    for name, values in outputs.items():
        if len(outputs) == 1 and len(values.shape) > 0 and len(values) == 1:
            return Score(name, values[0])
    there = ", ".join(f"{name!r} {list(values.shape)}" for name, values in outputs.items())
    raise InputError(f"cannot show {there or 'no output'}: name an output with --output")


def _entries(found: Score | Detections, names: list[str], top: int) -> list[dict[str, Any]]:
    """The classes, or the boxes, as they are printed."""
    if isinstance(found, Score):
        return _classes(found, names, top)
    return [
        {
            "class": each.index,
            "label": names[each.index] if each.index < len(names) else None,
            "value": each.score,
            "box": [round(side, 5) for side in each.box],
        }
        for each in found
    ]


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


def _show(image: Path, milliseconds: float, entries: list[dict[str, Any]]) -> None:
    console = stdout()
    console.print(f"{escape(str(image))}: {milliseconds:.1f} ms")
    for entry in entries:
        label = entry["label"] if entry["label"] is not None else f"class {entry['class']}"
        box = "".join(f"  {side:.3f}" for side in entry.get("box", ()))
        console.print(f"  {entry['value']:.3f}  {escape(label)}{box}")
    if not entries:
        console.print("  nothing found")


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
        return list(found.labels)


def _lines(content: bytes, path: Path) -> list[str]:
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read labels from {path}: not UTF-8 ({error})") from error


def _token(path: Path) -> str:
    return _read(path).decode("ascii", "replace").strip()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot read {path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
