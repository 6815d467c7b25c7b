"""docs/slot.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from edged.slot import Event, State
from edged.slot._picture import redrawn

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slot.md").read_text()


def test_the_picture_is_that_of_the_table() -> None:
    assert redrawn(PAGE) == PAGE, "run `make docs`"


def test_every_state_and_event_is_explained() -> None:
    for thing in (*State, *Event):
        assert re.search(rf"^\| {thing.value} \| [A-Z].*\. \|$", PAGE, re.MULTILINE), thing


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE)
    assert len(named) >= 7
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
