"""The reference's fast parts against Python's integers, one output at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.npu import (
    ACCUMULATOR_BOUND,
    Array,
    DType,
    Entry,
    Layer,
    Op,
    ProgramImage,
    Tensor,
    numerics,
)

Integers = npt.NDArray[Any]


def rounded(value: int, shift: int) -> int:
    """``value / 2**shift`` to the nearest integer, ties to even."""
    floor, rest = divmod(value, 1 << shift)
    double = 2 * rest - (1 << shift)
    return floor + (double > 0 or (double == 0 and floor % 2))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolution_is_what_its_definition_says(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    c_in, c_out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    pad = tuple(
        draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel * 2, dilation * 2, strict=True)
    )
    dtype = draw(st.sampled_from(list(DType)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    source = Tensor("x", dtype, (8, 9, c_in), 0, 0)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height = (8 + pad[0] + pad[2] - reach[0]) // stride[0] + 1
    width = (9 + pad[1] + pad[3] - reach[1]) // stride[1] + 1
    output = Tensor("y", DType.S8, (height, width, c_out), 0, 0)
    # Ties and large sums: biases that fill the accumulator, shifts that bring it back.
    layer = Layer(
        Op.CONV,
        "conv",
        (0,),
        1,
        kernel=kernel,
        stride=stride,
        pad=pad,  # type: ignore[arg-type]
        dilation=dilation,
        groups=groups,
        lo=-128,
        hi=127,
        weights=rng.integers(-127, 128, (c_out, *kernel, c_in // groups)).astype(np.int8),
        bias=rng.integers(-ACCUMULATOR_BOUND // 2, ACCUMULATOR_BOUND // 2, c_out).astype(np.int32),
        shift=rng.integers(0, 32, c_out).astype(np.uint8),
    )
    image = ProgramImage(Array(), (source, output), (Entry((layer,), (0,), (1,)),), 1 << 20)
    x = rng.integers(dtype.lowest, dtype.highest + 1, source.shape).astype(dtype.numpy)
    (found,) = numerics.run(image, [x])
    np.testing.assert_array_equal(found, defined(layer, x, output.shape))


def defined(layer: Layer, x: Integers, shape: tuple[int, int, int]) -> Integers:
    assert layer.weights is not None and layer.bias is not None
    assert not isinstance(layer.shift, int)
    result = np.zeros(shape, np.int8)
    c_out, kh, kw, per_group = layer.weights.shape
    for i, j, o in np.ndindex(shape):
        total = int(layer.bias[o])
        first = o // (c_out // layer.groups) * per_group
        for y, z, c in np.ndindex(kh, kw, per_group):
            row = i * layer.stride[0] + y * layer.dilation[0] - layer.pad[0]
            column = j * layer.stride[1] + z * layer.dilation[1] - layer.pad[1]
            if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
                total += int(x[row, column, first + c]) * int(layer.weights[o, y, z, c])
        result[i, j, o] = min(max(rounded(total, int(layer.shift[o])), layer.lo), layer.hi)
    return result
