"""What all commands print with."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

__all__ = ["print_json", "stderr", "stdout"]


def stdout() -> Console:
    """Results: whole lines, whatever the width, since they may go into a pipe."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Progress and remarks."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """*value* on standard output, for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201  (it is a command)
