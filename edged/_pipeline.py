"""A compiled model as it runs: the host's sessions around the device's program, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged._onnxruntime import session
from edged.errors import ModelError
from edged.npu import ProgramImage

__all__ = ["Arrays", "Pipeline", "RunDevice", "check_there"]

Arrays = dict[str, npt.NDArray[Any]]

RunDevice = Callable[[Sequence[npt.NDArray[Any]]], list[npt.NDArray[Any]]]
"""Runs the program: from its inputs to its outputs, u8 or s8 [1, H, W, C], in the image's order."""


class Pipeline:
    """From a sample to the model's outputs: prologue, device, epilogue. For many threads.

    Args:
        image: the device's program. Only its inputs and outputs are of interest here.
        prologue: ONNX, from the model's inputs to the device's.
        epilogue: ONNX, from the device's outputs to the model's.

    Raises:
        ModelError: a part wants a tensor that none before it gives.
        Exception: ONNX Runtime does not take one of them; its classes share no other base.
    """

    def __init__(self, image: ProgramImage, prologue: bytes, epilogue: bytes) -> None:
        # The work is small and the calls are many: a thread each, none for the operators.
        self._prologue = session(prologue)
        self._epilogue = session(epilogue)
        self._image = image
        self.inputs = tuple(tensor.name for tensor in self._prologue.get_inputs())
        self._between = [tensor.name for tensor in self._prologue.get_outputs()]
        self._entering = [tensor.name for tensor in image.input_tensors]
        self._leaving = [tensor.name for tensor in image.output_tensors]
        self._joined = [tensor.name for tensor in self._epilogue.get_inputs()]
        self.outputs = tuple(tensor.name for tensor in self._epilogue.get_outputs())
        given = {*self._between}
        check_there(self._entering, given, "the program", "prologue.onnx")
        given |= {*self._leaving}
        check_there(self._joined, given, "epilogue.onnx", "what comes before")

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], device: RunDevice) -> Arrays:
        """One sample: the model's inputs and outputs by name, batch 1."""
        wanted = {name: inputs[name] for name in self.inputs}
        values = dict(zip(self._between, self._prologue.run(None, wanted), strict=True))
        given = device([values[name] for name in self._entering])
        values |= zip(self._leaving, given, strict=True)
        results = self._epilogue.run(None, {name: values[name] for name in self._joined})
        return dict(zip(self.outputs, results, strict=True))

    def blank(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """What a device would answer that computes nothing but zeros."""
        return [
            np.zeros((1, *tensor.shape), tensor.dtype.numpy)
            for tensor in self._image.output_tensors
        ]


def check_there(wanted: Sequence[str], given: set[str], who: str, where: str) -> None:
    """Raise `ModelError` unless *who* finds every tensor that it wants in *where*."""
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ModelError(
            f"cannot load the model: {who} wants tensor {missing[0]!r}, {where} has"
            f" {', '.join(sorted(given))}"
        )
