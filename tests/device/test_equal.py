"""The gateware answers whatever it is told as the emulator does, descriptor by descriptor.

Both stand behind the same process that hands out cards, so that what differs is theirs. What does
differ by intent is not asked: the flash, and damage that a digest finds and no CRC (docs/adr/0018).
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from device.kinds import Kind, Need, Served, emulated_card
from patience import PATIENCE

from edged.device._memory import DmaBuffer
from edged.device._ring import Ring
from edged.npu.registers import (
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    Bank,
    Descriptor,
    DescriptorFlag,
    Operation,
    Reg,
    Status,
)

pytestmark = pytest.mark.needs(Need.CODE)

IOVA = 1 << 32
DATA = IOVA + 4096
SIZE = 1 << 17
IMAGES_AT = SIZE
"""Behind what DMA moves."""
DESCRIPTORS = 120


class Side:
    """A device with both its queues, and memory of the same contents as the other's."""

    def __init__(self, served: Served, images: bytes) -> None:
        self.transports = [served.transport() for _ in (QUEUE_MANAGEMENT, QUEUE_DATA)]
        self.rings = []
        self.data = []
        for queue, transport in enumerate(self.transports):
            memory = DmaBuffer(transport, IOVA, 4096 + SIZE + len(images))
            data = memory.array(4096, (SIZE + len(images),))
            data[:SIZE] = np.random.default_rng(queue).integers(0, 256, SIZE)
            data[SIZE:] = np.frombuffer(images, np.uint8)
            self.data.append(data)
            self.rings.append(Ring(transport, queue, memory, 4))

    def execute(self, queue: int, descriptors: list[Descriptor]) -> list[tuple[int, str, int]]:
        self.rings[queue].submit([descriptor.pack() for descriptor in descriptors])
        done = self.rings[queue].wait(time.monotonic() + PATIENCE)
        return [(c.tag, Status(c.status).name, c.sequence) for c in done]

    def registers(self) -> dict[str, int]:
        """Those that what was executed changes."""
        read = self.transports[0].region_read
        found = {register.name: read(register) for register in (Reg.STATE, Reg.ACTIVE_BANK)}
        for bank in range(2):
            for register in (Bank.DIGEST, Bank.STATUS, Bank.GENERATION):
                size = register.nbytes
                found[f"{register.name} {bank}"] = read(register.address(bank), size)
        return found

    def close(self) -> None:
        for transport, ring in zip(self.transports, self.rings, strict=True):
            transport.close()
            ring.close()


@pytest.fixture
def other(tmp_path: Path, kind: Kind) -> Iterator[Served]:
    with emulated_card(tmp_path / "npu.sock", "--array", str(kind.array)) as served:
        yield served


@pytest.mark.parametrize("seed", range(3))
def test_it_answers_as_the_emulator(
    served: Served, other: Served, program: Callable[..., Any], seed: int
) -> None:
    rng = random.Random(seed)
    sound = [program(number).data for number in range(2)]
    damaged = bytearray(sound[0])
    at = damaged.index(program(0).image.code)
    damaged[at + rng.randrange(32)] ^= 1 << rng.randrange(8)
    pool = [*sound, bytes(damaged), sound[1][:-64], bytes(200)]
    places = [(sum(map(len, pool[:number])), image) for number, image in enumerate(pool)]

    def dma() -> Descriptor:
        length = rng.choice((0, 1, 64, rng.randrange(1, 3000), 1 << 24))
        flags = DescriptorFlag.CRC if rng.random() < 0.3 else DescriptorFlag(0)
        device = rng.choice((rng.randrange(1 << 14), rng.randrange(1 << 31), 1 << 40, 2**64 - 3))
        host = rng.choice((DATA + rng.randrange(SIZE), IOVA - 64, DATA))
        op = rng.choice((Operation.DMA_IN, Operation.DMA_OUT))
        return Descriptor(op, flags, length=length, host_address=host, device_address=device)

    def load() -> Descriptor:
        at, image = rng.choice(places)
        crc = google_crc32c.value(image) ^ (rng.random() < 0.1)
        flags = DescriptorFlag.CRC if rng.random() < 0.7 else DescriptorFlag(0)
        bank = rng.choice((0, 0, 1, 1, 2))
        address = DATA + IMAGES_AT + at
        return Descriptor(Operation.LOAD_IMAGE, flags, 0, len(image), address, bank, crc)

    def simple() -> Descriptor:
        op = rng.choice((Operation.FENCE, Operation.FLUSH, 0, 77))
        return Descriptor(op, device_address=rng.randrange(3), length=rng.choice((0, 64)))

    def activate() -> Descriptor:
        return Descriptor(Operation.ACTIVATE_BANK, device_address=rng.choice((0, 1, 2)))

    def run() -> Descriptor:
        return Descriptor(Operation.RUN, device_address=rng.choice((1, 2, 64, 1 << 33)))

    kinds = {dma: 6, load: 3, simple: 2, activate: 2, run: 1}
    sides = [Side(device, b"".join(pool)) for device in (served, other)]
    with contextlib.ExitStack() as stack:
        for side in sides:
            stack.callback(side.close)
        begun = [side.registers() for side in sides]
        for number in range(DESCRIPTORS):
            queue = rng.choice((QUEUE_MANAGEMENT, QUEUE_DATA))
            make = rng.choices(list(kinds), list(kinds.values()))[0]
            descriptor = make()
            answers = [side.execute(queue, [descriptor]) for side in sides]
            assert answers[0] == answers[1], f"{number}: queue {queue}: {descriptor}"
            for ours, theirs in zip(sides[0].data, sides[1].data, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=str(descriptor))
        ends = [side.registers() for side in sides]
    for begin, end in zip(begun, ends, strict=True):
        for bank in range(2):  # they grow from where they were
            end[f"GENERATION {bank}"] -= begin[f"GENERATION {bank}"]
    assert ends[0] == ends[1]
