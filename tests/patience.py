"""How long a test waits for what is to come, and how it waits.

The bound only keeps a test that fails from hanging for ever. It measures nothing: what a test waits
for comes by itself, and a machine that is busy with other work takes as long as it takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

__all__ = ["PATIENCE", "eventually", "until"]

PATIENCE = 90.0
"""Seconds until a test gives up; below the time limit of a whole test."""


def eventually(
    condition: Callable[[], object], what: str, patience: float = PATIENCE, interval: float = 0.02
) -> None:
    """Look every *interval* seconds until *condition* holds; fail with *what* if it does not."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience:.0f} s for {what}")
        time.sleep(interval)


async def until(condition: Callable[[], object], what: str = "a condition to hold") -> None:
    """Let the loop run until *condition* holds; fail with *what* if it does not."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE:.0f} s for {what}")
        await asyncio.sleep(0.005)
