"""How this process's C library keeps its memory."""

from __future__ import annotations

import ctypes

__all__ = ["keep_large_buffers"]

# mallopt(3): parameter → value. Tensors of a few hundred kilobytes stay on the heap instead of
# being mapped and unmapped for each call, which costs a page fault for every 4 KiB of them.
# One arena, because what a thread frees in its own is kept there for that thread alone.
_OPTIONS = {
    -3: 32 << 20,  # M_MMAP_THRESHOLD
    -1: 256 << 20,  # M_TRIM_THRESHOLD
    -2: 16 << 20,  # M_TOP_PAD
    -8: 1,  # M_ARENA_MAX
}


def keep_large_buffers() -> bool:
    """Have glibc keep buffers of tensor size; returns whether this is glibc and it agreed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _OPTIONS.items())
