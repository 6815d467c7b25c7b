"""File access by path, bounded by the kernel: Landlock, through its three system calls.

Numbers and layouts are those of ``linux/landlock.h``; what each version of its ABI knows is in
``Documentation/userspace-api/landlock.rst`` of the kernel.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edged.errors import SandboxError

__all__ = ["abi", "restrict"]

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14

_FILE_RIGHTS: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ: Final = _READ_FILE | _READ_DIR
_CHANGE: Final = (
    _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
)

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The version that the kernel speaks, 0 with none."""
    version = int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION))
    return max(version, 0)


def restrict(read_only: Iterable[Path], writable: Iterable[Path]) -> int:
    """Bind this thread, and those it starts, to the given paths for the rest of their lives.

    Every right that the kernel's ABI knows is withheld, execution always; TCP, abstract sockets and
    signals to others too where it knows them.

    Returns:
        The ABI in force.

    Raises:
        SandboxError: the kernel refuses, or a path is not there.
    """
    version = abi()
    # 13 rights in version 1, then refer (2), truncate (3), ioctl on devices (5).
    handled = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _call("create a Landlock ruleset", _CREATE_RULESET, attributes, size, 0)
    try:
        for path in read_only:
            _allow(ruleset, path, handled & _READ)
        for path in writable:
            _allow(ruleset, path, handled & (_READ | _CHANGE))
        _call("enter Landlock", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(f"cannot confine to {path}: {error.strerror}") from error
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, fd)
        _call(f"allow {path} by Landlock", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)


def _call(what: str, number: int, *arguments: int | bytes) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise SandboxError(f"cannot {what}: {os.strerror(ctypes.get_errno())}")
    return result
