"""Sockets from systemd, in a process that is given them as systemd gives them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

TAKE = """
import os, socket, sys
from edged.errors import ConfigError
from edged.host import sockets_given
try:
    for given in sockets_given("metrics")["metrics"]:
        print(given.getsockname(), given.get_inheritable())
except ConfigError as error:
    print(error)
print([name for name in os.environ if name.startswith("LISTEN_")])
"""
# The descriptors begin at 3, and LISTEN_PID is who takes them.
GIVE = (
    "LISTEN_PID=$$ LISTEN_FDS=$1 LISTEN_FDNAMES=$2; export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES; "
)


def taken(*given: socket.socket, names: str, prefix: str = GIVE) -> list[str]:
    """What a process says of what it was given."""
    places = range(3, 3 + len(given))
    # By way of numbers that are in nobody's way.
    moved = "".join(f"exec {at}<&{s.fileno()}; " for at, s in zip(places, given, strict=True))
    words = [str(len(given)), names, sys.executable, "-c", TAKE]
    done = subprocess.run(
        ["bash", "-c", f'{moved}{prefix}shift 2; exec "$@"', "bash", *words],
        pass_fds=[s.fileno() for s in given],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture
def listening() -> Sequence[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        yield one, two


def test_those_of_a_name_are_taken_once(listening: Sequence[socket.socket]) -> None:
    one, two = listening
    assert taken(one, two, names="metrics:metrics") == [
        f"{one.getsockname()} False",
        f"{two.getsockname()} False",
        "[]",
    ]


def test_those_for_another_process_are_not(listening: Sequence[socket.socket]) -> None:
    said = taken(listening[0], names="metrics", prefix=GIVE + "LISTEN_PID=1; ")
    assert said == ["[]"]


def test_one_that_there_is_no_use_for_is_refused(listening: Sequence[socket.socket]) -> None:
    said = taken(listening[0], names="edged-metrics.socket")
    assert said[0].startswith("cannot use the socket 'edged-metrics.socket'")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        assert taken(datagrams, names="metrics")[0].startswith("cannot use the socket 'metrics'")
