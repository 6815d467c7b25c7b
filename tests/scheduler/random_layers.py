"""A random layer of each operator, with the tensors around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scheduler.programs import Shape, image

from edged.npu import ACCUMULATOR_BOUND, DType, Layer, Loop, Op, ProgramImage
from edged.npu._check import window_shape

U8, S8, S16 = DType.U8, DType.S8, DType.S16
Rng = np.random.Generator


def of(rng: Rng, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def shape(rng: Rng, most: int = 40) -> Shape:
    return int(rng.integers(1, 14)), int(rng.integers(1, 14)), int(rng.integers(1, most))


def bounds(rng: Rng, dtype: DType) -> dict[str, int]:
    if rng.integers(2):
        return {"lo": dtype.lowest, "hi": dtype.highest}
    lo, hi = sorted(int(x) for x in rng.integers(dtype.lowest, dtype.highest + 1, 2))
    return {"lo": lo, "hi": hi}


def shifts(rng: Rng, channels: int, low: int, high: int) -> Any:
    if rng.integers(2):
        return int(rng.integers(low, high))
    return rng.integers(low, high, channels).astype(np.uint8)


def window(rng: Rng, source: Shape, *, dilated: bool = True) -> dict[str, Any]:
    """A window that gives at least one pixel."""
    while True:
        kernel = tuple(int(x) for x in rng.integers(1, 5, 2))
        dilation = tuple(int(x) for x in rng.integers(1, 3, 2)) if dilated else (1, 1)
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        pad = tuple(int(rng.integers(0, reach[side % 2] + 1)) for side in range(4))
        found = {
            "kernel": kernel,
            "stride": tuple(int(x) for x in rng.integers(1, 4, 2)),
            "dilation": dilation,
            "pad": pad,
        }
        made = window_shape(Layer(Op.CONV, "", (), 0, **found), *source[:2])
        if min(made) > 0:
            return found


def conv(rng: Rng) -> ProgramImage:
    source, target = of(rng, U8, S8, S8, S16), of(rng, U8, S8, S16)
    groups = int(of(rng, 1, 1, 2, 3, 20))
    c_in, c_out = (int(rng.integers(1, 60 // groups + 2)) for _ in range(2))
    before = (*shape(rng)[:2], groups * c_in)
    where = window(rng, before)
    layer = Layer(Op.CONV, "conv", (0,), 1, **where)
    height, width = window_shape(layer, *before[:2])
    weights = rng.integers(-128, 128, (groups * c_out, *layer.kernel, c_in)).astype(np.int8)
    layer = replace(
        layer,
        groups=groups,
        weights=weights,
        bias=rng.integers(-5000, 5000, groups * c_out).astype(np.int32),
        shift=shifts(rng, groups * c_out, 6, 12 if source is not S16 else 20),
        **bounds(rng, target),
    )
    after = (height, width, groups * c_out)
    return image([(before, source), (after, target)], layer)


def stem(rng: Rng) -> ProgramImage:
    """A convolution of an image of few channels."""
    source, target = of(rng, U8, S8, S16), of(rng, U8, S8, S16)
    before = (int(rng.integers(8, 20)), int(rng.integers(20, 60)), int(rng.integers(1, 5)))
    kernel = (int(rng.integers(1, 5)), int(rng.integers(2, 8)))
    dilation = (1, int(of(rng, 1, 1, 2)))
    most = (kernel[0] - 1, dilation[1] * (kernel[1] - 1))
    layer = Layer(
        Op.CONV,
        "stem",
        (0,),
        1,
        kernel=kernel,
        stride=(int(rng.integers(1, 3)), int(rng.integers(1, 4))),
        dilation=dilation,
        pad=tuple(int(rng.integers(0, most[side % 2] + 1)) for side in range(4)),
    )
    c_out = int(rng.integers(1, 40))
    layer = replace(
        layer,
        weights=rng.integers(-128, 128, (c_out, *kernel, before[2])).astype(np.int8),
        bias=rng.integers(-5000, 5000, c_out).astype(np.int32),
        shift=shifts(rng, c_out, 6, 12),
        **bounds(rng, target),
    )
    after = (*window_shape(layer, *before[:2]), c_out)
    return image([(before, source), (after, target)], layer)


def transposed(rng: Rng) -> ProgramImage:
    """Grids of all phases."""
    before = shape(rng)
    down, right = (int(x) for x in rng.integers(1, 4, 2))
    c_out = int(rng.integers(1, 40))
    after = (before[0] * down, before[1] * right, c_out)
    layers = [
        Layer(
            Op.CONV,
            "phase",
            (0,),
            1,
            weights=rng.integers(-128, 128, (c_out, 1, 1, before[2])).astype(np.int8),
            bias=rng.integers(-5000, 5000, c_out).astype(np.int32),
            shift=shifts(rng, c_out, 6, 12),
            grid=(row, column, down, right),
            lo=-128,
            hi=127,
        )
        for row in range(down)
        for column in range(right)
    ]
    return image([(before, of(rng, U8, S8)), (after, S8)], *layers)


def depthwise(rng: Rng) -> ProgramImage:
    source, target = of(rng, U8, S8, S16), of(rng, U8, S8, S16)
    before = shape(rng, 80)
    layer = Layer(Op.CONV, "depthwise", (0,), 1, **window(rng, before))
    channels = before[2]
    layer = replace(
        layer,
        groups=channels,
        weights=rng.integers(-128, 128, (channels, *layer.kernel, 1)).astype(np.int8),
        bias=rng.integers(-5000, 5000, channels).astype(np.int32),
        shift=shifts(rng, channels, 3, 9),
        **bounds(rng, target),
    )
    after = (*window_shape(layer, *before[:2]), channels)
    return image([(before, source), (after, target)], layer)


def large_depthwise(rng: Rng) -> ProgramImage:
    """A depthwise convolution of a plane that is worth weights of several pixels."""
    source, target = of(rng, U8, S8, S16), of(rng, U8, S8, S16)
    before = (int(rng.integers(30, 50)), int(rng.integers(30, 50)), int(rng.integers(2, 60)))
    kernel = (int(rng.integers(2, 6)), int(rng.integers(3, 6)))
    layer = Layer(
        Op.CONV,
        "depthwise",
        (0,),
        1,
        kernel=kernel,
        stride=(int(rng.integers(1, 3)), 1),
        dilation=(int(rng.integers(1, 3)), 1),
        pad=tuple(int(rng.integers(0, kernel[side % 2])) for side in range(4)),
    )
    channels = before[2]
    layer = replace(
        layer,
        groups=channels,
        weights=rng.integers(-128, 128, (channels, *layer.kernel, 1)).astype(np.int8),
        bias=rng.integers(-5000, 5000, channels).astype(np.int32),
        shift=shifts(rng, channels, 3, 9),
        **bounds(rng, target),
    )
    after = (*window_shape(layer, *before[:2]), channels)
    return image([(before, source), (after, target)], layer)


def goes_on(rng: Rng) -> ProgramImage:
    """A convolution, and a layer that goes on with its result."""
    first = of(rng, conv, depthwise)(rng)
    (layer,) = first.layers
    source, result = ((t.shape, t.dtype) for t in first.tensors)
    plane, dtype = result
    target = of(rng, *DType)
    kind = of(rng, Op.ADD, Op.ADD, Op.MUL, Op.RESCALE, Op.TABLE)
    if kind is Op.TABLE and dtype is S16:
        kind = Op.ADD
    other = plane
    if kind is Op.MUL:
        other = of(rng, plane, (1, 1, plane[2]), (*plane[:2], 1))
    swapped = other == plane and bool(rng.integers(2))
    tensors = [source, result, (other, of(rng, *DType)), (plane, target)]
    if kind in (Op.RESCALE, Op.TABLE):
        del tensors[2]
    count = len(tensors)
    after = Layer(kind, "after", (2, 1) if swapped else (1, 2), count - 1, **bounds(rng, target))
    match kind:
        case Op.ADD | Op.MUL | Op.RESCALE:
            lefts = {Op.ADD: 2, Op.RESCALE: 1}.get(kind, 0)
            after = replace(
                after,
                lefts=tuple(shifts(rng, plane[2], 0, 5) for _ in range(lefts)),
                shift=shifts(rng, plane[2], 0, 12),
            )
        case Op.TABLE:
            rows = of(rng, 1, plane[2])
            values = rng.integers(target.lowest, target.highest + 1, (rows, 256))
            after = replace(
                after,
                table=values.astype(target.numpy),
                lo=target.lowest,
                hi=target.highest,
            )
    if kind in (Op.RESCALE, Op.TABLE):
        after = replace(after, inputs=(1,))
    return image(tensors, layer, after)


def separable(rng: Rng) -> ProgramImage:
    """A depthwise convolution, one of 1×1, and perhaps a sum."""
    first = large_depthwise(rng)
    (layer,) = first.layers
    tensors = [(t.shape, t.dtype) for t in first.tensors]
    height, width, c_in = tensors[1][0]
    c_out, target = int(rng.integers(1, 50)), of(rng, *DType)
    after = Layer(
        Op.CONV,
        "pointwise",
        (1,),
        2,
        weights=rng.integers(-128, 128, (c_out, 1, 1, c_in)).astype(np.int8),
        bias=rng.integers(-5000, 5000, c_out).astype(np.int32),
        shift=shifts(rng, c_out, 6, 12),
        **bounds(rng, target),
    )
    plane = (height, width, c_out)
    tensors.append((plane, target))
    if rng.integers(2):
        return image(tensors, layer, after)
    dtype = of(rng, *DType)
    lefts = tuple(shifts(rng, c_out, 0, 5) for _ in range(2))
    last = Layer(Op.ADD, "add", (3, 2), 4, lefts=lefts, shift=2, **bounds(rng, dtype))
    return image([*tensors, (plane, of(rng, *DType)), (plane, dtype)], layer, after, last)


def gemm(rng: Rng) -> ProgramImage:
    """A window of the whole plane, with very many weights."""
    before = (int(rng.integers(1, 8)), int(rng.integers(1, 8)), int(rng.integers(1, 300)))
    c_out = int(rng.integers(1, 70))
    layer = Layer(
        Op.CONV,
        "gemm",
        (0,),
        1,
        kernel=before[:2],
        weights=rng.integers(-4, 5, (c_out, *before)).astype(np.int8),
        bias=rng.integers(-5000, 5000, c_out).astype(np.int32),
        shift=shifts(rng, c_out, 6, 12),
        lo=-128,
        hi=127,
    )
    return image([(before, of(rng, U8, S8, S16)), ((1, 1, c_out), S8)], layer)


def add(rng: Rng) -> ProgramImage:
    plane, target = shape(rng), of(rng, U8, S8, S16)
    lefts = tuple(shifts(rng, plane[2], 0, 5) for _ in range(2))
    shift = shifts(rng, plane[2], 0, 8)
    layer = Layer(Op.ADD, "add", (0, 1), 2, lefts=lefts, shift=shift, **bounds(rng, target))
    return image([(plane, of(rng, *DType)), (plane, of(rng, *DType)), (plane, target)], layer)


def mul(rng: Rng) -> ProgramImage:
    plane, target = shape(rng), of(rng, U8, S8, S16)
    other = of(rng, plane, (1, 1, plane[2]), (*plane[:2], 1))
    shift = shifts(rng, plane[2], 0, 16)
    layer = Layer(Op.MUL, "mul", (0, 1), 2, shift=shift, **bounds(rng, target))
    return image([(plane, of(rng, *DType)), (other, of(rng, *DType)), (plane, target)], layer)


def pool(rng: Rng) -> ProgramImage:
    maximum = bool(rng.integers(2))
    source = of(rng, *DType)
    before = shape(rng, 70)
    where = window(rng, before, dilated=maximum)
    if not maximum and source is not S16 and rng.integers(2):
        where = {"kernel": before[:2], "stride": (1, 1), "dilation": (1, 1), "pad": (0,) * 4}
    layer = Layer(Op.MAXPOOL, "max", (0,), 1, lo=source.lowest, hi=source.highest, **where)
    target = source
    if not maximum:
        target = of(rng, *DType)
        count = layer.kernel[0] * layer.kernel[1]
        layer = replace(
            layer,
            op=Op.AVGPOOL,
            name="mean",
            multiplier=round(ACCUMULATOR_BOUND / count),
            shift=shifts(rng, before[2], 22, 26),
            **bounds(rng, target),
        )
    after = (*window_shape(layer, *before[:2]), before[2])
    return image([(before, source), (after, target)], layer)


def table(rng: Rng) -> ProgramImage:
    plane, target = shape(rng), of(rng, *DType)
    rows = of(rng, 1, plane[2])
    values = rng.integers(target.lowest, target.highest + 1, (rows, 256)).astype(target.numpy)
    layer = Layer(Op.TABLE, "table", (0,), 1, table=values, lo=target.lowest, hi=target.highest)
    return image([(plane, of(rng, U8, S8)), (plane, target)], layer)


def concat(rng: Rng) -> ProgramImage:
    height, width, _ = shape(rng)
    parts = [(height, width, int(rng.integers(1, 30))) for _ in range(rng.integers(1, 4))]
    source, target = of(rng, *DType), of(rng, *DType)
    channels = sum(part[2] for part in parts)
    layer = Layer(
        Op.CONCAT if len(parts) > 1 else Op.RESCALE,
        "join",
        tuple(range(len(parts))),
        len(parts),
        lefts=(shifts(rng, channels, 0, 5),),
        shift=shifts(rng, channels, 0, 5),
        **bounds(rng, target),
    )
    if rng.integers(3) == 0:
        target = source
        layer = replace(layer, lefts=(0,), shift=0, lo=target.lowest, hi=target.highest)
    tensors = [(part, source) for part in parts]
    return image([*tensors, ((height, width, channels), target)], layer)


def matmul(rng: Rng) -> ProgramImage:
    groups, depth, width = (
        int(rng.integers(1, 4)),
        int(rng.integers(1, 80)),
        int(rng.integers(1, 50)),
    )
    height, across, _ = shape(rng)
    target = of(rng, *DType)
    layer = Layer(
        Op.MATMUL,
        "matmul",
        (0, 1),
        2,
        groups=groups,
        shift=shifts(rng, groups * width, 4, 12),
        **bounds(rng, target),
    )
    return image(
        [
            ((height, across, groups * depth), of(rng, U8, S8)),
            ((1, depth, groups * width), of(rng, U8, S8)),
            ((height, across, groups * width), target),
        ],
        layer,
    )


def copy(rng: Rng) -> ProgramImage:
    """A permutation of the axes of some box, out of a larger tensor, or with repeats."""
    axes = int(rng.integers(1, 5))
    counts = [int(x) for x in rng.integers(1, 7, axes)]
    if axes < 3 and rng.integers(2):
        counts[-1] = int(rng.integers(1, 900))
    order = [int(x) for x in rng.permutation(axes)] if rng.integers(2) else list(range(axes))
    gaps = [int(rng.integers(0, 3)) for _ in range(axes)]
    sources = [0] * axes
    step = 1
    for axis in reversed(order):
        sources[axis] = step
        step *= counts[axis] + gaps[axis]
    if rng.integers(3) == 0:
        sources[rng.integers(axes)] = 0
    targets = [int(np.prod(counts[axis + 1 :])) for axis in range(axes)]
    size = int(np.prod(counts))
    split = int(rng.integers(0, axes + 1))
    channels = int(np.prod(counts[split:]))
    source, target = of(rng, *DType), of(rng, *DType)
    loops = tuple(Loop(*each) for each in zip(counts, sources, targets, strict=True))
    start = int(rng.integers(0, 5))
    layer = Layer(
        Op.COPY,
        "copy",
        (0,),
        1,
        loops=loops,
        source_start=start,
        lefts=(shifts(rng, channels, 0, 5),),
        shift=shifts(rng, channels, 0, 5),
        **bounds(rng, target),
    )
    if rng.integers(3) == 0:
        target = source
        layer = replace(layer, lefts=(0,), shift=0, lo=target.lowest, hi=target.highest)
    reach = start + sum((loop.count - 1) * loop.source for loop in loops) + 1
    return image([((1, 1, reach), source), ((1, size // channels, channels), target)], layer)


def shuffled(rng: Rng) -> ProgramImage:
    """An output that copies write in parts: each second channel."""
    height, width, channels = shape(rng)
    source, target = of(rng, *DType), of(rng, *DType)
    lefts, shift = (shifts(rng, 2 * channels, 0, 5),), shifts(rng, 2 * channels, 0, 5)
    layers = [
        Layer(
            Op.COPY,
            "shuffle",
            (0,),
            1,
            loops=(Loop(height * width, channels, 2 * channels), Loop(channels, 1, 2)),
            target_start=part,
            lefts=lefts,
            shift=shift,
            **bounds(rng, target),
        )
        for part in range(2)
    ]
    return image(
        [((height, width, channels), source), ((height, width, 2 * channels), target)], *layers
    )


OPERATORS: dict[str, Callable[[Rng], ProgramImage]] = {
    "conv": conv,
    "stem": stem,
    "transposed": transposed,
    "depthwise": depthwise,
    "large depthwise": large_depthwise,
    "goes on": goes_on,
    "separable": separable,
    "gemm": gemm,
    "add": add,
    "mul": mul,
    "pool": pool,
    "table": table,
    "concat": concat,
    "matmul": matmul,
    "copy": copy,
    "shuffled": shuffled,
}
