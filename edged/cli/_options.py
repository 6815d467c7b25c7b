"""Options that several commands have, so that they are the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ConfigOption", "JsonOption", "SocketOption"]

SocketOption = Annotated[
    Path | None,
    # Who may use it is found out by using it, and said better then.
    typer.Option("--socket", metavar="PATH", readable=False, help="The daemon's control socket."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The daemon's configuration."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
