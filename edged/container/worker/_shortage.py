"""Telling a want of memory from other errors, whichever library notices it first."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_short_of_memory"]

# ONNX Runtime and protobuf have no class for it, only words.
_WORDS: Final = re.compile(
    "bad_alloc|bad allocation|Failed to allocate memory|Arena alloc failed|out of memory"
)


def is_short_of_memory(error: Exception) -> bool:
    """Whether that is what *error* says."""
    return isinstance(error, MemoryError) or bool(_WORDS.search(str(error)))
