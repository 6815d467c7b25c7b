"""What a confined process may have."""

from __future__ import annotations

import os
import site
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import edged

__all__ = ["Confinement", "environment", "interpreter_paths"]

_SYSTEM_PATHS: Final = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin"),
    "/etc/ld.so.cache",
    # ONNX Runtime sizes its thread pools by it.
    "/sys/devices/system/cpu",
)


@dataclass(frozen=True, slots=True)
class Confinement:
    """The bounds of a process.

    Attributes:
        read_only: files and folders it may read, besides the interpreter and its libraries.
        writable: folders it may change as well.
        memory_bytes: bound on its private writable memory (``RLIMIT_DATA``). Memory that it shares
            through descriptors is bounded by *file_bytes* each.
        cpu_seconds: bound on the processor time that it may use in all its life.
        file_bytes: bound on each file, and each shared memory, that it writes.
    """

    read_only: tuple[Path, ...]
    writable: tuple[Path, ...] = ()
    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    file_bytes: int = 1 << 30


@cache
def interpreter_paths() -> tuple[Path, ...]:
    """What Python, its packages and this one need to be read from."""
    places = [*_SYSTEM_PATHS, sys.prefix, sys.base_prefix, *site.getsitepackages()]
    places += [str(Path(edged.__file__).parent)]
    if site.ENABLE_USER_SITE:
        places += [site.getusersitepackages()]
    real = {Path(place) for place in places if Path(place).exists()}
    inner = {path for path in real if any(other in path.parents for other in real)}
    return tuple(sorted(real - inner))


def environment() -> dict[str, str]:
    """The environment of a confined process, all of it: nothing else of ours goes there.

    One thread per library, because `lock_down` binds the thread that calls it; telemetry off; and
    glibc keeps the memory of tensors instead of returning it to the kernel after each call, which
    costs a page fault per 4 KiB. All threads share one arena: what one has freed, another can have.
    """
    kept = {name: os.environ[name] for name in ("LANG", "TZ") if name in os.environ}
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
        "MALLOC_TOP_PAD_": str(1 << 24),
        "MALLOC_ARENA_MAX": "1",
        **kept,
    }
