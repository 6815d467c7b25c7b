"""The devices that the tests of this folder run on, and small random programs for them.

Most tests take the fixture ``served`` and run on every kind of device (``device.kinds``). What
needs an emulator that is told how to be, or is killed, starts one of its own.

With EDGED_TEST_PCI set to the address of a card, that is what the tests use instead, through the
kernel's VFIO; it is reset by each. Those that need an emulator of their own are skipped then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from device.kinds import PCI, Emulator, Kind, Served, kinds, running
from patience import eventually

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

ARRAY = Array()
SLOW_ARRAY = Array(1, 1, 1)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(kind, id=kind.name, marks=pytest.mark.timeout(kind.seconds))
        for kind in kinds()
    ],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of device in turn."""
    found = request.param
    assert isinstance(found, Kind)
    return found


@pytest.fixture(scope="session")
def _served(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with kind.start(tmp_path_factory.mktemp(kind.name) / "npu.sock") as served:
        yield served


@pytest.fixture
def served(_served: Served, kind: Kind, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A device of each kind, reset before each test."""
    for marker in request.node.iter_markers("needs"):
        for need in marker.args:
            if need in kind.lacks:
                pytest.skip(f"needs {need.value}; {kind.name}: {kind.lacks[need]}")
    device = _served.device()
    device.function_level_reset()
    device.close()
    yield _served
    assert _served.is_there(), "the device died"


@pytest.fixture
def emulated() -> None:
    """For what takes an emulator of one's own."""
    if PCI:
        pytest.skip("EDGED_TEST_PCI names a card")


@pytest.fixture(scope="session")
def breakable_emulator(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """One that takes faults through its registers."""
    if PCI:
        with kinds()[0].start(tmp_path_factory.mktemp("card") / "npu.sock") as served:
            yield served
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
    seed: int = 0,
    *,
    array: Array = ARRAY,
    pixels: int = 9,
    channels: int = 8,
    finished: Callable[[ProgramImage], ProgramImage] = lambda image: image,
) -> Program:
    """conv → depthwise conv → add of both; two outputs, u8, s8 or s16 in by the seed.

    With s16 in, the sum is s16 as well, and has a shift for each channel.

    Args:
        finished: adds to the image what a kind of device needs.
    """
    rng = np.random.default_rng(seed)
    dtype = tuple(DType)[seed % 3]
    wide = dtype is DType.S16
    plane = (pixels, pixels, channels)
    step = -(-pixels * pixels * channels // 64) * 64 * (1 + wide)
    tensors = (
        Tensor("x", dtype, (pixels, pixels, 3), -4, 0),
        Tensor("a", DType.U8, plane, -4, step),
        Tensor("b", DType.S8, plane, -4, 2 * step),
        Tensor("sum", DType.S16 if wide else DType.S8, plane, -4, 3 * step),
    )

    def conv(
        name: str, source: int, output: int, c_in: int, groups: int, lo: int, hi: int, shift: int
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
            shift=np.full(channels, shift, np.uint8),
        )

    layers = (
        conv("first", 0, 1, 3, 1, 0, 192, 17 if wide else 9),
        conv("second", 1, 2, channels, channels, -128, 127, 9),
        Layer(Op.ADD, "sum", (1, 2), 3, lo=-128, hi=127, lefts=(0, 1), shift=1),
    )
    if wide:
        lefts = (rng.integers(0, 10, channels).astype(np.uint8), 6)
        wide_sum = replace(layers[2], lo=-32768, hi=32767, lefts=lefts)
        layers = (*layers[:2], wide_sum)
    image = ProgramImage(
        array, tensors, (Entry(layers, (0,), (1, 3)),), dram_bytes=max(1 << 24, 5 * step)
    )
    data = serialize_image(finished(image))
    x = rng.integers(dtype.lowest, dtype.highest + 1, tensors[0].shape).astype(dtype.numpy)
    return Program(parse_image(data), data, [x])


def make_in_two(
    seed: int = 0,
    *,
    array: Array = ARRAY,
    finished: Callable[[ProgramImage], ProgramImage] = lambda image: image,
) -> Program:
    """Two entries whose tensors lie in the same DRAM: a program, and another one of other sizes."""
    one, other = (
        make_program(seed + i, array=array, pixels=5 + 8 * i, channels=8).image for i in (0, 1)
    )
    shifted = len(one.tensors)

    def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(index + shifted for index in indices)

    layers = tuple(
        replace(layer, inputs=moved(layer.inputs), output=layer.output + shifted)
        for layer in other.layers
    )
    image = ProgramImage(
        array,
        (*one.tensors, *other.tensors),
        (*one.entries, Entry(layers, moved(other.inputs), moved(other.outputs))),
        dram_bytes=one.dram_bytes,
    )
    data = serialize_image(finished(image))
    return Program(parse_image(data), data, [])


@pytest.fixture
def program_in_two(kind: Kind) -> Program:
    """See :func:`make_in_two`, for the kind of device that the test runs on."""
    return make_in_two(array=kind.array, finished=kind.finished)


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Callable[..., Program]:
    """Makes small programs, for the array of the kind of device that the test runs on."""
    if "kind" not in request.fixturenames:
        return make_program
    kind = request.getfixturevalue("kind")
    return partial(make_program, array=kind.array, finished=kind.finished)


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
