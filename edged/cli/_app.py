"""The command, made of its groups, and the one place where errors become an exit status."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from edged.errors import EdgedError

__all__ = ["main"]

_EPILOGUE = (
    "Exit status: 0 done · 2 wrong usage · 65 bad input · 66 not found · 69 beyond a limit · "
    "74 state or device · 75 try again later · 77 not let in · 78 configuration."
)

_COMMANDS: Final = {
    "pack": "_bundle",
    "inspect": "_bundle",
    "verify": "_bundle",
    "score": "_score",
    "zoo": "_zoo",
    "compile": "_compile",
    "convert": "_convert",
    "featurize": "_transfer",
    "head": "_transfer",
    "push": "_push",
    "status": "_status",
    "top": "_top",
    "models": "_manage",
    "activate": "_manage",
    "rollback": "_manage",
    "cancel": "_manage",
    "pin": "_manage",
    "unpin": "_manage",
    "remove": "_manage",
    "history": "_manage",
    "device": "_device",
    "logs": "_logs",
    "doctor": "_doctor",
    "config": "_config",
    "token": "_token",
}
"""Each command and its module, in the order of ``--help``. The module has a function of the name of
the command (or a Typer application, for a group of commands) and perhaps ``NAME_EXAMPLES``."""

_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """Imports the module of a command once that is asked for: few need the libraries of others.

    Contexts and commands are click's, or those of the copy of click that newer Typers bring along.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"edged.cli.{_COMMANDS[cmd_name]}")
        found = getattr(module, cmd_name)
        if not isinstance(found, typer.Typer):
            function = found
            found = typer.Typer(add_completion=False, context_settings=_SETTINGS)
            epilog = getattr(module, f"{cmd_name.upper()}_EXAMPLES", None)
            found.command(cmd_name, epilog=epilog)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command

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


@app.callback()
def edgectl() -> None:
    """Make and check bundles, say which of them serves, and ask the model that does."""


def main() -> None:
    """Run ``edgectl``; errors go to standard error, and their class gives the exit status."""
    try:
        app(prog_name="edgectl")
    except EdgedError as error:
        print(f"edgectl: {error}", file=sys.stderr)  # noqa: T201  (it is a command)
        sys.exit(error.exit_status)
