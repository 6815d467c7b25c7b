"""``edgectl compile``."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edged import bundle
from edged._onnxfile import read_onnx_bytes
from edged.bundle import FileName
from edged.cli._bundle import verified
from edged.cli._options import shapes
from edged.cli._output import print_json, print_table, stderr, stdout
from edged.errors import InputError, NotFoundError
from edged.npu import EMULATED, Target

if TYPE_CHECKING:
    from edged.compiler import CompiledModel, HostRow, LayerRow, Report, Samples

COMPILE_EXAMPLES = (
    "edgectl compile resnet-50-1.0.0.edgemodel --report · "
    "edgectl compile model.onnx --calibration inputs.npz --report --json · "
    "edgectl compile model.onnx -o compiled/"
)
_MAX_CALIBRATION_BYTES: Final = 1 << 30
_NAME_LENGTH: Final = 64


def compile(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A bundle, or a float ONNX model.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A folder for the program and the host's parts; nothing is written without it.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Typical inputs, arrays by input name; by default those of the bundle.",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1,3,480,640",
            help="Sizes of an input that an ONNX model leaves open; repeat it.",
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Show every layer, and measure its error.")
    ] = False,
    measured: Annotated[
        int, typer.Option(min=1, max=64, help="With --report: on how many samples.")
    ] = 2,
    target: Annotated[
        str,
        typer.Option(
            metavar="TIxTOxTP,BYTES,BYTES",
            help="MAC array, and bytes of the activation and weight buffers.",
        ),
    ] = str(EMULATED),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Compile a model as edged does when it is dropped, and say what became of each operator."""
    if output is not None and not output.is_dir():
        raise InputError(f"cannot write to {output}: wanted a folder that exists")
    # Heavy, and only wanted here.
    from edged.compiler import compile_model

    begin = time.monotonic()
    with _source(model) as (source, packed, declared), _progress() as progress:
        task = progress.add_task("reading the model", total=1.0)
        made = compile_model(
            read_onnx_bytes(source),
            shapes=declared | shapes(shape),
            calibration=_samples(calibration or packed),
            progress=lambda done, step: progress.update(task, completed=done, description=step),
            measured=measured if report else 0,
            target=_target(target),
        )
    if output is not None:
        _write(made, output)
    seconds = time.monotonic() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if as_json:
        facts = {"model": str(model), "seconds": round(seconds, 3), "peak_memory_bytes": peak}
        print_json(facts | _json(made, report))
        return
    if report:
        _tables(made.report)
    _summary(made.report, seconds, peak)


@contextmanager
def _source(model: Path) -> Iterator[tuple[Path, Path | None, dict[str, tuple[int, ...]]]]:
    """The ONNX file, the samples that come with it, and the shapes that its bundle declares."""
    if model.suffix.lower() == ".onnx":
        yield model, None, {}
        return
    if not model.exists():
        raise NotFoundError(f"cannot compile {model}: there is no such file")
    with verified(model) as found:
        samples = found.folder / FileName.CALIBRATION
        given = samples if samples.exists() else None
        yield found.folder / FileName.MODEL, given, found.manifest.shapes


def _target(text: str) -> Target:
    try:
        return Target.parse(text)
    except ValueError as error:
        raise InputError(f"cannot take --target: {error}") from error


def _samples(path: Path | None) -> Samples | None:
    if path is None:
        return None
    if path.suffix != ".npz":
        raise InputError(
            f"cannot calibrate with {path}: wanted an .npz of arrays by input name; for"
            " photographs, pack a bundle with --calibration and compile that"
        )
    return bundle.read_arrays(path, max_bytes=_MAX_CALIBRATION_BYTES)


def _write(made: CompiledModel, output: Path) -> None:
    """All files or none: what fails has failed before the first takes its place."""
    try:
        with tempfile.TemporaryDirectory(prefix=".edgectl-", dir=output) as folder:
            made.write(Path(folder))
            for file in Path(folder).iterdir():
                file.replace(output / file.name)
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error.strerror}") from error


def _json(made: CompiledModel, report: bool) -> dict[str, object]:
    facts: dict[str, object] = json.loads(made.report.json())
    if not report:
        del facts["layers"], facts["host"]
    return facts


def _tables(report: Report) -> None:
    several = any(row.entry for row in report.layers)
    # Each part of the host, and the entry of the program behind it.
    placed = [
        *((row.part, 0, _host_row(row)) for row in report.host),
        *((row.entry, 1, _layer_row(row, several)) for row in report.layers),
    ]
    rows = [row for _, _, row in sorted(placed, key=lambda each: each[:2])]
    print_table(
        (
            *("LAYER", "OPERATOR", "WHERE", "OUTPUT", "MMACS", "WEIGHTS", "ACTIVATIONS"),
            *("EXPONENTS", "ERROR", "CYCLES", "ARRAY", "TRAFFIC", "BOUND", "WHY THERE"),
        ),
        rows,
    )
    stdout().print()


def _layer_row(row: LayerRow, several: bool) -> tuple[str, ...]:
    exponents = f"{row.exponent}" if row.finest is None else f"{row.finest}…{row.exponent}"
    if row.weight_exponents is not None:
        low, high = row.weight_exponents
        exponents += f", weights {low}" + (f"…{high}" if high > low else "")
    remark = ""
    if row.coarser_channels:
        remark = f"{row.coarser_channels} channels coarser, so that sums stay below the bound"
    if row.wide is not None:
        remark = f"16 bits: in 8 it brings {row.wide:.0%} of the outputs' squared error"
    elif row.dtype == "S16":
        remark = "16 bits: it goes to the host and back, where 8 lost too much"
    return (
        _abridged(row.name),
        row.op.lower(),
        f"device ({row.entry})" if several else "device",
        f"{row.dtype.lower()} {'x'.join(map(str, row.shape))}",
        _millions(row.macs),
        _bytes(row.weight_bytes),
        _bytes(row.activation_bytes),
        exponents,
        "–" if row.error is None else f"{row.error:.2%}",
        f"{row.cycles}" if row.cycles else "–",
        f"{row.array_cycles / row.cycles:.0%}" if row.cycles and row.array_cycles else "–",
        _bytes(row.dram_traffic or 0),
        row.bound or "–",
        remark,
    )


def _host_row(row: HostRow) -> tuple[str, ...]:
    shape = "?" if row.shape is None else "x".join(map(str, row.shape[1:]))
    return (
        _abridged(row.name),
        row.op,
        f"host ({row.where})",
        shape,
        "not known" if row.macs is None else _millions(row.macs),
        _bytes(row.weight_bytes),
        *("–",) * 7,
        row.reason,
    )


def _summary(report: Report, seconds: float, peak: int) -> None:
    total = report.macs + report.host_macs
    share = report.macs / total if total else 1.0
    unknown = Counter(row.op for row in report.host if row.macs is None)
    besides = (
        f", and {', '.join(f'{op} ×{n}' for op, n in unknown.items())} whose cost is not known"
        if unknown
        else ""
    )
    atmost = "at most " if unknown else ""
    samples = f"{report.samples} samples" if report.calibration == "samples" else "synthetic inputs"
    saved = report.activations_total_bytes / max(report.activations_bytes, 1)
    for key, value in (
        (
            "device",
            f"{len(report.layers)} layers, {_millions(report.macs)} MMACs, {atmost}{share:.1%}",
        ),
        ("host", f"{len(report.host)} operators, {_millions(report.host_macs)} MMACs{besides}"),
        ("weights", _bytes(report.weights_bytes)),
        (
            "activations",
            f"{_bytes(report.activations_bytes)} at the peak, "
            f"{_bytes(report.activations_total_bytes)} if none shared its place ({saved:.1f}x)",
        ),
        ("code", _code(report)),
        ("calibration", samples),
        ("compiled", f"in {seconds:.1f} s, {peak / 1e6:.0f} MB at the peak"),
    ):
        stdout().print(f"[bold]{key:12}[/bold] {escape(value)}")
    for remark in report.remarks:
        if remark.warning:
            stderr().print(escape(f"edgectl: {remark}"))


def _code(report: Report) -> str:
    if report.cycles is None:
        return "–"
    kilo = report.cycles / 1e3
    return f"{_bytes(report.code_bytes)}, {kilo:.0f} thousand cycles a run by the model"


def _abridged(name: str) -> str:
    """Exporters join names of hundreds of characters."""
    half = _NAME_LENGTH // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}" if count else "–"


def _bytes(count: int) -> str:
    if not count:
        return "–"
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count} B"


def _progress() -> Progress:
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
