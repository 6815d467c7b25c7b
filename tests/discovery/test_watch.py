"""Cards come and go on a mocked PCI bus, with the kernel's events on a mocked netlink socket."""

from __future__ import annotations

import json
import selectors
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OTHER = "0000:00:03.0"
CARD = "0000:00:04.0"
IDS = (0x8086, 0x09C4, 0x120000)


class Machine:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, *command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def said(self) -> list[list[str]]:
        """What the watch said next: which functions there are, and which went."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(30), "the watch says nothing"
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, list)
        return answer


@pytest.fixture
def machine() -> Iterator[Machine]:
    if shutil.which("umockdev-wrapper") is None:
        pytest.skip("umockdev is not installed: packaging/prerequisites --test")
    script = Path(__file__).with_name("mocked_machine.py")
    with subprocess.Popen(
        ["umockdev-wrapper", sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Machine(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def test_cards_that_come_go_and_are_replaced(machine: Machine) -> None:
    assert machine.said() == [[OTHER], []]
    machine.do("add", CARD, *IDS)
    assert machine.said() == [[OTHER, CARD], []]
    # Gone and back before anyone could look: it is another card all the same.
    machine.do("replace", CARD)
    assert machine.said() == [[OTHER, CARD], [CARD]]
    machine.do("remove", CARD)
    while (said := machine.said())[0] != [OTHER]:
        assert said[1] == [CARD]  # the event was faster than the removal from sysfs
    assert said == [[OTHER], [CARD]]
