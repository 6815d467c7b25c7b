"""The control plane, over a real socket to each kind of device."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device.kinds import Kind, Need
from patience import PATIENCE

from edged.device import Device, vfio_user
from edged.errors import DeviceError, DeviceLostError, IncompatibleError, UnavailableError
from edged.npu import Array, Schedule, numerics, serialize_image
from edged.npu.registers import (
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    BankStatus,
    Fault,
    Queue,
    Reg,
    ResetCause,
    State,
    queue_offset,
)


def test_identity_and_readings(served: Any, kind: Kind) -> None:
    device = served.device()
    assert device.identity.target.array == kind.array
    assert device.identity.dram_bytes == kind.dram_bytes
    assert f"{kind.array} at {kind.clock_khz // 1000} MHz" in str(device.identity)
    assert device.state() is State.CLEARED
    readings = device.readings()
    assert 20 < readings.temperature < 90
    assert readings.fault is Fault.NONE
    assert readings.reset_cause is ResetCause.FUNCTION_LEVEL
    assert device.readings().cycles > readings.cycles
    device.close()


def test_load_and_activate(served: Any, program: Callable[..., Any]) -> None:
    device = served.device()
    one, two = program(1), program(2)
    generation = device.banks()[0].generation
    device.load(one.data, 0)
    bank = device.banks()[0]
    assert (bank.digest, bank.status, bank.active) == (one.image.digest, BankStatus.VALID, False)
    assert bank.generation == generation + 1
    device.activate(0)
    assert device.state() is State.READY
    assert [bank.active for bank in device.banks()] == [True, False]
    assert device.idle_bank() == 1
    device.load(two.data, 1)
    assert device.banks()[0].active
    device.activate(1)
    assert [bank.active for bank in device.banks()] == [False, True]
    device.close()


def test_the_active_bank_is_not_overwritten(served: Any, program: Callable[..., Any]) -> None:
    device = served.device()
    device.load(program(1).data, 0)
    device.activate(0)
    with pytest.raises(DeviceError, match=r"cannot load image into bank 0.*BANK_BUSY"):
        device.load(program(2).data, 0)
    assert device.banks()[0].digest == program(1).image.digest
    device.close()


def test_an_empty_bank_is_not_activated(served: Any) -> None:
    device = served.device()
    with pytest.raises(DeviceError, match=r"cannot activate bank 1.*NO_IMAGE"):
        device.activate(1)
    device.close()


def test_a_damaged_image_is_refused_with_its_reason(
    served: Any, program: Callable[..., Any]
) -> None:
    device = served.device()
    data = bytearray(program().data)
    data[-100] ^= 1
    with pytest.raises(DeviceError, match=r"BAD_IMAGE \(.*digest does not match"):
        device.load(bytes(data), 0)
    assert device.banks()[0].status is BankStatus.CORRUPT
    with pytest.raises(DeviceError, match="BAD_IMAGE"):
        device.load(b"no image at all", 0)
    device.load(program().data, 0)
    assert device.banks()[0].status is BankStatus.VALID
    device.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": Array(1, 2, 3)}, "image: ABI 2, array 1x2x3, .* device: ABI 2, array {array}"),
        ({"dram_bytes": 3 << 30}, "3221225472 bytes of DRAM"),
        ({"abi": 7}, "ABI 7, this build reads ABI 2"),
    ],
)
def test_an_image_for_another_device_is_incompatible(
    served: Any, kind: Kind, program: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    device = served.device()
    data = serialize_image(replace(program().image, **change))
    message = message.format(array=kind.array)
    with pytest.raises(IncompatibleError, match=f"INCOMPATIBLE.*{message}"):
        device.load(data, 0)
    assert device.banks()[0].status is BankStatus.CORRUPT
    device.close()


@pytest.mark.needs(Need.CODE)
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"code": b"", "packed": b"", "schedule": Schedule()}, "no code"),
        ({"schedule": Schedule(1 << 20, 1 << 19, 8)}, "code for 1048576 \\+ 524288 bytes on chip"),
    ],
)
def test_a_device_that_executes_code_wants_it_for_its_buffers(
    served: Any, program: Callable[..., Any], change: dict[str, Any], found: str
) -> None:
    device = served.device()
    own = device.identity.target
    buffers = f"code for {own.activation_buffer} \\+ {own.weight_buffer} bytes on chip"
    data = serialize_image(replace(program().image, **change))
    with pytest.raises(
        IncompatibleError, match=f"image: .* {found}, .* device: .* {buffers}, .* target {own}"
    ):
        device.load(data, 0)
    device.close()


def test_soft_reset_empties_the_banks(served: Any, program: Callable[..., Any]) -> None:
    device = served.device()
    device.load(program().data, 0)
    device.activate(0)
    device.soft_reset()
    assert device.state() is State.CLEARED
    assert {bank.status for bank in device.banks()} == {BankStatus.EMPTY}
    assert device.readings().reset_cause is ResetCause.SOFT
    device.load(program().data, 0)
    device.close()


def test_banks_outlive_the_connection(served: Any, program: Callable[..., Any]) -> None:
    device = served.device()
    device.load(program(3).data, 1)
    device.activate(1)
    device.close()
    device = served.device()
    bank = device.banks()[1]
    assert (bank.digest, bank.active) == (program(3).image.digest, True)
    device.close()


def test_one_manages_at_a_time(served: Any) -> None:
    device = served.device()
    with pytest.raises(DeviceError, match="another opening of the device holds it"):
        served.device()
    stranger = served.transport()
    for offset in (Reg.COMMAND, Reg.WATCHDOG_MS, queue_offset(QUEUE_MANAGEMENT, Queue.CONTROL)):
        with pytest.raises(DeviceError, match="EBUSY"):
            stranger.region_write(offset, 0)
    with pytest.raises(DeviceError, match="EBUSY"):
        stranger.reset()
    assert device.state() is State.CLEARED
    stranger.close()
    device.close()


def test_the_management_queue_is_free_again_after_close(
    served: Any, wait_until: Callable[..., None]
) -> None:
    control = queue_offset(QUEUE_MANAGEMENT, Queue.CONTROL)
    probe = served.transport()
    for _ in range(5):
        device = served.device()
        assert probe.region_read(control)
        device.close()
        wait_until(lambda: not probe.region_read(control), "the queue is disabled")
    probe.close()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceLostError, match=r"cannot reach a device.*emulator running"):
        vfio_user.connect(tmp_path / "absent.sock")


def test_a_peer_that_is_no_device() -> None:
    ours, theirs = socket.socketpair()
    answerer = threading.Thread(target=lambda: (theirs.recv(4096), theirs.close()))
    answerer.start()
    with pytest.raises(DeviceLostError, match="it closed the connection"):
        vfio_user.VfioUserTransport(ours)
    answerer.join()


class _OtherMagic(vfio_user.VfioUserTransport):
    def region_read(self, offset: int, size: int = 4) -> int:
        return 0x12345678 if offset == Reg.MAGIC else super().region_read(offset, size)


class _OtherAbi(vfio_user.VfioUserTransport):
    def region_read(self, offset: int, size: int = 4) -> int:
        return 9 if offset == Reg.ABI else super().region_read(offset, size)


@pytest.mark.parametrize(
    ("transport", "message"),
    [(_OtherMagic, "first register is 0x12345678"), (_OtherAbi, "ABI 9, this edged speaks ABI 2")],
)
def test_probe_before_claiming(served: Any, transport: Any, message: str) -> None:
    with pytest.raises(IncompatibleError, match=f"cannot open device.*{message}"):
        Device.open(transport(vfio_user.connect(served.path)))


def test_preload_while_the_other_bank_runs(
    slow_emulator: Any, slow_program: Any, program: Callable[..., Any]
) -> None:
    device = slow_emulator.device()
    device.load(slow_program.data, 0)
    device.activate(0)
    queue = slow_emulator.queue(slow_program.image)
    first = queue.run(slow_program.inputs)
    results: list[list[np.ndarray]] = []
    runner = threading.Thread(target=lambda: results.append(queue.run(slow_program.inputs)))
    runner.start()
    while device.state() is not State.RUNNING:
        assert runner.is_alive()
    small = program(4, array=device.identity.target.array)
    device.load(small.data, 1)
    assert device.state() is State.RUNNING, "the load waited for the run"
    assert device.banks()[1].status is BankStatus.VALID
    runner.join(PATIENCE)
    for found, wanted in zip(results[0], first, strict=True):
        np.testing.assert_array_equal(found, wanted)
    queue.close()
    device.activate(1)
    queue = slow_emulator.queue(small.image)
    for found, wanted in zip(
        queue.run(small.inputs), numerics.run(small.image, small.inputs), strict=True
    ):
        np.testing.assert_array_equal(found[0], wanted)
    queue.close()
    device.close()


def test_disabling_the_data_queue_ends_its_run(
    slow_emulator: Any, long_program: Any, wait_until: Callable[..., None]
) -> None:
    device = slow_emulator.device()
    device.load(long_program.data, 0)
    device.activate(0)
    queue = slow_emulator.queue(long_program.image)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            queue.run(long_program.inputs)
        except UnavailableError as error:
            errors.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    wait_until(lambda: device.state() is State.RUNNING, "it runs")
    device.disable_queue(QUEUE_DATA)
    assert device.state() is State.READY
    runner.join(PATIENCE)
    assert "ABORTED" in str(errors[0])
    queue.close()
    device.close()


def test_the_watchdog_faults_a_long_run(slow_emulator: Any, slow_program: Any) -> None:
    device = slow_emulator.device()
    device.load(slow_program.data, 0)
    device.activate(0)
    device.set_watchdog(50)
    queue = slow_emulator.queue(slow_program.image)
    with pytest.raises(DeviceError, match="RUN with TIMEOUT"):
        queue.run(slow_program.inputs)
    assert device.state() is State.FAULTED
    assert device.readings().fault is Fault.WATCHDOG
    assert device.readings().timeouts == 1
    with pytest.raises(UnavailableError, match="RUN with FAULT"):
        queue.run(slow_program.inputs)
    device.set_watchdog(0)
    device.clear_fault()
    queue.run(slow_program.inputs)
    queue.close()
    device.close()


@pytest.mark.needs(Need.OWN_PROCESS)
def test_close_frees_every_descriptor(served: Any, program: Callable[..., Any]) -> None:
    def cycle() -> int:
        device = served.device()
        device.load(program().data, device.idle_bank())
        device.activate(device.idle_bank())
        queue = served.queue(program().image)
        queue.run(program().inputs)
        queue.close()
        device.close()
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # of what earlier tests have left in tracebacks
    first = cycle()
    assert [cycle() for _ in range(3)] == [first] * 3
