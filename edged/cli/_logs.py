"""``edgectl logs``: what edged and its parts wrote into the journal."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from edged.errors import NotFoundError

LOGS_EXAMPLES = "edgectl logs -f · edgectl logs --since '1 hour ago' · edgectl logs -n 20 --json"

_UNITS: Final = ("edged.service", "edged-emulator.service", "edged-container@*.service")


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many, the newest.", min=1)] = 200,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="As journalctl(1) takes it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show the log, with an explanation of each message that has one (journalctl -x)."""
    words = ["journalctl", "--catalog", f"--lines={lines}"]
    words += [f"--unit={unit}" for unit in _UNITS]
    words += ["--follow"] if follow else []
    words += [f"--since={since}"] if since else []
    words += ["--output=json"] if as_json else []
    try:
        os.execvp(words[0], words)  # noqa: S606  (it is to take the place of this command)
    except OSError as error:
        raise NotFoundError(
            f"cannot show the log: journalctl: {error.strerror}; without systemd, edged logs to its"
            " standard error"
        ) from error
