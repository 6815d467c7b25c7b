"""Whatever card comes is handed out, and what went is gone: on a mocked bus, with the emulator."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.card import Condition, Places, read_state
from edged.device import Device, vfio_user
from edged.npu.registers import State

ONE, TWO = "0000:00:04.0", "0000:00:05.0"
IDS = (0x8086, 0x09C4, 0x120000, "vfio-pci")
NAME = f"{ONE} (Intel PAC with Arria 10 GX, 8086:09c4)"


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "device.sock"
    command = [sys.executable, "-m", "edged.emulator", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("ready")
        yield path
        process.terminate()


def opened(path: Path) -> Device:
    return Device.open(vfio_user.VfioUserTransport(vfio_user.connect(path)))


def test_a_card_is_served_while_it_is_there(
    start_machine: Callable[..., Any], emulator: Path, tmp_path: Path
) -> None:
    places = Places.beside(tmp_path / "card.sock")
    machine = start_machine(places.socket, emulator)
    none = [Condition.NONE, "", "cannot find a card: no PCI device is like one of ours"]
    assert machine.said() == none
    for _ in range(2):  # it comes, goes, and comes back
        machine.do("add", ONE, *IDS)
        assert machine.said() == [Condition.OPENING, NAME, ""]
        assert machine.said() == [Condition.SERVED, NAME, ""]
        assert places.socket.stat().st_mode & 0o777 == 0o660
        device = opened(places.socket)
        assert device.state() is State.CLEARED
        machine.do("remove", ONE)
        poll = select.poll()
        poll.register(device.fileno(), select.POLLRDHUP | select.POLLHUP)
        assert poll.poll(30_000), "who has it hears nothing of its going"
        device.close()
        while (said := machine.said()) != none:
            # It was seen once more in sysfs before that had let go of it.
            assert said[0] in (Condition.PROBLEM, Condition.OPENING, Condition.SERVED)
        assert not places.socket.exists()
    state = read_state(places.state)
    assert state is not None and state.condition is Condition.NONE


def test_a_card_that_cannot_be_opened_is_tried_again_without_many_words(
    start_machine: Callable[..., Any], emulator: Path, tmp_path: Path
) -> None:
    card = tmp_path / "later.sock"
    machine = start_machine(tmp_path / "card.sock", card)
    assert machine.said()[0] == Condition.NONE
    machine.do("add", ONE, *IDS)
    assert machine.said()[0] == Condition.OPENING
    condition, name, problem = machine.said()
    assert (condition, name) == (Condition.PROBLEM, NAME)
    assert "cannot reach a device" in problem
    card.symlink_to(emulator)
    assert machine.said()[0] == Condition.SERVED


@pytest.mark.parametrize("iommu", ["required", "optional"])
def test_a_card_without_an_iommu_is_used_only_where_the_configuration_says_so(
    start_machine: Callable[..., Any], emulator: Path, tmp_path: Path, iommu: str
) -> None:
    places = Places.beside(tmp_path / "card.sock")
    machine = start_machine(places.socket, emulator, iommu)
    assert machine.said()[0] == Condition.NONE
    machine.do("add", ONE, *IDS[:3], "uio_pci_generic")
    assert machine.said()[0] == Condition.OPENING
    condition, name, problem = machine.said()
    if iommu == "optional":
        assert (condition, name) == (Condition.SERVED, f"{NAME}, without an IOMMU")
    else:
        assert condition == Condition.PROBLEM
        assert 'or set device.iommu to "optional"' in problem
        assert not places.socket.exists()


def test_of_several_none_is_taken(
    start_machine: Callable[..., Any], emulator: Path, tmp_path: Path
) -> None:
    machine = start_machine(tmp_path / "card.sock", emulator)
    assert machine.said()[0] == Condition.NONE
    machine.do("add", ONE, *IDS)
    assert [machine.said()[0], machine.said()[0]] == [Condition.OPENING, Condition.SERVED]
    # The one that is in use stays so.
    machine.do("add", TWO, *IDS)
    machine.do("remove", ONE)
    conditions = []
    while not (conditions and conditions[-1] == [Condition.SERVED, NAME.replace(ONE, TWO), ""]):
        conditions.append(machine.said())
        if conditions[-1][0] == Condition.PROBLEM and "there are 2" in conditions[-1][2]:
            assert ONE in conditions[-1][2] and TWO in conditions[-1][2]
