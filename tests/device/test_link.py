"""The link and its errors, as the configuration space of the emulated card tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from patience import PATIENCE

from edged.device import Level, LinkErrors, Monitor, Resets, Step, Thresholds, inject
from edged.emulator._pci import CONFIG_SIZE, ConfigSpace
from edged.npu.registers import Injection

AER_AT = 0x100


@pytest.fixture
def device(breakable_emulator: Any) -> Iterator[Any]:
    device = breakable_emulator.device()
    device.function_level_reset()
    yield device
    device.close()
    transport = breakable_emulator.transport()
    inject(transport, Injection.LINK_WIDTH)
    inject(transport, Injection.LINK_SPEED)
    transport.close()


def test_a_link_that_came_up_as_less_than_it_could(
    device: Any, wait_until: Callable[..., None]
) -> None:
    assert str(device.link()) == "8 GT/s ×8"
    inject(device._transport, Injection.LINK_WIDTH, value=4)
    inject(device._transport, Injection.LINK_SPEED, value=1)
    wait_until(lambda: str(device.link()) == "2.5 GT/s ×4", "the link to be trained")
    assert (device.link().max_width, device.link().max_speed) == (8, 8.0)
    device.function_level_reset()
    assert str(device.link()) == "2.5 GT/s ×4"  # a reset of the function trains nothing


def test_errors_on_the_link_are_told_once(device: Any, wait_until: Callable[..., None]) -> None:
    assert device.link_errors() == LinkErrors()
    inject(device._transport, Injection.AER_CORRECTABLE, value=7)
    inject(device._transport, Injection.AER_UNCORRECTABLE)
    seen: list[str] = []

    def both() -> bool:
        errors = device.link_errors()
        seen.extend((*errors.correctable, *errors.uncorrectable))
        return len(seen) >= 2

    wait_until(both, "the errors")
    assert sorted(seen) == ["bad DLLP", "completion timeout"]  # either may strike first
    assert device.link_errors() == LinkErrors()


async def test_the_monitor_counts_errors_and_warns_of_the_link(
    device: Any, breakable_emulator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    device.close()
    caplog.set_level("INFO", "edged.device")
    monitor = Monitor(Thresholds(), poll_seconds=0.02)
    watched = await asyncio.to_thread(lambda: monitor.open(breakable_emulator.transport()))
    unfit = asyncio.create_task(monitor.unfit(watched))
    for kind, value in (
        (Injection.AER_CORRECTABLE, 6),
        (Injection.AER_UNCORRECTABLE, 12),
        (Injection.LINK_WIDTH, 1),
    ):
        inject(watched._transport, kind, value=value)
    wanted = {
        "correctable link errors": (1, Level.OK),
        "uncorrectable link errors": (1, Level.WARN),
        "link width": (1, Level.WARN),
        "link speed": (8.0, Level.OK),
    }
    async with asyncio.timeout(PATIENCE):
        while True:
            assert monitor.report is not None
            found = {r.name: (r.value, r.level) for r in monitor.report.readings}
            if {name: found[name] for name in wanted} == wanted:
                break
            await asyncio.sleep(0.01)
    said = [record.getMessage() for record in caplog.records]
    assert "device: the link reports: bad TLP" in said
    assert "device: the link reports: poisoned TLP" in said
    unfit.cancel()
    await asyncio.gather(unfit, return_exceptions=True)
    watched.close()


def test_lost_calibration_is_brought_back_by_the_reset_that_does(
    breakable_emulator: Any, wait_until: Callable[..., None]
) -> None:
    device = breakable_emulator.device()
    inject(device._transport, Injection.DRAM_CALIBRATION)
    wait_until(lambda: not device.readings().calibrated, "the calibration to be lost")
    device.close()
    resets = Resets()
    device = type(device).open(breakable_emulator.transport(), resets)
    assert device.readings().calibrated
    assert resets.failed()[Step.SOFT_RESET] == 1
    assert resets.failed()[Step.FUNCTION_LEVEL_RESET] == 0
    device.close()


def test_what_the_configuration_space_lets_be_written() -> None:
    space = ConfigSpace()
    assert CONFIG_SIZE == 4096
    assert space.read(AER_AT, 4) == (1 | 2 << 16).to_bytes(4, "little")
    space.note_error(0, correctable=True)
    space.note_error(4, correctable=False)
    space.note_error(31, correctable=False)  # there is no such bit
    assert space.read(AER_AT + 0x10, 4) == b"\x01\0\0\0"
    assert space.read(AER_AT + 4, 4) == b"\x10\0\0\0"
    assert space.read(0x7A, 1) == b"\x05"  # correctable and fatal, by their severity
    space.write(AER_AT + 0x10, b"\xfe\xff\xff\xff")
    assert space.read(AER_AT + 0x10, 4) == b"\x01\0\0\0"
    space.write(AER_AT + 0x10, b"\xff\xff\xff\xff")
    assert space.read(AER_AT + 0x10, 4) == bytes(4)
    space.write(AER_AT + 8, b"\xff\xff\xff\xff")
    assert space.read(AER_AT + 8, 4) == 0x007F_F030.to_bytes(4, "little")
    assert space.write(CONFIG_SIZE - 2, bytes(4)) is False
    assert space.read(CONFIG_SIZE - 2, 4) == bytes(4)
