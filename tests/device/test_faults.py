"""What hardware may do, rehearsed on a real emulator: found in time, said clearly, recovered from.

The driver knows nothing of the emulator: it meets each fault through registers and rings.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE

from edged.device import (
    Bound,
    Device,
    Level,
    Monitor,
    Resets,
    Step,
    Thresholds,
    Unfit,
    disarm,
    inject,
    vfio_user,
)
from edged.device._ring import Ring
from edged.errors import (
    DeadlineError,
    DeviceError,
    DeviceLostError,
    EdgedError,
    IncompatibleError,
    NotRunError,
    UnavailableError,
)
from edged.npu import numerics
from edged.npu.registers import (
    QUEUE_DATA,
    BankStatus,
    Capability,
    Completion,
    Fault,
    Inject,
    Injection,
    Queue,
    Reg,
    ResetCause,
    State,
    Status,
    queue_offset,
)

WATCHDOG_MS = 50
HOUR = 3_600_000
"""Milliseconds of what does not end within a test."""
THRESHOLDS = Thresholds()


class Rig:
    """A device with a program in its active bank, and a way to break it."""

    def __init__(self, emulator: Any, program: Any) -> None:
        self.emulator = emulator
        self.program = program
        self.resets = Resets()
        self.device = self.open()

    def open(self) -> Device:
        self.device = Device.open(self.emulator.transport(), self.resets)
        return self.device

    def reopens(self) -> bool:
        """Whether the device can be opened anew; it is closed first."""
        self.device.close()
        try:
            self.open()
        except DeviceLostError:
            return False
        return True

    def load(self) -> Any:
        """The queue of a container for the program."""
        self.device.load(self.program.data, 0)
        self.device.activate(0)
        return self.emulator.queue(self.program.image)

    def recover(self) -> dict[str, int]:
        """Open the device anew; the steps that it took."""
        before = self.resets.taken()
        self.device.close()
        self.open()
        after = self.resets.taken()
        return {
            step.value: after[step] - before[step] for step in Step if after[step] > before[step]
        }

    def inject(self, kind: Injection, **arguments: int) -> None:
        transport = self.emulator.transport()
        inject(transport, kind, **arguments)
        transport.close()

    def disarm(self) -> None:
        transport = self.emulator.transport()
        disarm(transport)
        transport.close()

    def run_for_ever(self, queue: Any) -> None:
        while True:
            queue.run(self.program.inputs)

    def check_anew(self) -> None:
        queue = self.load()
        self.check(queue)
        queue.close()

    def check(self, queue: Any) -> None:
        """That a run gives what it should."""
        outputs = queue.run(self.program.inputs)
        wanted = numerics.run(self.program.image, self.program.inputs)
        for found, right in zip(outputs, wanted, strict=True):
            np.testing.assert_array_equal(found[0], right)


@pytest.fixture
def rig(breakable_emulator: Any, program: Callable[..., Any]) -> Iterator[Rig]:
    rig = Rig(breakable_emulator, program())
    rig.device.function_level_reset()
    yield rig
    rig.device.close()
    rig.inject(Injection.TEMPERATURE)
    rig.disarm()


def test_the_block_is_there_only_if_the_capability_is(served: Any) -> None:
    transport = served.transport()
    assert not transport.region_read(Reg.CAPABILITIES) & Capability.FAULT_INJECTION
    transport.region_write(Inject.VALUE.address(), 7)
    assert transport.region_read(Inject.VALUE.address()) == 0
    transport.region_write(Inject.ARM.address(), Injection.ECC_CORRECTED)
    assert transport.region_read(Reg.ECC_CORRECTED) == 0
    with pytest.raises(IncompatibleError, match="started with --fault-injection"):
        inject(transport, Injection.HANG)
    transport.close()


def test_the_watchdog_ends_a_hung_run(rig: Rig) -> None:
    queue = rig.load()
    rig.device.set_watchdog(WATCHDOG_MS)
    rig.inject(Injection.HANG)
    with pytest.raises(DeviceError, match="RUN with TIMEOUT: the run took longer than"):
        queue.run(rig.program.inputs)
    assert rig.device.state() is State.FAULTED
    assert rig.device.readings().fault is Fault.WATCHDOG
    with pytest.raises(UnavailableError, match="RUN with FAULT; it is being reset"):
        queue.run(rig.program.inputs)
    queue.close()
    # No more than needed: the bank keeps its program.
    assert rig.recover() == {"queue abort": 1}
    assert rig.device.banks()[0].status is BankStatus.VALID
    queue = rig.emulator.queue(rig.program.image)
    rig.check(queue)
    queue.close()


def test_what_is_aborted_after_a_hung_run_was_not_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset may come when the device has the next one's inputs, and has not refused it yet."""
    queue = rig.load()
    rig.device.set_watchdog(WATCHDOG_MS)
    rig.inject(Injection.HANG)
    with pytest.raises(DeviceError, match="RUN with TIMEOUT"):
        queue.run(rig.program.inputs)
    wait = Ring.wait

    def aborted(ring: Ring, deadline: float, count: int | None = None) -> list[Completion]:
        done = wait(ring, deadline, count)
        return [replace(each, status=Status.ABORTED if each.status else Status.OK) for each in done]

    monkeypatch.setattr(Ring, "wait", aborted)
    with pytest.raises(NotRunError, match="RUN with ABORTED; it is being reset"):
        queue.run(rig.program.inputs)
    queue.close()
    rig.recover()


@pytest.mark.parametrize(
    ("obeys", "steps"),
    [
        (1, []),
        (2, ["queue abort", "soft reset"]),
        (3, ["queue abort", "soft reset", "function-level reset"]),
    ],
)
def test_the_ladder_is_climbed_as_far_as_needed(rig: Rig, obeys: int, steps: list[str]) -> None:
    queue = rig.load()
    rig.device.set_watchdog(0)
    rig.inject(Injection.HANG, value=obeys)
    ended: list[EdgedError] = []

    def run() -> None:
        try:
            queue.run(rig.program.inputs, timeout=2 * PATIENCE)
        except EdgedError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    rig.emulator.wait_for_state(rig.device, State.RUNNING)
    taken = rig.recover()
    # The first one is always done when a device is opened; it counts when there was a fault.
    assert list(taken) == steps
    thread.join(PATIENCE)
    assert not thread.is_alive() and isinstance(ended[0], UnavailableError | DeviceError)
    queue.close()
    assert rig.device.state() is (State.READY if obeys == 1 else State.CLEARED)
    queue = rig.load() if obeys > 1 else rig.emulator.queue(rig.program.image)
    rig.check(queue)
    queue.close()


def test_a_lost_interrupt_costs_a_moment_only(rig: Rig) -> None:
    queue = rig.load()
    rig.inject(Injection.LOST_INTERRUPT, times=0)
    for _ in range(3):
        rig.check(queue)
    queue.close()


def test_an_error_on_the_link_is_made_good(rig: Rig) -> None:
    queue = rig.load()
    rig.inject(Injection.DMA_CRC)
    rig.check(queue)
    rig.inject(Injection.DMA_CRC)
    rig.device.load(rig.program.data, 1)
    assert rig.device.banks()[1].status is BankStatus.VALID
    rig.inject(Injection.DMA_CRC, times=0)
    with pytest.raises(DeviceError, match="DMA_IN with BAD_CRC"):
        queue.run(rig.program.inputs)
    queue.close()


def test_memory_errors(rig: Rig, wait_until: Callable[..., None]) -> None:
    queue = rig.load()
    rig.inject(Injection.ECC_CORRECTED, value=5)
    wait_until(lambda: rig.device.readings().ecc_corrected == 5, "the counter")
    rig.check(queue)
    rig.inject(Injection.ECC_UNCORRECTED, after=1)
    rig.check(queue)
    with pytest.raises(UnavailableError, match="RUN with FAULT"):
        queue.run(rig.program.inputs)
    readings = rig.device.readings()
    assert (readings.fault, readings.ecc_uncorrected) == (Fault.DRAM, 1)
    queue.close()
    assert rig.recover() == {"queue abort": 1}


def test_a_corrupt_bank_is_not_run_until_loaded_anew(
    rig: Rig, wait_until: Callable[..., None]
) -> None:
    queue = rig.load()
    rig.inject(Injection.CORRUPT_BANK)
    wait_until(lambda: rig.device.banks()[0].status is BankStatus.CORRUPT, "the scrubber")
    with pytest.raises(UnavailableError, match="RUN with FAULT"):
        queue.run(rig.program.inputs)
    assert rig.device.readings().fault is Fault.IMAGE
    assert rig.device.readings().seu_count == 1
    queue.close()
    rig.recover()
    rig.device.load(rig.program.data, 1)
    rig.device.activate(1)
    queue = rig.emulator.queue(rig.program.image)
    rig.check(queue)
    queue.close()


def test_a_load_that_hangs_is_ended_by_a_reset(rig: Rig, wait_until: Callable[..., None]) -> None:
    rig.inject(Injection.SLOW_LOAD, milliseconds=HOUR)
    ended: list[EdgedError] = []

    def load() -> None:
        try:
            rig.device.load(rig.program.data, 0)
        except EdgedError as error:
            ended.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    wait_until(lambda: rig.device.banks()[0].status is BankStatus.LOADING, "the load to begin")
    rig.device.readings()  # waits for nobody
    assert rig.device.probe() is None
    rig.device.soft_reset()
    thread.join(PATIENCE)
    assert not thread.is_alive() and isinstance(ended[0], DeviceError)
    rig.check_anew()


def test_a_load_that_takes_too_long_is_given_up(rig: Rig) -> None:
    rig.inject(Injection.SLOW_LOAD, milliseconds=HOUR)
    with pytest.raises(DeadlineError, match=r"bank 0: not done within 0\.2 s"):
        rig.device.load(rig.program.data, 0, timeout=0.2)
    rig.check_anew()


@pytest.fixture
def doomed(start_emulator: Callable[..., Any], program: Callable[..., Any]) -> Iterator[Rig]:
    """With an emulator of its own, for what it does not come back from."""
    rig = Rig(start_emulator("--fault-injection"), program())
    yield rig
    rig.device.close()


def test_while_the_link_is_down_everybody_is_told(doomed: Rig) -> None:
    rig = doomed
    queue = rig.load()
    rig.inject(Injection.LINK_DOWN, milliseconds=HOUR)
    with pytest.raises(DeviceLostError, match="its link is down"):
        rig.run_for_ever(queue)
    with pytest.raises(DeviceLostError, match="its link is down"):
        rig.device.readings()
    with pytest.raises(DeviceLostError, match="its link is down"):
        rig.open()
    queue.close()


def test_a_link_that_was_down_comes_back(rig: Rig, wait_until: Callable[..., None]) -> None:
    queue = rig.load()
    rig.inject(Injection.LINK_DOWN, milliseconds=200)
    with pytest.raises(DeviceLostError):
        rig.run_for_ever(queue)
    queue.close()
    wait_until(rig.reopens, "the link to come back")
    assert rig.device.state() is State.CLEARED
    assert rig.device.readings().reset_cause is ResetCause.POWER_ON
    rig.check_anew()


def test_a_device_that_was_removed_is_not_reached(doomed: Rig) -> None:
    queue = doomed.load()
    doomed.inject(Injection.REMOVAL, milliseconds=HOUR)
    with pytest.raises(DeviceLostError):
        doomed.run_for_ever(queue)
    queue.close()
    with pytest.raises(DeviceLostError, match="cannot reach a device"):
        vfio_user.connect(doomed.emulator.path)


def test_removal_and_return(rig: Rig, wait_until: Callable[..., None]) -> None:
    queue = rig.load()
    rig.inject(Injection.REMOVAL, milliseconds=200)
    with pytest.raises(DeviceLostError):
        rig.run_for_ever(queue)
    queue.close()
    wait_until(rig.reopens, "the device to return")
    assert rig.device.readings().reset_cause is ResetCause.POWER_ON
    rig.check_anew()


def test_a_probe_never_waits_behind_a_run(slow_emulator: Any, long_program: Any) -> None:
    device = slow_emulator.device()
    device.load(long_program.data, 0)
    device.activate(0)
    queue = slow_emulator.queue(long_program.image)

    def run() -> None:
        with pytest.raises(UnavailableError):
            queue.run(long_program.inputs)

    thread = threading.Thread(target=run)
    thread.start()
    slow_emulator.wait_for_state(device, State.RUNNING)
    while device.probe() is None:
        pass
    device.readings()
    assert device.state() is State.RUNNING, "the run was over before the probe"
    device.disable_queue(QUEUE_DATA)
    thread.join()
    queue.close()
    device.close()


# The schedule


def test_faults_from_a_file(
    start_emulator: Callable[..., Any], program: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\nkind = "ecc-uncorrected"\nafter = 2\n')
    rig = Rig(start_emulator("--faults", str(file)), program())
    queue = rig.load()
    rig.check(queue)
    rig.check(queue)
    with pytest.raises(UnavailableError, match="RUN with FAULT"):
        queue.run(rig.program.inputs)
    queue.close()
    rig.device.close()


def outcomes(start: Callable[..., Any], file: Path, seed: int, program: Any) -> list[bool]:
    rig = Rig(start("--faults", str(file), "--seed", str(seed)), program)
    rig.device.load(program.data, 0)
    rig.device.activate(0)
    found = []
    for _ in range(12):
        queue = rig.emulator.queue(program.image)
        try:
            queue.run(program.inputs)
            found.append(True)
        except UnavailableError:
            found.append(False)
        queue.close()
        rig.device.clear_fault()
    rig.device.close()
    return found


def test_the_same_seed_does_the_same(
    start_emulator: Callable[..., Any], program: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\nkind = "ecc-uncorrected"\nchance = 0.5\ntimes = 0\n')
    first = outcomes(start_emulator, file, 7, program())
    assert outcomes(start_emulator, file, 7, program()) == first
    assert outcomes(start_emulator, file, 8, program()) != first


# The monitor


def test_levels_have_hysteresis() -> None:
    bound = Bound(warn=80, throttle=90, stop=100, hysteresis=3)
    assert bound.level(79.9, Level.OK) is Level.OK
    assert bound.level(80, Level.OK) is Level.WARN
    assert bound.level(78, Level.WARN) is Level.WARN
    assert bound.level(76.9, Level.WARN) is Level.OK
    assert bound.level(120, Level.OK) is Level.STOP
    assert bound.level(98, Level.STOP) is Level.STOP
    assert bound.level(96.9, Level.STOP) is Level.THROTTLE
    assert bound.level(88, Level.OK) is Level.WARN


async def watched(monitor: Monitor, emulator: Any) -> tuple[Device, asyncio.Task[Unfit]]:
    device = await asyncio.to_thread(lambda: monitor.open(emulator.transport()))
    task = asyncio.create_task(monitor.unfit(device))
    return device, task


async def test_the_monitor_hears_of_a_fault_at_once(rig: Rig) -> None:
    rig.device.close()
    # It would not look again within this test, were it not for the interrupt.
    monitor = Monitor(THRESHOLDS, poll_seconds=60, watchdog_seconds=0.05)
    rig.device, unfit = await watched(monitor, rig.emulator)
    queue = await asyncio.to_thread(rig.load)
    rig.inject(Injection.HANG)
    with pytest.raises(DeviceError, match="TIMEOUT"):
        await asyncio.to_thread(queue.run, rig.program.inputs)
    async with asyncio.timeout(PATIENCE):
        assert await unfit == Unfit("it is FAULTED (WATCHDOG)", mended=True)
    queue.close()
    rig.device.close()
    rig.device = await asyncio.to_thread(lambda: monitor.open(rig.emulator.transport()))
    assert monitor.resets.taken()[Step.QUEUE_ABORT] == 1
    assert monitor.resets.taken()[Step.SOFT_RESET] == 0


@pytest.mark.parametrize(("obeys", "soft_resets"), [(1, 0), (2, 1)])
async def test_the_monitor_finds_a_hang_that_no_watchdog_ends(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, obeys: int, soft_resets: int
) -> None:
    monkeypatch.setattr("edged.device._monitor._HUNG_AFTER", 0.2)
    rig.device.close()
    monitor = Monitor(THRESHOLDS, poll_seconds=0.05, watchdog_seconds=0.1)
    rig.device, unfit = await watched(monitor, rig.emulator)
    queue = await asyncio.to_thread(rig.load)
    rig.inject(Injection.HANG, value=obeys)
    run = asyncio.create_task(asyncio.to_thread(queue.run, rig.program.inputs, 2 * PATIENCE))
    async with asyncio.timeout(PATIENCE):
        found = await unfit
    assert "a run hangs: nothing has come of it" in found.why and found.mended
    rig.device.close()
    rig.device = await asyncio.to_thread(lambda: monitor.open(rig.emulator.transport()))
    assert monitor.resets.taken()[Step.QUEUE_ABORT] == 1
    assert monitor.resets.taken()[Step.SOFT_RESET] == soft_resets
    assert monitor.resets.failed()[Step.QUEUE_ABORT] == soft_resets
    with pytest.raises(EdgedError):
        await run
    queue.close()


async def test_a_queue_that_nobody_holds_is_no_run_that_hangs(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is after a container was killed in the middle of a run, and none took its place."""
    monkeypatch.setattr("edged.device._monitor._HUNG_AFTER", 0.1)
    rig.device.close()
    monitor = Monitor(THRESHOLDS, poll_seconds=0.05, watchdog_seconds=0.1)
    rig.device = await asyncio.to_thread(lambda: monitor.open(rig.emulator.transport()))
    queue = await asyncio.to_thread(rig.load)
    rig.inject(Injection.HANG, value=1)
    runs = [
        asyncio.create_task(asyncio.to_thread(queue.run, rig.program.inputs, 2 * PATIENCE))
        for _ in range(2)
    ]
    read = rig.device._transport.region_read
    while read(queue_offset(QUEUE_DATA, Queue.TAIL)) == read(queue_offset(QUEUE_DATA, Queue.HEAD)):
        await asyncio.sleep(0.01)
    queue._transport._socket.shutdown(socket.SHUT_RDWR)
    for run in runs:
        with pytest.raises(EdgedError):
            await run
    while rig.device.progress() is not None:
        await asyncio.sleep(0.01)
    assert read(queue_offset(QUEUE_DATA, Queue.TAIL)) != read(queue_offset(QUEUE_DATA, Queue.HEAD))
    unfit = asyncio.create_task(monitor.unfit(rig.device))
    looks = set()
    while len(looks) < 20 and not unfit.done():  # for longer than any run may take
        assert monitor.report is not None
        looks.add(monitor.report.at)
        await asyncio.sleep(0.02)
    assert not unfit.done(), unfit.result()
    unfit.cancel()
    queue.close()


async def test_the_monitor_looks_less_often_while_nothing_runs(rig: Rig) -> None:
    rig.device.close()
    monitor = Monitor(THRESHOLDS, poll_seconds=0.05)
    rig.device, unfit = await watched(monitor, rig.emulator)
    looks: list[float] = []
    async with asyncio.timeout(PATIENCE):
        while len(looks) < 5:
            assert monitor.report is not None
            if monitor.report.at not in looks:
                looks.append(monitor.report.at)
            await asyncio.sleep(0.01)
    # The first ones find out that nothing runs.
    assert all(after - before >= 0.25 for before, after in itertools.pairwise(looks[2:]))
    unfit.cancel()
    await asyncio.gather(unfit, return_exceptions=True)


async def test_heat_slows_down_before_it_stops(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.device.close()
    told: list[bool] = []
    monitor = Monitor(THRESHOLDS, poll_seconds=0.02, on_throttle=told.append)
    rig.device, unfit = await watched(monitor, rig.emulator)
    async with asyncio.timeout(PATIENCE):
        for celsius, level in ((90, Level.WARN), (97, Level.THROTTLE)):
            rig.inject(Injection.TEMPERATURE, value=celsius)
            while monitor.report is None or monitor.report.level("temperature") is not level:
                await asyncio.sleep(0.01)
        rig.inject(Injection.TEMPERATURE, value=104)
        found = await unfit
    assert found.why.startswith("its temperature") and not found.mended
    assert told == [True]
    assert monitor.report is not None and monitor.report.level("temperature") is Level.STOP
    crossed = [r.getMessage() for r in caplog.records if r.getMessage().startswith("device: temp")]
    assert [text.split(": ")[2].split(",")[0] for text in crossed] == ["WARN", "THROTTLE", "STOP"]
    rig.device.close()
    with pytest.raises(UnavailableError, match="cannot use device: its temperature"):
        await asyncio.to_thread(lambda: monitor.open(rig.emulator.transport()))
    rig.inject(Injection.TEMPERATURE)
    rig.device, unfit = await watched(monitor, rig.emulator)
    async with asyncio.timeout(PATIENCE):
        while told != [True, False]:
            await asyncio.sleep(0.01)
    unfit.cancel()
    await asyncio.gather(unfit, return_exceptions=True)


async def test_the_monitor_reports_the_link_and_the_rest(rig: Rig) -> None:
    rig.device.close()
    monitor = Monitor(THRESHOLDS)
    rig.device = await asyncio.to_thread(lambda: monitor.open(rig.emulator.transport()))
    report = monitor.report
    assert report is not None
    assert str(report.link) == "8 GT/s ×8"
    assert report.level() is Level.OK
    assert {each.name for each in report.readings} >= {"temperature", "power", "DRAM calibration"}
    modelled = {each.name for each in report.readings if each.text.endswith("(modelled)")}
    assert modelled == {"temperature", "power", "clock"}, "an emulator measures none of them"
