"""Code for a whole image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from edged.errors import ModelError
from edged.npu import Entry, Layer, Op, ProgramImage, Schedule, Tensor
from edged.scheduler._conv import conv, matmul, pointwise
from edged.scheduler._copy import copy
from edged.scheduler._elements import concat, element_job, elements
from edged.scheduler._jobs import NothingFitsError, Then
from edged.scheduler._machine import Machine
from edged.scheduler._order import ordered
from edged.scheduler._pool import pool
from edged.scheduler._program import Packed, Program

__all__ = ["Scheduled", "goes_on", "schedule", "scheduled"]

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


def goes_on(before: Layer, layer: Layer) -> bool:
    """Whether *layer* may be done with the result of *before* while that is on chip.

    Who gives tensors their addresses keeps what *before* reads until *layer* is done, or else
    tiles of the one overwrite what tiles of the other have still to read.
    """
    if before.output not in layer.inputs:
        return False
    if layer.op is Op.CONV:
        return layer.kernel == (1, 1) and layer.groups == 1 < before.groups
    return layer.op in _ELEMENTS


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
        begins.append(len(program.steps))
        for count in (3, 2, 1):
            layers = entry.layers[done : done + count]
            alone = all(readers[layer.output] == 1 for layer in layers[:-1])
            if count == 1:
                _emit(program, image, layers[0])
            elif len(layers) < count or not alone or not _at_once(program, image, layers):
                continue
            begins += [len(program.steps)] * (count - 1)
            done += count
            break
    return begins


def _at_once(program: Program, image: ProgramImage, layers: Sequence[Layer]) -> bool:
    """Write a convolution and the layers behind it, each of which goes on with what only it reads,
    while that is on chip; whether that can be done, and takes no longer."""
    first, last = layers[0], image.tensors[layers[-1].output]
    if first.op is not Op.CONV or first.in_part:
        return False
    # The result overwrites nothing that tiles to come read.
    if any(_overlap(image.tensors[i], last) for layer in layers[:-1] for i in layer.inputs):
        return False
    then: Then | None = None
    for before, layer in reversed(list(pairwise(layers))):
        then = _going_on(program.machine, image, before, layer, then)
        if then is None:
            return False
    program.begin(first.name)
    try:
        conv(program, first, image.chosen(first.inputs), image.tensors[first.output], then)
    except NothingFitsError:
        return False
    return True


def _going_on(
    machine: Machine, image: ProgramImage, before: Layer, layer: Layer, then: Then | None
) -> Then | None:
    """*layer* as what goes on with the result of *before*, and *then* with its own; None if it
    cannot."""
    if not goes_on(before, layer):
        return None
    result, output = image.tensors[before.output], image.tensors[layer.output]
    inputs, index = image.chosen(layer.inputs), layer.inputs.index(before.output)
    job = None
    if layer.op is not Op.CONV and result.shape == output.shape:
        job = element_job(machine, layer, inputs, output)
    elif layer.op is Op.CONV and before.groups == result.shape[2]:
        job = pointwise(machine, layer, inputs, output)
    if job is None or job.op is None:
        return None
    return Then(replace(job, then=then), index)


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
