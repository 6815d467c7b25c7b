"""Options that several commands have, so that they are the same in each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edged.errors import InputError

__all__ = ["ConfigOption", "JsonOption", "SocketOption", "shapes"]

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


def shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """What --shape says, by the input's name; "" stands for the only input.

    Raises:
        InputError: it is no shape, or an input has two.
    """
    from edged._onnxshapes import parse_shape  # Heavy, and only wanted where a model is read.

    found: dict[str, tuple[int, ...]] = {}
    for name, shape in map(parse_shape, texts or ()):
        if found.setdefault(name, shape) != shape:
            raise InputError(f"cannot use --shape: input {name!r} has two")
    return found
