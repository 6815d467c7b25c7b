"""A client that says anything to the emulator: it stays sound, and nobody else notices."""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import random
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np
import pytest
from fuzz.budget import cases
from fuzz.program import small_program
from patience import PATIENCE

from edged._vfio_user import (
    DMA_MAP,
    DMA_UNMAP,
    IRQ_SET,
    REGION_ACCESS,
    VERSION,
    Command,
    DmaFlag,
    Header,
    HeaderFlag,
)
from edged.device import Device, InferenceQueue, vfio_user
from edged.errors import EdgedError
from edged.npu import (
    ABI,
    EMULATOR_SHELL,
    Array,
    FirmwareKind,
    image_digest,
    numerics,
    parse_firmware,
    serialize_firmware,
)
from edged.npu.registers import (
    QUEUE_DATA,
    Bank,
    Descriptor,
    Flash,
    Operation,
    Queue,
    Reg,
    State,
    bank_offset,
    queue_offset,
)

PROGRAM = small_program()
FIRMWARE = parse_firmware(
    serialize_firmware(FirmwareKind.ROLE, b"role", shell=EMULATOR_SHELL, abi=ABI, array=Array())
)
RIGHT = numerics.run(PROGRAM.image, PROGRAM.inputs)
PAGE: Final = 4096
PATTERN: Final = b"\xa5" * PAGE
IOVA: Final = 1 << 32
INTERESTING: Final = (0, 1, 2, 3, 7, 8, 63, 64, 4095, 4096, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF)


@dataclass
class Emulator:
    path: Path
    process: subprocess.Popen[str]
    log: Path

    def transport(self) -> vfio_user.VfioUserTransport:
        return vfio_user.VfioUserTransport(vfio_user.connect(self.path))

    def check_alive(self) -> None:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        said = self.log.read_text()
        assert "Traceback" not in said, said[-3000:]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("fuzz")
    path, log = folder / "npu.sock", folder / "log"
    command = [sys.executable, "-m", "edged.emulator", "--socket", os.fspath(path)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--dram", "64", "--memory", "1024"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(PATIENCE), "no line from the emulator"
    assert process.stdout.readline().startswith("ready")
    yield Emulator(path, process, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    process.stdout.close()


class Attacker:
    """One opening that keeps to no rule. Three pages of memory, of which it maps the middle one."""

    def __init__(self, emulator: Emulator, rng: random.Random) -> None:
        self._rng = rng
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(os.fspath(emulator.path))
        self._open = True
        fd = os.memfd_create("fuzz", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 3 * PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._fd = fd
        self._memory = mmap.mmap(fd, 3 * PAGE)
        self._memory[:PAGE] = self._memory[2 * PAGE :] = PATTERN

    def attack(self) -> None:
        """Some moves; ends early when the emulator hangs up, as it may."""
        moves = (self.registers, self.ring, self.message, self.noise, self.map, self.interrupts)
        with contextlib.suppress(ConnectionError):
            if self._rng.random() < 0.95:
                self.say(Command.VERSION, VERSION.pack(0, 1))
            if self._rng.random() < 0.9:
                flags = DmaFlag.READ | DmaFlag.WRITE
                mapping = DMA_MAP.pack(DMA_MAP.size, flags, PAGE, IOVA, PAGE)
                self.say(Command.DMA_MAP, mapping, self._fd)
            for _ in range(12):
                self._rng.choices(moves, (6, 6, 3, 1, 2, 1))[0]()
                if not self._open:
                    return

    def check_bounds(self) -> None:
        assert self._memory[:PAGE] == PATTERN, "written before what was mapped"
        assert self._memory[2 * PAGE :] == PATTERN, "written behind what was mapped"

    def close(self) -> None:
        self._socket.close()
        self._memory.close()
        os.close(self._fd)

    # Moves.

    def registers(self) -> None:
        rng = self._rng
        known = [
            *Reg,
            *(each.address() for each in Flash),
            *(queue_offset(q, each) for q in (0, 1, 2) for each in Queue),
            *(bank_offset(b, each) for b in (0, 1) for each in Bank),
        ]
        offset = rng.choice([*known, rng.randrange(1 << 16), rng.getrandbits(64)])
        region = rng.choice([0, 0, 0, 0, 7, 7, rng.randrange(10), rng.getrandbits(32)])
        size = rng.choice([4, 4, 4, 8, 8, 1, 2, 3, 16, 0, rng.choice(INTERESTING)])
        access = REGION_ACCESS.pack(offset, region, size)
        if rng.random() < 0.4:
            self.say(Command.REGION_READ, access)
            return
        value = rng.choice([*INTERESTING, rng.getrandbits(64), IOVA])
        data = (value & (1 << 64) - 1).to_bytes(8, "little")
        self.say(Command.REGION_WRITE, access + data[: min(size, 8)].ljust(min(size, 64), b"\0"))

    def ring(self) -> None:
        """A ring in the mapped page, descriptors of any kind in it, and the doorbell."""
        rng = self._rng
        queue = rng.choice([0, 1, QUEUE_DATA])
        log2 = rng.choice([1, 2, 3, 3, 3, 12, 13, 0, rng.getrandbits(32)])
        for at in range(8):
            place = PAGE + at * Descriptor.SIZE
            self._memory[place : place + Descriptor.SIZE] = self._descriptor()
        if rng.random() < 0.5:
            image = mutated_image(rng)[: PAGE // 2]
            self._memory[PAGE + 1024 : PAGE + 1024 + len(image)] = image
        base = rng.choice([IOVA, IOVA, IOVA, IOVA + 32, IOVA + PAGE - 64, rng.getrandbits(64)])
        completions = rng.choice([IOVA + 512, IOVA + 512, IOVA + PAGE - 64, rng.getrandbits(64)])
        for register, value, size in (
            (Queue.CONTROL, 0, 4),
            (Queue.RING_BASE, base, 8),
            (Queue.LOG2_SIZE, log2, 4),
            (Queue.COMPLETION_BASE, completions, 8),
            (Queue.CONTROL, 1, 4),
            (Queue.TAIL, rng.choice([8, 8, 8, 1, *INTERESTING]), 4),
        ):
            access = REGION_ACCESS.pack(queue_offset(queue, register), 0, size)
            self.say(Command.REGION_WRITE, access + value.to_bytes(size, "little"))

    def message(self) -> None:
        """A message that is well formed, with anything in it."""
        rng = self._rng
        command = rng.choice([*Command, rng.randrange(40), rng.getrandbits(16)])
        payload = rng.randbytes(rng.choice([0, 4, 16, 20, 24, 32, 64, rng.randrange(600)]))
        self.say(command, payload, *(self._some_fd() for _ in range(rng.choice([0, 0, 1, 2]))))

    def noise(self) -> None:
        """What is no message at all; nobody answers."""
        rng = self._rng
        header = Header(
            rng.getrandbits(16),
            rng.randrange(16),
            rng.choice([0, 15, 16, 17, 1 << 16, 0xFFFF_FFFF]),
            rng.choice([0, 1, 2, 16, 32, rng.getrandbits(32)]),
        )
        self._socket.sendall(rng.choice([header.pack(), rng.randbytes(rng.randrange(1, 200))]))
        self._open = False

    def map(self) -> None:
        rng = self._rng
        size = rng.choice([PAGE, 2 * PAGE, 0, 1, PAGE + 1, 1 << 40, rng.getrandbits(64)])
        address = rng.choice([IOVA, IOVA + PAGE, IOVA - PAGE, 0, rng.getrandbits(64)])
        if rng.random() < 0.4:
            self.say(Command.DMA_UNMAP, DMA_UNMAP.pack(DMA_UNMAP.size, 0, address, size))
            return
        # The pages around the middle one are never offered in earnest.
        offset = rng.choice([PAGE, PAGE, 1, 1 << 40, rng.getrandbits(64)])
        size = size if offset != PAGE else rng.choice([PAGE, 0, 1 << 40])
        flags = rng.choice([1, 2, 3, 3, 0, rng.getrandbits(32)])
        fds = [] if rng.random() < 0.2 else [self._some_fd() if rng.random() < 0.4 else self._fd]
        message = DMA_MAP.pack(rng.choice([32, 0, 33]), flags, offset, address, size)
        self.say(Command.DMA_MAP, message, *fds)

    def interrupts(self) -> None:
        rng = self._rng
        numbers = [rng.choice([0, 1, 2, 3, 4, rng.getrandbits(32)]) for _ in range(3)]
        flags = rng.choice([0x21, 0x24, 0x22, 0x11, 0x09, rng.getrandbits(32)])
        message = IRQ_SET.pack(IRQ_SET.size, flags, *numbers)
        self.say(Command.DEVICE_SET_IRQS, message, self._some_fd())

    # What they are made of.

    def say(self, command: int, payload: bytes, *fds: int) -> None:
        """Send a message, and take the reply if one is due."""
        wants = self._rng.random() < 0.8
        flags = HeaderFlag(0) if wants else HeaderFlag.NO_REPLY
        header = Header(7, command, Header.SIZE + len(payload), flags)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.sendmsg([header.pack() + payload], ancillary)
        for fd in fds:
            if fd != self._fd:
                os.close(fd)
        if wants:
            reply = self._take(Header.SIZE)
            self._take(Header.unpack(reply).size - Header.SIZE)

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                self._open = False
                raise ConnectionError("it hung up")
            data += part
        return data

    def _some_fd(self) -> int:
        """A descriptor of one kind or another; the reading ends of pipes block who reads."""
        kind = self._rng.randrange(5)
        if kind == 0:
            return os.eventfd(self._rng.choice([0, 5]), os.EFD_CLOEXEC)
        if kind == 1:
            reading, writing = os.pipe()
            os.close(self._rng.choice([reading]))
            return writing
        if kind == 2:
            return os.open("/dev/zero", os.O_RDWR)
        if kind == 3:
            return os.memfd_create("unsealed")
        return os.dup(self._socket.fileno())

    def _descriptor(self) -> bytes:
        rng = self._rng
        if rng.random() < 0.1:
            return rng.randbytes(Descriptor.SIZE)
        operation = rng.choice([*Operation, rng.getrandbits(8)])
        length = rng.choice([*INTERESTING, 48, 128, len(PROGRAM.data), rng.getrandbits(32)])
        host = rng.choice([IOVA, IOVA + 1024, IOVA + PAGE - 1, IOVA - 1, 0, rng.getrandbits(64)])
        device = rng.choice([0, 1, 2, 64, (32 << 20) - 1, 64 << 20, rng.getrandbits(64)])
        crc = google_crc32c.value(
            bytes(self._memory[PAGE + 1024 : PAGE + 1024 + min(length, 3072)])
        )
        return Descriptor(
            operation, rng.randrange(4), rng.getrandbits(16), length, host, device, crc
        ).pack()


def mutated_image(rng: random.Random) -> bytes:
    """The program with some bytes changed; usually what checks its integrity is put right."""
    data = bytearray(PROGRAM.data)
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        at = rng.randrange(len(data))
        change = rng.choice(["byte", "word", "cut", "zero"])
        if change == "byte":
            data[at] = rng.getrandbits(8)
        elif change == "word" and at + 4 <= len(data):
            struct.pack_into("<I", data, at, rng.choice([*INTERESTING, rng.getrandbits(32)]))
        elif change == "zero":
            data[at : at + 16] = bytes(len(data[at : at + 16]))
        elif change == "cut" and rng.random() < 0.2:
            del data[at:]
        if not data:
            return b"x"
    return resealed(bytes(data)) if rng.random() < 0.9 else bytes(data)


def resealed(data: bytes) -> bytes:
    """With the CRC of each section and the digest made right, as far as there are any."""
    out = bytearray(data)
    if len(out) < 72:
        return data
    (sections,) = struct.unpack_from("<H", out, 16)
    for at in range(72, min(len(out) - 24, 72 + 24 * sections) + 1, 24):
        offset, length = struct.unpack_from("<QQ", out, at + 8)
        if offset + length <= len(out):
            section = bytes(out[offset : offset + length])
            struct.pack_into("<I", out, at + 4, google_crc32c.value(section))
    out[40:72] = image_digest(out)
    return bytes(out)


@pytest.fixture
def victim(emulator: Emulator) -> Iterator[tuple[Device, InferenceQueue]]:
    """The daemon and the container of somebody else, at work."""
    device = Device.open(emulator.transport())
    device.load(PROGRAM.data, 0)
    device.activate(0)
    queue = InferenceQueue(emulator.transport(), PROGRAM.image)
    yield device, queue
    queue.close()
    device.close()


@pytest.mark.timeout(0)
def test_whoever_else_has_it_open_notices_nothing(
    emulator: Emulator, victim: tuple[Device, InferenceQueue]
) -> None:
    device, queue = victim
    for name, rng in cases("beside a victim"):
        attacker = Attacker(emulator, rng)
        try:
            attacker.attack()
            (output,) = queue.run(PROGRAM.inputs)
            np.testing.assert_array_equal(output[0], RIGHT[0], name)
            assert device.probe(5.0) is not None, name
            attacker.check_bounds()
            emulator.check_alive()
        except BaseException as error:
            error.add_note(name)
            raise
        finally:
            attacker.close()


@pytest.mark.timeout(0)
def test_whoever_has_it_alone_leaves_it_sound(emulator: Emulator) -> None:
    for name, rng in cases("alone"):
        attacker = Attacker(emulator, rng)
        try:
            attacker.attack()
            attacker.check_bounds()
        except BaseException as error:
            error.add_note(name)
            raise
        finally:
            attacker.close()
        emulator.check_alive()
        restore(emulator)


def restore(emulator: Emulator) -> None:
    """After a reset it computes as ever: nothing lasts but what was flashed."""
    device = Device.open(emulator.transport(), any_abi=True)
    if device.state() is State.GOLDEN:
        device.flash(FIRMWARE)
        device.close()
        device = Device.open(emulator.transport())
    try:
        device.function_level_reset()
        device.load(PROGRAM.data, 0)
        device.activate(0)
        queue = InferenceQueue(emulator.transport(), PROGRAM.image)
        (output,) = queue.run(PROGRAM.inputs)
        queue.close()
        np.testing.assert_array_equal(output[0], RIGHT[0])
    finally:
        device.close()


@pytest.mark.timeout(0)
def test_images_of_any_kind(emulator: Emulator) -> None:
    device = Device.open(emulator.transport())
    try:
        for name, rng in cases("images"):
            image = mutated_image(rng)
            try:
                device.load(image, 0, timeout=20)
                device.activate(0)
                queue = InferenceQueue(emulator.transport(), PROGRAM.image, timeout=5)
                with contextlib.suppress(EdgedError):
                    queue.run(PROGRAM.inputs)
                queue.close()
            except EdgedError:
                pass
            except BaseException as error:
                error.add_note(name)
                raise
            emulator.check_alive()
            device.soft_reset()
    finally:
        device.close()
    restore(emulator)
