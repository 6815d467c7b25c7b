"""Code of single layers against the integers that they mean."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from scheduler.programs import MACHINES, check, image, steps
from scheduler.random_layers import OPERATORS

from edged.errors import ModelError
from edged.npu import DType, Entry, Layer, Loop, Op, ProgramImage
from edged.npu.instructions import Opcode
from edged.scheduler import schedule

COUNT = 3


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_code_leaves_what_a_layer_says(operator: str, machine: str) -> None:
    for number in range(COUNT):
        seed = zlib.crc32(f"{operator} {machine} {number}".encode())
        check(OPERATORS[operator](np.random.default_rng(seed)), machine, seed)


def residual(address: int) -> ProgramImage:
    """A convolution, and a sum of its result and another input, to be written to *address*."""
    shape = (8, 8, 16)
    weights = np.ones((16, 1, 1, 16), np.int8)
    made = image(
        [(shape, DType.U8)] * 4,
        Layer(Op.CONV, "conv", (0,), 1, weights=weights, bias=np.zeros(16, np.int32), shift=4),
        Layer(Op.ADD, "add", (1, 2), 3, lefts=(0, 0), shift=1),
    )
    *before, last = made.tensors
    return replace(made, tensors=(*before, replace(last, address=address)))


def test_what_only_the_next_layer_reads_is_never_in_dram() -> None:
    scheduled = check(residual(3 << 10), "16x32x4")
    stores = [step for step in steps(scheduled) if step.op is Opcode.STORE]
    assert {step.operands["address"] for step in stores} == {3 << 10}


def test_layers_are_not_done_together_if_the_second_overwrites_what_the_first_reads() -> None:
    scheduled = check(residual(0), "16x32x4 tiny")
    stores = [step for step in steps(scheduled) if step.op is Opcode.STORE]
    assert {step.operands["address"] for step in stores} == {1 << 10, 0}


def test_a_copy_of_too_many_instructions_says_what_to_do() -> None:
    loops = tuple(Loop(50, 2 * 50**n, 50**n) for n in range(4))[::-1]
    size = 50**4
    made = image(
        [((1, 1, 2 * size), DType.U8), ((1, 1, size), DType.U8)],
        Layer(Op.COPY, "twisted", (0,), 1, loops=loops, lefts=(0,), shift=np.zeros(1, np.uint8)),
    )
    odd = tuple(Loop(loop.count, loop.source + n, loop.target) for n, loop in enumerate(loops))
    made = replace(made, entries=(Entry((replace(made.layers[0], loops=odd),), (0,), (1,)),))
    with pytest.raises(ModelError, match="'twisted': it needs more than 100000 instructions"):
        schedule(made, 1 << 12, 1 << 12)
