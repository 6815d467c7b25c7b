"""What serving costs: edged beside the bare executor and a bare grpc.aio server around it.

    python bench/serving.py [--rounds 7] [--seconds 1.0] [--write docs/performance.md]

One small CNN, three ways to send it an image, and 1, 8 and 64 clients that each wait for an answer
before they send the next request. All sides are measured in turn in each round, so that a drift of
the machine's speed reaches all of them; of each side's rounds the median is taken. Prints tables;
with --write replaces those of the page, and writes a JSON file and a plot beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import onnx
from bare import CHANNEL_OPTIONS, SIDE, Bare, make, photo
from integration.appliance import DATA, Appliance
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edged import wire
from edged.host import keep_large_buffers
from edged.preprocess import Preprocess
from edged.wire import inference

PHOTO = DATA / "images" / "cat_720p.jpg"
CLIENTS = (1, 8, 64)
CLASSES = 1000
NAME = "cnn"
REGION = "bench"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (shm_overview(7): where POSIX has it on Linux)
TENSOR_BYTES = SIDE * SIDE * 3 * 4
MARKS = ("<!-- bench/serving.py writes from here -->", "<!-- to here -->")

# Sides.
EDGED, AIO, AIO_FLOAT = "edged", "grpc.aio int8", "grpc.aio float32"
INT8, FLOAT = "in-process int8", "in-process float32"
# What of it is the machine's: the same after a rest, a server that computes nothing, and a byte to
# another process and back.
RESTED, AIO_NOTHING = "in-process int8, after 5 ms of rest", "grpc.aio without an executor"
PIPE = "a byte through a pipe to another process, and one back"
REST_SECONDS = 0.005
# What is sent.
TENSOR, JPEG, SHARED = "tensor, 602 KB", "JPEG, 105 KB", "shared memory, 602 KB"
HOPS = ("receive", "queue", "channel", "decode", "device", "epilogue", "encode", "send")


@dataclass(frozen=True)
class Ask:
    """A method and the bytes of a request."""

    method: str
    payload: bytes


@dataclass
class Cell:
    """One side with one kind of request and one number of clients; seconds, a list a round."""

    rounds: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def add(self, latencies: list[float], took: float) -> None:
        self.rounds.append(latencies)
        self.rates.append(len(latencies) / took)

    def ms(self, part: float) -> float:
        return 1e3 * statistics.median(_quantile(each, part) for each in self.rounds)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


Key = tuple[str, str, int]  # side, payload, clients


@dataclass
class Results:
    cells: defaultdict[Key, Cell] = field(default_factory=lambda: defaultdict(Cell))
    hops: defaultdict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def hop(self, payload: str, name: str) -> float:
        """Median, ms."""
        return statistics.median(self.hops[payload, name] or [0.0])


def network(path: Path) -> Path:
    """float32 [1, 224, 224, 3] → [1, 1000]: 117 million multiplications in four convolutions."""
    rng = np.random.default_rng(7)
    constants: dict[str, np.ndarray] = {}
    nodes = [helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2])]
    value, channels = "planes", 3
    for number, (out, kernel, stride) in enumerate(
        ((32, 7, 4), (64, 3, 2), (128, 3, 1), (128, 3, 2))
    ):
        gain = 1 / 128 if number == 0 else 1.4
        scale = gain / np.sqrt(channels * kernel * kernel)
        shape = (out, channels, kernel, kernel)
        constants[f"kernel{number}"] = rng.normal(0, scale, shape).astype(np.float32)
        constants[f"bias{number}"] = rng.normal(0, 0.1, out).astype(np.float32)
        node = helper.make_node(
            "Conv",
            [value, f"kernel{number}", f"bias{number}"],
            [f"conv{number}"],
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
        )
        nodes += [node, helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"])]
        value, channels = f"relu{number}", out
    constants["weights"] = rng.normal(0, 0.3, (channels, CLASSES)).astype(np.float32)
    constants["offset"] = rng.normal(0, 0.1, CLASSES).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "offset"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def requests(x: np.ndarray) -> dict[str, Ask]:
    """What each payload is sent as."""
    tensor = wire.TensorProto(dtype=wire.DataType.DT_FLOAT, tensor_content=x.tobytes())
    tensor.tensor_shape.dim.extend([wire.TensorShapeProto.Dim(size=n) for n in x.shape])
    image = wire.TensorProto(dtype=wire.DataType.DT_STRING, string_val=[PHOTO.read_bytes()])
    image.tensor_shape.dim.add(size=1)
    shared = inference.ModelInferRequest(model_name=NAME)
    given = shared.inputs.add(name="images", datatype="FP32", shape=x.shape)
    given.parameters["shared_memory_region"].string_param = REGION
    given.parameters["shared_memory_byte_size"].int64_param = TENSOR_BYTES
    return {
        TENSOR: Ask(
            wire.PREDICT, wire.PredictRequest(inputs={"images": tensor}).SerializeToString()
        ),
        JPEG: Ask(wire.PREDICT, wire.PredictRequest(inputs={"images": image}).SerializeToString()),
        SHARED: Ask(inference.MODEL_INFER, shared.SerializeToString()),
    }


async def load(socket: Path, ask: Ask, clients: int, seconds: float) -> tuple[list[float], float]:
    """Latencies of *clients* that call for *seconds*, each over a connection of its own."""
    latencies: list[float] = []
    channels = [
        grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) for _ in range(clients)
    ]
    calls = [channel.unary_unary(f"/{ask.method}") for channel in channels]
    await asyncio.gather(*(call(ask.payload) for call in calls))
    began = time.perf_counter()
    stop = began + seconds

    async def client(call: Callable[[bytes], Awaitable[bytes]]) -> None:
        while (sent := time.perf_counter()) < stop:
            await call(ask.payload)
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*map(client, calls))
    took = time.perf_counter() - began
    await asyncio.gather(*(channel.close() for channel in channels))
    return latencies, took


async def split(socket: Path, ask: Ask, seconds: float) -> Iterator[dict[str, float]]:
    """Milliseconds of each hop, of the calls of one client."""
    found = []
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        method = channel.unary_unary(f"/{ask.method}")
        stop = time.perf_counter() + seconds
        while (sent := time.perf_counter()) < stop:
            call = method(ask.payload, metadata=(("edged-timing", "1"),))
            await call
            total = (time.perf_counter() - sent) * 1e3
            timing = dict(await call.trailing_metadata())["server-timing"]
            hops = {
                name: float(ms)
                for name, _, ms in (part.partition(";dur=") for part in timing.split(", "))
            }
            found.append(hops | {"send": total - sum(hops.values())})
    return iter(found)


def alone(
    run: Callable[[], object], seconds: float, rest: float = 0.0
) -> tuple[list[float], float]:
    """Latencies of one caller in this process, who rests before each call."""
    latencies = []
    run()
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        if rest:
            time.sleep(rest)
        sent = time.perf_counter()
        run()
        latencies.append(time.perf_counter() - sent)
    return latencies, time.perf_counter() - began


@contextmanager
def other_process() -> Iterator[Callable[[], object]]:
    """What sends a byte to another process and has one back."""
    script = "import os\nwhile os.read(0, 1): os.write(1, b'x')"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        there, back = process.stdin.fileno(), process.stdout.fileno()
        yield lambda: (os.write(there, b"x"), os.read(back, 1))
        process.stdin.close()


def compile_model(model: Path, folder: Path) -> Path:
    """As the daemon does it, by the compiler's own command."""
    job, output = folder / "job", folder / "compiled"
    job.mkdir()
    output.mkdir()
    shutil.copy(model, job / "model.onnx")
    command = [sys.executable, "-m", "edged.compiler", str(job), "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def pack(model: Path, output: Path) -> Path:
    command = [sys.executable, "-m", "edged.cli", "pack", str(model), "--name", NAME]
    command += ["--version", "1.0.0", "--preprocess", "stretch", "-o", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return output


@contextmanager
def bare_server(socket: Path, kind: str, model: Path, compiled: Path) -> Iterator[Path]:
    script = Path(__file__).with_name("bare.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(socket), kind, str(model), str(compiled)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"the bare server ({kind}) did not start")
        yield socket
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextmanager
def appliance(folder: Path, bundle: Path) -> Iterator[Path]:
    edged = Appliance(folder)
    # As many calls as clients are to wait, and none of it is the log's doing.
    edged.set("serving", "max_queued_calls = 256")
    try:
        edged.start_emulator()
        edged.start_daemon()
        status = edged.put(bundle)
        if not status.startswith("serving"):
            raise SystemExit(status)
        yield edged.socket
    finally:
        edged.close()


@contextmanager
def shared_tensor(socket: Path, x: np.ndarray) -> Iterator[None]:
    """*x* in a region of shared memory that edged knows as `REGION`."""
    key = f"edged-bench-{secrets.token_hex(8)}"
    path = _SHARED_MEMORY / key
    try:
        with path.open("w+b") as file:
            file.truncate(TENSOR_BYTES)
            with mmap.mmap(file.fileno(), TENSOR_BYTES) as memory:
                memory[:] = x.tobytes()
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            request = inference.SystemSharedMemoryRegisterRequest(
                name=REGION, key=f"/{key}", byte_size=TENSOR_BYTES
            )
            channel.unary_unary(f"/{inference.SHARED_MEMORY_REGISTER}")(
                request.SerializeToString(), timeout=30
            )
        yield
    finally:
        path.unlink(missing_ok=True)


def measure(
    sockets: Mapping[str, Path],
    bares: Mapping[str, Bare],
    rounds: int,
    seconds: float,
    progress: Callable[[], None],
) -> Results:
    """All cells, in turn, *rounds* times."""
    results = Results()
    x = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.float32)
    data = PHOTO.read_bytes()
    spec = Preprocess("images", SIDE, SIDE)
    asks = requests(x)
    with shared_tensor(sockets[EDGED], x), other_process() as ping:
        for _ in range(rounds):
            results.cells[PIPE, TENSOR, 1].add(*alone(ping, seconds / 4))
            cold = alone(lambda: bares[INT8].tensor(x), seconds, REST_SECONDS)
            results.cells[RESTED, TENSOR, 1].add(*cold)
            for payload, ask in asks.items():
                for name, bare in bares.items():
                    if payload != SHARED:
                        run = (
                            (lambda b=bare: b.tensor(x))
                            if payload == TENSOR
                            else (lambda b=bare: photo(b, data, spec))
                        )
                        results.cells[name, payload, 1].add(*alone(run, seconds))
                for name, socket in sockets.items():
                    if (payload == SHARED and name != EDGED) or (
                        payload != TENSOR and name == AIO_NOTHING
                    ):
                        continue
                    for clients in CLIENTS:
                        found = asyncio.run(load(socket, ask, clients, seconds))
                        results.cells[name, payload, clients].add(*found)
                for hops in asyncio.run(split(sockets[EDGED], ask, seconds)):
                    for hop, ms in hops.items():
                        results.hops[payload, hop].append(ms)
            progress()
    return results


# What is said of it.


@dataclass(frozen=True)
class Aim:
    what: str
    wanted: str
    found: float
    met: bool

    @property
    def word(self) -> str:
        return "yes" if self.met else "no"


def aims(results: Results) -> list[Aim]:
    cells = results.cells
    bare, edged = cells[INT8, TENSOR, 1], cells[EDGED, TENSOR, 1]
    p50, p99 = edged.ms(0.5) / bare.ms(0.5), edged.ms(0.99) / bare.ms(0.99)
    rate = cells[EDGED, TENSOR, 8].rate / bare.rate
    hop = results.hop(TENSOR, "channel")
    return [
        Aim("p50 over the bare executor, tensor, 1 client", "≤ 1.25", p50, p50 <= 1.25),
        Aim("p99 over the bare executor, tensor, 1 client", "≤ 1.6", p99, p99 <= 1.6),
        Aim("calls/s over the bare executor, tensor, 8 clients", "≥ 0.95", rate, rate >= 0.95),
        Aim("hop into the container and back, tensor, p50, ms", "≤ 0.15", hop, hop <= 0.15),
    ]


def tables(results: Results) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Each by its title: heads and rows."""
    cells = results.cells
    found = {
        "Aims": (
            ("", "aim", "found", "met"),
            [(aim.what, aim.wanted, f"{aim.found:.2f}", aim.word) for aim in aims(results)],
        )
    }
    floors = [(side, cells[side, TENSOR, 1]) for side in (PIPE, AIO_NOTHING, RESTED, INT8)]
    found["The machine, in this run"] = (
        ("tensor, 602 KB, one client", "p50, ms", "p99, ms"),
        [(side, f"{cell.ms(0.5):.2f}", f"{cell.ms(0.99):.2f}") for side, cell in floors],
    )
    for payload in (TENSOR, JPEG, SHARED):
        rows = []
        for side in (INT8, EDGED, AIO, FLOAT, AIO_FLOAT):
            for clients in CLIENTS:
                if (side, payload, clients) not in results.cells:
                    continue
                cell = results.cells[side, payload, clients]
                # In a process of its own there is nothing to share memory with.
                like = TENSOR if payload == SHARED else payload
                base = results.cells.get((FLOAT if "float" in side else INT8, like, 1))
                over = f"{cell.ms(0.5) / base.ms(0.5):.2f}" if base and clients == 1 else ""
                rates = f"{cell.rate / base.rate:.2f}" if base else ""
                rows.append(
                    (
                        side,
                        str(clients),
                        f"{cell.ms(0.5):.2f}",
                        f"{cell.ms(0.99):.2f}",
                        over,
                        f"{cell.rate:.0f}",
                        rates,
                    )
                )
        heads = ("", "clients", "p50, ms", "p99, ms", "p50 over bare", "calls/s", "over bare")
        found[payload[0].upper() + payload[1:]] = (heads, rows)
    found["Where one client's call spends its time, p50 in ms"] = (
        ("", *HOPS),
        [
            (payload, *(f"{results.hop(payload, hop):.2f}" for hop in HOPS))
            for payload in (TENSOR, JPEG, SHARED)
        ],
    )
    return found


def as_json(results: Results, options: argparse.Namespace) -> dict[str, object]:
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "cells": [
            {
                "side": side,
                "payload": payload,
                "clients": clients,
                "p50_ms": round(cell.ms(0.5), 3),
                "p99_ms": round(cell.ms(0.99), 3),
                "calls_per_second": round(cell.rate, 1),
                "rounds_p50_ms": [round(_quantile(each, 0.5) * 1e3, 3) for each in cell.rounds],
            }
            for (side, payload, clients), cell in results.cells.items()
        ],
        "hops_p50_ms": {
            payload: {hop: round(results.hop(payload, hop), 3) for hop in HOPS}
            for payload in (TENSOR, JPEG, SHARED)
        },
        "aims": [
            {"what": aim.what, "wanted": aim.wanted, "found": round(aim.found, 3), "met": aim.met}
            for aim in aims(results)
        ],
    }


def plot(results: Results, output: Path) -> None:
    """p50 and p99 by clients, and the hops."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(14, 4.2))
    for axes, payload in ((left, TENSOR), (middle, JPEG)):
        for side, colour in ((EDGED, "tab:blue"), (AIO, "tab:orange"), (AIO_FLOAT, "tab:gray")):
            cells = [results.cells[side, payload, clients] for clients in CLIENTS]
            positions = range(len(CLIENTS))
            axes.plot(positions, [c.ms(0.5) for c in cells], "o-", color=colour, label=side)
            axes.plot(positions, [c.ms(0.99) for c in cells], "x:", color=colour)
        bare = results.cells[INT8, payload, 1]
        axes.axhline(bare.ms(0.5), color="black", lw=0.8, label=INT8)
        axes.set(
            title=payload, xlabel="clients", ylabel="ms: p50 (line), p99 (dotted)", yscale="log"
        )
        axes.set_xticks(list(positions), [str(clients) for clients in CLIENTS])
    left.legend(fontsize=8)
    names = (TENSOR, JPEG, SHARED)
    bottom = np.zeros(len(names))
    for hop in HOPS:
        values = np.array([results.hop(payload, hop) for payload in names])
        right.barh(range(len(names)), values, left=bottom, label=hop)
        bottom += values
    right.set_yticks(range(len(names)), [name.split(",")[0] for name in names])
    right.set(title="one client's call through edged, ms (p50 of each hop)")
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(output, dpi=110)


def markdown(results: Results, options: argparse.Namespace) -> str:
    text = (
        f"{os.cpu_count()} CPUs, {options.rounds} rounds of {options.seconds:g} s for each side;"
        f" {time.strftime('%Y-%m-%d')}.\n"
    )
    for title, (heads, rows) in tables(results).items():
        text += f"\n### {title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
        text += "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return text


def write(page: Path, results: Results, options: argparse.Namespace) -> None:
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    picture = page.with_suffix(".png")
    plot(results, picture)
    text = f"\n\n{markdown(results, options)}\n![latencies and hops]({picture.name})\n\n"
    page.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{after}")
    found = json.dumps(as_json(results, options), indent=1, ensure_ascii=False)
    page.with_suffix(".json").write_text(found + "\n")


def show(results: Results, console: Console) -> None:
    for title, (heads, rows) in tables(results).items():
        table = Table(*heads, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each side in each round")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="whose tables to replace")
    options = parser.parse_args()
    keep_large_buffers()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        model = network(folder / f"{NAME}.onnx")
        compiled = compile_model(model, folder)
        bundle = pack(model, folder / f"{NAME}-1.0.0.edgemodel")
        bares = {INT8: make("int8", model, compiled), FLOAT: make("float", model, compiled)}
        sockets = {EDGED: stack.enter_context(appliance(folder, bundle))}
        for side, kind in ((AIO, "int8"), (AIO_FLOAT, "float"), (AIO_NOTHING, "none")):
            socket = folder / f"{kind}.sock"
            sockets[side] = stack.enter_context(bare_server(socket, kind, model, compiled))
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=options.rounds)
            results = measure(
                sockets, bares, options.rounds, options.seconds, lambda: progress.advance(task)
            )
    show(results, console)
    if options.write is not None:
        write(options.write, results, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
