"""Own namespaces by bubblewrap, where the host lets it."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from edged.errors import SandboxError
from edged.sandbox import _seccomp
from edged.sandbox._confinement import Confinement, environment, interpreter_paths

__all__ = ["IN_BUBBLEWRAP", "SYSCALL_FILTER", "command", "why_not", "worker_environment"]

IN_BUBBLEWRAP = "EDGED_IN_BUBBLEWRAP"
"""Set in the environment of a process that `command` put into namespaces."""

SYSCALL_FILTER = "EDGED_SYSCALL_FILTER"
"""The filter that it is to install, in base64."""

_NAMESPACES = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
    "--unshare-cgroup-try",
    *("--uid", "65534", "--gid", "65534", "--hostname", "edged", "--cap-drop", "ALL"),
    *("--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"),
)


def command(
    argv: Sequence[str],
    confinement: Confinement,
    pass_fds: Sequence[int] = (),
    *,
    bubblewrap: str = "auto",
) -> list[str]:
    """*argv* in namespaces of its own if bubblewrap works here, else *argv* alone.

    The process is to call `lock_down` in either case. In bubblewrap it sees a file system of the
    confinement's paths and the interpreter's, has no network, no capability and another user id,
    cannot see other processes, starts in ``/``, and dies with the process that started it. Either
    way it gets an environment made for it, and nothing of ours.

    Args:
        argv: the program by its absolute path, and its arguments.
        pass_fds: what the caller passes on (``subprocess.Popen(pass_fds=…)``): bubblewrap leaves
            them open under their numbers. Standard streams need not be named.
        bubblewrap: ``"auto"``; ``"bubblewrap"`` to insist; ``"landlock"`` or ``"never"`` to do
            without.

    Raises:
        SandboxError: bubblewrap is insisted on and does not work, or libseccomp is not there.
    """
    assert all(fd > 2 for fd in pass_fds)
    missing = why_not() if bubblewrap in ("auto", "bubblewrap") else ""
    if missing and bubblewrap == "bubblewrap":
        raise SandboxError(
            f"cannot confine processes: {missing}; install bubblewrap (Debian: bubblewrap) and"
            ' allow user namespaces, or set container.sandbox = "auto"'
        )
    variables = worker_environment(changes_folders=bool(confinement.writable))
    if missing is not None:
        return ["/usr/bin/env", "-i", *(f"{name}={variables[name]}" for name in variables), *argv]
    mounts: list[str] = []
    for path in (*interpreter_paths(), *confinement.read_only):
        mounts += ["--ro-bind", str(path), str(path)]
    for path in confinement.writable:
        mounts += ["--bind", str(path), str(path)]
    words = ["--clearenv"]
    for name, value in {**variables, IN_BUBBLEWRAP: "1"}.items():
        words += ["--setenv", name, value]
    return [
        *(_bwrap(), *_NAMESPACES, *mounts, *words),
        *("--remount-ro", "/", "--chdir", "/", "--"),
        *argv,
    ]


def worker_environment(*, changes_folders: bool = False) -> dict[str, str]:
    """What a process that is started by other means than `command` is to have in its environment.

    Args:
        changes_folders: whether it may make, rename and remove files.

    Raises:
        SandboxError: libseccomp is not there.
    """
    program = _seccomp.compile_filter(changes_folders=changes_folders)
    return {**environment(), SYSCALL_FILTER: base64.b64encode(program).decode()}


@cache
def why_not() -> str | None:
    """Why bubblewrap is of no use here, None if it is. Tried out once: a host may forbid it."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    mounts = [word for path in interpreter_paths() for word in ("--ro-bind", str(path), str(path))]
    probe = [_bwrap(), *_NAMESPACES, *mounts, "--", "/bin/true"]
    try:
        done = subprocess.run(probe, capture_output=True, timeout=10, check=False)  # noqa: S603 (our words)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not run: {error}"
    if done.returncode:
        return f"bubblewrap does not work: {done.stderr.decode(errors='replace').strip()[:200]}"
    return None


def _bwrap() -> str:
    return str(Path(shutil.which("bwrap") or "bwrap").absolute())
