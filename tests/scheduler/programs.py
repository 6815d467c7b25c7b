"""Small images of one layer or several, and whether their code does what their layers say."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from edged.npu import Array, DType, Entry, Layer, ProgramImage, Tensor, numerics
from edged.npu.instructions import INSTRUCTION_BYTES, Instruction, Unit
from edged.npu.simulator import Order, Simulator
from edged.scheduler import schedule

Shape = tuple[int, int, int]

MACHINES = {
    "8x8x1": (Array(8, 8, 1), 16 << 10, 8 << 10),
    "8x8x1 tiny": (Array(8, 8, 1), 512, 2560),
    "8x32x2": (Array(8, 32, 2), 32 << 10, 16 << 10),
    "8x32x2 tiny": (Array(8, 32, 2), 1 << 10, 5 << 10),
    "32x8x2": (Array(32, 8, 2), 64 << 10, 16 << 10),
    "16x32x4": (Array(16, 32, 4), 2 << 20, 1 << 20),
    "16x32x4 tiny": (Array(16, 32, 4), 4 << 10, 16 << 10),
    "32x32x4": (Array(32, 32, 4), 1 << 20, 1 << 20),
    "32x32x4 tiny": (Array(32, 32, 4), 8 << 10, 32 << 10),
}
"""Array, activation buffer, weight buffer."""


def image(
    tensors: Sequence[tuple[Shape, DType]],
    *layers: Layer,
    array: Array = Array(8, 8, 1),  # noqa: B008
) -> ProgramImage:
    """Its inputs are the tensors that no layer writes, its outputs those that no layer reads."""
    placed = []
    address = 0
    for number, (shape, dtype) in enumerate(tensors):
        tensor = Tensor(f"t{number}", dtype, shape, 0, address)
        placed.append(tensor)
        address += -(-tensor.nbytes // 2) * 2
    written = {layer.output for layer in layers}
    read = {index for layer in layers for index in layer.inputs}
    inputs = tuple(number for number in range(len(placed)) if number not in written)
    outputs = tuple(number for number in range(len(placed)) if number not in read)
    return ProgramImage(array, tuple(placed), (Entry(layers, inputs, outputs),), dram_bytes=address)


def noise(made: ProgramImage, rng: np.random.Generator) -> list[np.ndarray]:
    return [
        rng.integers(t.dtype.lowest, t.dtype.highest + 1, t.shape).astype(t.dtype.numpy)
        for t in made.input_tensors
    ]


def in_any_order(seed: int) -> Order:
    """A unit that is chosen at random of those that may go on."""
    chance = random.Random(seed)

    def chosen(ready: Sequence[tuple[int, Unit]]) -> Unit:
        return chance.choice(ready)[1]

    return chosen


def last_first(ready: Sequence[tuple[int, Unit]]) -> Unit:
    """Whoever is furthest in the program goes on, so that each runs as far ahead as it may."""
    return max(ready)[1]


def first_but_late(unit: Unit) -> Order:
    """One unit goes on only when no other one can."""

    def chosen(ready: Sequence[tuple[int, Unit]]) -> Unit:
        others = [each for each in ready if each[1] is not unit]
        return max(others or ready)[1]

    return chosen


ORDERS = [last_first, *(first_but_late(unit) for unit in Unit)]


def executed(
    scheduled: ProgramImage, inputs: Sequence[np.ndarray], order: Order, seed: int
) -> list[np.ndarray]:
    """The outputs of the only entry, with noise wherever nothing was written before."""
    rng = np.random.default_rng(seed)
    simulator = Simulator(
        scheduled.array,
        scheduled.schedule.activation_buffer,
        scheduled.schedule.weight_buffer,
        rng.integers(0, 256, scheduled.dram_bytes, np.uint8),
        scheduled.packed,
        order,
    )
    for memory in (simulator.activations, simulator.weights):
        memory[...] = rng.integers(0, 256, memory.shape, np.uint8)
    for tensor, value in zip(scheduled.input_tensors, inputs, strict=True):
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        simulator.dram[tensor.address : tensor.address + tensor.nbytes] = data
    simulator.run(scheduled.code, scheduled.only.instruction)
    return [
        simulator.dram[tensor.address : tensor.address + tensor.nbytes]
        .view(tensor.dtype.numpy)
        .reshape(tensor.shape)
        for tensor in scheduled.output_tensors
    ]


def check(made: ProgramImage, machine: str, seed: int = 0) -> ProgramImage:
    """Assert that the code for *machine* leaves what the layers say, in several orders; returns
    the image with it."""
    array, activations, weights = MACHINES[machine]
    made = ProgramImage(array, made.tensors, made.entries, made.dram_bytes)
    scheduled = schedule(made, activations, weights)
    inputs = noise(made, np.random.default_rng(seed))
    wanted = numerics.run(made, inputs)
    for order in (ORDERS[seed % len(ORDERS)], in_any_order(seed)):
        found = executed(scheduled, inputs, order, seed)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    return scheduled


def steps(scheduled: ProgramImage) -> list[Instruction]:
    """All instructions of its code."""
    size = INSTRUCTION_BYTES
    code = scheduled.code
    return [Instruction.unpack(code[at : at + size]) for at in range(0, len(code), size)]
