"""An image that asks for far more memory than it brings: it is refused, and the device goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edged.device import Device
from edged.errors import DeviceError
from edged.npu import (
    ACCUMULATOR_BOUND,
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
from edged.npu.registers import BankStatus, State

MEMORY_MIB = 512


def resident(process: int) -> int:
    """The most that it ever had of RAM, in MiB."""
    text = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) >> 10


def greedy_constants() -> ProgramImage:
    """A mean over a window, for which the executor has a filter of ones: 2.6 GB of them."""
    side, channels = 255, 10_000
    size = side * side * channels
    tensors = (
        Tensor("x", DType.U8, (side, side, channels), 0, 0),
        Tensor("y", DType.U8, (2, side, channels), 0, size),
    )
    layer = Layer(
        Op.AVGPOOL,
        "greedy",
        (0,),
        1,
        kernel=(side, side),
        pad=(0, side // 2, 1, side - 1 - side // 2),
        lo=0,
        hi=255,
        multiplier=round(ACCUMULATOR_BOUND / (side * side)),
        shift=24,
    )
    return ProgramImage(Array(), tensors, (Entry((layer,), (0,), (1,)),), dram_bytes=2 * size)


def greedy_tensors() -> ProgramImage:
    """An addition that the executor does in double: 8 bytes for each of 200 million."""
    shape = (1000, 1000, 200)
    size = 200_000_000
    tensors = tuple(Tensor(name, DType.S8, shape, 0, at * size) for at, name in enumerate("xy"))
    layer = Layer(Op.ADD, "greedy", (0, 0), 1, lo=-128, hi=127, lefts=(14, 14), shift=20)
    return ProgramImage(Array(), tensors, (Entry((layer,), (0,), (1,)),), dram_bytes=3 * size)


def greedy_second_entry() -> ProgramImage:
    """A modest entry point, and one as above."""
    greedy = greedy_constants()
    modest = Layer(Op.RESCALE, "modest", (2,), 3, lefts=(0,))
    small = tuple(Tensor(name, DType.U8, (4, 4, 4), 0, 64 * at) for at, name in enumerate("ab"))
    return replace(
        greedy,
        tensors=(*greedy.tensors, *small),
        entries=(Entry((modest,), (2,), (3,)), *greedy.entries),
    )


@pytest.mark.parametrize("make", [greedy_constants, greedy_tensors, greedy_second_entry])
def test_it_is_refused(
    start_emulator: Callable[..., Any],
    program: Callable[..., Any],
    make: Callable[[], ProgramImage],
) -> None:
    image = serialize_image(make())
    parse_image(image)  # it is sound, but for what it takes
    emulator = start_emulator("--memory", str(MEMORY_MIB))
    device = Device.open(emulator.transport())
    with pytest.raises(DeviceError, match="BAD_IMAGE"):
        device.load(image, 0)
    assert device.banks()[0].status is BankStatus.CORRUPT
    assert device.state() is State.CLEARED
    assert resident(emulator.process.pid) < MEMORY_MIB + 512
    device.load(program().data, 0)
    device.activate(0)
    queue = emulator.queue(program().image)
    queue.run(program().inputs)
    queue.close()
    device.close()
