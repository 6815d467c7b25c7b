"""What every command has, whoever wrote it: the whole table, and no processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import edged
from edged.cli._app import _COMMANDS, app
from edged.errors import UnavailableError

ROOT: Any = typer.main.get_command(app)


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    context = ROOT.make_context("edgectl", [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, *path, name)
            if not command.invoke_without_command:
                continue
        yield (*path, name), command


ALL = dict(commands(ROOT))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_each_can_speak_json_and_explains_itself(path: tuple[str, ...]) -> None:
    command = ALL[path]
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options
    assert command.help and command.help.splitlines()[0].endswith(".")
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} says nothing"


def test_a_list_of_commands_says_what_each_says_of_itself_and_imports_none() -> None:
    context = ROOT.make_context("edgectl", [], resilient_parsing=True)
    for name, (_, words) in _COMMANDS.items():
        assert ROOT.get_command(context, name).help.partition("\n")[0] == words
    program = "import sys; from edged.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    listed = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=False
    )
    assert "Check bundles as edged does" in listed.stdout
    assert not {"numpy", "grpc", "onnx"} & set(listed.stdout.split())


ASKING = [
    ["status"],
    ["status", "--watch"],
    ["models"],
    ["activate", "a"],
    ["rollback"],
    ["cancel"],
    ["pin"],
    ["unpin"],
    ["remove", "a@1.0.0"],
    ["history"],
    ["device"],
]


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_without_a_daemon_each_says_where_it_looked_and_what_to_do(
    words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    done = CliRunner().invoke(app, [words[0], "--socket", str(path), *words[1:]])
    assert isinstance(done.exception, UnavailableError)
    assert str(done.exception).startswith(f"cannot reach edged at {path}: is it running? ")
    assert "systemctl status edged" in str(done.exception)
    assert not done.stdout


@pytest.mark.parametrize("module", ["edged", "edged.cli", "edged.card_app", "edged.emulator"])
def test_every_command_tells_its_version(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
    )
    name, version = done.stdout.split()
    assert name.startswith("edge") and version == edged.__version__
