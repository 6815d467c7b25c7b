"""What a client may do wrong: in descriptors, in messages. The device answers, and goes on."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import mmap
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device.kinds import Need
from patience import PATIENCE, eventually

from edged._vfio_user import (
    DMA_MAP,
    DMA_UNMAP,
    IRQ_SET,
    MAX_MESSAGE,
    REGION_ACCESS,
    VERSION,
    Command,
    Header,
    HeaderFlag,
    IrqIndex,
    IrqSetFlag,
)
from edged.device import Device
from edged.device._memory import DmaBuffer
from edged.device._ring import Ring
from edged.errors import DeviceError
from edged.npu import serialize_image
from edged.npu.registers import (
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    Completion,
    Descriptor,
    DescriptorFlag,
    Operation,
    Queue,
    Reg,
    State,
    Status,
    queue_offset,
)

IOVA = 1 << 32


# Descriptors


class Bench:
    """A queue to which any descriptor can be given."""

    def __init__(self, transport: Any, queue: int) -> None:
        self.transport = transport
        self.queue = queue
        self.memory = DmaBuffer(transport, IOVA, 1 << 20)
        self.ring = Ring(transport, queue, self.memory, 4)
        self.data = self.memory.array(4096, ((1 << 20) - 4096,))

    def execute(self, *descriptors: Descriptor) -> list[Completion]:
        self.ring.submit([descriptor.pack() for descriptor in descriptors])
        return self.ring.wait(time.monotonic() + PATIENCE)

    def close(self) -> None:
        self.transport.close()
        self.ring.close()


@pytest.fixture
def data_queue(served: Any, program: Callable[..., Any]) -> Iterator[Bench]:
    """The data queue of a device on which a program is active, in bank 0."""
    device = served.device()
    device.load(program().data, 0)
    device.activate(0)
    bench = Bench(served.transport(), QUEUE_DATA)
    yield bench
    bench.close()
    device.close()


@pytest.fixture
def management_queue(served: Any) -> Iterator[Bench]:
    bench = Bench(served.transport(), QUEUE_MANAGEMENT)
    yield bench
    bench.close()


MAPPED = IOVA + 4096
PATTERN = np.full(1 << 16, 0xA5, np.uint8)
PROGRAM_DRAM = 1 << 24
"""What the program says that it needs."""


@pytest.mark.parametrize(
    ("descriptor", "status"),
    [
        (Descriptor(Operation.DMA_IN, length=64, host_address=MAPPED), Status.OK),
        (Descriptor(Operation.FENCE), Status.OK),
        (Descriptor(Operation.FLUSH), Status.OK),
        (Descriptor(Operation.RUN), Status.OK),
        (Descriptor(Operation.RUN, device_address=1), Status.BAD_ENTRY),
        (Descriptor(Operation.RUN, device_address=2**64 - 1), Status.BAD_ENTRY),
        (Descriptor(Operation.DMA_IN, host_address=MAPPED), Status.BAD_LENGTH),
        (Descriptor(Operation.DMA_IN, length=64, host_address=0), Status.BAD_ADDRESS),
        (Descriptor(Operation.DMA_IN, length=64, host_address=2**64 - 1), Status.BAD_ADDRESS),
        (
            Descriptor(Operation.DMA_OUT, length=1 << 20, host_address=MAPPED),
            Status.BAD_ADDRESS,
        ),
        (
            Descriptor(Operation.DMA_IN, length=2**32 - 1, host_address=MAPPED),
            Status.BAD_ADDRESS,
        ),
        (
            Descriptor(Operation.DMA_OUT, length=64, host_address=MAPPED, device_address=2**64 - 8),
            Status.BAD_ADDRESS,
        ),
        (
            Descriptor(
                Operation.DMA_OUT,
                length=64,
                host_address=MAPPED,
                device_address=PROGRAM_DRAM - 63,
            ),
            Status.BAD_ADDRESS,
        ),
        (
            Descriptor(Operation.DMA_OUT, length=64, host_address=MAPPED, device_address=2 << 30),
            Status.BAD_ADDRESS,
        ),
        (Descriptor(Operation.LOAD_IMAGE, length=64, device_address=1), Status.BAD_OPERATION),
        (Descriptor(Operation.ACTIVATE_BANK), Status.BAD_OPERATION),
        (Descriptor(0), Status.BAD_OPERATION),
        (Descriptor(255), Status.BAD_OPERATION),
        (
            Descriptor(Operation.DMA_IN, DescriptorFlag.CRC, length=64, host_address=MAPPED, crc=1),
            Status.BAD_CRC,
        ),
    ],
)
def test_data_queue_statuses(data_queue: Bench, descriptor: Descriptor, status: Status) -> None:
    (completion,) = data_queue.execute(descriptor)
    assert Status(completion.status) is status
    (completion,) = data_queue.execute(Descriptor(Operation.RUN, tag=77))
    assert (completion.status, completion.tag) == (Status.OK, 77)
    assert completion.cycles > 0


@pytest.mark.parametrize(
    ("descriptor", "status"),
    [
        (Descriptor(Operation.RUN), Status.NO_IMAGE),
        (Descriptor(Operation.ACTIVATE_BANK, device_address=0), Status.NO_IMAGE),
        (Descriptor(Operation.ACTIVATE_BANK, device_address=2), Status.BAD_ADDRESS),
        (Descriptor(Operation.LOAD_IMAGE, length=64, device_address=2**63), Status.BAD_ADDRESS),
        (Descriptor(Operation.LOAD_IMAGE, host_address=MAPPED), Status.BAD_LENGTH),
        pytest.param(
            Descriptor(Operation.LOAD_IMAGE, length=2**31),
            Status.BAD_LENGTH,
            marks=pytest.mark.needs(Need.LENGTH_FIRST),
        ),
        (Descriptor(Operation.LOAD_IMAGE, length=64, host_address=0), Status.BAD_ADDRESS),
        (Descriptor(Operation.LOAD_IMAGE, length=64, host_address=MAPPED), Status.BAD_IMAGE),
        (
            Descriptor(
                Operation.LOAD_IMAGE, DescriptorFlag.CRC, length=64, host_address=MAPPED, crc=1
            ),
            Status.BAD_CRC,
        ),
        (
            Descriptor(
                Operation.DMA_OUT, length=64, host_address=MAPPED, device_address=(4 << 30) - 63
            ),
            Status.BAD_ADDRESS,
        ),
    ],
)
def test_management_queue_statuses(
    management_queue: Bench, descriptor: Descriptor, status: Status
) -> None:
    (completion,) = management_queue.execute(descriptor)
    assert Status(completion.status) is status


def test_a_failed_descriptor_does_not_stop_those_behind_it(data_queue: Bench) -> None:
    completions = data_queue.execute(
        Descriptor(Operation.DMA_IN, tag=1), Descriptor(99, tag=2), Descriptor(Operation.RUN, tag=3)
    )
    assert [(c.tag, Status(c.status).name, c.sequence) for c in completions] == [
        (1, "BAD_LENGTH", 1),
        (2, "BAD_OPERATION", 2),
        (3, "OK", 3),
    ]


def test_dma_moves_what_it_is_told(data_queue: Bench) -> None:
    rng = np.random.default_rng(1)
    sent = rng.integers(0, 256, 100_000).astype(np.uint8)
    data_queue.data[: len(sent)] = sent
    completions = data_queue.execute(
        Descriptor(
            Operation.DMA_IN, length=len(sent), host_address=MAPPED, device_address=4_000_001
        ),
        Descriptor(
            Operation.DMA_OUT, length=1000, host_address=MAPPED + 500_003, device_address=4_000_011
        ),
    )
    assert {c.status for c in completions} == {Status.OK}
    np.testing.assert_array_equal(data_queue.data[500_003:501_003], sent[10:1010])
    assert not data_queue.data[501_003:].any()


def test_a_bank_is_wiped_before_a_load(served: Any, program: Callable[..., Any]) -> None:
    """A pattern all over the bank; then a smaller image, a large one again, and a broken one.

    The small one and its successor look through the data queue, as a model's container may, and
    whoever manages the device looks at all of it.
    """
    large = replace(program(0).image, dram_bytes=1 << 20)
    small = replace(program(1).image, dram_bytes=1 << 16)
    device = served.device()
    bank = device.banks()[0]
    device.close()

    def leave_pattern() -> None:
        bench = Bench(served.transport(), QUEUE_MANAGEMENT)
        bench.data[: len(PATTERN)] = PATTERN
        for at in (*range(0, 1 << 20, len(PATTERN)), bank.size // 2, bank.size - len(PATTERN)):
            (completion,) = bench.execute(
                Descriptor(
                    Operation.DMA_IN,
                    length=len(PATTERN),
                    host_address=MAPPED,
                    device_address=bank.base + at,
                )
            )
            assert completion.status == Status.OK
        bench.close()

    def look(queue: int, at: int, length: int) -> None:
        bench = Bench(served.transport(), queue)
        for start in range(at, at + length, len(PATTERN)):
            size = min(len(PATTERN), at + length - start)
            bench.data[:size] = 1
            (completion,) = bench.execute(
                Descriptor(
                    Operation.DMA_OUT,
                    length=size,
                    host_address=MAPPED,
                    device_address=bank.base + start,
                )
            )
            assert completion.status == Status.OK
            assert not (bench.data[:size] == 0xA5).any(), f"the pattern is still at {start:#x}"
            if queue == QUEUE_DATA:
                assert not bench.data[:size].any(), f"not zero at {start:#x}"
        bench.close()

    for image in (small, large):
        leave_pattern()
        device = served.device()
        device.load(serialize_image(image), 0)
        device.activate(0)
        look(QUEUE_DATA, 0, image.dram_bytes)
        device.close()
        look(QUEUE_MANAGEMENT, 0, 1 << 20)
        look(QUEUE_MANAGEMENT, bank.size // 2, len(PATTERN))
        reset = served.device()
        reset.soft_reset()
        reset.close()

    leave_pattern()
    device = served.device()
    broken = bytearray(serialize_image(small))
    broken[-100] ^= 1
    with pytest.raises(DeviceError, match="BAD_IMAGE"):
        device.load(bytes(broken), 0)
    device.close()
    look(QUEUE_MANAGEMENT, 0, 1 << 20)


@pytest.mark.parametrize(
    ("register", "value", "status"),
    [
        (Queue.RING_BASE, 1 << 40, Status.BAD_ADDRESS),
        (Queue.COMPLETION_BASE, 1 << 40, Status.BAD_ADDRESS),
        (Queue.RING_BASE, IOVA + 1, Status.BAD_ADDRESS),
        (Queue.LOG2_SIZE, 0, Status.BAD_LENGTH),
        (Queue.LOG2_SIZE, 13, Status.BAD_LENGTH),
    ],
)
def test_a_ring_that_cannot_be_used_stops_the_queue(
    served: Any,
    wait_until: Callable[..., None],
    request: pytest.FixtureRequest,
    register: Queue,
    value: int,
    status: Status,
) -> None:
    transport = served.transport()
    request.addfinalizer(transport.close)
    DmaBuffer(transport, IOVA, 4096)

    def write(where: Queue, what: int, size: int = 8) -> None:
        transport.region_write(queue_offset(0, where), what, size)

    write(Queue.RING_BASE, IOVA)
    write(Queue.COMPLETION_BASE, IOVA + 2048)
    write(Queue.LOG2_SIZE, 2, 4)
    write(register, value, 4 if register is Queue.LOG2_SIZE else 8)
    write(Queue.CONTROL, 1, 4)
    transport.region_write(queue_offset(0, Queue.TAIL), 1, posted=True)
    error, control = queue_offset(0, Queue.ERROR), queue_offset(0, Queue.CONTROL)
    wait_until(lambda: transport.region_read(error) == status, f"the error is {status.name}")
    wait_until(lambda: transport.region_read(control) == 0, "the queue stops")


def test_a_tail_beyond_the_ring_stops_the_queue(
    data_queue: Bench, wait_until: Callable[..., None]
) -> None:
    data_queue.transport.region_write(queue_offset(QUEUE_DATA, Queue.TAIL), 17)
    error = queue_offset(QUEUE_DATA, Queue.ERROR)
    wait_until(
        lambda: data_queue.transport.region_read(error) == Status.BAD_LENGTH, "the queue stops"
    )


def test_an_abort_completes_what_is_queued(
    slow_emulator: Any, long_program: Any, wait_until: Callable[..., None]
) -> None:
    device = slow_emulator.device()
    device.load(long_program.data, 0)
    device.activate(0)
    bench = Bench(slow_emulator.transport(), QUEUE_DATA)
    bench.ring.submit([Descriptor(Operation.RUN, tag=tag).pack() for tag in range(5)])
    wait_until(lambda: device.state() is State.RUNNING, "it runs")
    device.disable_queue(QUEUE_DATA)
    completions = bench.ring.wait(time.monotonic() + PATIENCE)
    assert [(c.tag, Status(c.status).name) for c in completions] == [
        (tag, "ABORTED") for tag in range(5)
    ]
    bench.close()
    device.close()


def test_a_nonsense_tail_does_not_outlive_its_opening(
    served: Any, wait_until: Callable[..., None]
) -> None:
    for tail in (0xFFFFFFFF, 0x80000000, 17):
        bench = Bench(served.transport(), QUEUE_MANAGEMENT)
        bench.transport.region_write(queue_offset(0, Queue.TAIL), tail, posted=True)
        bench.close()
        device = served.transport()
        control = queue_offset(0, Queue.CONTROL)
        wait_until(lambda d=device, c=control: not d.region_read(c), "the queue is free")
        device.close()


# Registers


@pytest.mark.needs(Need.ANY_WIDTH)
def test_registers_in_pieces(served: Any) -> None:
    transport = served.transport()
    assert transport.region_read(Reg.MAGIC).to_bytes(4, "little") == b"EDGE"
    whole = transport.region_read(Reg.DRAM_SIZE, 8)
    halves = [transport.region_read(Reg.DRAM_SIZE + at) for at in (0, 4)]
    assert halves[0] | halves[1] << 32 == whole
    transport.region_write(Reg.SCRATCH, 0x12345678)
    assert transport.region_read(Reg.SCRATCH + 1, 2) == 0x3456
    transport.close()


# Messages


class RawClient:
    """Says on the socket whatever it is told."""

    def __init__(self, served: Any, *, negotiate: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(os.fspath(served.path))
        self.socket.settimeout(PATIENCE)
        if negotiate:
            self.call(Command.VERSION, VERSION.pack(0, 1))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, command: int, payload: bytes, fds: tuple[int, ...] = ()) -> tuple[int, bytes]:
        """errno and payload of the reply."""
        message = Header(7, command, Header.SIZE + len(payload)).pack() + payload
        socket.send_fds(self.socket, [message], fds)
        return self.reply(command)

    def reply(self, command: int) -> tuple[int, bytes]:
        header = Header.unpack(self._exactly(Header.SIZE))
        assert (header.message_id, header.command) == (7, command)
        assert header.flags & HeaderFlag.REPLY
        assert bool(header.flags & HeaderFlag.ERROR) == bool(header.error)
        return header.error, self._exactly(header.size - Header.SIZE)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("dropped")
            data += part
        return data


def memfd(size: int, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_version_negotiation(served: Any) -> None:
    with RawClient(served, negotiate=False) as client:
        proposal = json.dumps({"capabilities": {"max_msg_fds": 1, "unheard_of": {}}}).encode()
        error, reply = client.call(Command.VERSION, VERSION.pack(0, 9) + proposal + b"\0")
        assert error == 0
        assert VERSION.unpack_from(reply) == (0, 1)
        assert json.loads(reply[4:-1]) == {"capabilities": {"max_msg_fds": 8}}
        assert reply[-1:] == b"\0"


@pytest.mark.parametrize(
    "first",
    [
        Header(7, Command.VERSION, 20).pack() + VERSION.pack(1, 0),
        Header(7, Command.VERSION, 25).pack() + VERSION.pack(0, 1) + b"{nop}",
        Header(7, Command.VERSION, 22).pack() + VERSION.pack(0, 1) + b"[]",
        Header(7, Command.VERSION, 20 + 65).pack() + VERSION.pack(0, 1) + b"[" * 65,
        Header(7, Command.VERSION, 16).pack(),
        Header(7, Command.DEVICE_GET_INFO, 32).pack() + bytes(16),
        Header(7, Command.VERSION, 15).pack(),
        Header(7, Command.VERSION, MAX_MESSAGE + 1).pack(),
        Header(7, Command.VERSION, 20, HeaderFlag.REPLY).pack() + VERSION.pack(0, 1),
    ],
    ids=["major", "json", "list", "nested", "none", "other-first", "short", "long", "reply"],
)
def test_what_is_no_opening_is_dropped(served: Any, first: bytes) -> None:
    with RawClient(served, negotiate=False) as client:
        client.socket.sendall(first)
        with pytest.raises(ConnectionResetError):
            client.reply(Command.VERSION)


@pytest.mark.needs(Need.OWN_DMA_RULES)
def test_dma_map_refuses_what_it_cannot_trust(served: Any) -> None:
    page = mmap.PAGESIZE
    with RawClient(served) as client, contextlib.ExitStack() as files:

        def opened(fd: int) -> int:
            files.callback(os.close, fd)
            return fd

        def attempt(fd: int | None, size: int, offset: int = 0, iova: int = IOVA) -> int:
            fds = () if fd is None else (fd,)
            return client.call(Command.DMA_MAP, DMA_MAP.pack(32, 3, offset, iova, size), fds)[0]

        sealed = opened(memfd(4 * page))
        assert attempt(opened(memfd(page, seals=0)), page) == errno.EPERM
        assert attempt(opened(os.open("/dev/zero", os.O_RDWR)), page) == errno.EPERM
        assert attempt(sealed, 5 * page) == errno.EINVAL
        assert attempt(sealed, page, offset=4 * page) == errno.EINVAL
        assert attempt(sealed, page, offset=1) == errno.EINVAL
        assert attempt(sealed, 0) == errno.EINVAL
        assert attempt(sealed, page, iova=2**64 - page) == errno.EINVAL
        assert attempt(sealed, 2 * page) == 0
        assert attempt(sealed, page, iova=IOVA + page) == errno.EEXIST
        assert attempt(sealed, 2 * page, iova=IOVA - page) == errno.EEXIST
        assert attempt(sealed, page, iova=IOVA + 2 * page) == 0
        assert attempt(None, page, iova=IOVA + 3 * page) == 0
        for iova in (IOVA, IOVA + page):
            unmap = DMA_UNMAP.pack(24, 0, iova, page)
            assert client.call(Command.DMA_UNMAP, unmap)[0] == errno.EINVAL
        unmap = DMA_UNMAP.pack(24, 0, IOVA, 2 * page)
        assert client.call(Command.DMA_UNMAP, unmap) == (0, unmap)
        assert attempt(sealed, page) == 0


@pytest.mark.needs(Need.OWN_DMA_RULES)
def test_a_guest_with_an_iommu_maps_pages_and_unmaps_ranges(management_queue: Bench) -> None:
    """As QEMU does: its IOMMU tells it of each page, and of ranges in which there may be none."""
    page, pages, some = mmap.PAGESIZE, 3000, 200
    bench, far = management_queue, 1 << 40
    fd = memfd(pages * page)
    try:
        content = np.arange(some, dtype=np.uint8).repeat(page)
        os.pwrite(fd, content[::-1].tobytes(), (pages - some) * page)
        for number in range(pages):  # scattered: the last page first
            at = (pages - 1 - number) * page
            bench.transport.dma_map(far + number * page, fd, at, page)
    finally:
        os.close(fd)
    fetch = Descriptor(Operation.DMA_IN, length=some * page, host_address=far)
    back = Descriptor(Operation.DMA_OUT, length=some * page, host_address=MAPPED)
    assert [done.status for done in bench.execute(fetch, back)] == [Status.OK, Status.OK]
    np.testing.assert_array_equal(bench.data[: some * page], content)
    for _ in range(2):
        bench.transport.dma_unmap(0x100_0000_0000, 1 << 40)
        (done,) = bench.execute(fetch)
        assert done.status == Status.BAD_ADDRESS


@pytest.mark.needs(Need.OWN_DMA_RULES)
def test_a_range_may_span_regions_but_no_gap(served: Any) -> None:
    transport = served.transport()
    bench = Bench(transport, QUEUE_MANAGEMENT)
    after = DmaBuffer(transport, IOVA + (1 << 20), 4096)
    after.array(0, (4096,))[:] = 9
    edge = IOVA + (1 << 20) - 100
    (over, beyond) = bench.execute(
        Descriptor(Operation.DMA_IN, length=200, host_address=edge),
        Descriptor(Operation.DMA_IN, length=5000, host_address=edge),
    )
    assert (over.status, beyond.status) == (Status.OK, Status.BAD_ADDRESS)
    after.close()
    (over,) = bench.execute(Descriptor(Operation.DMA_IN, length=200, host_address=edge))
    assert over.status == Status.BAD_ADDRESS
    bench.close()


@pytest.mark.needs(Need.INTX)
def test_interrupts_come_through_eventfds(served: Any) -> None:
    """The INTx line, which masks itself; MSI is what the driver uses all the time."""
    transport = served.transport()
    bench = Bench(transport, QUEUE_MANAGEMENT)
    transport.set_interrupt(1, None)
    with RawClient(served) as client:
        fence = Descriptor(Operation.FENCE, DescriptorFlag.INTERRUPT)
        vector = IRQ_SET.pack(20, IrqSetFlag.CONNECT, IrqIndex.MSI, 4, 1)
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        pipe = os.pipe()
        try:
            assert client.call(Command.DEVICE_SET_IRQS, vector, (event,))[0] == errno.EINVAL
            vector = IRQ_SET.pack(20, IrqSetFlag.CONNECT, IrqIndex.MSI, 0, 1)
            assert client.call(Command.DEVICE_SET_IRQS, vector, (pipe[1],))[0] == errno.EINVAL
            line = IRQ_SET.pack(20, IrqSetFlag.CONNECT, IrqIndex.INTX, 0, 1)
            transport._call(Command.DEVICE_SET_IRQS, line, event)
            bench.execute(fence)
            assert select.select([event], [], [], PATIENCE)[0]
            assert os.eventfd_read(event) == 1
            assert transport.config_read(0x06, 2) & 8, "the status does not say whose line it is"
            bench.execute(fence)
            assert transport.region_read(Reg.INTERRUPT_PENDING) == 2
            assert not select.select([event], [], [], 0)[0], "it masks itself"
            unmask = IRQ_SET.pack(20, IrqSetFlag.UNMASK, IrqIndex.INTX, 0, 1)
            transport._call(Command.DEVICE_SET_IRQS, unmask)
            assert os.eventfd_read(event) == 1
            transport.region_write(Reg.INTERRUPT_ACK, 2)
            assert not transport.config_read(0x06, 2) & 8
            transport._call(Command.DEVICE_SET_IRQS, unmask)
            assert not select.select([event], [], [], 0)[0]
        finally:
            for fd in (event, *pipe):
                os.close(fd)
    bench.close()


@pytest.mark.needs(Need.OWN_CONFIG_SPACE)
def test_configuration_space_is_that_of_the_card(served: Any) -> None:
    with RawClient(served) as client:

        def read(offset: int, size: int) -> bytes:
            error, reply = client.call(Command.REGION_READ, REGION_ACCESS.pack(offset, 7, size))
            assert error == 0
            return reply[REGION_ACCESS.size :]

        def write(offset: int, data: bytes) -> None:
            access = REGION_ACCESS.pack(offset, 7, len(data))
            assert client.call(Command.REGION_WRITE, access + data)[0] == 0

        config = read(0, 256)
        assert struct.unpack_from("<HH", config) == (0x8086, 0x09C4)
        assert int.from_bytes(config[9:12], "little") == 0x120000
        write(0x10, b"\xff\xff\xff\xff")
        assert read(0x10, 4) == (0xFFFF0000).to_bytes(4, "little"), "a BAR of 64 KiB"
        capabilities, at = [], config[0x34]
        while at:
            capabilities.append(config[at])
            at = config[at + 1]
        assert capabilities == [0x05, 0x10]
        assert client.call(Command.REGION_READ, REGION_ACCESS.pack(4090, 7, 8))[0] == errno.EINVAL
        control = config[0x34] + 0x20 + 8
        device = served.device()
        device.close()
        write(control, b"\x00\x80")
        assert read(control, 2) == b"\x00\x00", "a function-level reset starts, and reads as 0"


def test_seeded_noise_harms_nobody(served: Any) -> None:
    """Random, truncated and bent messages, while another client keeps working."""
    rng = random.Random(20)
    healthy: Device = served.device()
    sealed = memfd(8192)
    seeds = [
        (Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, IOVA, 8192)),
        (Command.DMA_UNMAP, DMA_UNMAP.pack(24, 0, IOVA, 8192)),
        (Command.DEVICE_GET_INFO, bytes(16)),
        (Command.DEVICE_GET_REGION_INFO, bytes(32)),
        (Command.DEVICE_GET_IRQ_INFO, bytes(16)),
        (Command.DEVICE_SET_IRQS, IRQ_SET.pack(20, IrqSetFlag.CONNECT, IrqIndex.MSI, 0, 1)),
        (Command.REGION_READ, REGION_ACCESS.pack(0, 0, 4)),
        (Command.REGION_WRITE, REGION_ACCESS.pack(0x1100, 0, 8) + bytes(8)),
        (Command.VERSION, VERSION.pack(0, 1) + b'{"capabilities":{}}\0'),
    ]
    open_files = Path(f"/proc/{served.pid}/fd")
    before = len(list(open_files.iterdir()))
    for _ in range(60):
        with RawClient(served, negotiate=rng.random() < 0.8) as client:
            client.socket.settimeout(0.002)
            for _ in range(rng.randrange(1, 20)):
                command, payload = rng.choice(seeds)
                message = bytearray(Header(1, command, 16 + len(payload)).pack() + payload)
                for _ in range(rng.randrange(4)):
                    message[rng.randrange(len(message))] = rng.choice([0, 1, 127, 128, 255])
                if rng.random() < 0.1:
                    del message[rng.randrange(len(message)) :]
                fds = [sealed] * rng.choice([0, 0, 1, 1, 2, 8, 9])
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                try:
                    client.socket.sendmsg([message], rights if fds else [])
                    client.socket.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    break
        assert healthy.state() is State.CLEARED
    eventually(
        lambda: len(list(open_files.iterdir())) <= before,
        "descriptors of dropped connections to be closed",
    )
    os.close(sealed)
    healthy.close()
