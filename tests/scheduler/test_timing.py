"""The cycle model on layers whose cycles can be told."""

from __future__ import annotations

import numpy as np
from scheduler.programs import image

from edged.npu import Array, DType, Layer, Op
from edged.scheduler import scheduled
from edged.scheduler.timing import measure

ARRAY = Array(16, 32, 4)


def pointwise(source: int, target: int) -> Layer:
    """A 1×1 convolution of 64 channels to 64."""
    return Layer(
        Op.CONV,
        "pointwise",
        (source,),
        target,
        weights=np.ones((64, 1, 1, 64), np.int8),
        bias=np.zeros(64, np.int32),
        shift=8,
    )


def test_the_array_multiplies_as_often_as_a_layer_needs_and_layers_do_not_overtake() -> None:
    shape = (32, 32, 64)
    made = image([(shape, DType.U8)] * 3, pointwise(0, 1), pointwise(1, 2), array=ARRAY)
    found = scheduled(made, 2 << 20, 1 << 20)
    first, second = measure(found.image, found.layers)
    least = 32 * 32 // 4 * (64 // 16) * (64 // 32)
    for layer in (first, second):
        assert layer.array == least
        assert layer.bound in ("array", "dram", "banks")
        assert layer.written == 32 * 32 * 64
        assert layer.read == 32 * 32 * 64 + 2 * (1 + 4) * 512
        assert layer.port == 32 * 32 * 2 + least // 4 * 2
    # The second one begins while what is left of the first is stored.
    assert first.cycles > least and first.cycles + second.cycles > 2 * least
    assert first.instructions + second.instructions == len(found.image.code) // 32


def test_each_layer_begins_where_the_schedule_says() -> None:
    made = image([((4, 4, 64), DType.U8)] * 3, pointwise(0, 1), pointwise(1, 2), array=ARRAY)
    found = scheduled(made, 1 << 16, 1 << 16)
    ((first, second),) = found.layers
    assert first == found.image.only.instruction == 0
    assert first < second < len(found.image.code) // 32
