"""A real emulator process per test that asks for one, and small random programs for it.

With EDGED_TEST_PCI set to the address of a card, that is what the tests use instead, through the
kernel's VFIO; it is reset by each. Those that need an emulator of their own are skipped then.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE, eventually

from edged.device import Device, InferenceQueue, vfio_user
from edged.npu import Array, DType, Layer, Op, ProgramImage, Tensor, parse_image, serialize_image
from edged.npu.registers import State

ARRAY = Array()
SLOW_ARRAY = Array(1, 1, 1)
PCI = os.environ.get("EDGED_TEST_PCI", "")


@dataclass
class Emulator:
    """A running emulator."""

    path: Path
    process: subprocess.Popen[str]

    def transport(self) -> vfio_user.VfioUserTransport:
        return vfio_user.VfioUserTransport(vfio_user.connect(self.path))

    def device(self) -> Device:
        return Device.open(self.transport())

    def queue(self, image: ProgramImage, **options: Any) -> InferenceQueue:
        return InferenceQueue(self.transport(), image, **options)

    def wait_for_state(self, device: Device, state: State) -> None:
        wait_until(lambda: device.state() is state, f"state {state.name}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)


def start(path: Path, *options: str) -> Emulator:
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
def card(folder: Path, address: str) -> Iterator[Emulator]:
    """The card at *address*, handed out as an emulator is."""
    config = folder / "edged.toml"
    path = folder / "npu.sock"
    config.write_text(f'[device]\nuse = "card"\naddress = "{address}"\ncard_socket = "{path}"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "edged.card_app", "--config", os.fspath(config)], text=True
    )
    try:
        wait_until(path.exists, "edged-card to have the card")
        yield Emulator(path, process)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.fixture
def emulated() -> None:
    """For what a card does otherwise, or what takes an emulator of one's own."""
    if PCI:
        pytest.skip("EDGED_TEST_PCI names a card")


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    if PCI:
        with card(tmp_path_factory.mktemp("card"), PCI) as emulator:
            yield emulator
        return
    with running(tmp_path_factory.mktemp("emulator") / "npu.sock") as emulator:
        yield emulator


@pytest.fixture
def emulator(_shared: Emulator) -> Iterator[Emulator]:
    """A fresh device: one process for all tests, reset before each."""
    device = _shared.device()
    device.function_level_reset()
    device.close()
    yield _shared
    assert _shared.process.poll() is None, "the emulator died"


@pytest.fixture(scope="session")
def breakable_emulator(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Emulator]:
    """One that takes faults through its registers."""
    if PCI:
        yield request.getfixturevalue("_shared")
        return
    path = tmp_path_factory.mktemp("emulator") / "npu.sock"
    with running(path, "--fault-injection") as emulator:
        yield emulator


@pytest.fixture
def start_emulator(
    emulated: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Emulator]]:
    """Start emulators of one's own, to be killed or told how to be."""
    with contextlib.ExitStack() as stack:

        def another(*options: str, path: Path | None = None) -> Emulator:
            path = path or tmp_path_factory.mktemp("emulator") / "npu.sock"
            return stack.enter_context(running(path, *options))

        yield another


@pytest.fixture
def slow_emulator(start_emulator: Callable[..., Emulator]) -> Emulator:
    """One whose runs take as long as an array of a single MAC would."""
    return start_emulator("--pace", "modelled", "--array", str(SLOW_ARRAY))


@dataclass
class Program:
    """A small program, and how to feed it."""

    image: ProgramImage
    data: bytes
    inputs: list[np.ndarray]


def make_program(
    seed: int = 0, *, array: Array = ARRAY, pixels: int = 9, channels: int = 8
) -> Program:
    """conv → depthwise conv → add of both; two outputs, u8 in or s8 in by the seed."""
    rng = np.random.default_rng(seed)
    dtype = DType.U8 if seed % 2 == 0 else DType.S8
    plane = (pixels, pixels, channels)
    step = -(-pixels * pixels * channels // 64) * 64
    tensors = (
        Tensor("x", dtype, (pixels, pixels, 3), -4, 0),
        Tensor("a", DType.U8, plane, -4, step),
        Tensor("b", DType.S8, plane, -4, 2 * step),
        Tensor("sum", DType.S8, plane, -4, 3 * step),
    )

    def conv(
        name: str, source: int, output: int, c_in: int, groups: int, lo: int, hi: int
    ) -> Layer:
        return Layer(
            Op.CONV,
            name,
            (source,),
            output,
            kernel=(3, 3),
            pad=(1, 1, 1, 1),
            groups=groups,
            lo=lo,
            hi=hi,
            weights=rng.integers(-127, 128, (channels, 3, 3, c_in // groups)).astype(np.int8),
            bias=rng.integers(-1000, 1000, channels).astype(np.int32),
            shifts=np.full(channels, 9, np.uint8),
        )

    layers = (
        conv("first", 0, 1, 3, 1, 0, 192),
        conv("second", 1, 2, channels, channels, -128, 127),
        Layer(Op.ADD, "sum", (1, 2), 3, lo=-128, hi=127, lefts=(0, 1), rights=(0, 0), shift=1),
    )
    image = ProgramImage(array, tensors, layers, (0,), (1, 3), dram_bytes=max(1 << 24, 5 * step))
    data = serialize_image(image)
    x = rng.integers(dtype.lowest, dtype.highest + 1, tensors[0].shape).astype(dtype.numpy)
    return Program(parse_image(data), data, [x])


@pytest.fixture
def program() -> Callable[..., Program]:
    return make_program


@pytest.fixture
def slow_program() -> Program:
    """On :func:`slow_emulator`, a run takes about half a second, nearly all of it asleep."""
    return make_program(array=SLOW_ARRAY, pixels=220, channels=64)


@pytest.fixture
def long_program() -> Program:
    """On :func:`slow_emulator`, a run takes four seconds: for tests that end it before."""
    return make_program(array=SLOW_ARRAY, pixels=440, channels=128)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look often: some states of a device are short."""
    eventually(condition, what, interval=0.002)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., None]:
    return wait_until
