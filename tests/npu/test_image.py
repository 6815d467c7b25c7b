"""The program image survives the trip to bytes and back, and nothing unsound gets in."""

from __future__ import annotations

import dataclasses
import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ImageError
from edged.npu import (
    Array,
    DType,
    Entry,
    Layer,
    Op,
    ProgramImage,
    Tensor,
    image_digest,
    numerics,
    parse_image,
    serialize_image,
)
from edged.npu.regmap import IMAGE_ENTRY, IMAGE_HEADER, IMAGE_SECTION


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
            shift=np.full(8, 8, np.uint8),
        )

    layers = (
        conv("first", 0, 1, 3, 3, 0, 192),
        conv("second", 1, 2, 1, 8, -128, 127),
        Layer(Op.ADD, "sum", (1, 2), 3, lo=-128, hi=127, lefts=(1, 0), shift=1),
    )
    image = ProgramImage(Array(), tensors, (Entry(layers, (0,), (3,)),), dram_bytes=1 << 20)
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
    first, *others = small_image().layers
    first = dataclasses.replace(first, bias=np.full(8, (1 << 24) - 5, np.int32))
    image = small_image(entries=(Entry((first, *others), (0,), (3,)),))
    with pytest.raises(ImageError, match="may accumulate"):
        parse_image(serialize_image(image))


def test_a_tensor_outside_the_bank_is_refused() -> None:
    with pytest.raises(ImageError, match=r"ends at .* activations have"):
        parse_image(serialize_image(small_image(dram_bytes=700)))


def test_reading_before_writing_is_refused() -> None:
    entry = Entry(small_image().layers[::-1], (0,), (3,))
    with pytest.raises(ImageError, match="before it is written"):
        parse_image(serialize_image(small_image(entries=(entry,))))


def in_two(**changes: object) -> ProgramImage:
    """The same in two entries: the convolutions, and the sum of what they give."""
    first, second, total = small_image().layers
    entries = (Entry((first, second), (0,), (1, 2)), Entry((total,), (1, 2), (3,)))
    return small_image(**{"entries": entries, **changes})


def test_two_entries_do_what_one_does() -> None:
    data = serialize_image(in_two())
    image = parse_image(data)
    assert serialize_image(image) == data
    assert [len(entry.layers) for entry in image.entries] == [2, 1]
    x = np.random.default_rng(2).integers(-128, 128, (4, 4, 3)).astype(np.int8)
    between = numerics.run(image, [x], 0)
    np.testing.assert_array_equal(
        numerics.run(image, between, 1)[0], numerics.run(small_image(), [x])[0]
    )


def test_an_entry_does_not_see_what_another_one_wrote() -> None:
    first, second, total = small_image().layers
    entries = (Entry((first, second), (0,), (1,)), Entry((total,), (1,), (3,)))
    with pytest.raises(ImageError, match="reads tensor 2 before it is written"):
        parse_image(serialize_image(in_two(entries=entries)))


def test_each_entry_has_inputs_outputs_and_layers() -> None:
    first, second, total = small_image().layers
    sound = Entry((first, second), (0,), (1, 2))
    for entry in (
        Entry((total,), (), (3,)),
        Entry((total,), (1, 2), ()),
        Entry((), (1, 2), (1,)),
        Entry((total,), (1, 2, 4), (3,)),
        Entry((total,), (1, 2), (4,)),
        Entry((total,), (1, 2), (0,)),
        Entry((total,), (1, 2), (3,), instruction=1),
    ):
        with pytest.raises(ImageError, match=r"entry 1|entries"):
            parse_image(serialize_image(in_two(entries=(sound, entry))))


def test_the_number_of_entries_is_bounded() -> None:
    most = tuple(Entry((layer,), (0,), (1,)) for layer in [small_image().layers[0]] * 64)
    image = in_two(entries=most)
    assert len(parse_image(serialize_image(image)).entries) == 64
    for entries in ((), (*most, most[0])):
        with pytest.raises(ImageError, match="entries"):
            parse_image(serialize_image(in_two(entries=entries)))


@pytest.mark.parametrize("bounds", [(0, 3), (1, 2), (3, 3), (2, 4), (2, 2), (0xFFFF_FFFF, 0)])
def test_layers_belong_to_exactly_one_entry(bounds: tuple[int, int]) -> None:
    record = struct.Struct(IMAGE_ENTRY.format)
    raw = bytearray(serialize_image(in_two()))
    at = raw.index(record.pack(2, 3, 2, 1, 0))
    record.pack_into(raw, at, *bounds, 2, 1, 0)
    with pytest.raises(ImageError, match="entry 1 has layers"):
        parse_image(sealed(raw))


def sealed(raw: bytearray) -> bytes:
    """With CRCs and digest as they should be."""
    header, section = struct.Struct(IMAGE_HEADER.format), struct.Struct(IMAGE_SECTION.format)
    count = struct.unpack_from("<I", raw, IMAGE_HEADER.offset("sections"))[0]
    for at in range(header.size, header.size + count * section.size, section.size):
        kind, _, offset, length = section.unpack_from(raw, at)
        crc = google_crc32c.value(bytes(raw[offset : offset + length]))
        section.pack_into(raw, at, kind, crc, offset, length)
    at = IMAGE_HEADER.offset("digest")
    raw[at : at + 32] = image_digest(raw)
    return bytes(raw)


@given(st.integers(-(2**40), 2**40), st.integers(0, 47))
def test_shift_rounds_half_to_even(value: int, shift: int) -> None:
    from fractions import Fraction

    got = numerics.shift_round_half_even(np.array([value], np.int64), shift)[0]
    assert got == round(Fraction(value, 2**shift))
