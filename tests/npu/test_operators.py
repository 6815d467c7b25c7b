"""The operators of ABI 2 by their definitions in Python's integers, and what is refused of them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.errors import ImageError
from edged.npu import (
    ABI,
    Array,
    DType,
    Entry,
    Layer,
    Loop,
    Op,
    ProgramImage,
    Schedule,
    Tensor,
    image_digest,
    numerics,
    parse_image,
    serialize_image,
)
from edged.npu.regmap import IMAGE_HEADER, IMAGE_LAYER, IMAGE_SECTION, Section


def rounded(value: int, shift: int) -> int:
    """``value / 2**shift`` to the nearest integer, ties to even."""
    floor, rest = divmod(value, 1 << shift)
    double = 2 * rest - (1 << shift)
    return floor + (double > 0 or (double == 0 and floor % 2))


def bounded(value: int, dtype: DType) -> int:
    return min(max(value, dtype.lowest), dtype.highest)


def image(shapes: list[tuple[tuple[int, int, int], DType]], *layers: Layer) -> ProgramImage:
    """Its inputs are the tensors that no layer writes, its output is the last tensor."""
    tensors = tuple(
        Tensor(f"t{i}", dtype, shape, 0, i << 14) for i, (shape, dtype) in enumerate(shapes)
    )
    written = {layer.output for layer in layers}
    inputs = tuple(i for i in range(len(tensors)) if i not in written)
    return ProgramImage(Array(), tensors, (Entry(layers, inputs, (len(tensors) - 1,)),), 1 << 20)


def full(dtype: DType) -> dict[str, int]:
    return {"lo": dtype.lowest, "hi": dtype.highest}


def computed(made: ProgramImage, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Noise, and what comes of it through the file."""
    rng = np.random.default_rng(seed)
    values = [
        rng.integers(t.dtype.lowest, t.dtype.highest + 1, t.shape).astype(t.dtype.numpy)
        for t in made.input_tensors
    ]
    (found,) = numerics.run(parse_image(serialize_image(made)), values)
    return values, found


U8, S8, S16 = DType.U8, DType.S8, DType.S16


def of(sources: Sequence[DType]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("source", "target"), list(itertools.product(sources, DType)), ids=lambda dtype: dtype.name
    )


dtypes, bytes_only = of(list(DType)), of([U8, S8])


@bytes_only
@pytest.mark.parametrize("rows", [1, 3])
def test_a_table_is_looked_up_by_the_byte_that_carries_the_element(
    source: DType, target: DType, rows: int
) -> None:
    rng = np.random.default_rng(rows)
    table = rng.integers(target.lowest, target.highest + 1, (rows, 256)).astype(target.numpy)
    layer = Layer(Op.TABLE, "t", (0,), 1, table=table, **full(target))
    (x,), found = computed(image([((5, 7, 3), source), ((5, 7, 3), target)], layer))
    for place in np.ndindex(x.shape):
        assert found[place] == table[place[2] % rows, int(x[place]) % 256]


@dtypes
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 6), (4, 5, 1)])
def test_a_product_is_rounded_once(
    source: DType, target: DType, shape: tuple[int, int, int]
) -> None:
    for shift in (0, 6, 7, 15, 31):
        layer = Layer(Op.MUL, "m", (0, 1), 2, shift=shift, **full(target))
        made = image([((4, 5, 6), source), (shape, DType.S8), ((4, 5, 6), target)], layer)
        (a, b), found = computed(made, shift)
        b = np.broadcast_to(b, a.shape)
        for place in np.ndindex(a.shape):
            wanted = rounded(int(a[place]) * int(b[place]), shift)
            assert found[place] == bounded(wanted, target)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_copy_does_what_its_loops_say(data: st.DataObject) -> None:
    draw = data.draw
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    steps = draw(st.lists(st.integers(0, 9), min_size=len(counts), max_size=len(counts)))
    start = draw(st.integers(0, 8))
    order = draw(st.permutations(range(len(counts))))
    targets, step = [0] * len(counts), 1
    for number in order:  # the first is the finest
        targets[number], step = step, step * counts[number]
    loops = tuple(map(Loop, counts, steps, targets))
    source, target = draw(st.sampled_from(DType)), draw(st.sampled_from(DType))
    left, shift = draw(st.integers(0, 14)), draw(st.integers(0, 18))
    layer = Layer(
        Op.COPY, "c", (0,), 1, lefts=(left,), shift=shift, source_start=start, loops=loops,
        **full(target),
    )  # fmt: skip
    made = image([((4, 5, 6), source), ((step, 1, 1), target)], layer)
    if start + sum((n - 1) * s for n, s in zip(counts, steps, strict=True)) >= 4 * 5 * 6:
        with pytest.raises(ImageError, match="reads element"):
            serialize_and_parse(made)
        return
    (x,), found = computed(made)
    flat = x.reshape(-1)
    for turn in itertools.product(*map(range, counts)):
        at = sum(i * n for i, n in zip(turn, targets, strict=True))
        value = int(flat[start + sum(i * s for i, s in zip(turn, steps, strict=True))]) << left
        assert found[at, 0, 0] == bounded(rounded(value, shift), target)


def conv(grid: tuple[int, int, int, int], seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    return Layer(
        Op.CONV, f"conv{grid}", (0,), 1, lo=-128, hi=127, grid=grid,
        weights=rng.integers(-127, 128, (4, 1, 1, 3)).astype(np.int8),
        bias=np.zeros(4, np.int32), shift=np.full(4, 7, np.uint8),
    )  # fmt: skip


def test_phases_of_convolutions_make_a_transposed_one() -> None:
    phases = [(i, j, 2, 3) for i in range(2) for j in range(3)]
    layers = [conv(grid, seed) for seed, grid in enumerate(phases)]
    made = image([((4, 5, 3), DType.U8), ((8, 15, 4), DType.S8)], *layers)
    (x,), found = computed(made)
    for layer, (row, column, _, _) in zip(layers, phases, strict=True):
        alone = image(
            [((4, 5, 3), DType.U8), ((4, 5, 4), DType.S8)], replace(layer, grid=(0, 0, 1, 1))
        )
        np.testing.assert_array_equal(found[row::2, column::3], numerics.run(alone, [x])[0])


@bytes_only
@pytest.mark.parametrize("groups", [1, 2])
def test_matrices_are_multiplied_in_groups(source: DType, target: DType, groups: int) -> None:
    layer = Layer(Op.MATMUL, "m", (0, 1), 2, groups=groups, shift=9, **full(target))
    depth, width = 6, 5
    made = image(
        [
            ((2, 3, depth * groups), source),
            ((3, 2, width * groups), DType.S8),
            ((2, 3, width * groups), target),
        ],
        layer,
    )
    (a, b), found = computed(made)
    rows, columns = a.reshape(6, -1), b.reshape(depth, -1)
    for n, g, m in np.ndindex(6, groups, width):
        total = sum(
            int(rows[n, g * depth + k]) * int(columns[k, g * width + m]) for k in range(depth)
        )
        wanted = bounded(rounded(total, 9), target)
        assert found.reshape(6, -1)[n, g * width + m] == wanted


# Shifts for each channel


def each(count: int, lowest: int, beyond: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(lowest, beyond, count).astype(np.uint8)


@dtypes
def test_each_channel_has_its_own_shifts(source: DType, target: DType) -> None:
    """Of a product, a sum, a rescaling and a mean; a shift for all stands for one each."""
    shape, channels = (4, 5, 6), 6
    spread = 16 * (source is S16)
    product = Layer(Op.MUL, "m", (0, 1), 2, shift=each(channels, 4, 18, 1), **full(target))
    lefts = each(channels, 0, 15, 2), each(channels, 0, 15, 3)
    added = Layer(
        Op.ADD, "a", (0, 1), 2, lefts=lefts, shift=each(channels, 9, 18, 4), **full(target)
    )
    right = each(channels, 0, 31, 5)
    scaled = Layer(Op.RESCALE, "r", (0,), 2, lefts=(3,), shift=right, **full(target))
    mean = Layer(
        Op.AVGPOOL, "v", (0,), 2, kernel=(1, 3), pad=(0, 1, 0, 1), multiplier=round(2**24 / 3),
        shift=each(channels, 20 + spread // 2, 26 + spread // 2, 6), **full(target),
    )  # fmt: skip
    for layer in (product, added, scaled, mean):
        made = image([(shape, source), (shape, S8), (shape, target)], layer)
        (x, y), found = computed(made, layer.op)
        for i, j, c in np.ndindex(shape):
            a, b = int(x[i, j, c]), int(y[i, j, c])
            shift = int(np.broadcast_to(layer.shift, channels)[c])
            match layer.op:
                case Op.MUL:
                    wanted = a * b
                case Op.ADD:
                    wanted = (a << int(lefts[0][c])) + (b << int(lefts[1][c]))
                case Op.RESCALE:
                    wanted = a << 3
                case Op.AVGPOOL:
                    wanted = int(x[i, max(j - 1, 0) : j + 2, c].astype(np.int64).sum())
                    wanted *= layer.multiplier
            assert found[i, j, c] == bounded(rounded(wanted, shift), target), layer.op


@dtypes
def test_channels_of_a_concatenation_are_those_of_its_output(source: DType, target: DType) -> None:
    left, shift = each(5, 0, 15, 1), each(5, 0, 20, 2)
    layer = Layer(Op.CONCAT, "c", (0, 1), 2, lefts=(left,), shift=shift, **full(target))
    made = image([((3, 4, 2), source), ((3, 4, 3), U8), ((3, 4, 5), target)], layer)
    (a, b), found = computed(made)
    joined = np.concatenate([a.astype(np.int64), b], axis=2)
    for place in np.ndindex(joined.shape):
        c = place[2]
        wanted = rounded(int(joined[place]) << int(left[c]), int(shift[c]))
        assert found[place] == bounded(wanted, target)


@dtypes
def test_a_copy_has_the_shifts_of_the_channel_that_it_writes(source: DType, target: DType) -> None:
    """Its finest loop steps over channels and into the next pixel."""
    shift = each(4, 0, 12, 3)
    loops = (Loop(5, 1, 12), Loop(4, 5, 3), Loop(3, 20, 1))
    layer = Layer(Op.COPY, "c", (0,), 1, lefts=(2,), shift=shift, loops=loops, **full(target))
    made = image([((1, 12, 5), source), ((3, 5, 4), target)], layer)
    (x,), found = computed(made)
    for turn in itertools.product(range(5), range(4), range(3)):
        at = sum(i * loop.target for i, loop in zip(turn, loops, strict=True))
        value = int(x.reshape(-1)[sum(i * n.source for i, n in zip(turn, loops, strict=True))])
        wanted = bounded(rounded(value << 2, int(shift[at % 4])), target)
        assert found.reshape(-1)[at] == wanted


# 16 bits


def wide(weight: int, bias: int) -> ProgramImage:
    """A sum of 516 products of s16."""
    layer = Layer(
        Op.CONV, "w", (0,), 1, lo=-32768, hi=32767, shift=15, bias=np.array([bias], np.int32),
        weights=np.full((1, 1, 1, 516), weight, np.int8),
    )  # fmt: skip
    return image([((1, 1, 516), S16), ((1, 1, 1), S16)], layer)


def test_accumulators_of_16_bits_stay_below_their_bound() -> None:
    made = serialize_and_parse(wide(127, (1 << 31) - 32768 * 516 * 127 - 1))
    (found,) = numerics.run(made, [np.full((1, 1, 516), -32768, np.int16)])
    total = -32768 * 516 * 127 + (1 << 31) - 32768 * 516 * 127 - 1
    assert found == bounded(rounded(total, 15), S16)
    with pytest.raises(ImageError, match="may accumulate 2147483648 in channel 0, the bound is"):
        serialize_and_parse(wide(127, (1 << 31) - 32768 * 516 * 127))


def test_what_is_no_byte_is_no_index_and_no_factor_of_matrices() -> None:
    table = Layer(Op.TABLE, "t", (0,), 1, table=np.zeros((1, 256), np.int8), **PLAIN)
    with pytest.raises(ImageError, match="reads 't0' in s16, wanted u8 or s8"):
        serialize_and_parse(image([((2, 2, 2), S16), ((2, 2, 2), S8)], table))
    product = Layer(Op.MATMUL, "m", (0, 1), 2, **PLAIN)
    shapes = [((1, 1, 2), S8), ((2, 1, 2), S16), ((1, 1, 2), S8)]
    with pytest.raises(ImageError, match="reads 't1' in s16"):
        serialize_and_parse(image(shapes, product))


def test_an_odd_address_of_16_bits_is_refused() -> None:
    made = image([((2, 2, 2), S16), ((2, 2, 2), S16)], Layer(Op.MAXPOOL, "m", (0,), 1, **full(S16)))
    tensors = (replace(made.tensors[0], address=3), made.tensors[1])
    with pytest.raises(ImageError, match="has address 3, wanted a multiple of 2"):
        serialize_and_parse(replace(made, tensors=tensors))


def test_16_bits_take_twice_the_bytes() -> None:
    made = image([((2, 2, 2), S16), ((2, 2, 2), S16)], Layer(Op.MAXPOOL, "m", (0,), 1, **full(S16)))
    with pytest.raises(ImageError, match="ends at 16400, activations have 16399 bytes"):
        serialize_and_parse(replace(made, dram_bytes=16399))


# What is refused


def serialize_and_parse(made: ProgramImage) -> ProgramImage:
    return parse_image(serialize_image(made))


PLAIN = {"lo": -128, "hi": 127}
WHOLE = Loop(60, 1, 1)


def copy(*loops: Loop, output: int = 1, **more: Any) -> Layer:
    return Layer(Op.COPY, "c", (0,), output, lefts=(0,), loops=loops, **PLAIN, **more)


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        (
            (3, 4, 5),
            [copy(Loop(30, 3, 1), Loop(2, 1, 30))],
            "reads element 88, its input has 60",
        ),
        ((3, 4, 5), [copy(WHOLE, source_start=1)], "reads element 60"),
        ((3, 4, 6), [copy(WHOLE)], "never written"),
        ((3, 4, 4), [copy(WHOLE)], "writes outside of tensor 1"),
        ((3, 4, 5), [copy(WHOLE, target_start=1)], "writes outside"),
        ((3, 4, 5), [copy(Loop(2, 0, 0), Loop(30, 1, 1))], "a second time"),
        ((3, 4, 5), [copy(WHOLE), copy(WHOLE)], "a second time"),
        ((3, 4, 5), [copy(Loop(40, 1, 1)), copy(Loop(30, 1, 1))], "a second time"),
        ((3, 4, 5), [copy(Loop(2**20, 0, 0), Loop(2**20, 0, 0))], "a second time"),
        ((3, 4, 5), [copy()], "has 0 loops"),
        ((3, 4, 5), [copy(Loop(0, 1, 1))], "a stride or a count of 0"),
        ((3, 4, 5), [copy(*[Loop(1, 1, 1)] * 6)], "6 loops, at most 5"),
        ((3, 4, 5), [replace(copy(WHOLE), op=Op.RESCALE)], "has 1 loops"),
        ((3, 4, 5), [replace(copy(WHOLE), shift=32)], "has shift 32"),
        (
            (3, 4, 5),
            [copy(Loop(59, 1, 1)), Layer(Op.RESCALE, "r", (1,), 1, lefts=(0,), **PLAIN)],
            "reads tensor 1 before it is written",
        ),
        ((3, 4, 5), [replace(copy(), op=Op.RESCALE, grid=(0, 0, 2, 1))], "has a grid"),
        ((3, 4, 5), [Layer(Op.MUL, "m", (0, 0), 1, shift=32, **PLAIN)], "has shift 32"),
        (
            (3, 4, 5),
            [Layer(Op.MUL, "m", (0, 0), 1, shift=np.array([0, 0, 40, 0, 0], np.uint8), **PLAIN)],
            "has shift 40, wanted 0 … 31",
        ),
        (
            (3, 4, 5),
            [replace(copy(WHOLE), lefts=(np.array([1, 2, 3, 15, 5], np.uint8),))],
            "has left shift 15, wanted 0 … 14",
        ),
        ((3, 4, 6), [Layer(Op.MUL, "m", (0, 0), 1, **PLAIN)], "multiplies"),
        ((3, 4, 5), [Layer(Op.MATMUL, "m", (0, 0), 1, **PLAIN)], "multiplies"),
        (
            (3, 4, 5),
            [Layer(Op.TABLE, "t", (0,), 1, table=np.zeros((2, 256), np.int8), **PLAIN)],
            "has 2 tables",
        ),
        (
            (3, 4, 5),
            [Layer(Op.TABLE, "t", (0,), 1, table=np.full((1, 256), 9, np.int8), lo=0, hi=8)],
            "has entries beyond its bounds",
        ),
    ],
)
def test_what_is_unsound_is_refused(
    shape: tuple[int, int, int], layers: list[Layer], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        serialize_and_parse(image([((3, 4, 5), S8), (shape, S8)], *layers))


def test_phases_that_do_not_make_the_whole_are_refused() -> None:
    shapes = [((4, 5, 3), DType.U8), ((8, 5, 4), DType.S8)]
    with pytest.raises(ImageError, match="never written"):
        serialize_and_parse(image(shapes, conv((0, 0, 2, 1))))
    with pytest.raises(ImageError, match="a second time"):
        serialize_and_parse(image(shapes, conv((0, 0, 2, 1)), conv((0, 0, 2, 1))))
    with pytest.raises(ImageError, match="gives"):
        serialize_and_parse(image(shapes, conv((0, 0, 3, 1))))


def test_products_of_matrices_stay_below_the_bound() -> None:
    def product(depth: int) -> ProgramImage:
        layer = Layer(Op.MATMUL, "m", (0, 1), 2, **PLAIN)
        shapes = [((1, 1, depth), DType.U8), ((depth, 1, 2), DType.U8), ((1, 1, 2), S8)]
        return image(shapes, layer)

    serialize_and_parse(product(258))
    with pytest.raises(ImageError, match=r"may accumulate 16841475 over 259 products"):
        serialize_and_parse(product(259))


def test_marks_of_unfinished_tensors_take_no_more_than_dram() -> None:
    tensors = tuple(Tensor(f"t{i}", S8, (1, 1 << 18, 1), 0, 0) for i in range(6))
    layers = tuple(copy(Loop(1, 1, 1), output=i) for i in range(1, 6))
    made = ProgramImage(Array(), tensors, (Entry(layers, (0,), (5,)),), 1 << 20)
    with pytest.raises(ImageError, match="more unfinished tensors than DRAM can hold"):
        serialize_and_parse(made)


# The file


def sound() -> ProgramImage:
    return image([((3, 4, 5), S8), ((3, 4, 5), S8)], copy(WHOLE))


def test_code_and_what_it_loads_survive_the_trip() -> None:
    schedule = Schedule(2 << 20, 1 << 20, 512)
    made = replace(sound(), code=bytes(range(64)), packed=bytes(128), schedule=schedule)
    found = serialize_and_parse(made)
    assert (found.code, found.packed, found.schedule) == (made.code, made.packed, schedule)
    assert serialize_image(found) == serialize_image(made)
    assert serialize_and_parse(sound()).code == b""


@pytest.mark.parametrize("change", [{"code": bytes(33)}, {"code": bytes(32), "packed": bytes(65)}])
def test_code_of_odd_length_is_refused(change: dict[str, bytes]) -> None:
    with pytest.raises(ImageError, match="wanted multiples of 32 and 64"):
        serialize_and_parse(replace(sound(), **change))  # type: ignore[arg-type]


def test_an_image_of_abi_1_is_told_apart() -> None:
    """Its header was shorter; magic and ABI are where they were."""
    old = struct.pack("<8sHHHHIIQQ32s", b"EDGEIMG\0", 1, 16, 32, 4, 3, 0, 1 << 20, 4096, bytes(32))
    with pytest.raises(ImageError, match=rf"ABI 1, this build reads ABI {ABI}; compile.* anew"):
        parse_image(old.ljust(4096, b"\0"))


@pytest.mark.parametrize(("field", "value"), [("per_channel", 2), ("shifts", 1 << 40)])
def test_shifts_outside_of_their_section_are_refused(field: str, value: int) -> None:
    """In a file whose checksums are right."""
    data = bytearray(serialize_image(sound()))
    sections = struct.Struct(IMAGE_SECTION.format)
    header = struct.calcsize(IMAGE_HEADER.format)
    at = header + sections.size  # of the second section, LAYERS
    kind, _, offset, length = sections.unpack_from(data, at)
    assert kind == Section.LAYERS
    name = bytes([Op.COPY, 0, 1, 0]) + (1).to_bytes(4, "little")
    layer = data.index(name, offset, offset + length)
    size = next(item.nbytes for item in IMAGE_LAYER.items if item.name == field)
    place = layer + IMAGE_LAYER.offset(field)
    data[place : place + size] = value.to_bytes(size, "little")
    crc = google_crc32c.value(bytes(data[offset : offset + length]))
    sections.pack_into(data, at, kind, crc, offset, length)
    data[header - 32 : header] = image_digest(data)
    with pytest.raises(ImageError, match="shifts of layer 'c' are outside their section"):
        parse_image(bytes(data))
