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


def in_process(image: ProgramImage) -> Callable[[_Arrays], list[npt.NDArray[Any]]]:
    """What runs *image*, from its inputs to its outputs, [1, H, W, C], to the bit as a device does.

    Raises:
        DeviceError: no convolution of ONNX Runtime is exact on this processor.
    """
    executor = Executor(image, weights=exact_weight_encodings())

    def run(inputs: _Arrays) -> list[npt.NDArray[Any]]:
        return [found[None] for found in executor.run([each[0] for each in inputs])]

    return run
