"""The instruction simulator on programs of a few instructions."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edged.npu import Array, DType
from edged.npu.instructions import Flag, Instruction, Opcode, Unit
from edged.npu.numerics import shift_round_half_even
from edged.npu.simulator import InstructionError, Order, Simulator

ARRAY = Array(8, 8, 2)
EXECUTE, LOAD, STORE = (1 << unit for unit in (Unit.EXECUTE, Unit.LOAD, Unit.STORE))
HEIGHT, WIDTH, CHANNELS = 4, 3, 8
SIZE = HEIGHT * WIDTH * CHANNELS
PLANE = {
    "height": HEIGHT,
    "width": WIDTH,
    "row_bytes": WIDTH * CHANNELS,
    "pixel_bytes": CHANNELS,
    "lanes_across": 1,
    "lane_rows": 2,
    "buffer_row": WIDTH,
    "buffer_pixel": 1,
}
PART = {"rows": 2, "columns": WIDTH, "bytes": CHANNELS}
FRAME = {
    "rows": 2,
    "columns": WIDTH,
    "blocks": 1,
    "source_row": WIDTH,
    "source_column": 1,
    "target_row": WIDTH,
    "target_column": 1,
    "kernel_rows": 1,
    "kernel_columns": 1,
    "kernel_blocks": 1,
}
RESULT = {"source_type": DType.U8, "target_type": DType.S8, "lo": -100, "hi": 127}


def convolution(tokens: bool) -> bytes:
    """A 1×1 convolution of a plane at 0 to the plane behind it, both lanes with two rows."""
    return b"".join(
        instruction.pack()
        for instruction in (
            Instruction(Opcode.LOAD_PLANE, PLANE),
            Instruction(Opcode.STORE_PLANE, PLANE),
            Instruction(Opcode.LOAD_WEIGHTS, {"words": 2}),
            Instruction(Opcode.LOAD, PART, signal=EXECUTE * tokens),
            Instruction(Opcode.FRAME, FRAME),
            Instruction(Opcode.RESULT, RESULT),
            Instruction(
                Opcode.CONV,
                {"target": 16},
                LOAD * tokens,
                STORE * tokens,
                Flag.FIRST | Flag.LAST,
            ),
            Instruction(
                Opcode.STORE, {**PART, "address": SIZE, "buffer": 16}, wait=EXECUTE * tokens
            ),
            Instruction(Opcode.END, {}),
        )
    )


def simulator(order: Order | None = None) -> tuple[Simulator, np.ndarray]:
    """One with a plane in DRAM and weights; and what the convolution gives."""
    random_numbers = np.random.default_rng(5)
    plane = random_numbers.integers(0, 256, (HEIGHT, WIDTH, CHANNELS), np.uint8)
    weights = random_numbers.integers(-128, 128, (8, 8), np.int8)
    channels = np.zeros(8, [("bias", "<i4"), ("shift", "u1"), ("rest", "u1", 3)])
    channels["bias"] = random_numbers.integers(-999, 999, 8)
    channels["shift"] = range(5, 13)
    sums = plane.astype(np.int64) @ weights.astype(np.int64) + channels["bias"]
    wanted = np.clip(shift_round_half_even(sums, channels["shift"]), -100, 127).astype(np.int8)
    dram = np.concatenate([plane.reshape(-1), np.zeros(SIZE, np.uint8)])
    packed = channels.tobytes() + weights.tobytes()
    made = Simulator(ARRAY, 1024, 512, dram, packed, *([order] if order else []))
    return made, wanted


def test_a_convolution_gives_what_its_formula_says() -> None:
    made, wanted = simulator()
    assert made.run(convolution(tokens=True)) == 9
    found = made.dram[SIZE:].view(np.int8).reshape(wanted.shape)
    np.testing.assert_array_equal(found, wanted)


def test_tokens_hold_whatever_the_order_of_the_units() -> None:
    for seed in range(20):
        choose = random.Random(seed)
        made, wanted = simulator(lambda ready, choose=choose: choose.choice(ready)[1])
        made.run(convolution(tokens=True))
        np.testing.assert_array_equal(made.dram[SIZE:].view(np.int8).reshape(wanted.shape), wanted)


def test_without_tokens_the_store_may_come_first() -> None:
    made, _ = simulator(lambda ready: max(ready, key=lambda each: each[1])[1])
    made.run(convolution(tokens=False))
    assert not made.dram[SIZE:].any()


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (Instruction(Opcode.LOAD, {**PART, "address": SIZE + 1}), "goes to byte 193 of DRAM"),
        (Instruction(Opcode.STORE, {**PART, "address": SIZE + 1}), "goes to byte 193 of DRAM"),
        (Instruction(Opcode.LOAD_WEIGHTS, {"words": 3}), "goes to byte 192 of section PACKED"),
        (Instruction(Opcode.LOAD, PART, wait=EXECUTE), "every unit waits for another"),
        (Instruction(Opcode.CONV, {}), "no FRAME"),
    ],
)
def test_what_a_device_refuses(instruction: Instruction, message: str) -> None:
    made, _ = simulator()
    planes = [Instruction(op, PLANE) for op in (Opcode.LOAD_PLANE, Opcode.STORE_PLANE)]
    code = b"".join(each.pack() for each in (*planes, instruction, Instruction(Opcode.END, {})))
    with pytest.raises(InstructionError, match=message):
        made.run(code)


def test_code_without_an_end_and_of_no_operation() -> None:
    made, _ = simulator()
    with pytest.raises(InstructionError, match="the code ends before it"):
        made.run(Instruction(Opcode.SYNC, {}).pack())
    with pytest.raises(InstructionError, match="200 is not a valid Opcode"):
        made.run(bytes([200]) * 32)
    too_many = Instruction(Opcode.LOAD_PLANE, PLANE, signal=STORE).pack() * 256
    with pytest.raises(InstructionError, match="more than 255 tokens of LOAD for STORE"):
        made.run(too_many + Instruction(Opcode.END, {}).pack())
