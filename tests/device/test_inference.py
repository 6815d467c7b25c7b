"""The data path, over a real socket to each kind of device."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE

from edged.device import Device, InferenceQueue, vfio_user
from edged.errors import (
    DeadlineError,
    DeviceError,
    DeviceLostError,
    EdgedError,
    IncompatibleError,
    NotRunError,
    RequestError,
    UnavailableError,
)
from edged.npu import numerics
from edged.npu.registers import QUEUE_DATA, Queue, State, queue_offset


@pytest.fixture
def device(served: Any) -> Iterator[Device]:
    device = served.device()
    yield device
    device.close()


def activate(device: Device, program: Any) -> None:
    bank = device.idle_bank()
    device.load(program.data, bank)
    device.activate(bank)


def assert_reference(found: list[np.ndarray], program: Any, inputs: list[np.ndarray]) -> None:
    wanted = numerics.run(program.image, inputs)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b[np.newaxis])


def test_random_programs_equal_the_reference(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    for seed in range(8):
        case = program(seed, pixels=3 + 3 * seed, channels=5 + seed)
        activate(device, case)
        queue = served.queue(case.image)
        assert_reference(queue.run(case.inputs), case, case.inputs)
        batched = [value[np.newaxis] for value in case.inputs]
        assert_reference(queue.run(batched), case, case.inputs)
        queue.close()
        device.disable_queue(QUEUE_DATA)


def test_each_entry_is_a_program_of_its_own(
    served: Any, device: Device, program_in_two: Any
) -> None:
    """Their tensors lie in the same DRAM, and their runs come in any order."""
    activate(device, program_in_two)
    image = program_in_two.image
    queue = served.queue(image)
    rng = np.random.default_rng(7)

    def case(number: int) -> tuple[int, list[np.ndarray]]:
        entry = number % 2
        tensors = image.chosen(image.entries[entry].inputs)
        noise = [rng.integers(t.dtype.lowest, t.dtype.highest + 1, t.shape) for t in tensors]
        return entry, [v.astype(t.dtype.numpy) for v, t in zip(noise, tensors, strict=True)]

    cases = [case(number) for number in range(24)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda case: queue.run(case[1], entry=case[0]), cases))
    for found, (entry, given) in zip(results, cases, strict=True):
        for a, b in zip(found, numerics.run(image, given, entry), strict=True):
            np.testing.assert_array_equal(a, b[np.newaxis])
    queue.close()


def test_results_are_not_overwritten_by_the_next_run(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    case = program()
    activate(device, case)
    queue = served.queue(case.image)
    other = [np.zeros_like(value) for value in case.inputs]
    first = queue.run(case.inputs)
    second = queue.run(other)
    assert_reference(first, case, case.inputs)
    assert_reference(second, case, other)
    queue.close()


def test_threads_share_a_queue(served: Any, device: Device, program: Callable[..., Any]) -> None:
    case = program()
    activate(device, case)
    queue = served.queue(case.image)
    rng = np.random.default_rng(5)
    inputs = [
        [rng.integers(0, 256, value.shape).astype(value.dtype) for value in case.inputs]
        for _ in range(40)
    ]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(queue.run, inputs))
    for found, given in zip(results, inputs, strict=True):
        assert_reference(found, case, given)
    queue.close()


def test_the_ring_goes_round(served: Any, device: Device, program: Callable[..., Any]) -> None:
    """Four descriptors a run, in a ring of few: heads, tails and completions wrap often."""
    case = program(pixels=3, channels=2)
    activate(device, case)
    queue = served.queue(case.image)
    first = queue.run(case.inputs)
    for _ in range(200):
        last = queue.run(case.inputs)
    np.testing.assert_array_equal(first[1], last[1])
    queue.close()


class _Deaf(vfio_user.VfioUserTransport):
    """Loses every interrupt."""

    def set_interrupt(self, vector: int, eventfd: int | None) -> None:
        pass


def test_lost_interrupts_do_no_harm(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    case = program()
    activate(device, case)
    queue = InferenceQueue(_Deaf(vfio_user.connect(served.path)), case.image)
    for _ in range(3):
        assert_reference(queue.run(case.inputs), case, case.inputs)
    queue.close()


def test_another_program_is_active(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    with pytest.raises(DeviceError, match="no bank is active"):
        served.queue(program(1).image)
    activate(device, program(1))
    with pytest.raises(IncompatibleError, match="bank 0 is active with program"):
        served.queue(program(2).image)


def test_one_holds_the_queue_at_a_time(
    served: Any, device: Device, program: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    case = program()
    activate(device, case)
    first = served.queue(case.image)
    with pytest.raises(DeviceError, match="another opening of the device holds it"):
        served.queue(case.image)
    assert_reference(first.run(case.inputs), case, case.inputs)
    first.close()
    probe = served.transport()
    control = queue_offset(QUEUE_DATA, Queue.CONTROL)
    wait_until(lambda: not probe.region_read(control), "the queue is free")
    probe.close()
    second = served.queue(case.image)
    assert_reference(second.run(case.inputs), case, case.inputs)
    second.close()


def test_runs_stay_exact_while_another_image_is_loaded(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    """Both queues work at once, on the same links and the same DRAM."""
    case, other = program(1), program(2)
    activate(device, case)
    queue = served.queue(case.image)
    loaded = threading.Event()
    runs = 0
    wrong: list[BaseException] = []

    def run() -> None:
        nonlocal runs
        try:
            while not loaded.is_set() or runs < 3:
                assert_reference(queue.run(case.inputs), case, case.inputs)
                runs += 1
        except BaseException as error:
            wrong.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    for _ in range(4):
        device.load(other.data, device.idle_bank())
        assert device.probe() is not None
    loaded.set()
    runner.join(PATIENCE)
    assert not wrong
    assert runs >= 3
    queue.close()
    device.activate(device.idle_bank())
    second = served.queue(other.image)
    assert_reference(second.run(other.inputs), other, other.inputs)
    second.close()


def test_a_queue_is_made_ready_while_another_has_it(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    case, other = program(1), program(2)
    activate(device, case)
    serving = served.queue(case.image)
    standby = served.queue(other.image, take=False)
    with pytest.raises(DeviceError, match="not taken yet"):
        standby.run(other.inputs)
    assert_reference(serving.run(case.inputs), case, case.inputs)
    serving.close()
    activate(device, other)
    standby.take()
    assert_reference(standby.run(other.inputs), other, other.inputs)
    standby.close()


def test_giving_up_a_queue_that_was_never_taken_harms_nobody(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    case = program()
    activate(device, case)
    serving = served.queue(case.image)
    served.queue(case.image, take=False).close()
    assert_reference(serving.run(case.inputs), case, case.inputs)
    serving.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: [], "0 inputs given, wanted 1"),
        (lambda x: [x[:-1]], r"input 'x' is uint8 \[8, 9, 3\], wanted uint8 \[1, 9, 9, 3\]"),
        (lambda x: [x.view(np.int8)], "input 'x' is int8"),
        (lambda x: [x.astype(np.float32)], "input 'x' is float32"),
    ],
)
def test_wrong_inputs(
    served: Any, device: Device, program: Callable[..., Any], change: Any, message: str
) -> None:
    case = program()
    activate(device, case)
    queue = served.queue(case.image)
    with pytest.raises(RequestError, match=f"cannot run: {message}"):
        queue.run(change(case.inputs[0]))
    assert_reference(queue.run(case.inputs), case, case.inputs)
    queue.close()


def test_a_queue_that_was_taken_away_says_so(
    served: Any, device: Device, program: Callable[..., Any]
) -> None:
    case = program()
    activate(device, case)
    queue = served.queue(case.image)
    device.disable_queue(QUEUE_DATA)
    with pytest.raises(NotRunError, match="cannot use queue 1: it was disabled"):
        queue.run(case.inputs)
    queue.close()


def test_a_run_that_takes_too_long_is_aborted(slow_emulator: Any, slow_program: Any) -> None:
    device = slow_emulator.device()
    activate(device, slow_program)
    queue = slow_emulator.queue(slow_program.image)
    wanted = queue.run(slow_program.inputs)
    busy = device.readings().busy_cycles
    with pytest.raises(DeadlineError, match=r"did not finish within 0\.1 s"):
        queue.run(slow_program.inputs, timeout=0.1)
    assert device.readings().busy_cycles == busy, "it was waited for"
    found = queue.run(slow_program.inputs)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    queue.close()
    device.close()


def test_a_run_after_a_reset_by_someone_else_is_not_run(
    slow_emulator: Any, slow_program: Any
) -> None:
    """The queue is taken anew after a run that was given up, and there is no program by then."""
    device = slow_emulator.device()
    activate(device, slow_program)
    queue = slow_emulator.queue(slow_program.image)
    with pytest.raises(DeadlineError):
        queue.run(slow_program.inputs, timeout=0.1)
    device.function_level_reset()
    for _ in range(2):
        with pytest.raises(NotRunError, match="no bank is active"):
            queue.run(slow_program.inputs)
    queue.close()
    device.close()


def test_a_run_while_someone_else_resets_the_device_is_not_run(
    slow_emulator: Any, slow_program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is taken anew by writes that do not arrive, and it reads as zeros."""
    device = slow_emulator.device()
    activate(device, slow_program)
    transport = slow_emulator.transport()
    queue = InferenceQueue(transport, slow_program.image)
    with pytest.raises(DeadlineError):
        queue.run(slow_program.inputs, timeout=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(transport, "region_read", lambda _offset, _size=4: 0)
        patch.setattr(transport, "region_write", lambda *_, **__: None)
        with pytest.raises(NotRunError, match="it was disabled"):
            queue.run(slow_program.inputs)
    with pytest.raises(NotRunError, match="taken away"):
        queue.run(slow_program.inputs)
    queue.close()
    device.close()


class Runs:
    """Runs in threads of their own, begun one after the other."""

    def __init__(self, queue: InferenceQueue, program: Any) -> None:
        self._queue = queue
        self._program = program
        self._threads: list[threading.Thread] = []
        self.ended: dict[int, list[np.ndarray] | BaseException] = {}

    def begin(self, timeout: float | None = None) -> None:
        thread = threading.Thread(target=self._run, args=(len(self._threads), timeout))
        self._threads.append(thread)
        thread.start()

    def _run(self, number: int, timeout: float | None) -> None:
        try:
            self.ended[number] = self._queue.run(self._program.inputs, timeout)
        except EdgedError as error:
            self.ended[number] = error

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture
def slow_queue(slow_emulator: Any, slow_program: Any) -> Iterator[tuple[InferenceQueue, Any]]:
    """A queue of the slow device, and how many descriptors were ever put into it."""
    device = slow_emulator.device()
    activate(device, slow_program)
    transport = slow_emulator.transport()
    queue = InferenceQueue(transport, slow_program.image)
    tail = queue_offset(QUEUE_DATA, Queue.TAIL)
    yield queue, lambda: transport.region_read(tail)
    queue.close()
    device.close()


def test_the_device_has_one_more_run_to_go_on_with_and_not_two(
    slow_queue: Any, slow_program: Any, wait_until: Callable[..., None]
) -> None:
    queue, submitted = slow_queue
    runs = Runs(queue, slow_program)
    for _ in range(3):
        runs.begin()
    descriptors = len(slow_program.image.inputs) + 1 + len(slow_program.image.outputs)
    wait_until(lambda: submitted() == 2 * descriptors, "the second is queued")
    assert not runs.ended
    wait_until(lambda: len(runs.ended) == 1, "the first is done")
    wait_until(lambda: submitted() == 3 * descriptors, "the third is queued")
    runs.join()
    first, *others = runs.ended.values()
    assert len(others) == 2
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_run_that_was_aborted_with_the_one_before_it_is_done_again(
    slow_queue: Any, slow_program: Any, wait_until: Callable[..., None]
) -> None:
    queue, submitted = slow_queue
    wanted = queue.run(slow_program.inputs)
    before = submitted()
    runs = Runs(queue, slow_program)
    runs.begin(timeout=0.2)
    wait_until(lambda: submitted() > before, "the first is queued")
    runs.begin()
    runs.begin()
    runs.join()
    assert isinstance(runs.ended[0], DeadlineError)
    for number in (1, 2):
        for a, b in zip(runs.ended[number], wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_closing_ends_all_that_is_queued(
    slow_queue: Any, slow_program: Any, wait_until: Callable[..., None]
) -> None:
    queue, submitted = slow_queue
    runs = Runs(queue, slow_program)
    for _ in range(3):
        runs.begin()
    wait_until(submitted, "the first is queued")
    queue.close()
    runs.join()
    assert len(runs.ended) == 3
    assert all(isinstance(end, UnavailableError | DeviceError) for end in runs.ended.values())


def test_killing_the_device_ends_a_run_at_once(
    slow_emulator: Any, slow_program: Any, wait_until: Callable[..., None]
) -> None:
    device = slow_emulator.device()
    activate(device, slow_program)
    queue = slow_emulator.queue(slow_program.image, timeout=2 * PATIENCE)
    outcome: list[BaseException] = []

    def run_until_it_fails() -> None:
        try:
            while True:
                queue.run(slow_program.inputs)
        except DeviceLostError as error:
            outcome.append(error)

    runner = threading.Thread(target=run_until_it_fails)
    runner.start()
    wait_until(lambda: device.state() is State.RUNNING, "it runs")
    slow_emulator.kill()
    runner.join(PATIENCE)
    (error,) = outcome
    assert re.search("gone|cannot reach device", str(error))
    for use in (device.state, lambda: queue.run(slow_program.inputs)):
        with pytest.raises(DeviceLostError):
            use()
    queue.close()
    device.close()


def test_a_new_device_at_the_same_place(
    start_emulator: Callable[..., Any], program: Callable[..., Any]
) -> None:
    """A killed emulator leaves its socket behind; the next one takes its place."""
    case = program()
    first = start_emulator()
    first.kill()
    assert first.path.exists()
    second = start_emulator(path=first.path)
    device = second.device()
    activate(device, case)
    queue = second.queue(case.image)
    assert_reference(queue.run(case.inputs), case, case.inputs)
    queue.close()
    device.close()


@pytest.mark.parametrize(
    ("clean", "message"),
    [(True, "RUN with ABORTED"), (False, "answer.*gone|it closed the connection")],
)
def test_closing_the_connection_aborts_its_run(
    slow_emulator: Any,
    slow_program: Any,
    long_program: Any,
    wait_until: Callable[..., None],
    clean: bool,
    message: str,
) -> None:
    device = slow_emulator.device()
    activate(device, long_program)
    transport = slow_emulator.transport()
    queue = InferenceQueue(transport, long_program.image)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            queue.run(long_program.inputs)
        except (UnavailableError, DeviceLostError) as error:
            errors.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    wait_until(lambda: device.state() is State.RUNNING, "it runs")
    (queue if clean else transport).close()
    runner.join(PATIENCE)
    assert re.search(message, str(errors[0]))
    wait_until(lambda: device.state() is State.READY, "the end of the run")
    assert device.readings().busy_cycles == 0, "it was not aborted"
    activate(device, slow_program)
    again = slow_emulator.queue(slow_program.image)
    again.run(slow_program.inputs)
    again.close()
    queue.close()
    device.close()
