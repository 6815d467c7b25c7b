"""One card, several openings: each sees its own, and the card is told nothing else.

The card is the emulator, of which only one opening is used: what keeps the openings apart is ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

from edged._vfio_user_server import Server
from edged.card import SharedCard
from edged.device import Device, DmaBuffer, GivenMemory, InferenceQueue, vfio_user
from edged.device._ring import ALL_ONES, QueueTakenError, Ring
from edged.errors import DeviceError, DeviceLostError, LimitError
from edged.npu import (
    Array,
    DType,
    Entry,
    Layer,
    Op,
    ProgramImage,
    Tensor,
    parse_image,
    serialize_image,
)
from edged.npu.registers import (
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    Command,
    Descriptor,
    Operation,
    Queue,
    QueueControl,
    Reg,
    Status,
    queue_offset,
)

IOVA = 1 << 32
Open = Callable[[], vfio_user.VfioUserTransport]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("emulator") / "device.sock"
    command = [sys.executable, "-m", "edged.emulator", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("ready")
        yield path
        process.terminate()


class Bare(vfio_user.VfioUserTransport):
    """To a card with no IOMMU: it reaches what it was given, where that happens to be."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.sizes: dict[int, int] = {}
        self.hangs = False
        self._next = 7 << 40

    def region_read(self, offset: int, size: int = 4) -> int:
        if self.hangs and offset == queue_offset(QUEUE_DATA, Queue.CONTROL):
            return int(QueueControl.ENABLE)
        return super().region_read(offset, size)

    def dma_allocate(self, iova: int, size: int) -> GivenMemory:
        if size > 1 << 24:
            raise LimitError("cannot get so much memory; raise vm.nr_hugepages")
        size = -(-size // (1 << 21)) << 21
        fd = os.memfd_create("given", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        address, self._next = self._next, self._next + 2 * size
        super().dma_map(address, fd, 0, size)
        self.sizes[address] = size
        return GivenMemory(fd, address)

    def dma_map(self, iova: int, fd: int, offset: int, size: int) -> None:
        raise AssertionError("it was told of memory that is nobody's")

    def dma_unmap(self, iova: int, size: int) -> None:
        super().dma_unmap(iova, self.sizes.pop(iova))


@pytest.fixture(params=[vfio_user.VfioUserTransport, Bare], ids=["iommu", "no-iommu"])
def card(request: pytest.FixtureRequest, emulator: Path) -> Iterator[vfio_user.VfioUserTransport]:
    """A fresh card."""
    card = request.param(vfio_user.connect(emulator))
    card.reset()
    yield card
    card.close()


@pytest.fixture
def opened(card: vfio_user.VfioUserTransport, tmp_path: Path) -> Iterator[Open]:
    """One more opening of it."""
    path = tmp_path / "card.sock"
    server = Server(path, SharedCard(card))
    thread = threading.Thread(target=server.serve)
    thread.start()
    with contextlib.ExitStack() as stack:

        def open_one() -> vfio_user.VfioUserTransport:
            transport = vfio_user.VfioUserTransport(vfio_user.connect(path))
            stack.callback(transport.close)
            return transport

        yield open_one
    server.stop()
    thread.join()


class Bench:
    """A queue to which any descriptor can be given, with all memory at the same addresses."""

    def __init__(self, transport: vfio_user.VfioUserTransport, queue: int) -> None:
        self.transport = transport
        self.memory = DmaBuffer(transport, IOVA, 1 << 16)
        self.ring = Ring(transport, queue, self.memory, 2)
        self.data = self.memory.array(4096, (4096,))

    def execute(self, descriptor: Descriptor) -> Status:
        self.ring.submit([descriptor.pack()])
        (completion,) = self.ring.wait(time.monotonic() + PATIENCE)
        return Status(completion.status)

    def close(self) -> None:
        self.transport.close()
        self.ring.close()


@pytest.fixture
def two(opened: Open) -> Iterator[tuple[Bench, Bench]]:
    """Who manages the card, and another."""
    benches = Bench(opened(), QUEUE_MANAGEMENT), Bench(opened(), QUEUE_DATA)
    yield benches
    for bench in benches:
        bench.close()


def program() -> tuple[ProgramImage, bytes]:
    """One addition of a tensor to itself."""
    tensors = (
        Tensor("x", DType.U8, (4, 4, 8), -4, 0),
        Tensor("y", DType.U8, (4, 4, 8), -4, 4096),
    )
    layer = Layer(Op.ADD, "sum", (0, 0), 1, lo=0, hi=255, lefts=(0, 0), shift=0)
    data = serialize_image(
        ProgramImage(Array(), tensors, (Entry((layer,), (0,), (1,)),), dram_bytes=8192)
    )
    return parse_image(data), data


def test_the_driver_works_through_it(opened: Open) -> None:
    image, data = program()
    device = Device.open(opened())
    device.load(data, 0)
    device.activate(0)
    queue = InferenceQueue(opened(), image)
    x = np.arange(128, dtype=np.uint8).reshape(1, 4, 4, 8)
    for _ in range(3):
        (y,) = queue.run([x])
        np.testing.assert_array_equal(y, 2 * x)
    queue.close()
    device.close()


def test_the_same_addresses_mean_each_ones_own_memory(two: tuple[Bench, Bench]) -> None:
    manager, other = two
    manager.data[:], other.data[:] = 1, 2
    away = Descriptor(Operation.DMA_IN, length=4096, host_address=IOVA + 4096)
    back = Descriptor(Operation.DMA_OUT, length=4096, host_address=IOVA + 8192)
    assert manager.execute(away) is Status.OK
    assert manager.execute(back) is Status.OK
    assert (manager.memory.array(8192, (4096,)) == 1).all()
    assert not other.memory.array(8192, (4096,)).any()


@pytest.mark.parametrize("operation", [Operation.DMA_IN, Operation.DMA_OUT])
@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 64),
        (IOVA - mmap.PAGESIZE, 64),
        (IOVA + (1 << 16) - 63, 64),
        (2**64 - 32, 64),
        # Where the card has the copies of the rings, and what was mapped first.
        (IOVA + (1 << 17), 64),
        (IOVA, 2**32 - 1),
    ],
)
def test_no_address_leads_out_of_what_was_mapped(
    two: tuple[Bench, Bench], operation: Operation, address: int, length: int
) -> None:
    manager, other = two
    manager.data[:] = 7
    before = manager.memory.array(0, (1 << 16,)).copy()
    descriptor = Descriptor(operation, length=length, host_address=address)
    assert other.execute(descriptor) in (Status.BAD_ADDRESS, Status.NO_IMAGE)
    np.testing.assert_array_equal(manager.memory.array(0, (1 << 16,)), before)
    assert other.execute(Descriptor(Operation.FENCE)) is Status.OK


def test_what_is_taken_back_is_out_of_reach(two: tuple[Bench, Bench]) -> None:
    manager, _ = two
    more = DmaBuffer(manager.transport, 1 << 36, 4096)
    descriptor = Descriptor(Operation.DMA_IN, length=64, host_address=1 << 36)
    assert manager.execute(descriptor) is Status.OK
    more.close()
    assert manager.execute(descriptor) is Status.BAD_ADDRESS


@pytest.mark.parametrize("card", [Bare], indirect=True)
def test_what_the_card_may_write_to_becomes_nobody_elses_memory(card: Bare, opened: Open) -> None:
    manager, other = Bench(opened(), QUEUE_MANAGEMENT), Bench(opened(), QUEUE_DATA)
    others = max(card.sizes)  # given last
    with pytest.raises(DeviceError, match="EBUSY"):
        other.memory.close()
    card.hangs = True
    other.close()
    assert manager.execute(Descriptor(Operation.FENCE)) is Status.OK
    control = queue_offset(QUEUE_DATA, Queue.CONTROL)
    manager.transport.region_write(control, 0)
    assert others in card.sizes, "the card has not let go of it yet"
    card.hangs = False
    manager.transport.region_write(control, 0)
    assert others not in card.sizes
    manager.close()


@pytest.mark.parametrize("card", [Bare], indirect=True)
def test_memory_is_refused_when_there_is_not_as_much(opened: Open) -> None:
    transport = opened()
    with pytest.raises(LimitError, match="not as much memory that the card can reach"):
        DmaBuffer(transport, IOVA, 1 << 25)
    with DmaBuffer(transport, IOVA, 1 << 23) as buffer:
        buffer.array(0, (1 << 23,))[:] = 1
    with pytest.raises(DeviceError, match="ENOSPC"):  # that is for who manages the card
        DmaBuffer(transport, IOVA, 1 << 27)
    manager = Bench(transport, QUEUE_MANAGEMENT)
    with pytest.raises(LimitError):
        DmaBuffer(transport, 1 << 36, 1 << 27)
    manager.close()


def test_a_doorbell_beyond_the_ring_stops_the_queue(two: tuple[Bench, Bench]) -> None:
    _, other = two
    tail = queue_offset(QUEUE_DATA, Queue.TAIL)
    other.transport.region_write(tail, other.ring.size + 1)
    control = queue_offset(QUEUE_DATA, Queue.CONTROL)
    deadline = time.monotonic() + PATIENCE
    while other.transport.region_read(control) & QueueControl.ENABLE:
        assert time.monotonic() < deadline
    error = other.transport.region_read(queue_offset(QUEUE_DATA, Queue.ERROR))
    assert error == Status.BAD_LENGTH
    other.ring.start()
    assert other.execute(Descriptor(Operation.FENCE)) is Status.OK


@pytest.mark.parametrize("word", [ALL_ONES, 0])
def test_who_is_at_work_while_somebody_else_resets_the_card_did_nothing_wrong(
    card: vfio_user.VfioUserTransport,
    two: tuple[Bench, Bench],
    monkeypatch: pytest.MonkeyPatch,
    word: int,
) -> None:
    _, data = two
    fence = Descriptor(Operation.FENCE)
    for _ in range(2 * data.ring.size):
        assert data.execute(fence) is Status.OK
    with monkeypatch.context() as patch:
        # What is read meanwhile, ones from a PC and zeros from QEMU's; the next doorbell asks how
        # far the card is.
        patch.setattr(card, "region_read", lambda _offset, _size=4: word)
        data.ring.submit([fence.pack()])
        assert data.transport.region_read(Reg.MAGIC) == word
    card.reset()
    with pytest.raises(QueueTakenError):
        data.ring.wait(time.monotonic() + PATIENCE)


def test_only_who_manages_the_card_resets_it(two: tuple[Bench, Bench]) -> None:
    manager, other = two
    with pytest.raises(DeviceError, match="EBUSY"):
        other.transport.region_write(Reg.COMMAND, Command.SOFT_RESET)
    with pytest.raises(DeviceError, match="EBUSY"):
        other.transport.region_write(Reg.WATCHDOG_MS, 1)
    with pytest.raises(DeviceError, match="EBUSY"):
        other.transport.reset()
    with pytest.raises(DeviceError, match="EBUSY"):
        other.transport.config_write(0x04, 0, 2)
    with pytest.raises(DeviceError, match="EBUSY"):
        other.transport.region_write(queue_offset(QUEUE_MANAGEMENT, Queue.CONTROL), 0)
    assert manager.execute(Descriptor(Operation.FENCE)) is Status.OK
    manager.transport.region_write(Reg.WATCHDOG_MS, 5000)
    assert manager.transport.region_read(Reg.WATCHDOG_MS) == 5000


def test_a_queue_is_free_when_its_owner_is_gone(opened: Open) -> None:
    manager = Bench(opened(), QUEUE_MANAGEMENT)
    first = Bench(opened(), QUEUE_DATA)
    with pytest.raises(DeviceError, match="EBUSY"):
        Bench(opened(), QUEUE_DATA)
    first.close()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            second = Bench(opened(), QUEUE_DATA)
        except DeviceError:
            assert time.monotonic() < deadline, "the queue stays with who is gone"
        else:
            break
    assert second.execute(Descriptor(Operation.FENCE)) is Status.OK
    second.close()
    manager.close()


def test_when_the_card_goes_all_hear_of_it(emulator: Path, tmp_path: Path) -> None:
    card = vfio_user.VfioUserTransport(vfio_user.connect(emulator))
    server = Server(tmp_path / "card.sock", SharedCard(card))
    thread = threading.Thread(target=server.serve)
    thread.start()
    client = vfio_user.VfioUserTransport(vfio_user.connect(tmp_path / "card.sock"))
    card.close()
    # Its calls are to be tried again, as with a card that went away itself.
    with pytest.raises(DeviceLostError, match="ENODEV"):
        client.region_read(Reg.STATE)
    server.stop()  # as its keeper does then
    thread.join()
    with pytest.raises(DeviceLostError):
        client.region_read(Reg.STATE)
    client.close()
