"""The program image survives the trip to bytes and back, and nothing unsound gets in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ImageError
from edged.npu import (
    Array,
    DType,
    Layer,
    Op,
    ProgramImage,
    Tensor,
    numerics,
    parse_image,
    serialize_image,
)


def small_image(**changes: object) -> ProgramImage:
    """Two convolutions and an add, 4×4×3 in."""
    rng = np.random.default_rng(1)
    tensors = (
        Tensor("x", DType.S8, (4, 4, 3), -4, 0),
        Tensor("a", DType.U8, (4, 4, 8), -4, 64),
        Tensor("b", DType.S8, (4, 4, 8), -5, 192),
        Tensor("y", DType.S8, (4, 4, 8), -4, 320),
    )

    def conv(
        name: str, source: int, output: int, kernel: int, c_in: int, lo: int, hi: int
    ) -> Layer:
        return Layer(
            Op.CONV,
            name,
            (source,),
            output,
            kernel=(kernel, kernel),
            pad=(kernel // 2,) * 4,
            lo=lo,
            hi=hi,
            weights=rng.integers(-127, 128, (8, kernel, kernel, c_in)).astype(np.int8),
            bias=rng.integers(-1000, 1000, 8).astype(np.int32),
            shifts=np.full(8, 8, np.uint8),
        )

    layers = (
        conv("first", 0, 1, 3, 3, 0, 192),
        conv("second", 1, 2, 1, 8, -128, 127),
        Layer(Op.ADD, "sum", (1, 2), 3, lo=-128, hi=127, lefts=(1, 0), rights=(0, 0), shift=1),
    )
    image = ProgramImage(Array(), tensors, layers, (0,), (3,), dram_bytes=1 << 20)
    return dataclasses.replace(image, **changes)  # type: ignore[arg-type]


def test_round_trip_gives_the_same_results_and_bytes() -> None:
    image = small_image()
    data = serialize_image(image)
    parsed = parse_image(data)
    assert serialize_image(parsed) == data
    assert parsed.tensors == image.tensors
    assert len(parsed.digest) == 32
    x = np.random.default_rng(2).integers(-128, 128, (4, 4, 3)).astype(np.int8)
    np.testing.assert_array_equal(numerics.run(parsed, [x])[0], numerics.run(image, [x])[0])


@given(st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    raw = bytearray(serialize_image(small_image()))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ImageError, match="cannot"):
        parse_image(bytes(raw))


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    image = small_image()
    bias = np.full(8, (1 << 24) - 5, np.int32)
    layers = (dataclasses.replace(image.layers[0], bias=bias), *image.layers[1:])
    with pytest.raises(ImageError, match="may accumulate"):
        parse_image(serialize_image(dataclasses.replace(image, layers=layers)))


def test_a_tensor_outside_the_bank_is_refused() -> None:
    with pytest.raises(ImageError, match=r"ends at .* activations have"):
        parse_image(serialize_image(small_image(dram_bytes=700)))


def test_reading_before_writing_is_refused() -> None:
    image = small_image()
    with pytest.raises(ImageError, match="before it is written"):
        parse_image(serialize_image(small_image(layers=image.layers[::-1])))


@given(st.integers(-(2**40), 2**40), st.integers(0, 47))
def test_shift_rounds_half_to_even(value: int, shift: int) -> None:
    from fractions import Fraction

    got = numerics.shift_round_half_even(np.array([value], np.int64), shift)[0]
    assert got == round(Fraction(value, 2**shift))
