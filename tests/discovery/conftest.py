"""A machine with a mocked PCI bus, and the kernel's events on a mocked netlink socket."""

from __future__ import annotations

import contextlib
import json
import selectors
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Machine:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, *command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def said(self) -> Any:
        """What it said next."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(60), "it says nothing"
        return json.loads(self._process.stdout.readline())


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
    assert process.wait(60) == 0
