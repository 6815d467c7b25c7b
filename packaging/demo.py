"""The main job, live: a model into a folder, photographs over gRPC, labels back; then boxes.

A classifier serves first, and a detector takes its place.

Everything here is what a user would do: three processes (emulator, daemon, this), the drop folder,
``edgectl`` and a client. State lives in a temporary folder that is gone afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edged.client import PredictionClient, Score
from edged.errors import EdgedError

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / "tests" / "data"
NETWORKS = DATA / "networks"
LABELS = DATA / "imagenet_labels_1001.txt"
PHOTOS = ("snowleopardgaze.jpg", "elephant.jpg", "schoolbus.jpg", "parrot.jpg")
FACES = NETWORKS / "face.jpg"
PICTURE = PROJECT / "build" / "demo-faces.png"
"""Where the boxes are drawn: it outlives the demo."""
OTHER_MODEL = DATA / "models" / "kws_dscnn.onnx"
PATIENCE = 110.0
"""Seconds until the demo gives up on a step."""
STOP_SECONDS = 45
"""Until a process is killed: the daemon may take slot.drain_seconds, 30, for calls that run."""


class DemoError(Exception):
    """A step did not come to its end; the message says which and why."""


@dataclass(frozen=True)
class Model:
    """A model to pack: its file, and the options of ``edgectl pack`` that are its own."""

    file: Path
    name: str
    options: tuple[str | Path, ...]

    @property
    def bundle(self) -> str:
        return f"{self.name}-1.0.0.edgemodel"


CLASSIFIER = Model(
    DATA / "models" / "mobilenet_v2_imagenet.onnx",
    "mobilenet-v2",
    ("--labels", LABELS, "--preprocess", "stretch", "--calibration", DATA / "images"),
)
DETECTOR = Model(
    NETWORKS / "yunet.onnx",
    "yunet",
    (
        *("--labels", NETWORKS / "yunet_labels.txt", "--preprocess", "stretch,channels=bgr"),
        *("--epilogue", "yunet,threshold=0.6", "--calibration", DATA / "images"),
        # Faces as well, but not the photograph that is asked about.
        *("--calibration", NETWORKS / "grace_hopper.png", "--calibration", NETWORKS / "couple.png"),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="See it work: a model, photographs, labels; then a detector, and boxes."
    )
    parser.add_argument(
        "--port",
        type=int,
        default=50051,
        help="for gRPC, %(default)s; any free one where that is taken, or for 0",
    )
    parser.add_argument(
        "--picture", type=Path, default=PICTURE, help="where boxes are drawn: %(default)s"
    )
    options = parser.parse_args()
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="edged-demo-") as folder:
            return run(console, Path(folder), options.port, options.picture)
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is left running.")
        return 130 if not sys.stdin.isatty() else 0
    except (DemoError, EdgedError) as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def run(console: Console, folder: Path, wanted: int, picture: Path) -> int:
    port, http_port = free_port(wanted), free_port(8501 if wanted else 0)
    drop = folder / "drop"
    config = folder / "edged.toml"
    device = folder / "device.sock"
    config.write_text(
        '[metrics]\nlisten = "127.0.0.1:0"\n'
        f'[serving]\nlisten = "127.0.0.1:{port}"\nhttp_listen = "127.0.0.1:{http_port}"\n'
        f'socket = "{folder}/edged.sock"\n'
        f'[state]\ndirectory = "{folder}/state"\n'
        f'[drop]\ndirectory = "{drop}"\nrescan_seconds = 1.0\nsettle_seconds = 0.3\n'
        f'[device]\nsocket = "{device}"\n'
    )
    drop.mkdir()
    log = folder / "edged.log"
    emulator = [sys.executable, "-m", "edged.emulator", "--socket", str(device)]
    daemon = [sys.executable, "-m", "edged", "--config", str(config)]
    with process("emulator", emulator, log), process("daemon", daemon, log) as edged:
        say(console, 1, f"The emulated FPGA and edged run, on 127.0.0.1:{port}.")
        for step, model in ((2, CLASSIFIER), (5, DETECTOR)):
            size = pack(model, folder) / 1e6
            say(console, step, f"edgectl pack made {model.bundle}, {size:.1f} MB.")
            shutil.copy(folder / model.bundle, drop / model.bundle)
            say(console, step + 1, f"Copied {model.bundle} into the drop folder.")
            seconds = follow(console, drop / f"{model.bundle}.status.txt", edged, log)
            say(console, step + 2, f"It serves, {seconds:.1f} s after it was dropped.")
            if model is CLASSIFIER:
                score(console, port)
                console.print("\n[bold]Second act:[/bold] a detector of faces takes its place.")
            else:
                detect(console, port, picture)
        if sys.stdin.isatty():
            explain(console, port, config)
            console.print("\nedged keeps running so that you can try. [bold]Ctrl-C[/bold] ends it.")
            edged.wait()
            raise DemoError(f"the daemon ended by itself, with status {edged.returncode}")
    console.print(
        "\nThat was all: nothing is left running. Started from a terminal, the demo keeps edged"
        " running, and says how to query and manage it."
    )
    return 0


@contextlib.contextmanager
def process(name: str, argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child in its own session: Ctrl-C reaches this process alone, which stops them in order."""
    child = None
    try:
        with log.open("ab") as output, interrupts_held():
            child = subprocess.Popen(
                argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        yield child
    finally:
        if child is not None:
            stop(name, child)


def stop(name: str, child: subprocess.Popen[bytes]) -> None:
    """End *child* and wait until it is gone."""
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise DemoError(f"the {name} did not stop within {STOP_SECONDS} s and was killed") from None


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Heed an interrupt at the end: what is started in between is known by then, and is stopped."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def free_port(wanted: int) -> int:
    """*wanted*, or any free one when something listens there already."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(console: Console, step: int, text: str) -> None:
    console.print(f"[bold]{step}.[/bold] {escape(text)}", soft_wrap=True)


def edgectl(*arguments: str | Path) -> str:
    """Run ``edgectl``; returns what it printed."""
    command = [sys.executable, "-m", "edged.cli", *map(str, arguments)]
    child = None
    try:
        with interrupts_held():
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        output, errors = child.communicate()
    finally:
        # Interrupted, subprocess.run would kill it and not wait until it is gone.
        if child is not None:
            child.kill()
            child.wait()
    if child.returncode:
        raise DemoError(f"edgectl {arguments[0]} failed: {errors.strip()}")
    return output


def pack(model: Model, folder: Path) -> int:
    """Pack it into *folder*; returns the bundle's bytes."""
    bundle = folder / model.bundle
    fixed = ("--name", model.name, "--version", "1.0.0", "-o", bundle)
    edgectl("pack", model.file, *fixed, *model.options)
    return bundle.stat().st_size


def follow(console: Console, status: Path, edged: subprocess.Popen[bytes], log: Path) -> float:
    """Show what the status file says until the model serves; returns the seconds that took."""
    start = time.monotonic()
    said = ""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("waiting", total=100)
        while time.monotonic() - start < PATIENCE:
            if edged.poll() is not None:
                tail = log.read_text(errors="replace")[-1500:]
                raise DemoError(f"the daemon ended with status {edged.returncode}:\n{tail}")
            try:
                text = (status.read_text().splitlines() or [""])[0]
            except FileNotFoundError:
                text = ""
            if text != said:
                percent = re.search(r" (\d+) %", text)
                bar.update(task, description=text, completed=int(percent[1]) if percent else None)
                if _step(text) != _step(said):
                    console.print(f"   [dim]{escape(_step(text))}[/dim]")
                said = text
            if said.startswith("serving since"):
                return time.monotonic() - start
            if said.startswith("rejected"):
                raise DemoError(said)
            time.sleep(0.05)  # a person watches; the status file is made for reading like this
    raise DemoError(f"nothing serves after {PATIENCE:.0f} s; the last status was {said!r}")


def _step(status: str) -> str:
    """The status without how far it has come: that is for the bar."""
    return re.sub(r" \d+ %", "", status)


def score(console: Console, port: int) -> None:
    labels = LABELS.read_text().splitlines()
    with PredictionClient(f"127.0.0.1:{port}") as client:
        for photo in PHOTOS:
            data = (DATA / "images" / photo).read_bytes()
            client.score_images([data])  # the first call pays for what later ones find warm
            start = time.perf_counter()
            scores = client.score_images([data])[0]
            milliseconds = (time.perf_counter() - start) * 1000
            console.print(table(photo, scores, labels, milliseconds))


def table(photo: str, scores: Score, labels: list[str], milliseconds: float) -> Table:
    result = Table(title=f"{photo}: {milliseconds:.1f} ms", title_justify="left", show_header=False)
    for index in scores.top(5):
        result.add_row(labels[index], f"{scores.values[index]:.3f}")
    return result


def detect(console: Console, port: int, picture: Path) -> None:
    """Have a photograph's faces found, and drawn into *picture*."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    found = edgectl("score", FACES, "--port", str(port), "--draw", picture, "--json")
    (answer,) = json.loads(found)
    columns = ("", "score", "top", "left", "bottom", "right")
    title = f"{FACES.name}: {answer['milliseconds']:.1f} ms"
    result = Table(*columns, title=title, title_justify="left")
    for each in answer["detections"]:
        result.add_row(each["label"], *(f"{value:.3f}" for value in (each["value"], *each["box"])))
    console.print(result)
    here = Path.cwd()
    shown = picture.relative_to(here) if picture.is_relative_to(here) else picture
    console.print(f"The boxes, drawn: {escape(str(shown))}", soft_wrap=True)


def explain(console: Console, port: int, config: Path) -> None:
    """Print what to try while edged runs. Each line that begins with two blanks is a command."""
    command = Path(sys.executable).parent / "edgectl"
    photo = NETWORKS / "grace_hopper.png"
    lines = [
        "",
        "[bold]Query it yourself[/bold], from another terminal:",
        f"  {command} score --port {port} {photo}",
        "or with any TensorFlow Serving client: PredictionService.Predict, input DT_STRING, on"
        f" 127.0.0.1:{port}.",
        "",
        "[bold]Manage it[/bold]:",
        f"  {command} status --config {config}",
        f"  {command} top --config {config}",
        f"  {command} models --config {config}",
        "",
        "[bold]Change the model[/bold], and change it back (a model of your own does as well):",
        f"  {command} push {OTHER_MODEL} --config {config}",
        f"  {command} rollback --config {config}",
    ]
    console.print("\n".join(lines), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
