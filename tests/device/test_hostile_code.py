"""Programs that do not end, or leave their bank: the device ends them, and goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

import pytest
from device.kinds import Kind, Need, Served
from patience import PATIENCE, eventually

from edged.device import Device
from edged.device._memory import DmaBuffer
from edged.device._ring import Ring
from edged.npu import DType, Entry, Layer, Op, ProgramImage, Tensor, serialize_image
from edged.npu.instructions import INSTRUCTION_BYTES, Instruction, Opcode, Unit
from edged.npu.registers import (
    QUEUE_DATA,
    Completion,
    Descriptor,
    Fault,
    Operation,
    ResetCause,
    State,
    Status,
)

pytestmark = pytest.mark.needs(Need.CODE)

IOVA = 1 << 32
END = Instruction(Opcode.END, {})
FOR_EVER = Instruction(Opcode.LOAD_PLANE, {"lanes_across": 1}, wait=1 << Unit.STORE)
"""Waits for a token that nobody gives."""
PLANE = {
    "height": 8,
    "width": 8,
    "row_bytes": 64,
    "pixel_bytes": 8,
    "lanes_across": 1,
    "buffer_row": 8,
    "buffer_pixel": 1,
}
ALL = {"rows": 8, "columns": 8, "bytes": 8}
OUTSIDE = 1 << 12
"""Behind the DRAM that the program says that it needs."""

ENDS, HANGS, UNKNOWN, READS_OUTSIDE, WRITES_OUTSIDE, RUNS_OUT = range(6)
PROGRAMS: list[list[bytes]] = [
    [END.pack()],
    [FOR_EVER.pack(), END.pack()],
    [b"\xff" + bytes(INSTRUCTION_BYTES - 1), END.pack()],
    [
        Instruction(Opcode.LOAD_PLANE, PLANE).pack(),
        Instruction(Opcode.LOAD, {**ALL, "address": OUTSIDE}).pack(),
        END.pack(),
    ],
    [
        Instruction(Opcode.STORE_PLANE, PLANE).pack(),
        Instruction(Opcode.STORE, {**ALL, "address": OUTSIDE - 64}).pack(),
        END.pack(),
    ],
    [Instruction(Opcode.SYNC, {}).pack()],
]
"""An entry each; the last has no END."""


def hostile(kind: Kind) -> bytes:
    """An image with these programs, whatever its layers say."""
    tensors = tuple(Tensor(name, DType.U8, (2, 2, 8), 0, 64 * at) for at, name in enumerate("ab"))
    layers = tuple(
        Layer(Op.RESCALE, f"layer {number}", (0,), 1, lefts=(0,)) for number in range(len(PROGRAMS))
    )
    starts = accumulate(map(len, PROGRAMS), initial=0)
    entries = tuple(
        Entry((layer,), (0,), (1,), start) for layer, start in zip(layers, starts, strict=False)
    )
    image = kind.finished(ProgramImage(kind.array, tensors, entries, dram_bytes=OUTSIDE))
    return serialize_image(
        replace(image, entries=entries, code=b"".join(b"".join(part) for part in PROGRAMS))
    )


class Container:
    """Has the data queue, and runs whatever it likes."""

    def __init__(self, served: Served) -> None:
        self.transport = served.transport()
        self.memory = DmaBuffer(self.transport, IOVA, 1 << 16)
        self.ring = Ring(self.transport, QUEUE_DATA, self.memory, 4)

    def begin(self, *entries: int) -> None:
        self.ring.submit(
            [Descriptor(Operation.RUN, tag=entry, device_address=entry).pack() for entry in entries]
        )

    def end(self) -> list[Completion]:
        return self.ring.wait(time.monotonic() + PATIENCE)

    def run(self, *entries: int) -> list[Status]:
        self.begin(*entries)
        return [Status(completion.status) for completion in self.end()]

    def close(self) -> None:
        self.transport.close()
        self.ring.close()


@pytest.fixture
def image(kind: Kind) -> bytes:
    return hostile(kind)


@pytest.fixture
def device(served: Served, image: bytes) -> Iterator[Device]:
    device = served.device()
    device.load(image, 0)
    device.activate(0)
    yield device
    device.close()


@pytest.fixture
def container(served: Served, device: Device) -> Iterator[Container]:
    with contextlib.closing(Container(served)) as container:
        assert container.run(ENDS) == [Status.OK]
        yield container


def running(device: Device) -> None:
    eventually(lambda: device.state() is State.RUNNING, "it runs", interval=0.002)


def test_the_watchdog_ends_what_hangs(device: Device, container: Container) -> None:
    device.set_watchdog(20)
    assert container.run(HANGS, ENDS) == [Status.TIMEOUT, Status.FAULT]
    readings = device.readings()
    assert device.state() is State.FAULTED
    assert (readings.fault, readings.timeouts) == (Fault.WATCHDOG, 1)
    device.clear_fault()
    assert container.run(ENDS) == [Status.OK]
    assert device.state() is State.READY


@pytest.mark.parametrize("entry", [UNKNOWN, READS_OUTSIDE, WRITES_OUTSIDE, RUNS_OUT])
def test_a_program_that_does_what_it_must_not(
    device: Device, container: Container, entry: int
) -> None:
    assert container.run(entry, ENDS) == [Status.FAULT, Status.FAULT]
    readings = device.readings()
    assert readings.fault is Fault.INSTRUCTION
    bank = device.banks()[0]
    assert bank.base <= readings.fault_address < bank.base + bank.size
    device.clear_fault()
    assert container.run(ENDS) == [Status.OK]


def test_a_manager_takes_the_queue_away(device: Device, container: Container) -> None:
    container.begin(HANGS, ENDS)
    running(device)
    device.disable_queue(QUEUE_DATA)
    assert [Status(c.status) for c in container.end()] == [Status.ABORTED, Status.ABORTED]
    assert device.state() is State.READY


def test_a_fence_does_not_wait_for_a_run(device: Device, container: Container) -> None:
    container.begin(HANGS)
    running(device)
    assert device.probe(PATIENCE) is not None
    assert device.state() is State.RUNNING
    device.disable_queue(QUEUE_DATA)


def test_a_load_goes_on_beside_a_run_and_an_activation_waits(
    device: Device, container: Container, image: bytes
) -> None:
    container.begin(HANGS)
    running(device)
    device.load(image, 1)
    assert device.state() is State.RUNNING
    activation = threading.Thread(target=device.activate, args=(1,))
    activation.start()
    assert device.banks()[0].active
    container.transport.close()
    activation.join(PATIENCE)
    assert device.banks()[1].active


@pytest.mark.parametrize("level", ["soft", "function"])
def test_resets_end_a_run(device: Device, container: Container, level: str) -> None:
    container.begin(HANGS, ENDS)
    running(device)
    (device.soft_reset if level == "soft" else device.function_level_reset)()
    assert device.state() is State.CLEARED
    cause = ResetCause.SOFT if level == "soft" else ResetCause.FUNCTION_LEVEL
    assert device.readings().reset_cause is cause
    assert not any(bank.active for bank in device.banks())
