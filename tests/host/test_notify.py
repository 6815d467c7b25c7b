"""What systemd is told, over a socket such as it listens on."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

from edged.host import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}" if request.param == "abstract" else name)
        listener.settimeout(PATIENCE)
        yield listener, f"@{name}" if request.param == "abstract" else name


def test_start_status_and_stop_are_told(manager):
    listener, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.status("serving\nnet 1.0.0")
    notifier.stopping()
    assert [listener.recv(4096) for _ in range(3)] == [
        b"READY=1",
        b"STATUS=serving net 1.0.0",
        b"STOPPING=1",
    ]


def test_a_reload_is_told_with_when_it_began(manager):
    listener, address = manager
    before = time.monotonic_ns() // 1000
    Notifier({"NOTIFY_SOCKET": address}).reloading()
    told, at = listener.recv(4096).split(b"\n")
    assert told == b"RELOADING=1"
    name, value = at.split(b"=")
    assert name == b"MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


async def test_watchdog_is_fed_in_half_its_time(manager):
    listener, address = manager
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    notifier = Notifier(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
    )
    begun = loop.time()
    feeding = asyncio.create_task(notifier.feed_watchdog())
    fed = [await asyncio.wait_for(loop.sock_recv(listener, 4096), PATIENCE) for _ in range(3)]
    feeding.cancel()
    assert fed == [b"WATCHDOG=1"] * 3
    assert loop.time() - begun >= 0.15


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}],
)
async def test_no_watchdog_is_fed_that_is_not_ours(manager, watchdog):
    listener, address = manager
    await asyncio.wait_for(
        Notifier({"NOTIFY_SOCKET": address} | watchdog).feed_watchdog(), PATIENCE
    )
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(4096)


def test_without_a_manager_nothing_happens(tmp_path):
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
