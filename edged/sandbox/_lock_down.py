"""Giving up, from inside, all that a process that only computes has no use for."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import resource
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged.errors import SandboxError
from edged.sandbox import _bubblewrap, _landlock, _seccomp
from edged.sandbox._confinement import Confinement, interpreter_paths

__all__ = ["Offer", "available", "lock_down"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_MAX_DESCRIPTORS: Final = 256
_DEVICES: Final = tuple(Path(f"/dev/{name}") for name in ("null", "zero", "urandom"))


@dataclass(frozen=True, slots=True)
class Offer:
    """What this host offers to confine a process with.

    Attributes:
        bubblewrap: None if it works, else why not.
        landlock: the ABI of the kernel, 0 with none.
        seccomp: None if libseccomp is there, else why not.
    """

    bubblewrap: str | None
    landlock: int
    seccomp: str | None

    def __str__(self) -> str:
        return ", ".join(
            (
                "bubblewrap" if self.bubblewrap is None else f"no bubblewrap ({self.bubblewrap})",
                f"Landlock ABI {self.landlock}" if self.landlock else "no Landlock",
                "seccomp" if self.seccomp is None else f"no seccomp ({self.seccomp})",
            )
        )


def available() -> Offer:
    """What there is, which suffices: seccomp, and bubblewrap or Landlock.

    Raises:
        SandboxError: it does not suffice; names what to install.
    """
    offer = Offer(_bubblewrap.why_not(), _landlock.abi(), _seccomp.why_not())
    if offer.seccomp is not None:
        raise SandboxError(
            f"cannot confine processes: {offer}; install libseccomp (Debian: libseccomp2)"
        )
    if offer.bubblewrap is not None and not offer.landlock:
        raise SandboxError(
            f"cannot confine processes: {offer}; install bubblewrap (Debian: bubblewrap), allow"
            " user namespaces, or boot a kernel of 5.13 or later with Landlock"
        )
    return offer


def lock_down(confinement: Confinement) -> str:
    """Confine this process for the rest of its life; there is no way back.

    To be called after the imports, while there is one thread, and before any untrusted byte is
    read. Afterwards: no privileges, no core dumps, bounded memory, files, descriptors and processor
    time; only the confinement's paths and the interpreter's can be opened; no socket can be made,
    no process started, none but itself signalled; it dies when its parent does, and first
    where memory is short.

    There is no bound on the number of threads, which the kernel counts per user and not per
    process; their stacks count as memory.

    Returns:
        What is in force, for the log.

    Raises:
        SandboxError: there is more than one thread, or the host has neither namespaces around this
            process nor Landlock, or it was not started by the words of `command`.
    """
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 (names are enough)
    if threads != 1:
        raise SandboxError(
            f"cannot lock down: the process has {threads} threads and only the calling one would"
            " be bound; start none before, and set OPENBLAS_NUM_THREADS=1"
        )
    in_force: list[str] = []
    if os.environ.get(_bubblewrap.IN_BUBBLEWRAP):
        in_force.append("bubblewrap")
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    _limit(confinement)
    _go_first()
    if _landlock.abi():
        paths = (*interpreter_paths(), *_existing(_DEVICES), *confinement.read_only)
        version = _landlock.restrict(paths, confinement.writable)
        in_force.append(f"Landlock ABI {version}")
    if not in_force:
        raise SandboxError(
            "cannot lock down: this kernel has no Landlock and the process is in no namespace of"
            " its own; install bubblewrap (Debian: bubblewrap)"
        )
    program = os.environ.pop(_bubblewrap.SYSCALL_FILTER, None)
    if program is None:
        raise SandboxError(
            f"cannot lock down: {_bubblewrap.SYSCALL_FILTER} is not set; start the process by the"
            " words of edged.sandbox.command"
        )
    _seccomp.install(base64.b64decode(program))
    in_force.append("seccomp")
    if confinement.memory_bytes is not None:
        in_force.append(f"memory {confinement.memory_bytes >> 20} MiB")
    return ", ".join(in_force)


def _limit(confinement: Confinement) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _MAX_DESCRIPTORS,
        resource.RLIMIT_FSIZE: confinement.file_bytes,
        # Not RLIMIT_AS: libraries and shared arenas take address space, not memory.
        resource.RLIMIT_DATA: confinement.memory_bytes,
        resource.RLIMIT_CPU: confinement.cpu_seconds,
    }
    for kind, wanted in limits.items():
        if wanted is not None:
            hard = resource.getrlimit(kind)[1]
            bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(kind, (bound, bound))


def _go_first() -> None:
    """Where memory is short the kernel is to end this process, not those that look after it.

    1000 is the most of proc_pid_oom_score_adj(5); to raise it takes no privilege.
    """
    with contextlib.suppress(OSError):  # a host without /proc kills by size alone
        Path("/proc/self/oom_score_adj").write_text("1000")


def _drop_capabilities() -> None:
    """capset(2) with empty sets: effective, permitted, inheritable, in two words of 32 each."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)):
        raise SandboxError(
            f"cannot lock down: capabilities stay, {os.strerror(ctypes.get_errno())}"
        )


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise SandboxError(
            f"cannot lock down: prctl {option} fails, {os.strerror(ctypes.get_errno())}"
        )


def _existing(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.exists())
