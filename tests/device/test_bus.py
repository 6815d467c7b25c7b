"""The rungs above a function-level reset: what sysfs is told, and when the ladder gets there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from edged._vfio_user_server import Server
from edged.card import SharedCard
from edged.device import BusOwner, Device, Resets, Step, inject, vfio_user
from edged.device._bus import PciBus
from edged.errors import DeadlineError, DeviceError, DeviceLostError, EdgedError
from edged.npu.registers import Flash, FlashCommand, Injection, Reg, State


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A function like the kernel shows them, in plain files."""
    function = tmp_path / "devices" / "0000:01:00.0"
    function.mkdir(parents=True)
    (function / "reset_method").write_text("flr bus\n")
    for name in ("reset", "remove"):
        (function / name).touch()
    (tmp_path / "rescan").touch()
    return tmp_path


def bus_of(sysfs: Path) -> PciBus:
    return PciBus(sysfs / "devices" / "0000:01:00.0", sysfs)


def test_a_bus_is_reset_and_the_method_put_back(sysfs: Path) -> None:
    bus, function = bus_of(sysfs), sysfs / "devices" / "0000:01:00.0"
    assert bus.offers == {Step.BUS_RESET, Step.REMOVE_AND_RESCAN}
    bus.take(Step.BUS_RESET)
    assert (function / "reset").read_text() == "1"
    assert (function / "reset_method").read_text() == "flr bus"


def test_a_card_is_removed_and_found_again(sysfs: Path, wait_until: Callable[..., None]) -> None:
    bus_of(sysfs).take(Step.REMOVE_AND_RESCAN)
    wait_until(lambda: (sysfs / "rescan").read_text() == "1", "the scan")
    assert (sysfs / "devices" / "0000:01:00.0" / "remove").read_text() == "1"


def test_what_the_kernel_does_not_offer_or_refuses(
    sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = sysfs / "devices" / "0000:01:00.0"
    (function / "remove").unlink()
    bus = bus_of(sysfs)
    assert bus.offers == {Step.BUS_RESET}
    with pytest.raises(DeviceError, match="soft reset: that is no matter of the bus"):
        bus.take(Step.SOFT_RESET)
    (function / "reset").unlink()
    (function / "reset").mkdir()
    with pytest.raises(DeviceError, match=r"bus reset of 0000:01:00\.0: Is a directory"):
        bus.take(Step.BUS_RESET)
    (function / "reset").rmdir()
    # Whoever opens a pipe for writing waits until somebody reads.
    os.mkfifo(function / "reset")
    monkeypatch.setattr("edged.device._bus._RESET_SECONDS", 0.1)
    with pytest.raises(DeadlineError, match=r"not done within 0\.1 s"):
        bus.take(Step.BUS_RESET)
    assert (function / "reset").read_text() == "1"


class OnABus:
    """A transport to the emulator whose owner can do what *steps* says; nothing below helps.

    Its bus reset is the boot of the role, which nothing that hangs survives.
    """

    def __init__(self, inner: vfio_user.VfioUserTransport, steps: set[Step]) -> None:
        self.bus_steps = frozenset(steps)
        self.taken: list[Step] = []
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def reset(self) -> None:
        raise DeviceError("cannot DEVICE_RESET: it does not help")

    def reset_bus(self, step: Step) -> None:
        self.taken.append(step)
        if step is Step.BUS_RESET:
            self._inner.region_write(Flash.COMMAND.address(), FlashCommand.BOOT_ROLE)
            while self._inner.region_read(Reg.STATE) == State.RESETTING:
                pass


@pytest.fixture
def hung(
    breakable_emulator: Any, program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """An emulator in which a run hangs that only a boot ends."""
    for step in ("_ABORT_SECONDS", "_RESET_SECONDS"):
        monkeypatch.setattr(f"edged.device._device.{step}", 0.2)
    device = breakable_emulator.device()
    device.load(program().data, 0)
    device.activate(0)
    queue = breakable_emulator.queue(program().image)
    inject(device._transport, Injection.HANG, value=4)

    def compute() -> None:
        with contextlib.suppress(EdgedError):
            queue.run(program().inputs)

    run = threading.Thread(target=compute)
    run.start()
    breakable_emulator.wait_for_state(device, State.RUNNING)
    device.close()
    yield breakable_emulator
    run.join(PATIENCE)
    assert not run.is_alive()
    queue.close()


def test_the_bus_is_reset_where_that_is_offered(hung: Any) -> None:
    transport = OnABus(hung.transport(), {Step.BUS_RESET, Step.REMOVE_AND_RESCAN})
    resets = Resets()
    device = Device.open(transport, resets)
    assert transport.taken == [Step.BUS_RESET]
    assert device.state() is State.CLEARED
    assert resets.failed()[Step.FUNCTION_LEVEL_RESET] == 1
    assert (resets.taken()[Step.BUS_RESET], resets.failed()[Step.BUS_RESET]) == (1, 0)
    assert resets.taken()[Step.GOLDEN_IMAGE] == 0
    device.close()


def test_a_card_is_removed_once_before_the_golden_image(hung: Any) -> None:
    resets = Resets()
    transport = OnABus(hung.transport(), {Step.REMOVE_AND_RESCAN})
    with pytest.raises(DeviceLostError, match="being removed from its bus"):
        Device.open(transport, resets)
    assert resets.rescanned and resets.taken()[Step.REMOVE_AND_RESCAN] == 1
    transport = OnABus(hung.transport(), {Step.REMOVE_AND_RESCAN})
    device = Device.open(transport, resets)
    assert transport.taken == []
    assert (device.state(), resets.rescanned) == (State.GOLDEN, False)
    device._transport.region_write(Flash.COMMAND.address(), FlashCommand.BOOT_ROLE)
    hung.wait_for_state(device, State.CLEARED)
    device.close()


def test_a_client_of_the_card_is_told_what_can_be_done_to_the_bus(
    breakable_emulator: Any, tmp_path: Path
) -> None:
    card = OnABus(breakable_emulator.transport(), {Step.BUS_RESET})
    assert isinstance(card, BusOwner)
    path = tmp_path / "card.sock"
    server = Server(path, SharedCard(card))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        client = vfio_user.VfioUserTransport(vfio_user.connect(path))
        assert client.bus_steps == {Step.BUS_RESET}
        client.reset_bus(Step.BUS_RESET)
        assert card.taken == [Step.BUS_RESET]
        with pytest.raises(DeviceError, match="EINVAL"):
            client.reset_bus(Step.REMOVE_AND_RESCAN)
        manager = Device.open(vfio_user.VfioUserTransport(vfio_user.connect(path)))
        with pytest.raises(DeviceError, match="EBUSY"):
            client.reset_bus(Step.BUS_RESET)
        manager.close()
        client.close()
    finally:
        server.stop()
        thread.join()
        card.close()
    plain = breakable_emulator.transport()
    assert plain.bus_steps == set()
    plain.close()
