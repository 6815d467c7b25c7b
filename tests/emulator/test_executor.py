"""The fast executor equals the integer reference: every tensor, every element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.emulator import Executor, WeightEncoding, WeightEncodings, exact_weight_encodings
from edged.npu import (
    ACCUMULATOR_BOUND,
    Array,
    DType,
    Entry,
    Layer,
    Loop,
    Op,
    ProgramImage,
    Shift,
    Tensor,
    numerics,
    parse_image,
)
from edged.npu import serialize_image as serialize


class GraphMaker:
    """Random sound graphs: each method adds one layer of one kind."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: list[Tensor] = []
        self.layers: list[Layer] = []
        self._address = 0

    def tensor(self, shape: Sequence[int], dtype: DType | None = None) -> int:
        dtype = dtype or self.rng.choice(list(DType), p=[0.4, 0.4, 0.2])
        h, w, c = (int(n) for n in shape)
        made = Tensor(f"t{len(self.tensors)}", DType(dtype), (h, w, c), 0, self._address)
        self.tensors.append(made)
        self._address += -(-made.nbytes // 64) * 64
        return len(self.tensors) - 1

    def each(self, output: int, lowest: int, beyond: int) -> Shift:
        """One number, or one for each channel of *output*."""
        if self.rng.integers(2):
            return int(self.rng.integers(lowest, beyond))
        return self.rng.integers(lowest, beyond, self.tensors[output].shape[2]).astype(np.uint8)

    def scale(self, output: int, parts: Sequence[int] = ()) -> dict[str, object]:
        """A left shift and a right one near to it: of all, of each channel, or of each part."""
        channels = self.tensors[output].shape[2]
        match self.rng.integers(3):
            case 1:
                parts = [1] * channels
            case 2:
                parts = parts or [channels]
            case _:
                left = int(self.rng.integers(0, 15))
                shift = int(np.clip(left + self.rng.choice([0, 0, -2, -1, 1, 4]), 0, 31))
                return {"lefts": (left,), "shift": shift}
        lefts = self.rng.integers(0, 15, len(parts))
        shifts = np.clip(lefts + self.rng.integers(-2, 5, len(parts)), 0, 31)
        left, shift = (np.repeat(each, parts).astype(np.uint8) for each in (lefts, shifts))
        return {"lefts": (left,), "shift": shift}

    def in_8_bits(self, source: int) -> int:
        if self.tensors[source].dtype is not DType.S16:
            return source
        output = self.tensor(self.tensors[source].shape, DType.S8)
        bounds = self.bounds(output)
        self.layers.append(
            Layer(Op.RESCALE, f"bytes{output}", (source,), output, lefts=(0,), shift=8, **bounds)
        )
        return output

    def bounds(self, output: int) -> dict[str, int]:
        """Saturation only, ReLU, ReLU6, or anything."""
        dtype = self.tensors[output].dtype
        lo, hi = dtype.lowest, dtype.highest
        match self.rng.integers(4):
            case 1:
                lo = 0
            case 2:
                lo, hi = 0, min(96, hi)
            case 3:
                lo, hi = sorted(int(n) for n in self.rng.integers(lo, hi + 1, 2))
        return {"lo": lo, "hi": hi}

    def window(self, source: int, largest: int, dilated: bool) -> tuple[dict[str, object], tuple]:
        height, width, _ = self.tensors[source].shape
        while True:
            kernel = tuple(int(n) for n in self.rng.integers(1, largest + 1, 2))
            stride = tuple(int(n) for n in self.rng.integers(1, 4, 2))
            dilation = tuple(int(n) for n in self.rng.integers(1, 3 if dilated else 2, 2))
            reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            pad = tuple(int(self.rng.integers(0, reach[i % 2] + 1)) for i in range(4))
            rows = (height + pad[0] + pad[2] - reach[0] - 1) // stride[0] + 1
            columns = (width + pad[1] + pad[3] - reach[1] - 1) // stride[1] + 1
            if rows > 0 and columns > 0:
                window = {"kernel": kernel, "stride": stride, "pad": pad, "dilation": dilation}
                return window, (rows, columns)

    def conv(self, source: int) -> int:
        c_in = self.tensors[source].shape[2]
        groups = int(self.rng.choice([g for g in range(1, c_in + 1) if c_in % g == 0]))
        c_out = groups * int(self.rng.integers(1, 5))
        window, pixels = self.window(source, 4, dilated=True)
        kernel = window["kernel"]
        size = (c_out, *kernel, c_in // groups)  # type: ignore[misc]
        weights = self.rng.integers(-128, 128, size)
        if self.rng.integers(2):
            weights = self.rng.choice([-128, 127], size)
        while 256 * np.abs(weights).sum(axis=(1, 2, 3)).max() >= ACCUMULATOR_BOUND - 2**13:
            weights //= 2
        output = self.tensor((*pixels, c_out))
        spread = np.log2(128 * 74 * max(1, np.prod(size[1:])) ** 0.5 / 64)
        spread += 8 * (int(self.tensors[source].dtype is DType.S16))
        spread -= 8 * (int(self.tensors[output].dtype is DType.S16))
        shift: Shift = np.clip(self.rng.normal(spread, 2, c_out), 0, 31).astype(np.uint8)
        if not self.rng.integers(4):
            shift = int(shift[0])
        self.layers.append(
            Layer(
                Op.CONV,
                f"conv{output}",
                (source,),
                output,
                groups=groups,
                weights=weights.astype(np.int8),
                bias=self.rng.integers(-(2**12), 2**12, c_out).astype(np.int32),
                shift=shift,
                **window,
                **self.bounds(output),
            )  # type: ignore[arg-type]
        )
        return output

    def add(self, source: int) -> int:
        shape = self.tensors[source].shape
        others = [i for i, tensor in enumerate(self.tensors) if tensor.shape == shape]
        output = self.tensor(shape)
        lefts = self.each(output, 0, 15), self.each(output, 0, 15)
        near = int(max(map(np.max, lefts)))
        shift = self.each(output, *((near, near + 4) if self.rng.integers(2) else (0, 32)))
        pair = (source, int(self.rng.choice(others)))
        self.layers.append(
            Layer(
                Op.ADD,
                f"add{output}",
                pair,
                output,
                lefts=lefts,
                shift=shift,
                **self.bounds(output),
            )
        )
        return output

    def maxpool(self, source: int) -> int:
        tensor = self.tensors[source]
        window, pixels = self.window(source, 3, dilated=True)
        output = self.tensor((*pixels, tensor.shape[2]), tensor.dtype)
        bounds = {"lo": tensor.dtype.lowest, "hi": tensor.dtype.highest}
        self.layers.append(
            Layer(Op.MAXPOOL, f"max{output}", (source,), output, **window, **bounds)  # type: ignore[arg-type]
        )
        return output

    def avgpool(self, source: int) -> int:
        height, width, channels = self.tensors[source].shape
        window, pixels = self.window(source, 4, dilated=False)
        if self.rng.integers(2):
            window, pixels = {"kernel": (height, width)}, (1, 1)
        kernel = window["kernel"]
        multiplier = round((1 << 24) / (kernel[0] * kernel[1]))  # type: ignore[index]
        output = self.tensor((*pixels, channels))
        shift = self.each(output, *((23, 26) if self.rng.integers(2) else (0, 48)))
        layer = Layer(
            Op.AVGPOOL,
            f"avg{output}",
            (source,),
            output,
            multiplier=multiplier,
            shift=shift,
            **window,
            **self.bounds(output),
        )  # type: ignore[arg-type]
        self.layers.append(layer)
        return output

    def concat(self, source: int) -> int:
        pixels = self.tensors[source].shape[:2]
        others = [i for i, tensor in enumerate(self.tensors) if tensor.shape[:2] == pixels]
        parts = (source, *(int(n) for n in self.rng.choice(others, self.rng.integers(0, 3))))
        output = self.tensor((*pixels, sum(self.tensors[i].shape[2] for i in parts)))
        layer = Layer(
            Op.CONCAT,
            f"concat{output}",
            parts,
            output,
            **self.scale(output, [self.tensors[i].shape[2] for i in parts]),
            **self.bounds(output),
        )
        self.layers.append(layer)
        return output

    def rescale(self, source: int) -> int:
        output = self.tensor(self.tensors[source].shape)
        layer = Layer(
            Op.RESCALE,
            f"rescale{output}",
            (source,),
            output,
            **self.scale(output),
            **self.bounds(output),
        )
        self.layers.append(layer)
        return output

    def table(self, source: int) -> int:
        source = self.in_8_bits(source)
        shape = self.tensors[source].shape
        output = self.tensor(shape)
        bounds = self.bounds(output)
        rows = int(self.rng.choice([1, shape[2]]))
        table = self.rng.integers(bounds["lo"], bounds["hi"] + 1, (rows, 256))
        table = table.astype(self.tensors[output].dtype.numpy)
        self.layers.append(
            Layer(Op.TABLE, f"table{output}", (source,), output, table=table, **bounds)
        )
        return output

    def mul(self, source: int) -> int:
        height, width, channels = shape = self.tensors[source].shape
        shapes = (shape, (1, 1, channels), (height, width, 1))
        others = [i for i, tensor in enumerate(self.tensors) if tensor.shape in shapes]
        output = self.tensor(shape)
        pair = (source, int(self.rng.choice(others)))
        shift = self.each(output, *((5, 18) if self.rng.integers(4) else (0, 32)))
        self.layers.append(
            Layer(Op.MUL, f"mul{output}", pair, output, shift=shift, **self.bounds(output))
        )
        return output

    def copy_layer(
        self, source: int, output: int, loops: Sequence[Loop], starts: tuple[int, int] = (0, 0)
    ) -> None:
        self.layers.append(
            Layer(
                Op.COPY,
                f"copy{len(self.layers)}",
                (source,),
                output,
                **self.scale(output),
                source_start=starts[0],
                target_start=starts[1],
                loops=tuple(loops),
                **self.bounds(output),
            )
        )

    def copy(self, source: int) -> int:
        """A slice with steps, a permutation, repetitions: all at once, whole."""
        height, width, channels = self.tensors[source].shape
        start, axes = 0, []
        for size, stride in ((height, width * channels), (width, channels), (channels, 1)):
            first = int(self.rng.integers(0, size))
            step = int(self.rng.integers(1, 3))
            count = int(self.rng.integers(1, (size - first - 1) // step + 2))
            start += first * stride
            axes.append((count, step * stride))
        axes += [(int(self.rng.integers(1, 4)), 0) for _ in range(self.rng.integers(0, 3))]
        axes = [axes[i] for i in self.rng.permutation(len(axes))]
        counts = [count for count, _ in axes]
        at = int(self.rng.integers(0, len(axes)))
        shape = (math.prod(counts[:at]), counts[at], math.prod(counts[at + 1 :]))
        output = self.tensor(shape)
        loops = [
            Loop(count, stride, math.prod(counts[i + 1 :]))
            for i, (count, stride) in enumerate(axes)
        ]
        # The loops' order is the reader's affair: what is written where is the same.
        self.copy_layer(
            source, output, [loops[i] for i in self.rng.permutation(len(loops))], (start, 0)
        )
        return output

    def join(self, source: int) -> int:
        """A concatenation, made of copies: along channels or along rows."""
        height, width, channels = self.tensors[source].shape
        along = int(self.rng.choice([0, 2]))
        others = [
            i
            for i, tensor in enumerate(self.tensors)
            if np.array_equal(
                np.delete(tensor.shape, along), np.delete((height, width, channels), along)
            )
        ]
        parts = [source, *(int(n) for n in self.rng.choice(others, self.rng.integers(0, 3)))]
        shape = [height, width, channels]
        shape[along] = sum(self.tensors[i].shape[along] for i in parts)
        output = self.tensor(shape)
        at = 0
        for index in parts:
            h, w, c = self.tensors[index].shape
            step = shape[2]
            loops = [Loop(h, w * c, shape[1] * step), Loop(w, c, step), Loop(c, 1, 1)]
            self.copy_layer(index, output, loops, (0, at))
            at += c if along == 2 else h * w * c
        return output

    def shuffle(self, source: int) -> int:
        """Each element of a pair of copies lies between those of the other."""
        h, w, c = self.tensors[source].shape
        output = self.tensor((h, w, 2 * c))
        for at in self.rng.permutation(2):
            self.copy_layer(source, output, [Loop(h * w * c, 1, 2)], (0, int(at)))
        return output

    def upconv(self, source: int) -> int:
        """A transposed convolution: one convolution for each phase of the output."""
        first = self.conv(source)
        made = self.layers.pop()
        height, width, channels = self.tensors[first].shape
        down, right = (int(n) for n in self.rng.integers(1, 4, 2))
        if (down, right) == (1, 1):
            down = 2
        output = self.tensor((height * down, width * right, channels))
        phases = [(i, j) for i in range(down) for j in range(right)]
        if self.rng.integers(2):
            phases = [phases[i] for i in self.rng.permutation(len(phases))]
        for i, j in phases:
            self.layers.append(
                replace(
                    made,
                    name=f"up{len(self.layers)}",
                    output=output,
                    grid=(i, j, down, right),
                    bias=self.rng.integers(-(2**12), 2**12, channels).astype(np.int32),
                    **self.bounds(output),
                )
            )
        # What the single convolution would have written is nobody's.
        self.layers.append(replace(made, name=f"plain{first}", output=first))
        return output

    def matmul(self, source: int) -> int:
        """Of a slice of the source, and of another input made of it."""
        source = self.in_8_bits(source)
        height, width, channels = self.tensors[source].shape
        groups = int(self.rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
        depth = channels // groups
        if depth * 255 * 255 >= ACCUMULATOR_BOUND:
            return self.rescale(source)
        total = height * width * channels
        width_b = int(self.rng.integers(1, 5))
        second = self.tensor((depth, 1, groups * width_b), self.tensors[source].dtype)
        count = depth * groups * width_b
        repeat = [Loop(-(-count // total), 0, total), Loop(total, 1, 1)]
        if count <= total:
            repeat = [Loop(count, 1, 1)]
        elif count % total:
            rest = count % total
            self.copy_layer(source, second, [Loop(rest, 1, 1)], (0, count - rest))
            repeat = [Loop(count // total, 0, total), Loop(total, 1, 1)]
        self.copy_layer(source, second, repeat)
        output = self.tensor((height, width, groups * width_b))
        shift = self.each(output, 4, 18)
        self.layers.append(
            Layer(
                Op.MATMUL,
                f"matmul{output}",
                (source, second),
                output,
                groups=groups,
                shift=shift,
                **self.bounds(output),
            )
        )
        return output

    def image(self, inputs: Sequence[int], outputs: Sequence[int]) -> ProgramImage:
        image = ProgramImage(
            Array(),
            tuple(self.tensors),
            (Entry(tuple(self.layers), tuple(inputs), tuple(outputs)),),
            dram_bytes=1 << 24,
        )
        return parse_image(serialize(image))  # and with it, proven sound

    def values(self, image: ProgramImage) -> list[np.ndarray]:
        """Inputs: noise, with many extremes."""
        values = []
        for tensor in image.input_tensors:
            lo, hi = tensor.dtype.lowest, tensor.dtype.highest
            value = self.rng.integers(lo, hi + 1, tensor.shape)
            extreme = self.rng.choice([lo, hi], tensor.shape)
            values.append(
                np.where(self.rng.random(tensor.shape) < 0.3, extreme, value).astype(
                    tensor.dtype.numpy
                )
            )
        return values


OPERATIONS = (
    "conv",
    "add",
    "maxpool",
    "avgpool",
    "concat",
    "rescale",
    "table",
    "mul",
    "copy",
    "join",
    "shuffle",
    "upconv",
    "matmul",
)


def assert_equal_everywhere(
    image: ProgramImage, values: list[np.ndarray], encodings: WeightEncodings
) -> None:
    wanted = numerics.run_all(image, values)
    found = Executor(image, weights=encodings, expose_all=True).run_all(values)
    assert found.keys() == wanted.keys()
    for index, value in wanted.items():
        assert found[index].dtype == value.dtype
        np.testing.assert_array_equal(found[index], value, err_msg=f"{image.tensors[index]}")
    # Without the intermediate tensors, ONNX Runtime is free to fuse across layers.
    outputs = Executor(image, weights=encodings).run(values)
    for index, value in zip(image.outputs, outputs, strict=True):
        np.testing.assert_array_equal(value, wanted[index])


@pytest.fixture(scope="module")
def encodings() -> WeightEncodings:
    return exact_weight_encodings()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_alone(operation: str, encodings: WeightEncodings) -> None:
    for seed in range(40):
        maker = GraphMaker(seed)
        height, width = maker.rng.integers(1, 12, 2)
        x = maker.tensor((height, width, maker.rng.integers(1, 20)))
        y = getattr(maker, operation)(x)
        image = maker.image([x], [y])
        assert_equal_everywhere(image, maker.values(image), encodings)


def test_a_step_that_is_never_taken_may_be_any(encodings: WeightEncodings) -> None:
    """And the source is read with a carry between its axes, which only an index can do."""
    maker = GraphMaker(3)
    x = maker.tensor((4, 5, 6))
    y = maker.tensor((3, 1, 30))
    never = Loop(1, 2**32 - 1, 2**32 - 1)
    loops = [Loop(3, 7, 30), never, Loop(5, 17, 1), Loop(6, 1, 5), never]
    maker.copy_layer(x, y, loops, (4, 0))
    image = maker.image([x], [y])
    assert_equal_everywhere(image, maker.values(image), encodings)


def test_a_tensor_of_many_parts(encodings: WeightEncodings) -> None:
    """One copy for each pixel, in any order, from both of two tensors."""
    maker = GraphMaker(4)
    sources = [maker.tensor((6, 7, 3)) for _ in range(2)]
    y = maker.tensor((6, 7, 3))
    for number in maker.rng.permutation(42):
        at = 3 * int(number)
        maker.copy_layer(int(maker.rng.choice(sources)), y, [Loop(3, 1, 1)], (at, at))
    image = maker.image(sources, [y])
    assert_equal_everywhere(image, maker.values(image), encodings)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    operations=st.lists(st.sampled_from(OPERATIONS), min_size=2, max_size=9),
)
def test_random_networks(encodings: WeightEncodings, seed: int, operations: list[str]) -> None:
    maker = GraphMaker(seed)
    shape = maker.rng.integers(3, 14, 2)
    inputs = [maker.tensor((*shape, maker.rng.integers(1, 9))) for _ in range(2)]
    for operation in operations:
        source = int(maker.rng.integers(max(0, len(maker.tensors) - 3), len(maker.tensors)))
        getattr(maker, operation)(source)
    # An input may be an output as well, and an output may be read on.
    outputs = {len(maker.tensors) - 1, int(maker.rng.integers(0, len(maker.tensors)))}
    image = maker.image(inputs, sorted(outputs))
    assert_equal_everywhere(image, maker.values(image), encodings)


@pytest.mark.parametrize("dtype", [DType.U8, DType.S8])
def test_ties_go_to_even(encodings: WeightEncodings, dtype: DType) -> None:
    """Every value of x, half way between two results."""
    maker = GraphMaker(0)
    x = maker.tensor((16, 16, 1), dtype)
    y = maker.tensor((16, 16, 1), DType.S8)
    maker.layers.append(Layer(Op.RESCALE, "half", (x,), y, lefts=(0,), shift=1, lo=-128, hi=127))
    image = maker.image([x], [y])
    value = np.arange(256).astype(np.uint8).view(dtype.numpy).reshape(16, 16, 1)
    (found,) = Executor(image, weights=encodings).run([value])
    exact = value.astype(np.float64) / 2
    np.testing.assert_array_equal(found, np.clip(np.rint(exact), -128, 127))
    assert_equal_everywhere(image, [value], encodings)


def test_a_cpu_without_dot_product_gets_the_encoding_that_is_exact_everywhere(
    tmp_path: Path,
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx2\n")
    assert exact_weight_encodings(cpuinfo).dense is WeightEncoding.UNSIGNED
    assert exact_weight_encodings(tmp_path / "absent").dense is WeightEncoding.UNSIGNED


def test_a_cpu_that_only_claims_to_be_exact_is_found_out(tmp_path: Path) -> None:
    """Whatever the flags say, what is chosen has stood the test."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : avx_vnni\n")
    chosen = exact_weight_encodings(cpuinfo)
    maker = GraphMaker(0)
    x = maker.tensor((9, 9, 64), DType.U8)
    y = maker.tensor((9, 9, 64), DType.S8)
    layer = Layer(
        Op.CONV,
        "conv",
        (x,),
        y,
        lo=-128,
        hi=127,
        weights=maker.rng.choice([-128, 127], (64, 1, 1, 64)).astype(np.int8),
        bias=np.zeros(64, np.int32),
        shift=np.full(64, 11, np.uint8),
    )
    maker.layers.append(layer)
    image = maker.image([x], [y])
    value = maker.rng.choice([0, 254, 255], (9, 9, 64)).astype(np.uint8)
    assert_equal_everywhere(image, [value], chosen)


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize(
    ("channels", "kernel", "groups"),
    [
        (1, 1, 1),
        (3, 7, 1),
        (5, 3, 1),
        (33, 1, 1),
        (110, 3, 1),
        (515, 1, 1),
        (96, 3, 4),
        (1021, 1, 1),
    ],
)
def test_weights_whose_pairs_just_fit_into_16_bits(
    encodings: WeightEncodings, dtype: DType, channels: int, kernel: int, groups: int
) -> None:
    """Sums of every length, at the limit of what is handed over in the faster encoding."""
    rng = np.random.default_rng(channels)
    maker = GraphMaker(channels)
    c_out = 8 * groups
    x = maker.tensor((kernel + 2, kernel + 1, channels), dtype)
    y = maker.tensor((3, 2, c_out), DType.S8)
    count = kernel * kernel * (channels // groups)
    large = rng.integers(1, 128, (c_out, 1))
    magnitudes = np.where(np.arange(count) % 2, large, 128 - large)
    signs = np.where(rng.random((c_out, 1)) < 0.5, 1, rng.choice([-1, 1], magnitudes.shape))
    weights = np.clip(magnitudes * signs, -127, 127).astype(np.int8)
    layer = Layer(
        Op.CONV,
        "conv",
        (x,),
        y,
        kernel=(kernel, kernel),
        groups=groups,
        lo=-128,
        hi=127,
        weights=weights.reshape(c_out, kernel, kernel, -1),
        bias=rng.integers(-4096, 4096, c_out).astype(np.int32),
        shift=rng.integers(8, 17, c_out).astype(np.uint8),
    )
    maker.layers.append(layer)
    image = maker.image([x], [y])
    assert layer.weights is not None
    assert encodings.of(layer.weights.transpose(0, 3, 1, 2), False) is encodings.small
    lowest, highest = dtype.lowest, dtype.highest
    shape = image.input_tensors[0].shape
    for values in (np.full(shape, highest), rng.choice([lowest, highest, highest - 1], shape)):
        assert_equal_everywhere(image, [values.astype(dtype.numpy)], encodings)


def test_weights_one_step_above_that_are_not_handed_over_so() -> None:
    chosen = WeightEncodings(WeightEncoding.UNSIGNED, *[WeightEncoding.SIGNED] * 2)
    weights = np.array([[64, -64, 64], [1, 1, 127]], np.int8).reshape(2, 3, 1, 1)
    assert chosen.of(weights, depthwise=False) is WeightEncoding.SIGNED
    weights[1, 1] = 2
    assert chosen.of(weights, depthwise=False) is WeightEncoding.UNSIGNED
    assert chosen.of(weights, depthwise=True) is WeightEncoding.SIGNED
