"""The device without a device: the executor called in the process that asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from edged.emulator._executor import Executor
from edged.emulator._selftest import exact_weight_encodings
from edged.npu import ProgramImage

__all__ = ["in_process"]

_Arrays = Sequence[npt.NDArray[Any]]


def in_process(image: ProgramImage) -> Callable[[int, _Arrays], list[npt.NDArray[Any]]]:
    """What runs an entry of *image*, from its inputs to its outputs, to the bit as a device does.

    Arrays are [1, H, W, C].

    Raises:
        DeviceError: no convolution of ONNX Runtime is exact on this processor.
    """
    weights = exact_weight_encodings()
    executors = [Executor(image, entry, weights=weights) for entry in range(len(image.entries))]

    def run(entry: int, inputs: _Arrays) -> list[npt.NDArray[Any]]:
        return [found[None] for found in executors[entry].run([each[0] for each in inputs])]

    return run
