"""Convolutions and products of matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edged.npu import DType, Layer, Shift, Tensor
from edged.npu.instructions import Flag, Opcode
from edged.scheduler._diagonal import Diagonal
from edged.scheduler._jobs import Job, NothingFitsError, Then
from edged.scheduler._machine import Machine
from edged.scheduler._pack import (
    Fixed,
    MatrixWeights,
    SumWeights,
    Weights,
    channel_words,
    depthwise_words,
)
from edged.scheduler._passes import run
from edged.scheduler._planes import Operand, Plane, Window
from edged.scheduler._plans import planned
from edged.scheduler._program import Program
from edged.scheduler._runs import Run, runs
from edged.scheduler._sums import run_in_sums

__all__ = ["conv", "matmul", "pointwise"]

_ALL = Flag.FIRST | Flag.LAST


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Weights of some output channels.

    Attributes:
        weights: s8 [C_out, kh, kw, C_in].
        bias: [C_out].
    """

    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    shift: Shift


def conv(
    program: Program,
    layer: Layer,
    inputs: Sequence[Tensor],
    output: Tensor,
    then: Then | None = None,
) -> None:
    """A convolution: depthwise, or by groups of input channels, which are few by themselves.

    Args:
        then: what goes on with the result on chip.

    Raises:
        NothingFitsError: what is to go on with it cannot; nothing is written then.
    """
    assert layer.weights is not None and layer.bias is not None
    source = Operand(
        Plane.of(inputs[0]),
        Window(layer.kernel, layer.stride, layer.dilation, (layer.pad[0], layer.pad[1])),
    )
    target = Plane.of(output).each(*layer.grid)
    if not target.height or not target.width:
        return
    kernel = _Kernel(layer.weights, layer.bias, layer.shift)
    bounds = layer.lo, layer.hi
    if 1 < layer.groups == len(layer.weights) and layer.weights.shape[3] == 1:
        try:
            _depthwise(program, source, target, kernel, bounds, then)
        except NothingFitsError:
            if then is not None:
                raise
        else:
            return
    if then is not None and layer.groups > 1:
        raise NothingFitsError
    c_in = inputs[0].shape[2] // layer.groups
    c_out = output.shape[2] // layer.groups
    for first, count, part in _dense(kernel, layer.groups, program.machine):
        of = Operand(source.plane.some(first * c_in, count * c_in), source.window, source.fill)
        to = target.some(first * c_out, count * c_out)
        whole = Run(of, to, part.weights, 1)
        for piece in runs(of, to, part.weights, program.machine) or [whole]:
            words = _words(program.machine, piece, part)
            if then is not None and piece is not whole:
                raise NothingFitsError
            _sum(program, piece.source, piece.target, words, bounds, then)


def pointwise(
    machine: Machine, layer: Layer, inputs: Sequence[Tensor], output: Tensor
) -> Job | None:
    """The job that a convolution of pixels by themselves is; None if it is another one."""
    assert layer.weights is not None and layer.bias is not None
    one = layer.kernel == layer.stride == (1, 1) and not any(layer.pad)
    if not one or layer.groups > 1 or layer.in_part:
        return None
    weights = Weights(machine, layer.weights, layer.bias, layer.shift)
    source, target = Operand(Plane.of(inputs[0])), Plane.of(output)
    return Job(Opcode.CONV, (source,), target, layer.lo, layer.hi, _ALL, parameters=weights)


def _words(machine: Machine, piece: Run, kernel: _Kernel) -> Weights:
    """The weights of a run, with the parameters of *kernel* for each of its pixels."""
    shift = kernel.shift
    if not isinstance(shift, int):
        shift = np.tile(shift, piece.together)
    return Weights(machine, piece.weights, np.tile(kernel.bias, piece.together), shift)


def _depthwise(
    program: Program,
    source: Operand,
    target: Plane,
    kernel: _Kernel,
    bounds: tuple[int, int],
    then: Then | None,
) -> None:
    machine = program.machine
    channels = channel_words(machine, target.channels, machine.array.ti, kernel.shift, kernel.bias)
    taps = depthwise_words(machine, kernel.weights[..., 0])
    parameters = Fixed(np.concatenate([channels[:, None], taps], 1))
    job = Job(Opcode.DEPTHWISE, (source,), target, *bounds, parameters=parameters)
    other = Diagonal.planned(source, target, bounds, machine)
    if then is not None and then.job.op is Opcode.CONV:
        both = Diagonal.planned(source, target, bounds, machine, then.job)
        apart = planned(job, machine).cycles
        apart = min(apart, other.cycles if other is not None else apart)
        if both is None or both.cycles > apart + planned(then.job, machine).cycles:
            raise NothingFitsError
        both.run(program, kernel.weights[..., 0], kernel.bias, kernel.shift)
        return
    if then is not None:
        run(program, replace(job, then=then))
        return
    if other is not None and other.cycles < planned(job, machine).cycles:
        other.run(program, kernel.weights[..., 0], kernel.bias, kernel.shift)
    else:
        run(program, job)


def _dense(kernel: _Kernel, groups: int, machine: Machine) -> Iterator[tuple[int, int, _Kernel]]:
    """*kernel* by groups, as many together as the array has channels for: its first group, how
    many there are, and their weights, zero between them."""
    c_out, kh, kw, c_in = kernel.weights.shape
    per_group = c_out // groups
    together = max(1, min(machine.array.ti // c_in, machine.array.to // per_group, groups))
    for first in range(0, groups, together):
        count = min(together, groups - first)
        rows = slice(first * per_group, (first + count) * per_group)
        dense = np.zeros((count, per_group, kh, kw, count, c_in), np.int8)
        own = kernel.weights[rows].reshape(count, per_group, kh, kw, c_in)
        for number in range(count):
            dense[number, ..., number, :] = own[number]
        shift = kernel.shift if isinstance(kernel.shift, int) else kernel.shift[rows]
        weights = dense.reshape(count * per_group, kh, kw, count * c_in)
        yield first, count, _Kernel(weights, kernel.bias[rows], shift)


def _sum(
    program: Program,
    source: Operand,
    target: Plane,
    weights: SumWeights,
    bounds: tuple[int, int],
    then: Then | None = None,
) -> None:
    job = Job(Opcode.CONV, (source,), target, *bounds, _ALL, parameters=weights, then=then)
    try:
        run(program, job)
    except NothingFitsError:
        if then is not None:
            raise
        run_in_sums(program, job, weights)


def matmul(program: Program, layer: Layer, inputs: Sequence[Tensor], output: Tensor) -> None:
    """A product of tensors: a CONV for each group, whose weights are loaded from the second."""
    first, second = (Plane.of(tensor).flattened() for tensor in inputs)
    target = Plane.of(output).flattened()
    depth, width = first.channels // layer.groups, target.channels // layer.groups
    offset = second.dtype is DType.U8
    # Rows of constant weights see the same pixel.
    window = Window((3, 1), dilation=(0, 1)) if offset else Window()
    for group in range(layer.groups):
        channels = slice(group * width, (group + 1) * width)
        shift = layer.shift if isinstance(layer.shift, int) else layer.shift[channels]
        weights = MatrixWeights(
            program.machine, second.some(group * width, width), shift, offset=offset
        )
        _sum(
            program,
            Operand(first.some(group * depth, depth), window),
            target.some(group * width, width),
            weights,
            (layer.lo, layer.hi),
        )
