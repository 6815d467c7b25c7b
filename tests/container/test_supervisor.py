"""What the supervisor takes from whoever connects."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

GOOD: dict[str, Any] = {
    "environment": {"PATH": "/usr/bin"},
    "memory_bytes": 1 << 30,
    "call_seconds": 1.0,
    "files": [],
}


@pytest.mark.parametrize(
    ("message", "descriptors", "said"),
    [
        (b"{", 4, "cannot start a container"),
        (b"[]", 4, "does not have the fields"),
        ({"files": ["../../etc/passwd"]}, 5, "no file of a model"),
        ({"files": ["labels.txt"]}, 4, "4 descriptors, wanted 5"),
        ({"environment": {"LD_PRELOAD": "/proc/self/fd/5"}}, 4, "environment is not a worker's"),
        ({"environment": {"PYTHONPATH": "/proc/self/fd/5"}}, 4, "environment is not a worker's"),
        ({"environment": {"PATH": 7}}, 4, "environment is not a worker's"),
        ({"program": "/bin/sh"}, 4, "does not have the fields"),
        ({"environment": {"PATH": "x" * (64 << 10)}}, 4, "more than 65536 bytes"),
        ({}, 129, "too many descriptors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_started_by_what_is_no_message_of_edged(
    unit_socket: Path, message: Any, descriptors: int, said: str
) -> None:
    data = message if isinstance(message, bytes) else json.dumps(GOOD | message).encode()
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        connection.settimeout(PATIENCE)
        connection.connect(str(unit_socket))
        files = [stack.enter_context(Path(os.devnull).open()) for _ in range(descriptors)]
        socket.send_fds(connection, [data], [file.fileno() for file in files])
        answer = json.loads(connection.recv(1 << 16))
        assert answer["type"] == "refused" and said in answer["reason"]
        assert connection.recv(1) == b""


def test_a_supervisor_whose_daemon_says_nothing_ends(unit_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(unit_socket))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
