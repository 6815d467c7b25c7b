"""``edgectl evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edged.bundle import VerifiedBundle
from edged.cli import _evaluate_words as words
from edged.cli._bundle import verified
from edged.cli._output import print_json, print_table, stderr, stdout
from edged.errors import InputError

if TYPE_CHECKING:
    from edged.evaluation import Result

EVALUATE_EXAMPLES = (
    "edgectl evaluate parts-1.0.0.edgemodel photographs/ · "
    "edgectl evaluate parts-1.0.0.edgemodel photographs/ --limit 200 --html parts.html · "
    "edgectl evaluate kws-1.0.0.edgemodel inputs.npz --json"
)
_SHOWN: Final = 20
_FARTHEST: Final = 5


def evaluate(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE", help="An .edgemodel file.")],
    examples: Annotated[
        Path,
        typer.Argument(
            metavar="EXAMPLES",
            help="A folder of photographs, sorted into folders by class or not; or an .npz of "
            "arrays by input name, samples along the first dimension, with or without an array "
            "'labels' of the classes' numbers or names.",
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take at most so many, evenly spaced over all.")
    ] = None,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Compare the answers alone, whatever is right.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which output, or its alias, has the classes, if there are several.",
        ),
    ] = None,
    agree: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0,
            max=100,
            help="End with status 65 where the device gives less than so many per cent of float's "
            "answers: the same class first, the same boxes.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Write a page with pictures of the examples that differ."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what eight bits cost a model: its float answers beside the device's, example by example.

    The bundle is compiled as edged does when it is dropped. No daemon and no device is needed: the
    program is run in this process, to the bit as a device runs it.
    """
    from edged import evaluation  # brings the compiler along, which other commands do without

    if html is not None and not html.absolute().parent.is_dir():
        raise InputError(f"cannot write {html}: wanted a file in a folder that exists")
    with verified(source) as found, _progress() as progress:
        labels = found.labels
        chosen = evaluation.load_examples(
            examples, found.manifest, labels, labelled=not no_labels, limit=limit
        )
        task = progress.add_task("compiling", total=100)
        evaluator = evaluation.Evaluator(
            found,
            output=output,
            progress=lambda done, step: progress.update(
                task, completed=int(100 * done), description=step
            ),
        )
        progress.update(task, completed=0, total=len(chosen), description="evaluating")
        result = evaluator.run(chosen, lambda: progress.advance(task))
        if html is not None:
            from edged.cli._evaluate_page import write_page

            progress.update(task, description="drawing")
            write_page(html, _title(found), words.facts(evaluator, chosen), result, chosen, labels)
    for remark in evaluator.compiled.report.remarks:
        if remark.warning:
            stderr().print(escape(f"edgectl: {remark}"))
    if as_json:
        about = {
            "bundle": str(source),
            "model": str(found.manifest),
            "digest": str(found.digest),
            "program": evaluator.compiled.image.digest.hex(),
            "source": str(examples),
        }
        print_json(about | result.json())
    else:
        _show(result, labels, words.facts(evaluator, chosen), found)
    if agree is not None:
        _check(result, agree, found)


def _check(result: Result, agree: float, found: VerifiedBundle) -> None:
    agreement = result.agreement()
    if agreement is None:
        raise InputError(
            f"cannot check that the answers of {found.manifest} agree: it gives neither classes nor"
            " boxes; leave --agree out, or name the output that has the classes with --output"
        )
    if 100 * agreement < agree:
        raise InputError(
            f"cannot accept {found.manifest}: {words.percent(agreement)} of the device's answers"
            f" are float's, wanted {agree:g} %; calibrate with more typical inputs, or see which"
            " differ with --html"
        )


def _title(found: VerifiedBundle) -> str:
    return str(found.manifest)


def _show(
    result: Result, labels: Sequence[str], about: dict[str, str], found: VerifiedBundle
) -> None:
    console = stdout()
    console.print(f"[bold]{escape(_title(found))}[/bold]")
    _print_facts(about)
    if rows := words.accuracies(result):
        console.print()
        print_table(("", "FLOAT", "DEVICE"), rows)
    if same := words.agreements(result):
        console.print()
        _print_facts(same)
    console.print()
    print_table(words.OUTPUT_TITLES, words.output_rows(result))
    if result.classifies and result.labelled and (wrong := words.confusions(result, labels)):
        console.print()
        print_table(("LABEL", "TAKEN FOR", "FLOAT", "DEVICE"), wrong)
    if not (result.classifies or result.detects) and len(result.compared) > 1:
        console.print()
        print_table(
            ("FARTHEST", "ERROR"),
            [(each.name, words.number(each.distance)) for each in result.farthest()[:_FARTHEST]],
        )
    if differing := result.differing:
        console.print()
        print_table(
            ("DIFFERS", "LABEL", "FLOAT", "DEVICE"),
            [
                (each.name, words.class_name(each.label, labels), *words.answers(each, labels))
                for each in differing[:_SHOWN]
            ],
        )
    if len(differing) > _SHOWN:
        console.print(f"and {len(differing) - _SHOWN} more: --json has all of them")


def _print_facts(found: dict[str, str]) -> None:
    width = max(map(len, found), default=0)
    for key, value in found.items():
        stdout().print(f"[bold]{escape(key):{width}}[/bold]  {escape(value)}")


def _progress() -> Progress:
    console = stderr()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
