"""The main process of ``edged-container@.service``: starts one worker, and tells how it ended.

systemd starts it for each connection to the socket of ``edged-container.socket``. The daemon, the
only one who may connect, sends one message: JSON, with descriptors beside it. What is started is
always edged's own worker, by the interpreter that runs this. The worker is killed when the
daemon shuts its end of the connection, and told of when it ends:

    → {"environment": {…}, "memory_bytes": 1, "call_seconds": 1.0, "files": ["manifest.json", …]}
      with the descriptors of standard error, channel, memory for requests, for responses, files
    ← {"type": "started", "pid": 1, "unit": "edged-container@….service"}, or
      {"type": "refused", "reason": "cannot …"}
    ← {"type": "ended", "status": 0, "signal": 9, "oom": false}

Of the standard library alone and without threads: it is the part that has to go on when the worker
does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]

_CONNECTION = 3
"""The first descriptor that systemd passes: sd_listen_fds(3)."""

_MESSAGE_BYTES = 64 << 10
_DESCRIPTORS = 128
_FIXED = 4
_PATIENCE_SECONDS = 10.0
# None of these makes the interpreter or the loader run something else.
_NAME = re.compile(
    "PATH|HOME|LANG|TZ|PYTHONDONTWRITEBYTECODE|PYTHONUNBUFFERED|ORT_DISABLE_TELEMETRY"
    "|OPENBLAS_NUM_THREADS|OMP_NUM_THREADS|MALLOC_[A-Z_]{1,40}|EDGED_SYSCALL_FILTER"
)
_FILE = re.compile(r"[a-z][a-z0-9.-]{0,63}")


def main() -> int:
    """Start one worker, and wait for its end; returns the exit status."""
    if os.environ.get("LISTEN_FDS") != "1" or os.environ.get("LISTEN_PID") != str(os.getpid()):
        sys.stderr.write("cannot run: this is for edged-container@.service to start\n")
        return os.EX_USAGE
    with socket.socket(fileno=_CONNECTION) as connection:
        connection.set_inheritable(False)
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            received = _receive(connection)
            if received is None:
                return os.EX_OK
            pid = _start(*received)
        except (OSError, ValueError) as error:
            _tell(connection, "refused", reason=f"cannot start a container: {error}")
            return os.EX_DATAERR
        _supervise(connection, pid)
    return os.EX_OK


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The message and its descriptors, which a program that is started inherits; None at the end.

    Raises:
        ValueError: it is not as it has to be.
        OSError: it does not come.
    """
    data, descriptors, flags, _ = socket.recv_fds(connection, _MESSAGE_BYTES, _DESCRIPTORS)
    if not data:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ValueError(
            f"the message has more than {_MESSAGE_BYTES} bytes or too many descriptors"
        )
    message = json.loads(data)
    match message:
        case {
            "environment": dict(environment),
            "memory_bytes": int(),
            "call_seconds": int() | float(),
            "files": list(files),
            **rest,
        } if not rest:
            pass
        case _:
            raise ValueError("the message does not have the fields that it has to have")
    if not all(_NAME.fullmatch(name) and type(environment[name]) is str for name in environment):
        raise ValueError("the environment is not a worker's")
    if not all(isinstance(name, str) and _FILE.fullmatch(name) for name in files):
        raise ValueError("a file has a name that no file of a model has")
    if len(descriptors) != _FIXED + len(files):
        raise ValueError(f"{len(descriptors)} descriptors, wanted {_FIXED + len(files)}")
    return message, descriptors


def _start(message: dict[str, Any], descriptors: list[int]) -> int:
    """The worker's process id. Nothing of what it has stays open here."""
    stderr, channel, requests, responses, *files = descriptors
    named = zip(message["files"], files, strict=True)
    argv = [sys.executable, "-P", "-m", "edged.container.worker"]
    argv += [",".join(f"{name}={fd}" for name, fd in named)]
    argv += [str(message["memory_bytes"]), str(message["call_seconds"])]
    argv += [str(fd) for fd in (channel, requests, responses)]
    actions = [(os.POSIX_SPAWN_DUP2, stderr, 2), (os.POSIX_SPAWN_CLOSE, stderr)]
    try:
        return os.posix_spawn(
            sys.executable, argv, message["environment"], file_actions=actions, setsid=True
        )
    finally:
        for fd in descriptors:
            os.close(fd)


def _supervise(connection: socket.socket, pid: int) -> None:
    """Tell of the start; kill the worker when the daemon says so; tell of its end."""
    folder = _cgroup()
    _tell(connection, "started", pid=pid, unit=folder.rpartition("/")[2])
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(connection, select.POLLIN)
    if pidfd not in dict(poll.poll()):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    _tell(
        connection,
        "ended",
        status=max(status, 0),
        signal=max(-status, 0),
        oom=status == -signal.SIGKILL and _killed_for_memory(folder),
    )


def _tell(connection: socket.socket, what: str, **words: object) -> None:
    with contextlib.suppress(OSError):  # the daemon is gone, and nobody asks
        connection.send(json.dumps({"type": what, **words}).encode())


def _cgroup() -> str:
    """Of this process, by its path under /sys/fs/cgroup; empty if that cannot be told."""
    try:
        with Path("/proc/self/cgroup").open() as file:
            return next((line[3:].strip() for line in file if line.startswith("0::")), "")
    except OSError:
        return ""


def _killed_for_memory(folder: str) -> bool:
    """Whether the kernel killed somebody in the control group for its bound.

    Where the whole machine is short of memory, ``oom_kill`` grows and ``oom`` does not
    (memory.events in the kernel's documentation of control group v2).
    """
    try:
        with Path(f"/sys/fs/cgroup{folder}/memory.events").open() as file:
            counted = dict(line.split() for line in file)
        return all(int(counted.get(name, "0")) > 0 for name in ("oom", "oom_kill"))
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
