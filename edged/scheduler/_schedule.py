"""Code for a whole image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edged.errors import ModelError
from edged.npu import Array, Entry, Layer, Op, ProgramImage, Schedule, Tensor
from edged.scheduler._conv import conv, matmul
from edged.scheduler._copy import copy
from edged.scheduler._elements import concat, element_job, elements
from edged.scheduler._jobs import NothingFitsError, Then
from edged.scheduler._machine import Machine
from edged.scheduler._order import ordered
from edged.scheduler._pool import pool
from edged.scheduler._program import Packed, Program

__all__ = ["Scheduled", "schedulable", "schedule", "scheduled"]

_Emit = Callable[[Program, Layer, Sequence[Tensor], Tensor], None]
_EMIT: Final[dict[Op, _Emit]] = {
    Op.CONV: conv,
    Op.ADD: elements,
    Op.MAXPOOL: pool,
    Op.AVGPOOL: pool,
    Op.CONCAT: concat,
    Op.RESCALE: elements,
    Op.TABLE: elements,
    Op.MUL: elements,
    Op.COPY: copy,
    Op.MATMUL: matmul,
}
_ELEMENTS: Final = (Op.ADD, Op.MUL, Op.TABLE, Op.RESCALE)


@dataclass(frozen=True, slots=True, eq=False)
class Scheduled:
    """An image with code, and where in it each layer begins.

    Attributes:
        layers: of each entry, the first instruction of each of its layers.
    """

    image: ProgramImage
    layers: tuple[tuple[int, ...], ...]


def schedulable(array: Array) -> bool:
    """Whether there is code for such an array."""
    return Machine.has(array)


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
        begins = _layers(program, image, entry)
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


def _layers(program: Program, image: ProgramImage, entry: Entry) -> list[int]:
    """Write the steps of all layers; the first step of each."""
    begins: list[int] = []
    readers = Counter(index for layer in entry.layers for index in layer.inputs)
    readers.update(entry.outputs)
    done = 0
    while done < len(entry.layers):
        layer, following = entry.layers[done], entry.layers[done + 1 : done + 2]
        begins.append(len(program.steps))
        if following and readers[layer.output] == 1 and _both(program, image, layer, *following):
            begins.append(len(program.steps))
            done += 2
        else:
            _emit(program, image, layer)
            done += 1
    return begins


def _both(program: Program, image: ProgramImage, layer: Layer, following: Layer) -> bool:
    """Write a convolution and the layer behind it, which goes on with each element of what only it
    reads, while that is on chip; whether that can be done."""
    if layer.op is not Op.CONV or following.op not in _ELEMENTS or layer.in_part:
        return False
    index = following.inputs.index(layer.output) if layer.output in following.inputs else None
    result, output = image.tensors[layer.output], image.tensors[following.output]
    if index is None or result.shape != output.shape:
        return False
    inputs = image.chosen(layer.inputs)
    # The result overwrites nothing that tiles to come read.
    if any(_overlap(tensor, output) for tensor in inputs):
        return False
    job = element_job(program.machine, following, image.chosen(following.inputs), output)
    if job.op is None:
        return False
    program.begin(layer.name)
    try:
        conv(program, layer, inputs, result, Then(job, index))
    except NothingFitsError:
        return False
    return True


def _overlap(one: Tensor, other: Tensor) -> bool:
    return one.address < other.address + other.nbytes and other.address < one.address + one.nbytes


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
