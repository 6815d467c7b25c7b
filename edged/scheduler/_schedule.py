"""Code for a whole image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edged.errors import ModelError
from edged.npu import Layer, Op, ProgramImage, Schedule, Tensor
from edged.scheduler._conv import conv, matmul
from edged.scheduler._copy import copy
from edged.scheduler._elements import add, concat, mul, table
from edged.scheduler._jobs import NothingFitsError
from edged.scheduler._machine import Machine
from edged.scheduler._order import ordered
from edged.scheduler._pool import pool
from edged.scheduler._program import Packed, Program

__all__ = ["Scheduled", "schedule", "scheduled"]

_Emit = Callable[[Program, Layer, Sequence[Tensor], Tensor], None]
_EMIT: Final[dict[Op, _Emit]] = {
    Op.CONV: conv,
    Op.ADD: add,
    Op.MAXPOOL: pool,
    Op.AVGPOOL: pool,
    Op.CONCAT: concat,
    Op.RESCALE: concat,
    Op.TABLE: table,
    Op.MUL: mul,
    Op.COPY: copy,
    Op.MATMUL: matmul,
}


@dataclass(frozen=True, slots=True, eq=False)
class Scheduled:
    """An image with code, and where in it each layer begins.

    Attributes:
        layers: of each entry, the first instruction of each of its layers.
    """

    image: ProgramImage
    layers: tuple[tuple[int, ...], ...]


def schedule(image: ProgramImage, activation_buffer: int, weight_buffer: int) -> ProgramImage:
    """*image* with code that executes its layers on its array.

    Args:
        image: a sound one.
        activation_buffer, weight_buffer: on-chip bytes.

    Raises:
        ModelError: a layer that buffers of this size cannot hold the least part of, or that needs
            too many instructions; or an array for which there is no code.
    """
    return scheduled(image, activation_buffer, weight_buffer).image


def scheduled(image: ProgramImage, activation_buffer: int, weight_buffer: int) -> Scheduled:
    """As :func:`schedule`, with the places of the layers."""
    machine = Machine.of(image.array, activation_buffer, weight_buffer)
    packed = Packed()
    code: list[bytes] = []
    entries, layers = [], []
    for entry in image.entries:
        program = Program(machine, packed)
        begins = []
        for layer in entry.layers:
            begins.append(len(program.steps))
            _emit(program, image, layer)
        instructions, places = ordered(program.steps, machine, image.dram_bytes)
        entries.append(replace(entry, instruction=len(code)))
        layers.append(tuple(len(code) + places[begin] for begin in begins))
        code += [instruction.pack() for instruction in instructions]
    made = replace(
        image,
        entries=tuple(entries),
        code=b"".join(code),
        packed=packed.data(),
        schedule=Schedule(activation_buffer, weight_buffer, machine.array.to),
        digest=b"",
    )
    return Scheduled(made, tuple(layers))


def _emit(program: Program, image: ProgramImage, layer: Layer) -> None:
    program.begin(layer.name)
    inputs = image.chosen(layer.inputs)
    try:
        _EMIT[layer.op](program, layer, inputs, image.tensors[layer.output])
    except NothingFitsError as error:
        machine = program.machine
        raise ModelError(
            f"cannot schedule layer {layer.name!r} ({layer.op.name.lower()}): no part of it fits"
            f" into banks of {machine.bank_words} words and {machine.weight_words} words of"
            " weights; larger buffers are needed"
        ) from error
