"""What is computed of each element by itself, or of two: sums, products, tables, rescalings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edged.npu import Layer, Op, Shift, Tensor
from edged.npu.instructions import Flag, Opcode
from edged.scheduler._jobs import Job
from edged.scheduler._machine import Machine
from edged.scheduler._pack import Fixed, channel_words, table_words
from edged.scheduler._passes import run
from edged.scheduler._planes import Operand, Plane, Window
from edged.scheduler._program import Program

__all__ = ["concat", "element_job", "elements", "parameters", "rescaled"]


def elements(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """A sum, a product, a look-up or a rescaling."""
    run(program, element_job(program.machine, layer, inputs, output))


def element_job(machine: Machine, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> Job:
    """The job that such a layer is."""
    target = Plane.of(output)
    sources = [Operand(Plane.of(tensor)) for tensor in inputs]
    bounds = layer.lo, layer.hi
    if layer.op is Op.RESCALE:
        return _rescaling(machine, sources[0], target, bounds, layer.shift, layer.lefts[0])
    if layer.op is Op.TABLE:
        assert layer.table is not None
        shared = len(layer.table) == 1
        flags = Flag.SHARED if shared else 0
        tables = Fixed(table_words(machine, layer.table), shared=shared)
        return Job(Opcode.TABLE, tuple(sources), target, *bounds, flags, parameters=tables)
    flags, constants = parameters(machine, target.channels, layer.shift, layer.lefts)
    flags |= Flag.ADD if layer.op is Op.ADD else Flag.MULTIPLY
    if inputs[1].shape != output.shape:  # the same for all pixels, or for all channels
        if inputs[1].shape == (1, 1, output.shape[2]):
            sources[1] = replace(sources[1], window=Window(stride=(0, 0)))
        else:
            flags |= Flag.SPREAD
    return Job(Opcode.VECTOR, tuple(sources), target, *bounds, flags, parameters=constants)


def concat(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """Tensors side by side."""
    first = 0
    for tensor in inputs:
        channels = tensor.shape[2]
        shift, left = (
            each if isinstance(each, int) else each[first : first + channels]
            for each in (layer.shift, layer.lefts[0])
        )
        target = Plane.of(output).some(first, channels)
        rescaled(program, Plane.of(tensor), target, (layer.lo, layer.hi), shift, left)
        first += channels


def rescaled(
    program: Program,
    source: Plane,
    target: Plane,
    bounds: tuple[int, int],
    shift: Shift,
    left: Shift,
) -> None:
    """``RNE(x · 2^(left - shift))`` of each element.

    Args:
        shift, left: one, or one for each channel of the pixels.
    """
    run(program, _rescaling(program.machine, Operand(source), target, bounds, shift, left))


def _rescaling(
    machine: Machine,
    source: Operand,
    target: Plane,
    bounds: tuple[int, int],
    shift: Shift,
    left: Shift,
) -> Job:
    kept = target.dtype.lowest, target.dtype.highest
    same = isinstance(shift, int) and isinstance(left, int) and shift == left
    if same and source.plane.dtype is target.dtype and bounds == kept:
        return Job(None, (source,), target)
    flags, constants = parameters(machine, target.channels, shift, (left,))
    return Job(Opcode.VECTOR, (source,), target, *bounds, flags, parameters=constants)


def parameters(
    machine: Machine, channels: int, shift: Shift, lefts: Sequence[Shift] = ()
) -> tuple[int, Fixed]:
    """The parameters of channels without bias, and the flag that says whether all blocks have the
    same word of them."""
    size = machine.array.ti
    shared = all(isinstance(each, int) for each in (shift, *lefts))
    words = channel_words(machine, size if shared else channels, size, shift, lefts=lefts)
    return Flag.SHARED if shared else 0, Fixed(words[:, None], shared=shared)
