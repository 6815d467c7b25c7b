"""The firmware of a real emulator is changed, and what goes wrong meanwhile is survived."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device.kinds import Need
from patience import PATIENCE

from edged.device import Device, Monitor, Resets, Step, Thresholds, inject
from edged.emulator.__main__ import main
from edged.emulator._flash import REGION_BYTES
from edged.errors import DeviceError, DeviceLostError, EdgedError, IncompatibleError, LimitError
from edged.npu import (
    ABI,
    EMULATOR_SHELL,
    Array,
    Firmware,
    FirmwareKind,
    parse_firmware,
    serialize_firmware,
)
from edged.npu.registers import (
    FLASH_KEY,
    Flash,
    FlashCommand,
    FlashStatus,
    Injection,
    State,
)

ARRAY = Array()


def firmware(
    name: str = "new",
    *,
    kind: FirmwareKind = FirmwareKind.ROLE,
    shell: bytes = EMULATOR_SHELL,
    abi: int = ABI,
    array: Array = ARRAY,
    size: int = 300_000,
) -> Firmware:
    payload = name.encode() * (size // len(name))
    return parse_firmware(
        serialize_firmware(kind, payload, shell=shell, abi=abi, array=array, name=name)
    )


def read(device: Device, register: Flash) -> int:
    return device._transport.region_read(register.address())


def write(device: Device, register: Flash, value: int) -> None:
    device._transport.region_write(register.address(), value)


def test_a_role_is_flashed_and_stays(
    start_emulator: Callable[..., Any], program: Callable[..., Any], tmp_path: Path
) -> None:
    flash = tmp_path / "flash"
    emulator = start_emulator("--flash", str(flash))
    device = emulator.device()
    before = device.flash_state()
    assert before is not None and before.shell == EMULATOR_SHELL
    assert device.identity.gateware == before.role[:8]
    device.load(program().data, 0)
    device.activate(0)
    queue = emulator.queue(program().image)
    told: list[tuple[str, float]] = []

    def tell(text: str, part: float) -> None:
        if text == "writing":
            queue.run(program().inputs)  # what runs goes on running
        told.append((text, part))

    new = firmware(array=Array(8, 8, 2))
    booted = device.flash(new, tell)
    assert booted is not None
    assert (booted.region, booted.gateware) == (FirmwareKind.ROLE, new.header.gateware_id)
    texts = list(dict.fromkeys(text for text, _ in told))
    assert texts == ["erasing", "writing", "verifying", "booting"]
    assert all(0 <= part <= 1 for _, part in told)
    queue.close()
    device.close()

    device = emulator.device()
    assert device.identity.gateware == new.header.gateware_id
    assert device.identity.target.array == Array(8, 8, 2)
    assert device.state() is State.CLEARED
    with pytest.raises(IncompatibleError, match=r"array 16x32x4.*device: ABI 2, array 8x8x2"):
        device.load(program().data, 0)
    device.close()
    emulator.kill()

    again = start_emulator("--flash", str(flash))
    device = again.device()
    assert device.identity.gateware == new.header.gateware_id
    device.close()


def test_killed_in_the_middle_it_is_golden_and_flashed_again(
    start_emulator: Callable[..., Any], program: Callable[..., Any], tmp_path: Path
) -> None:
    flash = tmp_path / "flash"
    emulator = start_emulator("--flash", str(flash))
    device = emulator.device()

    def tell(text: str, part: float) -> None:
        if text == "writing" and part > 0.4:
            emulator.kill()

    with pytest.raises(DeviceLostError):
        device.flash(firmware(), tell)
    device.close()

    again = start_emulator("--flash", str(flash))
    monitor = Monitor(Thresholds())
    with pytest.raises(IncompatibleError, match=r"runs its golden image.*edgectl device flash"):
        monitor.open(again.transport())
    assert monitor.report is not None and monitor.report.state is State.GOLDEN
    device = again.device()
    state = device.flash_state()
    assert state is not None
    assert (state.booted, state.role) == (FirmwareKind.GOLDEN, bytes(32))
    assert device.identity.gateware == state.golden[:8]
    with pytest.raises(DeviceError, match="LOAD_IMAGE with NO_ROLE"):
        device.load(program().data, 0)
    assert device.probe() is not None
    new = firmware("mended")
    booted = device.flash(new)
    assert booted is not None and booted.gateware == new.header.gateware_id
    device.close()

    device = monitor.open(again.transport())
    assert device.identity.gateware == new.header.gateware_id
    device.load(program().data, 0)
    device.close()
    assert set(monitor.resets.taken().values()) == {0}


@pytest.mark.needs(Need.FLASH)
def test_what_does_not_fit_the_card_changes_nothing(served: Any) -> None:
    device = served.device()
    before = device.flash_state()
    for wrong, message in (
        (firmware(shell=bytes(8)), "is for shell 0000000000000000, the card has"),
        (firmware(abi=9), "has ABI 9, this edged speaks ABI 2"),
    ):
        with pytest.raises(IncompatibleError, match=message):
            device.flash(wrong)
    huge = firmware()
    too_long = Firmware(huge.header, bytes(REGION_BYTES + 1))
    with pytest.raises(LimitError, match="67108865 bytes, 67108864 fit"):
        device.flash(too_long)
    assert device.flash_state() == before
    device.close()


def test_a_card_that_is_lied_to_boots_its_golden_image(
    start_emulator: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    """A host that does not check: the card does."""
    device = start_emulator().device()
    sound = firmware()
    for bad in (
        sound.data[:-1] + b"X",
        firmware(kind=FirmwareKind.GOLDEN).data,
        b"\xff" * 4096,
    ):
        with pytest.raises(DeviceError, match="answered VERIFY with BAD_IMAGE"):
            device.flash(Firmware(sound.header, bad))
    write(device, Flash.COMMAND, FlashCommand.BOOT_ROLE)
    wait_until(lambda: device.state() is State.GOLDEN, "the golden image")
    device.close()


@pytest.mark.needs(Need.FLASH)
def test_the_golden_image_wants_a_key_and_the_management_queue(served: Any) -> None:
    device = served.device()
    write(device, Flash.REGION, FirmwareKind.GOLDEN)
    write(device, Flash.LENGTH, 4096)
    for key in (None, FLASH_KEY + 1):
        if key is not None:
            write(device, Flash.UNLOCK, key)
        write(device, Flash.COMMAND, FlashCommand.ERASE)
        assert read(device, Flash.STATUS) == FlashStatus.LOCKED
    other = served.transport()
    for register in (Flash.REGION, Flash.UNLOCK, Flash.COMMAND):
        with pytest.raises(DeviceError, match="EBUSY"):
            other.region_write(register.address(), 1)
    device.close()
    # Nobody manages it now, and a container's opening still may not.
    with pytest.raises(DeviceError, match="EBUSY"):
        other.region_write(Flash.REGION.address(), 1)
    other.close()


def test_a_golden_image_is_flashed_with_the_role_running_on(
    start_emulator: Callable[..., Any],
) -> None:
    device = start_emulator().device()
    golden = firmware("gold", kind=FirmwareKind.GOLDEN)
    before = device.flash_state()
    assert before is not None
    assert device.flash(golden) is None
    after = device.flash_state()
    assert after is not None
    assert (after.golden, after.role) == (golden.header.digest, before.role)
    assert device.state() is State.CLEARED
    device.close()


def test_the_golden_image_is_the_last_rung(
    program: Callable[..., Any],
    start_emulator: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for step in ("_ABORT_SECONDS", "_RESET_SECONDS"):
        monkeypatch.setattr(f"edged.device._device.{step}", 0.3)
    emulator = start_emulator("--fault-injection")
    device = emulator.device()
    device.load(program().data, 0)
    device.activate(0)
    queue = emulator.queue(program().image)
    inject(device._transport, Injection.HANG, value=4)
    ended: list[EdgedError] = []

    def run() -> None:
        try:
            queue.run(program().inputs, timeout=2 * PATIENCE)
        except EdgedError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    emulator.wait_for_state(device, State.RUNNING)
    device.close()
    resets = Resets()
    transport = emulator.transport()

    def reset() -> None:
        raise DeviceError("cannot DEVICE_RESET: it takes ten seconds to find that it does not help")

    monkeypatch.setattr(transport, "reset", reset)
    device = Device.open(transport, resets)
    assert device.state() is State.GOLDEN
    assert resets.taken()[Step.GOLDEN_IMAGE] == 1
    assert resets.failed()[Step.GOLDEN_IMAGE] == 0
    assert resets.failed()[Step.FUNCTION_LEVEL_RESET] == 1
    thread.join(PATIENCE)
    assert not thread.is_alive() and ended
    queue.close()
    assert device.flash(firmware()) is not None
    device.close()
    device = Device.open(emulator.transport(), resets)
    assert device.state() is State.CLEARED
    device.close()


def test_a_file_that_is_no_flash_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flash").write_bytes(b"something else")
    socket = tmp_path / "npu.sock"
    assert main(["--socket", str(socket), "--flash", str(tmp_path / "flash")]) == 78
    assert "wanted a file of 134217728 bytes" in capsys.readouterr().err
