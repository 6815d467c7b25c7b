"""Help says what to type: rendered, it has every word of the source, and its examples parse."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import typer
from cli import command_lines
from typer.testing import CliRunner

from edged.cli import _app, _help

ROOT: Any = typer.main.get_command(_app.app)


@dataclass(frozen=True)
class Command:
    """A command, and the words that lead to it."""

    path: tuple[str, ...]
    click: Any

    def __str__(self) -> str:
        return " ".join(self.path)


def commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[Command]:
    if path:
        yield Command(path, command)
    context = type(command).context_class(command, info_name="edgectl")
    names = command.list_commands(context) if hasattr(command, "list_commands") else ()
    for name in names:
        yield from commands(command.get_command(context, name), (*path, name))


ALL = list(commands())


@cache
def rendered(path: tuple[str, ...]) -> str:
    """The help, so wide that no text is broken within its column."""
    done = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1"}).invoke(_app.app, [*path, "--help"])
    assert done.exit_code == 0, done.output
    return str(done.output)


def sources(command: Any) -> list[str]:
    """What the source says: docstring, the help of each parameter, examples."""
    function = command.callback
    if function is None:
        return []
    function = inspect.unwrap(function)
    texts = [inspect.getdoc(function) or "", *getattr(command, "examples", ())]
    for hint in typing.get_type_hints(function, include_extras=True).values():
        texts += [given.help for given in getattr(hint, "__metadata__", ()) if given.help]
    return texts


@pytest.mark.parametrize("command", ALL, ids=str)
def test_help_has_every_text_of_the_source_whole(command: Command) -> None:
    shown = "".join(rendered(command.path).split())
    for text in sources(command.click):
        assert "".join(text.split()) in shown, text


@pytest.mark.parametrize("command", ALL, ids=str)
def test_each_example_is_a_line_of_the_help_and_parses(command: Command) -> None:
    examples = getattr(command.click, "examples", [])
    lines = [line.strip() for line in rendered(command.path).splitlines()]
    for example in examples:
        assert example in lines
        command_lines.parse(example)


@pytest.mark.parametrize("command", ALL, ids=str)
def test_the_commands_that_the_text_names_are_there(command: Command) -> None:
    for text in sources(command.click):
        for line in re.findall(r"`(edgectl[^`]*)`", text):
            command_lines.parse(line, whole=False)


def test_brackets_are_no_markup() -> None:
    """The mechanism by itself: brackets in docstring, option and example."""
    app = _help.Commands(help="A [group] of them.")

    @app.callback()
    def group() -> None: ...

    @app.command("one", epilog="pip install '.[train]' · tool one --size 'x[1,2]'")
    def one(
        size: typing.Annotated[str, typer.Option(help="A [size], or [red] one.")] = "[1,2]",
    ) -> None:
        """Do it [now].

        Then pip install '.[train]'.
        """

    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert "A [group] of them." in runner.invoke(app, ["--help"]).output
    listed = runner.invoke(app, ["--help"]).output
    shown = runner.invoke(app, ["one", "--help"]).output
    assert "Do it [now]." in listed
    for words in ("Do it [now].", "Then pip install '.[train]'.", "A [size], or [red] one."):
        assert words in shown
    assert "   tool one --size 'x[1,2]'\n" in shown


@pytest.mark.parametrize("module", ["edged.__main__", "edged.card_app", "edged.emulator.__main__"])
def test_the_help_of_the_daemons_can_be_printed(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(["--help"])
    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_what_is_no_command_line_is_found_out() -> None:
    for line in (
        "edgectl bogus",
        "edgectl config check --colour red",
        "edgectl pack model.onnx",
        "edgectl activate",
        "edgectl verify",
    ):
        with pytest.raises(AssertionError, match=re.escape(shlex.join(shlex.split(line)))):
            command_lines.parse(line)
