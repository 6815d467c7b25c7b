"""A small program and what to feed it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.npu import (
    Array,
    DType,
    Entry,
    Layer,
    Op,
    ProgramImage,
    Tensor,
    parse_image,
    serialize_image,
)

__all__ = ["Program", "small_program"]


@dataclass
class Program:
    image: ProgramImage
    data: bytes
    inputs: list[np.ndarray]


def small_program(seed: int = 0) -> Program:
    """One convolution."""
    rng = np.random.default_rng(seed)
    tensors = (
        Tensor("x", DType.U8, (4, 4, 3), -4, 0),
        Tensor("y", DType.S8, (4, 4, 8), -4, 64),
    )
    layer = Layer(
        Op.CONV,
        "only",
        (0,),
        1,
        kernel=(3, 3),
        pad=(1, 1, 1, 1),
        lo=-128,
        hi=127,
        weights=rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8),
        bias=rng.integers(-1000, 1000, 8).astype(np.int32),
        shift=np.full(8, 9, np.uint8),
    )
    image = ProgramImage(Array(), tensors, (Entry((layer,), (0,), (1,)),), dram_bytes=1 << 16)
    data = serialize_image(image)
    x = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Program(parse_image(data), data, [x])
