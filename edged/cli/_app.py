"""The command, made of its groups, and the one place where errors become an exit status."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from edged import __version__
from edged.cli._help import Command, Commands
from edged.errors import EdgedError

__all__ = ["main"]

_EPILOGUE = (
    "Exit status: 0 done · 2 wrong usage · 65 bad input · 66 not found · 69 beyond a limit · "
    "74 state or device · 75 try again later · 77 not let in · 78 configuration."
)

_COMMANDS: Final = {
    "pack": ("_bundle", "Pack an ONNX model into a bundle that edged loads."),
    "inspect": (
        "_inspect",
        "Show what a bundle says of its model, after checking all of it, and how it would run.",
    ),
    "verify": (
        "_bundle",
        "Check bundles as edged does before it loads one: archive, digests, sizes, manifest.",
    ),
    "score": (
        "_score",
        "Have photographs scored by the model that a server has loaded, one call each.",
    ),
    "zoo": (
        "_zoo",
        "Make a classic network, as a bundle or an ONNX file; without a name, list them.",
    ),
    "compile": (
        "_compile",
        "Compile a model as edged does when it is dropped, and say what became of each operator.",
    ),
    "evaluate": (
        "_evaluate",
        "Say what eight bits cost a model: its float answers beside the device's, example by"
        " example.",
    ),
    "convert": ("_convert", "Convert a TensorFlow model into a bundle."),
    "featurize": (
        "_transfer",
        "Compute the features of photographs with a bundle's network, for a classifier of one's"
        " own.",
    ),
    "head": (
        "_transfer",
        "Train a classifier on features, and pack it with the network that they are from.",
    ),
    "push": (
        "_push",
        "Copy a model into the drop folder, and follow it until it serves or is rejected.",
    ),
    "status": (
        "_status",
        "Show on one screen what edged is doing, what is wrong, and what to do about it.",
    ),
    "top": (
        "_top",
        "Show the calls of the last ten seconds, anew every second, until interrupted.",
    ),
    "models": ("_manage", "List the models in the store: loaded, available, set aside and why."),
    "activate": (
        "_manage",
        "Make a model in the store serve: pinned or not, older or newer, set aside or not.",
    ),
    "rollback": ("_manage", "Make the model serve that did before the present one."),
    "cancel": (
        "_manage",
        "Call off what is on its way into the slot; what serves goes on serving.",
    ),
    "pin": ("_manage", "Have what serves stay: what is dropped is stored, and not activated."),
    "unpin": ("_manage", "Have what is dropped serve again."),
    "remove": ("_manage", "Remove a model from the store. One that is in use is not removed."),
    "history": (
        "_manage",
        "Show which model began to serve when, who wanted it, and how long calls were held.",
    ),
    "device": ("_device", "Show the device: its health, its banks, its resets."),
    "logs": (
        "_logs",
        "Show the log, with an explanation of each message that has one (journalctl -x).",
    ),
    "doctor": (
        "_doctor",
        "Look for the usual troubles: configuration, daemon, device, folders, disk, sandbox,"
        " ports.",
    ),
    "config": ("_config", "Show what the configuration says, and check whether it can be used."),
    "token": ("_token", "Make, list and revoke the bearer tokens that clients call with."),
}
"""Each command, its module and its first words of help, in the order of ``--help``.

The module has a function of the name of the command (or a Typer application, for a group of
commands) and perhaps ``NAME_EXAMPLES``. The words stand there as well; with them here a list of
commands needs no module.
"""

_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """Imports the module of a command once that is asked for: few need the libraries of others.

    Contexts and commands are click's, or those of the copy of click that newer Typers bring along.
    """

    _only_words = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        place, words = _COMMANDS[cmd_name]
        if self._only_words:
            return Command(cmd_name, help=words)
        module = importlib.import_module(f"edged.cli.{place}")
        found = getattr(module, cmd_name)
        if not isinstance(found, typer.Typer):
            function = found
            found = Commands(context_settings=_SETTINGS)
            epilog = getattr(module, f"{cmd_name.upper()}_EXAMPLES", None)
            found.command(cmd_name, epilog=epilog)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._listing():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        with self._listing():
            return super().shell_complete(ctx, incomplete)

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        """While only names and first words of commands are wanted."""
        self._only_words = True
        try:
            yield
        finally:
            self._only_words = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
        if args[0] not in _COMMANDS and close:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="edgectl",
    cls=_Commands,
    help="Make and check bundles, say which of them serves, and ask the model that does.",
    epilog=_EPILOGUE,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edgectl {__version__}")  # noqa: T201  (it is a command)
        raise typer.Exit


@app.callback()
def edgectl(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """Make and check bundles, say which of them serves, and ask the model that does."""


def main() -> None:
    """Run ``edgectl``; errors go to standard error, and their class gives the exit status."""
    try:
        app(prog_name="edgectl")
    except EdgedError as error:
        print(f"edgectl: {error}", file=sys.stderr)  # noqa: T201  (it is a command)
        sys.exit(error.exit_status)
