"""What the tests of this folder run on: every kind of device that can stand behind the door.

The door is a UNIX socket where vfio-user is spoken (``edged/_vfio_user_server.py``). To try another
implementation of the contract, add a :class:`Kind` to :func:`kinds`: how it is started, what it is,
and what it lacks. Tests that need what it lacks are skipped and print why.
"""

from __future__ import annotations

import contextlib
import enum
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device import rtl
from patience import PATIENCE, eventually

from edged import _vfio_user_server as vfio_user_server
from edged.card import SharedCard
from edged.device import Device, InferenceQueue, vfio_user
from edged.emulator._core import Pace
from edged.emulator._faults import Faults
from edged.emulator._gateware import Gateware
from edged.emulator._selftest import exact_weight_encodings
from edged.emulator._server import Server
from edged.npu import Array, ProgramImage
from edged.npu.registers import State

__all__ = ["Emulator", "Kind", "Need", "Served", "emulated_card", "kinds", "running", "start"]

PCI = os.environ.get("EDGED_TEST_PCI", "")
"""Address of a card: then that is the one kind there is. Each test resets it."""


class Need(enum.Enum):
    """What a test may need beyond the contract; a marker ``needs`` names it."""

    ANY_WIDTH = "reads of BAR 0 of any size and alignment"
    OWN_DMA_RULES = "the emulator's rules of what may be mapped for DMA"
    INTX = "interrupts of all kinds, raised for an opening that has no queue"
    OWN_PROCESS = "a device in a process that is not the tests' own"
    LENGTH_FIRST = "the length of an image judged before its address"
    OWN_CONFIG_SPACE = "the configuration space of the emulated card"
    CODE = "a device that executes section CODE"
    FLASH = "a flash"


_OF_THE_EMULATOR = {Need.CODE: "it executes LAYERS"}
_OF_A_CARD = {
    Need.ANY_WIDTH: "a card is read by words",
    Need.OWN_DMA_RULES: "the card's process maps memory for the kernel's VFIO",
    Need.OWN_PROCESS: "what hands out the card is in the tests'",
    Need.LENGTH_FIRST: "edged-card looks at the address first",
    Need.INTX: "the card's process listens to the vectors of those that have queues",
    Need.OWN_CONFIG_SPACE: "the kernel keeps the configuration space",
}


class Served:
    """A device behind a socket.

    Attributes:
        path: of the socket.
        pid: of the process that serves it; it may be this one.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self.path = path
        self.pid = pid

    def transport(self) -> vfio_user.VfioUserTransport:
        return vfio_user.VfioUserTransport(vfio_user.connect(self.path))

    def device(self) -> Device:
        return Device.open(self.transport())

    def queue(self, image: ProgramImage, **options: Any) -> InferenceQueue:
        return InferenceQueue(self.transport(), image, **options)

    def wait_for_state(self, device: Device, state: State) -> None:
        eventually(lambda: device.state() is state, f"state {state.name}", interval=0.002)

    def is_there(self) -> bool:
        """Whether it still answers to anyone."""
        with contextlib.closing(self.transport()):
            return True


class Emulator(Served):
    """A process of its own, which can be killed."""

    def __init__(self, path: Path, process: subprocess.Popen[str]) -> None:
        super().__init__(path, process.pid)
        self.process = process

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def is_there(self) -> bool:
        return self.process.poll() is None


@dataclass(frozen=True)
class Kind:
    """An implementation of the contract.

    Attributes:
        start: serves it at a socket of this path until left.
        array, dram_bytes, clock_khz: what it says that it has.
        finished: adds to a program image what it needs.
        seconds: longest time of a test, the first of which may have to build it.
        lacks: why tests that need something are skipped.
    """

    name: str
    start: Callable[[Path], AbstractContextManager[Served]]
    array: Array = field(default_factory=Array)
    dram_bytes: int = 4 << 30
    clock_khz: int = 250_000
    finished: Callable[[ProgramImage], ProgramImage] = lambda image: image
    seconds: int = 600
    lacks: Mapping[Need, str] = field(default_factory=dict)


def kinds() -> list[Kind]:
    """Those that can be tried here."""
    if PCI:
        why = "EDGED_TEST_PCI names a card"
        return [Kind("pci", lambda path: _pci_card(path, PCI), lacks=dict.fromkeys(Need, why))]
    found = [
        Kind("emulator", running, lacks=_OF_THE_EMULATOR),
        Kind(
            "in-process",
            _in_process,
            lacks={**_OF_THE_EMULATOR, Need.OWN_PROCESS: "it is in the tests'"},
        ),
        Kind("shared-card", emulated_card, lacks={**_OF_THE_EMULATOR, **_OF_A_CARD}),
    ]
    if rtl.is_possible():
        found.append(
            Kind(
                "rtl",
                _rtl,
                array=rtl.ARRAY,
                clock_khz=rtl.CLOCK_KHZ,
                finished=rtl.scheduled,
                seconds=3600,
                lacks={**_OF_A_CARD, Need.FLASH: "its golden image is to come"},
            )
        )
    return found


def start(path: Path, *options: str) -> Emulator:
    """An emulator process, ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edged.emulator", "--socket", os.fspath(path), *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(PATIENCE), "no line from the emulator"
    assert process.stdout.readline().startswith("ready")
    return Emulator(path, process)


@contextlib.contextmanager
def running(path: Path, *options: str) -> Iterator[Emulator]:
    """An emulator process, which has to end well."""
    emulator = start(path, *options)
    try:
        yield emulator
    finally:
        if emulator.process.poll() is None:
            emulator.process.terminate()
            assert emulator.process.wait(PATIENCE) == 0
        assert emulator.process.stdout is not None
        emulator.process.stdout.close()


@contextlib.contextmanager
def _in_process(path: Path) -> Iterator[Served]:
    """The emulator without a process of its own: what a debugger or a coverage tool sees."""
    faults = Faults(0)
    device = Gateware(
        array=Array(),
        dram_bytes=4 << 30,
        weights=exact_weight_encodings(),
        threads=1,
        pace=Pace.FAST,
        faults=faults,
    )
    try:
        with _serving(Server(path, device, faults)):
            yield Served(path, os.getpid())
    finally:
        device.stop()


@contextlib.contextmanager
def emulated_card(path: Path, *options: str) -> Iterator[Served]:
    """A card as ``edged-card`` hands it out: an emulator, of which only one opening is used."""
    with running(path.with_name("card.sock"), *options) as emulator:
        transport = emulator.transport()
        with _serving(vfio_user_server.Server(path, SharedCard(transport))):
            yield Served(path, os.getpid())
        transport.close()


@contextlib.contextmanager
def _rtl(path: Path) -> Iterator[Served]:
    """The gateware, simulated, as ``edged-card`` would hand it out."""
    transport = rtl.switched_on()
    with _serving(vfio_user_server.Server(path, SharedCard(transport))):
        yield Served(path, os.getpid())
    transport.close()


@contextlib.contextmanager
def _serving(server: Server | vfio_user_server.Server[Any]) -> Iterator[None]:
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()


@contextlib.contextmanager
def _pci_card(path: Path, address: str) -> Iterator[Emulator]:
    """The card at *address*, handed out by ``edged-card``."""
    config = path.with_name("edged.toml")
    config.write_text(f'[device]\nuse = "card"\naddress = "{address}"\ncard_socket = "{path}"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "edged.card_app", "--config", os.fspath(config)], text=True
    )
    try:
        eventually(path.exists, "edged-card to have the card")
        yield Emulator(path, process)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
