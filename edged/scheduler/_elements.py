"""What is computed of each element by itself, or of two: sums, products, tables, rescalings."""

from __future__ import annotations

from collections.abc import Sequence

from edged.npu import Layer, Shift, Tensor
from edged.npu.instructions import Flag, Opcode
from edged.scheduler._jobs import Job, run
from edged.scheduler._machine import Machine
from edged.scheduler._pack import Fixed, channel_words, table_words
from edged.scheduler._planes import Operand, Plane, Window
from edged.scheduler._program import Program

__all__ = ["add", "concat", "mul", "parameters", "rescaled", "table"]


def add(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    sources = tuple(Operand(Plane.of(tensor)) for tensor in inputs)
    _vector(program, layer, sources, Plane.of(output), Flag.ADD)


def mul(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """A product; the second operand may be the same for all pixels, or for all channels."""
    first, second = (Plane.of(tensor) for tensor in inputs)
    flags, window = Flag.MULTIPLY, Window()
    if inputs[1].shape != inputs[0].shape:
        if inputs[1].shape[:2] == (1, 1) and inputs[1].shape[2] == output.shape[2]:
            window = Window(stride=(0, 0))
        else:
            flags |= Flag.SPREAD
    sources = (Operand(first), Operand(second, window))
    _vector(program, layer, sources, Plane.of(output), flags)


def concat(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """Tensors side by side, or a single one."""
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
    kept = target.dtype.lowest, target.dtype.highest
    if (
        isinstance(shift, int)
        and isinstance(left, int)
        and shift == left
        and source.dtype is target.dtype
        and bounds == kept
    ):
        run(program, Job(None, (Operand(source),), target))
        return
    flags, constants = parameters(program.machine, target.channels, shift, (left,))
    job = Job(Opcode.VECTOR, (Operand(source),), target, *bounds, flags, parameters=constants)
    run(program, job)


def _vector(
    program: Program, layer: Layer, sources: tuple[Operand, ...], target: Plane, flags: int
) -> None:
    shared, constants = parameters(program.machine, target.channels, layer.shift, layer.lefts)
    flags |= shared
    job = Job(Opcode.VECTOR, sources, target, layer.lo, layer.hi, flags, parameters=constants)
    run(program, job)


def parameters(
    machine: Machine, channels: int, shift: Shift, lefts: Sequence[Shift] = ()
) -> tuple[int, Fixed]:
    """The parameters of channels without bias, and the flag that says whether all blocks have the
    same word of them."""
    size = machine.array.ti
    shared = all(isinstance(each, int) for each in (shift, *lefts))
    words = channel_words(machine, size if shared else channels, size, shift, lefts=lefts)
    return Flag.SHARED if shared else 0, Fixed(words[:, None], shared=shared)


def table(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """A look-up, in one table or in one for each channel."""
    assert layer.table is not None
    shared = len(layer.table) == 1
    run(
        program,
        Job(
            Opcode.TABLE,
            (Operand(Plane.of(inputs[0])),),
            Plane.of(output),
            layer.lo,
            layer.hi,
            Flag.SHARED if shared else 0,
            parameters=Fixed(table_words(program.machine, layer.table), shared=shared),
        ),
    )
