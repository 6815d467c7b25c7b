"""Which encodings of the weights are exact on this CPU: asked of it, then put to the test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edged.emulator._encoding import WeightEncoding, WeightEncodings
from edged.emulator._executor import Executor
from edged.errors import DeviceError
from edged.npu import Array, DType, Entry, Layer, Op, ProgramImage, Tensor, numerics

__all__ = ["exact_weight_encodings"]

_DOT_PRODUCT = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
"""CPU flags of instructions that add four u8×s8 products in 32 bits, without 16 on the way."""


def exact_weight_encodings(cpuinfo: Path = Path("/proc/cpuinfo")) -> WeightEncodings:
    """The fastest encodings whose results equal the integer reference here.

    Raises:
        DeviceError: none does; the emulator must not start.
    """
    both = [WeightEncoding.SIGNED, WeightEncoding.UNSIGNED]
    dense = both if _DOT_PRODUCT & _cpu_flags(cpuinfo) else [WeightEncoding.UNSIGNED]
    return WeightEncodings(
        _first_exact(dense, _DENSE), _first_exact(both, _DEPTHWISE), _first_exact(both, _SMALL)
    )


def _first_exact(candidates: Sequence[WeightEncoding], cases: Sequence[_Case]) -> WeightEncoding:
    for encoding in candidates:
        if is_exact(encoding, cases):
            return encoding
    raise DeviceError(
        "cannot start emulator: ONNX Runtime's convolutions differ from the integer reference"
        " on this CPU, in every encoding of the weights; try another release of onnxruntime"
    )


def is_exact(encoding: WeightEncoding, cases: Sequence[_Case]) -> bool:
    """Whether convolutions made to break equal the reference, every element."""
    rng = np.random.default_rng(24)
    for case in cases:
        image = _adversary(rng, case)
        # Extremes in most places: pairs of products then exceed 16 bits.
        dtype = case.dtype
        choice = [dtype.lowest, dtype.highest, dtype.highest - 1, 0, 1]
        inputs = [rng.choice(choice, image.input_tensors[0].shape).astype(dtype.numpy)]
        weights = WeightEncodings(encoding, encoding, encoding)
        found = Executor(image, weights=weights).run(inputs)
        wanted = numerics.run(image, inputs)
        if not all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)):
            return False
    return True


class _Case(NamedTuple):
    dtype: DType
    groups: int
    channels: int
    kernel: int
    small: bool = False
    """Weights whose neighbours fit into 16 bits together, and no others do."""


_DENSE: Final = (
    _Case(DType.U8, 1, 64, 1),
    _Case(DType.S8, 1, 64, 1),
    _Case(DType.U8, 1, 16, 3),
    _Case(DType.U8, 2, 32, 3),
)
_SMALL: Final = (
    _Case(DType.U8, 1, 64, 1, small=True),
    _Case(DType.S8, 1, 64, 1, small=True),
    _Case(DType.U8, 1, 16, 3, small=True),
    _Case(DType.U8, 1, 7, 3, small=True),
    _Case(DType.S8, 1, 33, 5, small=True),
    _Case(DType.U8, 2, 32, 3, small=True),
    _Case(DType.U8, 1, 256, 3, small=True),
)
_DEPTHWISE: Final = (
    _Case(DType.U8, 32, 32, 3),
    _Case(DType.S8, 32, 32, 3),
    _Case(DType.S8, 7, 7, 5),
    _Case(DType.U8, 48, 48, 1),
)


def _adversary(rng: np.random.Generator, case: _Case) -> ProgramImage:
    """One convolution with extreme weights, and shifts that make ties and no saturation."""
    dtype, groups, channels, kernel, small = case
    source = Tensor("x", dtype, (9, 9, channels), 0, 0)
    output = Tensor("y", DType.S8, (9, 9, channels), 0, 1 << 16)
    size = (channels, kernel, kernel, channels // groups)
    layer = Layer(
        Op.CONV,
        "conv",
        (0,),
        1,
        kernel=(kernel, kernel),
        pad=(kernel // 2,) * 4,
        groups=groups,
        lo=-128,
        hi=127,
        weights=_small(rng, size) if small else _extreme(rng, size),
        bias=rng.integers(-4096, 4096, channels).astype(np.int32),
        shift=rng.integers(9, 13, channels).astype(np.uint8),
    )
    return ProgramImage(Array(), (source, output), (Entry((layer,), (0,), (1,)),), 1 << 20)


def _extreme(rng: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[np.int8]:
    return np.asarray(rng.choice([-128, -127, 126, 127], size), np.int8)


def _small(rng: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Large and small ones in turn, in one order of the two or in the other: ±127 beside ±1."""
    count = math.prod(size[1:])
    first = rng.integers(0, 2, (size[0], 1))
    magnitudes = np.where((np.arange(count) + first) % 2, 127, 1)
    weights = magnitudes * rng.choice([-1, 1], magnitudes.shape)
    return np.asarray(weights.reshape(size), np.int8)


def _cpu_flags(cpuinfo: Path) -> set[str]:
    try:
        text = cpuinfo.read_text()
    except OSError:
        return set()
    lines = (line.partition(":") for line in text.splitlines())
    return {
        flag
        for key, _, flags in lines
        if key.strip().lower() in {"flags", "features"}
        for flag in flags.split()
    }
