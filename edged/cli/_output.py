"""What all commands print with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edged.management import Swap

__all__ = ["held", "moment", "print_json", "print_table", "stderr", "stdout"]

_ANY_WIDTH: Final = 10_000


def stdout() -> Console:
    """Results: whole lines, whatever the width, since they may go into a pipe."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Progress and remarks."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A row a line; only in a terminal is what is too long for one continued on the next."""
    console = stdout()
    table = Table(*titles, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*map(escape, row))
    if not console.is_terminal:
        console.width = _ANY_WIDTH
    console.print(table)


def print_json(value: Any) -> None:
    """*value* on standard output, for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201  (it is a command)


def moment(seconds: float) -> str:
    """A time since 1970, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def held(swap: Swap) -> str:
    """For how long calls were."""
    seconds = swap.gate_closed_seconds
    return "–" if seconds is None else f"{seconds * 1000:.0f} ms"
