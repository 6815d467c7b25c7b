"""The main job, live: a model into a folder, photographs over gRPC, labels back.

Everything here is what a user would do: three processes (emulator, daemon, this), the drop folder,
``edgectl`` and a client. State lives in a temporary folder that is gone afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
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
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edged.client import PredictionClient, Score
from edged.errors import EdgedError

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / "tests" / "data"
MODEL = DATA / "models" / "mobilenet_v2_imagenet.onnx"
OTHER_MODEL = DATA / "models" / "kws_dscnn.onnx"
LABELS = DATA / "imagenet_labels_1001.txt"
PHOTOS = ("snowleopardgaze.jpg", "elephant.jpg", "schoolbus.jpg", "parrot.jpg")
PATIENCE = 110.0
"""Seconds until the demo gives up on a step."""
STOP_SECONDS = 45
"""Until a process is killed: the daemon may take slot.drain_seconds, 30, for calls that run."""


class DemoError(Exception):
    """A step did not come to its end; the message says which and why."""


def main() -> int:
    parser = argparse.ArgumentParser(description="See it work: a model, photographs, labels.")
    parser.add_argument(
        "--port",
        type=int,
        default=50051,
        help="for gRPC, %(default)s; any free one where that is taken, or for 0",
    )
    wanted = parser.parse_args().port
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="edged-demo-") as folder:
            return run(console, Path(folder), wanted)
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is left running.")
        return 130 if not sys.stdin.isatty() else 0
    except (DemoError, EdgedError) as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def run(console: Console, folder: Path, wanted: int) -> int:
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
        console.print(f"[bold]1.[/bold] The emulated FPGA and edged run, on 127.0.0.1:{port}.")
        bundle = pack(console, folder)
        shutil.copy(bundle, drop / bundle.name)
        console.print(f"[bold]3.[/bold] Copied {bundle.name} into the drop folder.")
        seconds = follow(console, drop / f"{bundle.name}.status.txt", edged, log)
        console.print(f"[bold]4.[/bold] It serves, {seconds:.1f} s after it was dropped.")
        score(console, port)
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
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise DemoError(
                f"the {name} did not stop within {STOP_SECONDS} s and was killed"
            ) from None


def free_port(wanted: int) -> int:
    """*wanted*, or any free one when something listens there already."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pack(console: Console, folder: Path) -> Path:
    bundle = folder / "mobilenet-v2-1.0.0.edgemodel"
    command = [sys.executable, "-m", "edged.cli", "pack", str(MODEL), "--name", "mobilenet-v2"]
    command += ["--version", "1.0.0", "--labels", str(LABELS), "--preprocess", "stretch"]
    command += ["--calibration", str(DATA / "images"), "-o", str(bundle)]
    packer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = packer.communicate()
    finally:
        # Interrupted, subprocess.run would kill it and not wait until it is gone.
        packer.kill()
        packer.wait()
    if packer.returncode:
        raise DemoError(f"edgectl pack failed: {errors.strip()}")
    size = bundle.stat().st_size / 1e6
    console.print(f"[bold]2.[/bold] edgectl pack made {bundle.name}, {size:.1f} MB.")
    return bundle


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


def explain(console: Console, port: int, config: Path) -> None:
    """Print what to try while edged runs. Each line that begins with two blanks is a command."""
    edgectl = Path(sys.executable).parent / "edgectl"
    photo = DATA / "images" / "tiger.jpg"
    lines = [
        "",
        "[bold]Query it yourself[/bold], from another terminal:",
        f"  {edgectl} score --port {port} {photo}",
        "or with any TensorFlow Serving client: PredictionService.Predict, input DT_STRING, on"
        f" 127.0.0.1:{port}.",
        "",
        "[bold]Manage it[/bold]:",
        f"  {edgectl} status --config {config}",
        f"  {edgectl} top --config {config}",
        f"  {edgectl} models --config {config}",
        "",
        "[bold]Change the model[/bold], and change it back (a model of your own does as well):",
        f"  {edgectl} push {OTHER_MODEL} --config {config}",
        f"  {edgectl} rollback --config {config}",
    ]
    console.print("\n".join(lines), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
