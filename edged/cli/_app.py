"""The command, made of its groups, and the one place where errors become an exit status."""

from __future__ import annotations

import sys

import typer

from edged.cli import _bundle, _compile, _config, _manage, _push, _score, _transfer, _zoo
from edged.errors import EdgedError

__all__ = ["main"]

_EPILOGUE = (
    "Exit status: 0 done · 2 wrong usage · 65 bad input · 66 not found · 69 beyond a limit · "
    "74 state or device · 75 try again later · 78 configuration."
)

app = typer.Typer(
    name="edgectl",
    help="Make and check bundles, say which of them serves, and ask the model that does.",
    epilog=_EPILOGUE,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("pack", epilog=_bundle.PACK_EXAMPLES)(_bundle.pack)
app.command("inspect", epilog=_bundle.INSPECT_EXAMPLES)(_bundle.inspect)
app.command("verify", epilog=_bundle.VERIFY_EXAMPLES)(_bundle.verify)
app.command("score", epilog=_score.SCORE_EXAMPLES)(_score.score)
app.command("compile", epilog=_compile.COMPILE_EXAMPLES)(_compile.compile_)
app.command("zoo", epilog=_zoo.ZOO_EXAMPLES)(_zoo.zoo)
app.command("featurize", epilog=_transfer.FEATURIZE_EXAMPLES)(_transfer.featurize)
app.command("head", epilog=_transfer.HEAD_EXAMPLES)(_transfer.head)
app.command("push", epilog=_push.PUSH_EXAMPLES)(_push.push)
app.command("status")(_manage.status)
app.command("models")(_manage.models)
app.command("activate", epilog=_manage.ACTIVATE_EXAMPLES)(_manage.activate)
app.command("rollback")(_manage.rollback)
app.command("cancel")(_manage.cancel)
app.command("pin")(_manage.pin)
app.command("unpin")(_manage.unpin)
app.command("remove", epilog=_manage.REMOVE_EXAMPLES)(_manage.remove)
app.command("history")(_manage.history)

_configuration = typer.Typer(
    help="What the configuration says, and whether it can be used.", no_args_is_help=True
)
_configuration.command("check", epilog=_config.CHECK_EXAMPLES)(_config.check)
_configuration.command("show", epilog=_config.SHOW_EXAMPLES)(_config.show)
app.add_typer(_configuration, name="config")


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
