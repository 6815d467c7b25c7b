"""How long to fuzz, and from which seed; one case can be had again by its number."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator

__all__ = ["cases"]

SECONDS = float(os.environ.get("EDGED_FUZZ_SECONDS", "1.2"))
SEED = int(os.environ.get("EDGED_FUZZ_SEED", "1"))
FIRST = int(os.environ.get("EDGED_FUZZ_FIRST", "0"))
AT_LEAST = 10


def cases(what: str) -> Iterator[tuple[str, random.Random]]:
    """Cases until the time is up: the name of each, and what it draws from."""
    deadline = time.monotonic() + SECONDS
    number = FIRST
    while number < FIRST + AT_LEAST or time.monotonic() < deadline:
        name = f"{what}: EDGED_FUZZ_SEED={SEED} EDGED_FUZZ_FIRST={number}"
        yield name, random.Random(f"{what} {SEED} {number}")
        number += 1
    sys.stderr.write(f"{what}: {number - FIRST} cases from seed {SEED}, number {FIRST}\n")
