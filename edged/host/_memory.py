"""How this process's C library keeps its memory."""

from __future__ import annotations

import ctypes

__all__ = ["keep_large_buffers"]

# mallopt(3): parameter → value. Tensors of a few hundred kilobytes stay on the heap instead of
# being mapped and unmapped for each call, which costs a page fault for every 4 KiB of them.
_OPTIONS = {-3: 32 << 20, -1: 256 << 20, -2: 16 << 20}  # MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD


def keep_large_buffers() -> bool:
    """Have glibc keep buffers of tensor size; returns whether this is glibc and it agreed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _OPTIONS.items())
