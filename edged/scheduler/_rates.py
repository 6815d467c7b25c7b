"""What units and DRAM do in a cycle: the numbers that estimates and the cycle model share."""

from __future__ import annotations

from typing import Final

from edged.npu.instructions import Unit

__all__ = [
    "BEAT",
    "DRAM_BYTES",
    "LATENCY",
    "MEETS",
    "OVERHEAD",
    "QUEUE",
    "TABLE_ENTRIES",
    "moving_cycles",
]

BEAT: Final = 64
"""Bytes that DRAM moves at once, and the most of a pixel that a unit moves in a cycle."""
DRAM_BYTES: Final = 51
"""That DRAM moves in a cycle, at most, on average."""
LATENCY: Final = 64
"""Cycles from a request to DRAM to its first byte."""
QUEUE: Final = 16
"""Instructions that may wait for a unit."""
TABLE_ENTRIES: Final = 256
MEETS: Final = 0.5
"""Of the chunks that are moved while a word is written, those that need its part of the bank."""
OVERHEAD: Final = {Unit.LOAD: LATENCY + 14, Unit.EXECUTE: 14, Unit.STORE: 16}
"""Cycles of an instruction in which its unit does not yet, or no longer, move or compute."""


def moving_cycles(pixels: int, size: int, step: int) -> tuple[int, int, int]:
    """Estimated cycles to move *pixels* of *size* bytes that are *step* bytes apart, those that
    DRAM takes for their beats, and those that the port of the banks takes."""
    if step == size:  # They follow each other.
        beats = pixels * size / BEAT
    elif step % BEAT:
        beats = pixels * (size + BEAT - 1) / BEAT
    else:
        beats = pixels * -(-size // BEAT)
    if step < BEAT:  # Several lie in a beat.
        beats = min(beats, pixels * step / BEAT + 1)
    chunks = pixels * -(-size // BEAT)
    return max(chunks, int(beats)), int(beats * BEAT / DRAM_BYTES), chunks
