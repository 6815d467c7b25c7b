"""A device that lies, and the driver: it ends with an EdgedError, soon, or with a right answer."""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import random
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fuzz.budget import cases
from fuzz.program import small_program

from edged.device import Device, InferenceQueue, Monitor, Resets, Thresholds
from edged.errors import DeviceError, EdgedError, IncompatibleError
from edged.npu import ABI, EMULATOR_SHELL, FirmwareKind, parse_firmware, serialize_firmware
from edged.npu.registers import (
    BANKS,
    MAGIC,
    QUEUES,
    Array,
    Bank,
    BankStatus,
    Capability,
    Completion,
    Descriptor,
    Flash,
    Queue,
    Reg,
    State,
    bank_offset,
    queue_offset,
)

PROGRAM = small_program()
FIRMWARE = parse_firmware(
    serialize_firmware(FirmwareKind.ROLE, bytes(5000), shell=EMULATOR_SHELL, abi=ABI, array=Array())
)


class Impatient:
    """A clock that goes on by itself when it is looked at, for what would wait for seconds."""

    def __init__(self) -> None:
        self._now = itertools.count()

    def monotonic(self) -> float:
        return next(self._now) * 0.05

    def sleep(self, _seconds: float) -> None:
        next(self._now)

    def time(self) -> float:
        return 0.0


class Liar:
    """A transport to a device that is sound, but for what *rng* makes of it.

    It notes in *outside* what the driver asks it to reach beyond what is mapped.
    """

    def __init__(self, rng: random.Random, lies: float | None = None) -> None:
        self.outside: list[str] = []
        self.registers = self._sound(rng)
        self._rng = rng
        self._lies = rng.choice((0.0, 0.01, 0.05, 0.3, 1.0)) if lies is None else lies
        self._honest_start = rng.random() < 0.8
        self._memory: dict[int, mmap.mmap] = {}
        self._ours, self._theirs = socket.socketpair()
        self._heads = dict.fromkeys(range(QUEUES), 0)

    def region_read(self, offset: int, size: int = 4) -> int:
        assert size % 4 == offset % 4 == 0 < size and 0 <= offset <= 0x10000 - size
        value = sum(self.registers.get(offset + at, 0) << 8 * at for at in range(0, size, 4))
        return self._lie(value, size)

    def config_read(self, offset: int, size: int) -> int:
        assert size in (1, 2, 4) and 0 <= offset <= 4096 - size
        return self._rng.getrandbits(8 * size) if self._rng.random() < 0.5 else 0

    def config_write(self, offset: int, value: int, size: int) -> None:
        assert 0 <= offset <= 4096 - size and 0 <= value < 1 << 8 * size

    def region_write(self, offset: int, value: int, size: int = 4, *, posted: bool = False) -> None:
        assert size in (4, 8) and offset % 4 == 0 and 0 <= value < 1 << 8 * size
        for at in range(0, size, 4):
            self.registers[offset + at] = value >> 8 * at & 0xFFFF_FFFF
        for queue in range(QUEUES):
            if offset == queue_offset(queue, Queue.TAIL):
                if self.registers.get(queue_offset(queue, Queue.CONTROL)):
                    self._complete(queue, value)
            elif offset == queue_offset(queue, Queue.CONTROL):
                self._heads[queue] = 0
        if self._rng.random() < self._lies / 10 and not posted:
            raise DeviceError("cannot REGION_WRITE: the device refused it")

    def dma_map(self, iova: int, fd: int, offset: int, size: int) -> None:
        assert iova not in self._memory
        self._memory[iova] = mmap.mmap(fd, size, offset=offset)

    def dma_allocate(self, iova: int, size: int) -> None:
        return None

    def dma_unmap(self, iova: int, size: int) -> None:
        del self._memory[iova]

    def set_interrupt(self, vector: int, eventfd: int | None) -> None:
        if eventfd is not None and self._rng.random() < 0.3:
            os.eventfd_write(eventfd, 1)

    def reset(self) -> None:
        if self._rng.random() < self._lies:
            raise DeviceError("cannot DEVICE_RESET: the device refused it")

    def fileno(self) -> int:
        return self._ours.fileno()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def _sound(self, rng: random.Random) -> dict[int, int]:
        registers = {
            Reg.MAGIC: MAGIC,
            Reg.ABI: ABI,
            Reg.ARRAY_TI: 16,
            Reg.ARRAY_TO: 32,
            Reg.ARRAY_TP: 4,
            Reg.CAPABILITIES: Capability.FLASH,
            Reg.STATE: rng.choice([State.CLEARED, State.READY, State.FAULTED, State.GOLDEN]),
            Reg.DRAM_CALIBRATED: 1,
            Reg.ACTIVE_BANK: 0,
            Flash.REGION_SIZE.address(): 1 << 26,
        }
        for bank in range(BANKS):
            registers[bank_offset(bank, Bank.STATUS)] = BankStatus.VALID
            registers[bank_offset(bank, Bank.SIZE)] = 1 << 24
            _spread(registers, bank_offset(bank, Bank.DIGEST), PROGRAM.image.digest)
        _spread(registers, Flash.SHELL_ID.address(), EMULATOR_SHELL)
        _spread(registers, Flash.ROLE_DIGEST.address(), FIRMWARE.header.digest)
        return {int(offset): int(value) for offset, value in registers.items()}

    def _lie(self, value: int, size: int) -> int:
        if self._honest_start and self._rng.random() > 0.02 and len(self._memory) < 1:
            return value
        if self._rng.random() >= self._lies:
            return value
        ones = (1 << 8 * size) - 1
        return self._rng.choice(
            [0, 1, ones, self._rng.getrandbits(8 * size), value ^ 1 << self._rng.randrange(32)]
        )

    def _complete(self, queue: int, tail: int) -> None:
        """Answer what was submitted, or not, or something else."""
        base = self._address(queue, Queue.RING_BASE)
        completions = self._address(queue, Queue.COMPLETION_BASE)
        size = 1 << min(12, self.registers.get(queue_offset(queue, Queue.LOG2_SIZE), 0))
        while self._heads[queue] != tail:
            head = self._heads[queue]
            entry = self._reach(base + head % size * Descriptor.SIZE, Descriptor.SIZE)
            if entry is not None:
                self._follow(Descriptor.unpack(entry))
            self._heads[queue] = head + 1 & 0xFFFF_FFFF
            honest = Completion(0, 0, 1, head + 1)
            lie = Completion(
                self._rng.getrandbits(16),
                self._rng.choice([0, 4, 9, 10, 11, 12, self._rng.getrandbits(16)]),
                self._rng.getrandbits(64),
                self._rng.choice([head + 1, head, head + 2, 0, self._rng.getrandbits(32)]),
            )
            completion = lie if self._rng.random() < self._lies else honest
            place = self._reach(completions + head % size * Completion.SIZE, Completion.SIZE)
            if place is not None and self._rng.random() >= self._lies / 4:
                place[:] = completion.pack()
        if self._rng.random() < self._lies / 4:  # scribble over all that it may reach
            for memory in self._memory.values():
                at = self._rng.randrange(len(memory))
                memory[at : at + 64] = self._rng.randbytes(len(memory[at : at + 64]))

    def _follow(self, descriptor: Descriptor) -> None:
        if descriptor.op in (1, 2, 3, 8) and descriptor.length:
            self._reach(descriptor.host_address, descriptor.length)

    def _address(self, queue: int, register: Queue) -> int:
        at = queue_offset(queue, register)
        return self.registers.get(at, 0) | self.registers.get(at + 4, 0) << 32

    def _reach(self, address: int, size: int) -> memoryview | None:
        for iova, memory in self._memory.items():
            if iova <= address and address + size <= iova + len(memory):
                return memoryview(memory)[address - iova : address - iova + size]
        self.outside.append(f"{address:#x} + {size}")
        return None


def _spread(registers: dict[Any, int], offset: int, data: bytes) -> None:
    for at in range(0, len(data), 4):
        registers[offset + at] = int.from_bytes(data[at : at + 4], "little")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    clock = Impatient()
    fake = SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep, time=clock.time)
    for module in ("_device", "_ring", "_flash", "_inference", "_monitor"):
        monkeypatch.setattr(f"edged.device.{module}.time", fake)
    monkeypatch.setattr("edged.device._ring._HINT_MS", 0)
    logging.disable()  # or thousands of lines
    yield
    logging.disable(logging.NOTSET)


def manage(rng: random.Random, liar: Liar) -> None:
    """What the daemon does with a device, in some order."""
    if rng.random() < 0.5:
        monitor = Monitor(Thresholds())
        device = monitor.open(liar)
    else:
        device = Device.open(liar, rng.choice([None, Resets()]), any_abi=rng.random() < 0.5)
    steps: list[Callable[[], Any]] = [
        device.state,
        device.banks,
        device.idle_bank,
        device.readings,
        device.link,
        device.link_errors,
        device.progress,
        device.probe,
        device.flash_state,
        device.soft_reset,
        device.function_level_reset,
        lambda: device.load(PROGRAM.data, rng.randrange(BANKS)),
        lambda: device.activate(rng.randrange(BANKS)),
        lambda: device.flash(FIRMWARE),
        lambda: device.disable_queue(1),
    ]
    try:
        for step in rng.choices(steps, k=8):
            with contextlib.suppress(EdgedError):
                step()
    finally:
        device.close()


def compute(rng: random.Random, liar: Liar) -> None:
    """What a container does with it."""
    queue = InferenceQueue(liar, PROGRAM.image, timeout=1.0)
    try:
        for _ in range(4):
            with contextlib.suppress(EdgedError):
                outputs = queue.run(PROGRAM.inputs)
                for tensor, output in zip(PROGRAM.image.output_tensors, outputs, strict=True):
                    assert output.shape == (1, *tensor.shape)
                    assert output.dtype == np.dtype(tensor.dtype.numpy)
    finally:
        queue.close()


@pytest.mark.parametrize("use", [manage, compute])
@pytest.mark.timeout(0)
def test_a_device_that_lies(use: Callable[[random.Random, Liar], None]) -> None:
    for name, rng in cases(use.__name__):
        liar = Liar(rng)
        said = "cannot "
        try:
            use(rng, liar)
        except EdgedError as error:
            said = str(error)
        except BaseException as error:
            error.add_note(name)
            raise
        finally:
            liar.close()
        assert said.startswith("cannot "), f"{name}: {said}"
        assert not liar.outside, f"{name}: the driver asked for {liar.outside}"


# What fuzzing found.


@pytest.fixture
def sound() -> Iterator[Liar]:
    """One that does not lie, until a test changes a register."""
    liar = Liar(random.Random(1), lies=0.0)
    liar.registers[Reg.STATE] = State.READY
    yield liar
    liar.close()


def test_it_computes_if_nobody_lies(sound: Liar) -> None:
    queue = InferenceQueue(sound, PROGRAM.image)
    assert len(queue.run(PROGRAM.inputs)) == 1
    queue.close()


def test_a_bank_at_the_end_of_the_address_space(sound: Liar) -> None:
    sound.registers[bank_offset(0, Bank.BASE) + 4] = 0xFFFF_FFFF
    with pytest.raises(DeviceError, match="bank 0 is said to begin at 0xffffffff00000000"):
        InferenceQueue(sound, PROGRAM.image)


@pytest.mark.parametrize("size", [0, 1025, 0xFFFF_0000])
def test_an_array_that_cannot_be(sound: Liar, size: int) -> None:
    sound.registers[Reg.ARRAY_TO] = size
    with pytest.raises(IncompatibleError, match=f"array 16x{size}x4"):
        Device.open(sound)
