"""A user rehearses failures against a whole appliance: what the client sees, and what is said."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.appliance import Appliance, eventually, keywords

from edged import wire


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[Appliance]:
    appliance = Appliance(tmp_path)
    text = appliance.config.read_text()
    appliance.config.write_text(
        text.replace("[device]\n", "[device]\nwatchdog_seconds = 1\npoll_seconds = 0.1\n")
    )
    try:
        appliance.emulator = appliance.spawn(
            "edged.emulator", "--socket", str(appliance.device), "--fault-injection"
        )
        appliance.start_daemon()
        yield appliance
    finally:
        appliance.close()


def ask(appliance: Appliance, wait: bool = False, said: list[str] | None = None) -> grpc.StatusCode:
    """The status of a call; what else was said of one that failed goes to *said*."""
    x, _ = keywords()
    try:
        appliance.predict({"input_1": wire.from_array(x[:1])}, wait=wait)
    except grpc.RpcError as error:
        code = error.code()
        assert isinstance(code, grpc.StatusCode)
        if said is not None:
            said.append(f"{code.name}: {error.details()}")
        return code
    return grpc.StatusCode.OK


def report(appliance: Appliance) -> Any:
    done = appliance.edgectl("device", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def inject(appliance: Appliance, *words: str) -> None:
    command = [sys.executable, "-m", "edged.cli", "device", "inject", *words]
    command += ["--device", str(appliance.device)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def asking(appliance: Appliance) -> Iterator[list[grpc.StatusCode]]:
    """Ask all the time; what is short is seen however long a command takes to end."""
    codes: list[grpc.StatusCode] = []
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            codes.append(ask(appliance))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield codes
    finally:
        over.set()
        thread.join()


def serves(appliance: Appliance) -> None:
    eventually(lambda: ask(appliance) is grpc.StatusCode.OK, "an answer")


def test_failures_are_rehearsed(breakable: Appliance, kws: Path) -> None:
    assert breakable.put(kws).startswith("serving since")
    shown = report(breakable)
    assert shown["present"] and shown["state"] in ("READY", "RUNNING")
    assert shown["link"] == "8 GT/s ×8"
    assert [bank["status"] for bank in shown["banks"] if bank["active"]] == ["valid"]
    assert set(shown["resets"].values()) == {0}

    # A hung run fails, with a reason. All others are held, and run by the recovered device: those
    # that waited for it as well.
    inject(breakable, "hang", "--after", "3")
    said: list[str] = []
    with ThreadPoolExecutor(6) as clients:
        codes = list(clients.map(lambda _: ask(breakable, said=said), range(24)))
    assert Counter(codes) == {grpc.StatusCode.OK: 23, grpc.StatusCode.INTERNAL: 1}, said
    assert report(breakable)["resets"]["queue abort"] == 1

    # Heat: slowed down, then stopped, then back.
    inject(breakable, "temperature", "--value", "97", "--seconds", "0")
    eventually(
        lambda: any(r["level"] == "throttle" for r in report(breakable)["readings"]), "throttling"
    )
    assert ask(breakable) is grpc.StatusCode.OK
    begun = time.monotonic()
    assert {ask(breakable) for _ in range(4)} == {grpc.StatusCode.OK}
    assert time.monotonic() - begun > 0.25
    inject(breakable, "temperature", "--value", "104", "--seconds", "0")
    eventually(lambda: ask(breakable) is grpc.StatusCode.UNAVAILABLE, "the stop")
    eventually(lambda: "temperature" in report(breakable)["problem"], "the reason")
    inject(breakable, "temperature", "--value", "0")
    serves(breakable)

    inject(breakable, "corrupt-bank")
    serves(breakable)
    for short in ("link-down", "removal"):
        with asking(breakable) as codes:
            inject(breakable, short, "--seconds", "1")
            eventually(lambda codes=codes: grpc.StatusCode.UNAVAILABLE in codes, "the loss")
        serves(breakable)
    assert breakable.edgectl("device").stdout.startswith("device   in use")

    # A threshold changes while edged runs.
    text = breakable.config.read_text()
    breakable.config.write_text(text.replace("[device]\n", "[device]\ntemperature_warn = 30\n"))
    assert breakable.daemon is not None
    breakable.daemon.send_signal(signal.SIGHUP)
    eventually(
        lambda: any(r["level"] == "warn" for r in report(breakable)["readings"]), "the warning"
    )
