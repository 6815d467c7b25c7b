"""What it means that a confined process ended and gave no answer."""

from __future__ import annotations

import signal
from typing import Final

from edged.errors import EdgedError, LimitError, ModelError, SandboxError, UnavailableError

__all__ = ["no_answer"]

# bubblewrap and env(1), which stand before it, make 128 + N of signal N, as shells do.
_KILLED: Final = (-signal.SIGKILL, 128 + signal.SIGKILL)
_NOT_STARTED: Final = (126, 127)
_OUT_OF_MEMORY: Final = ("MemoryError", "bad_alloc")
_WORDS: Final = 400


def no_answer(doing: str, status: int, words: str, limit: str) -> EdgedError:
    """The error for a process that ended without an answer, by whose fault that was.

    Args:
        doing: what it was to do: ``cannot compile``.
        status: how it ended, as `subprocess.Popen.returncode` has it.
        words: the last that it wrote to standard error.
        limit: of its memory, and the key that sets it.
    """
    last = words.strip()[-_WORDS:]
    if status in _KILLED:
        return UnavailableError(
            f"{doing}: its process was killed (SIGKILL), by someone or because the machine has too"
            f" little memory; it may take up to {limit}"
        )
    if last.startswith("bwrap: ") or status in _NOT_STARTED:
        return SandboxError(f"{doing}: its process cannot be confined: {last}; see edgectl doctor")
    if any(word in words for word in _OUT_OF_MEMORY):
        return LimitError(f"{doing}: its process needs more memory than {limit}")
    return ModelError(f"{doing}: its process ended with status {status}: {last}")
