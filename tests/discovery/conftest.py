"""A machine with a mocked PCI bus, and the kernel's events on a mocked netlink socket."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE


class Machine:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def do(self, *command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def said(self) -> Any:
        """What it said next."""
        return json.loads(self._lines.get(timeout=PATIENCE))


@pytest.fixture
def start_machine() -> Iterator[Callable[..., Machine]]:
    """Start one: with a watch, or given two sockets with a keeper."""
    if shutil.which("umockdev-wrapper") is None:
        pytest.skip("umockdev is not installed: packaging/prerequisites --test")
    script = Path(__file__).with_name("mocked_machine.py")
    with contextlib.ExitStack() as stack:

        def start(*arguments: str | Path) -> Machine:
            process = stack.enter_context(
                subprocess.Popen(
                    ["umockdev-wrapper", sys.executable, script, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(_end, process)
            return Machine(process)

        yield start


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
