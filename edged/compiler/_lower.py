"""From kernels and integer parameters to the tensors and layers of a program image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from edged.compiler._allocate import Lifetime, allocate
from edged.compiler._format import Format, arriving
from edged.compiler._graph import Names
from edged.compiler._kernel import Kernel, Move
from edged.compiler._partition import Partition, Segment
from edged.compiler._passing import Exponents, by_row, rows_of
from edged.compiler._quantise import MAX_LEFT, Quantised
from edged.npu import (
    ACCUMULATOR_BOUND,
    Array,
    Entry,
    Layer,
    Op,
    ProgramImage,
    Shift,
    Tensor,
    weights_bytes,
)
from edged.scheduler import goes_on

__all__ = ["device_name", "lower"]

_MAX_NAME = 160
_MAX_SHIFT = 31
_MAX_POOL_SHIFT = 47


def lower(cut: Partition, quantised: Quantised, array: Array) -> ProgramImage:
    """The program for the device: an entry for each segment, a tensor for each of *cut*'s."""
    names = cut.tensors
    index = {name: position for position, name in enumerate(names)}
    entries = tuple(_entry(segment, quantised, index) for segment in cut.segments)
    planes = [cut.layouts[name].plane for name in cut.entering]
    planes += [kernel.plane for kernel in cut.kernels]
    sizes = [
        math.prod(plane) * quantised.formats[name].dtype.numpy.itemsize
        for name, plane in zip(names, planes, strict=True)
    ]
    addresses, arena = allocate(_lifetimes(entries, sizes))
    unique = Names(())
    tensors = tuple(
        Tensor(
            unique.fresh(device_name(name, quantised.formats[name])),
            quantised.formats[name].dtype,
            plane,
            quantised.formats[name].exponent,
            address,
        )
        for name, plane, address in zip(names, planes, addresses, strict=True)
    )
    return ProgramImage(
        array,
        tensors,
        entries,
        dram_bytes=arena + weights_bytes(layer for entry in entries for layer in entry.layers),
    )


def device_name(name: str, form: Format) -> str:
    """The device tensor's name for the float value *name*: short, and no name of a float value."""
    return f"{_short(name)}/{form.dtype.name.lower()}"


def _short(name: str) -> str:
    """*name*, or its beginning and a digest of the whole where the image has no room for it."""
    data = name.encode()
    if len(data) <= _MAX_NAME:
        return name
    digest = hashlib.blake2s(data, digest_size=4).hexdigest()
    return f"{data[:_MAX_NAME].decode(errors='ignore')}…{digest}"


def _entry(segment: Segment, quantised: Quantised, index: Mapping[str, int]) -> Entry:
    return Entry(
        tuple(layer for kernel in segment.kernels for layer in _layers(kernel, quantised, index)),
        tuple(index[name] for name in segment.inputs),
        tuple(index[name] for name in segment.outputs),
    )


def _lifetimes(entries: Sequence[Entry], sizes: Sequence[int]) -> list[Lifetime]:
    """Each entry has a step for every layer, and one before for the host to write, and one behind.

    A tensor that several entries use lives from the first of them to the last.
    """
    steps: list[list[int]] = [[] for _ in sizes]
    now = 0
    for entry in entries:
        touched: list[Sequence[int]] = [entry.inputs]
        # Layers that may be done tile by tile with this one: it overwrites nothing that they read.
        before: list[Layer] = []
        for layer in entry.layers:
            if not (before and goes_on(before[-1], layer)):
                before = []
            kept = [index for each in before for index in each.inputs]
            touched.append((*layer.inputs, *kept, layer.output))
            before = [*before[-1:], layer] if before or layer.op is Op.CONV else []
        touched.append(entry.outputs)
        for indices in touched:
            for index in indices:
                steps[index].append(now)
            now += 1
    return [
        Lifetime(size, min(used, default=0), max(used, default=0))
        for size, used in zip(sizes, steps, strict=True)
    ]


def _layers(kernel: Kernel, quantised: Quantised, index: Mapping[str, int]) -> list[Layer]:
    """*kernel* as one layer, or one for each part of its output."""
    if kernel.op is Op.COPY:
        parts = zip(kernel.moves, arriving(kernel, quantised.formats), strict=True)
        return [_copy(kernel, move, exponents, quantised, index) for move, exponents in parts]
    layer = _layer(kernel, quantised, index)
    return [layer] if kernel.phases == (1, 1) else _phases(kernel, layer)


def _phases(kernel: Kernel, whole: Layer) -> list[Layer]:
    """Of *whole*, a layer for each phase of *kernel*, without weights that are all zero."""
    assert whole.weights is not None and whole.bias is not None
    down, across = kernel.phases
    height, width, channels = kernel.plane
    shape = (kernel.groups, down * across, channels // kernel.groups)
    weights = whole.weights.reshape(*shape, *whole.weights.shape[1:])
    bias, shifts = (
        whole.bias.reshape(shape),
        np.broadcast_to(whole.shift, len(whole.bias)).reshape(shape),
    )
    layers: list[Layer] = []
    for phase in range(down * across):
        row, column = divmod(phase, across)
        if row >= height or column >= width:
            continue
        top, left, bottom, right = whole.pad
        # A phase that begins behind the last full turn has a row or column less.
        bottom -= -(-height // down) - len(range(row, height, down))
        right -= -(-width // across) - len(range(column, width, across))
        part = np.ascontiguousarray(weights[:, phase]).reshape(channels, *weights.shape[3:])
        part, top, bottom = _trimmed(part, 1, top, bottom)
        part, left, right = _trimmed(part, 2, left, right)
        layers.append(
            replace(
                whole,
                kernel=part.shape[1:3],
                pad=(top, left, bottom, right),
                weights=part,
                bias=bias[:, phase].reshape(-1),
                shift=shifts[:, phase].reshape(-1),
                grid=(row, column, down, across),
            )
        )
    return layers


def _trimmed(
    weights: npt.NDArray[np.int8], axis: int, before: int, after: int
) -> tuple[npt.NDArray[np.int8], int, int]:
    """*weights* without zeros at the ends of *axis* that padding makes up for, and that padding."""
    others = tuple(other for other in range(4) if other != axis)
    used = np.asarray(weights.any(axis=others))
    first, end = 0, len(used)
    # What is left has to be wider than the padding.
    while before and end - first > max(before, after + 1) and not used[first]:
        first, before = first + 1, before - 1
    while after and end - first > max(before + 1, after) and not used[end - 1]:
        end, after = end - 1, after - 1
    return np.ascontiguousarray(weights.take(range(first, end), axis)), before, after


def _copy(
    kernel: Kernel,
    move: Move,
    exponents: Exponents,
    quantised: Quantised,
    index: Mapping[str, int],
) -> Layer:
    target = quantised.formats[kernel.output]
    lo, hi = _bounds(kernel, target)
    if move.source is None:  # Bounds make zeros of whatever is read.
        lo = hi = min(max(0, lo), hi)
    return Layer(
        Op.COPY,
        _short(kernel.name),
        (index[kernel.inputs[move.source or 0]],),
        index[kernel.output],
        lo=lo,
        hi=hi,
        source_start=move.source_start,
        target_start=move.target_start,
        loops=move.loops,
        **_scaled([exponents], target),
    )


class _Shifts(TypedDict):
    lefts: tuple[Shift, ...]
    shift: Shift


def _scaled(sources: Sequence[Exponents], target: Format) -> _Shifts:
    """The shifts that bring *sources* to one exponent, and their sum to *target*.

    What is finer than the coarsest source by more than the left shift can tell is taken for a
    little more than it is: all of it is less than 1/64 of a step of that.
    """
    common = np.minimum(np.min(sources, axis=0), target.exponents)
    common = np.maximum(common, np.max(sources, axis=0) - MAX_LEFT)
    return {
        "lefts": tuple(_places(np.maximum(source - common, 0)) for source in sources),
        "shift": _places(target.exponents - common),
    }


def _places(shifts: Exponents, most: int = _MAX_SHIFT) -> Shift:
    """A number if all are the same. What is left after *most* places is 0 in any case."""
    shifts = np.minimum(shifts, most)
    return int(shifts[0]) if (shifts == shifts[0]).all() else shifts.astype(np.uint8)


def _layer(kernel: Kernel, quantised: Quantised, index: Mapping[str, int]) -> Layer:
    target = quantised.formats[kernel.output]
    lo, hi = _bounds(kernel, target)
    layer = Layer(
        kernel.op,
        _short(kernel.name),
        tuple(index[name] for name in kernel.inputs),
        index[kernel.output],
        kernel=kernel.window.kernel,
        stride=kernel.window.stride,
        pad=kernel.window.pad,
        dilation=kernel.window.dilation,
        groups=kernel.groups,
        lo=lo,
        hi=hi,
    )
    if kernel.op is Op.CONV:
        parameters = quantised.convolutions[kernel.output]
        reference = by_row(kernel, quantised.formats[kernel.inputs[0]].exponents)
        wanted = target.exponents[rows_of(kernel)]
        return replace(
            layer,
            weights=parameters.weights,
            bias=parameters.bias,
            shift=_places(wanted - reference - parameters.exponents),
        )
    sources = arriving(kernel, quantised.formats)
    match kernel.op:
        case Op.ADD | Op.RESCALE | Op.CONCAT:
            return replace(layer, **_scaled(sources, target))
        case Op.TABLE:
            return replace(layer, table=_table(kernel, quantised.formats[kernel.inputs[0]], target))
        case Op.MUL | Op.MATMUL:
            return replace(layer, shift=_places(target.exponents - np.sum(sources, axis=0)))
        case Op.AVGPOOL:
            return replace(
                layer,
                multiplier=round(ACCUMULATOR_BOUND / math.prod(kernel.window.kernel)),
                shift=_places(target.exponents - sources[0] + 24, _MAX_POOL_SHIFT),
            )
    return layer


def _bounds(kernel: Kernel, target: Format) -> tuple[int, int]:
    """The bounds of *kernel* in steps of its output, within the dtype: those of all channels."""
    lo, hi = _bounds_by_channel(kernel, target)
    return int(lo.min()), int(hi.max())


def _bounds_by_channel(
    kernel: Kernel, target: Format
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Likewise for each channel, [C]. In a TABLE alone they may differ."""
    lowest, highest = target.dtype.lowest, target.dtype.highest
    lo, hi = (
        np.rint(np.clip(np.ldexp(bound, -target.exponents), lowest, highest))
        for bound in (kernel.lo, kernel.hi)
    )
    return lo, hi


def _table(kernel: Kernel, source: Format, target: Format) -> npt.NDArray[Any]:
    """The function at each byte that its input can be, [1 or C, 256], in steps of its output."""
    assert kernel.function is not None
    values = kernel.function(source.numbers)
    if not source.even:
        values = np.broadcast_to(values, (len(source.exponents), 256)).copy()
        for exponent in np.unique(source.exponents):
            its = source.exponents == exponent
            found = kernel.function(Format(source.dtype, source.exponents[its]).numbers)
            values[its] = found if len(found) == 1 else found[its]
    exponents, (lo, hi) = target.exponents, _bounds_by_channel(kernel, target)
    if target.even:  # One for all, if the function is.
        exponents, lo, hi = exponents[:1], lo[:1], hi[:1]
    steps = np.rint(np.ldexp(values, -exponents[:, None]))
    return np.clip(steps, lo[:, None], hi[:, None]).astype(target.dtype.numpy)
