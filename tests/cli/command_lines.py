"""Command lines, as help and documents show them, given to the real commands' parsers."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import typer

from edged.cli import _app

__all__ = ["parse"]


@cache
def _root() -> Any:
    return typer.main.get_command(_app.app)


def parse(line: str, *, whole: bool = True) -> None:
    """Parse a line that begins with ``edgectl`` as the shell and edgectl would; nothing is run.

    Args:
        whole: whether it could be typed so. Else it is what prose says, such as `edgectl pack
            --alias`: the commands and options have to exist, and what they want may be missing.

    Raises:
        AssertionError: edgectl would refuse it.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("<>|&;()"):
            break
        words.append(word)
    assert words[0] == "edgectl", line
    command, given = _root(), words[1:]
    context = type(command).context_class(command, info_name="edgectl")
    while given and hasattr(command, "get_command") and not given[0].startswith("-"):
        command = command.get_command(context, given[0])
        assert command is not None, f"cannot run {line}: there is no command {given[0]!r}"
        given = given[1:]
    try:
        if whole:
            command.make_context("edgectl", list(given), resilient_parsing=False).close()
        else:
            _check_options(command, line)
    except Exception as error:
        # Usage errors are click's, or those of the copy of it that Typer brings along.
        said = getattr(error, "message", None) or str(error)
        if said.endswith("does not exist."):
            return  # a file, which whoever types it has
        raise AssertionError(f"cannot run {line}: {said}") from error


def _check_options(command: Any, line: str) -> None:
    known = {name for parameter in command.params for name in (*parameter.opts, "--help", "-h")}
    for option in re.findall(r"(?<!\S)\[?(-[-a-z]+)", line):
        assert option in known, f"cannot run {line}: there is no option {option}"
