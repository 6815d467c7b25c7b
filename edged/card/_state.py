"""What became of the search for a card: a small file that the daemon reads."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Final

import msgspec

from edged.nesting import NestingError, check_nesting

__all__ = ["Condition", "State", "read_state", "write_state"]

_MAX_BYTES: Final = 1 << 16


class Condition(enum.StrEnum):
    """How things stand."""

    NONE = "none"
    """No card is there that could be ours."""
    OPENING = "opening"
    SERVED = "served"
    """The card answers on the socket."""
    PROBLEM = "problem"
    """There is a card, or the configuration wants one, and it cannot be used."""
    STOPPED = "stopped"
    """``edged-card`` ended."""


class State(msgspec.Struct, frozen=True):
    """How things stand.

    Attributes:
        card: what is used or was tried, as a person reads it; empty with none.
        problem: why there is none to use, in a sentence; empty when there is.
    """

    condition: Condition
    card: str = ""
    problem: str = ""


def read_state(path: Path) -> State | None:
    """What was said last; None if nobody ever did, or nobody can understand it."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES)
        check_nesting(text)
        return msgspec.json.decode(text, type=State)
    except (OSError, msgspec.DecodeError, NestingError):
        return None


def write_state(path: Path, state: State) -> None:
    """Say it, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(msgspec.json.encode(state))
    draft.chmod(0o644)
    draft.replace(path)
