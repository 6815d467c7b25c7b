"""A compiled model as it runs: the host's sessions around entries of the program, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged._compiledfiles import host_file
from edged._onnxruntime import session
from edged.errors import ModelError
from edged.npu import ProgramImage

__all__ = ["Arrays", "Pipeline", "RunDevice", "check_there"]

Arrays = dict[str, npt.NDArray[Any]]

RunDevice = Callable[[int, Sequence[npt.NDArray[Any]]], list[npt.NDArray[Any]]]
"""Runs the entry of this number: from its inputs to its outputs, u8 or s8 [1, H, W, C], in the
image's order."""


class Pipeline:
    """From a sample to the model's outputs: a part of the host, an entry of the device, and so on.

    The first part and the last are the host's. What each gives is there, by its name, for all that
    come behind it: a tensor of the device may go from entry to entry, and the host only hands it
    on. For many threads.

    Args:
        image: the device's program. Only the inputs and outputs of its entries are of interest.
        host: ONNX, the parts of the host; one more than there are entries.

    Raises:
        ModelError: the number of parts is wrong, or one wants a tensor that none before it gives.
        Exception: ONNX Runtime does not take one of them; its classes share no other base.
    """

    def __init__(self, image: ProgramImage, host: Sequence[bytes]) -> None:
        if len(host) != len(image.entries) + 1:
            raise ModelError(
                f"cannot load the model: it has {len(host)} parts for the host, wanted"
                f" {len(image.entries) + 1} around the {len(image.entries)} entries of its program"
            )
        self._image = image
        # The work is small and the calls are many: a thread each, none for the operators.
        self._host = [session(part) for part in host]
        self._wanted = [[tensor.name for tensor in part.get_inputs()] for part in self._host]
        self._given = [[tensor.name for tensor in part.get_outputs()] for part in self._host]
        self._entering = [_names(image, entry.inputs) for entry in image.entries]
        self._leaving = [_names(image, entry.outputs) for entry in image.entries]
        self.inputs, self.outputs = tuple(self._wanted[0]), tuple(self._given[-1])
        there = {*self.inputs}
        for number, (wanted, given) in enumerate(zip(self._wanted, self._given, strict=True)):
            check_there(wanted, there, host_file(number), "what comes before")
            there |= {*given}
            if number < len(image.entries):
                what = f"entry {number} of the program"
                check_there(self._entering[number], there, what, "what comes before")
                there |= {*self._leaving[number]}

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], device: RunDevice) -> Arrays:
        """One sample: the model's inputs and outputs by name, batch 1."""
        values = {name: inputs[name] for name in self.inputs}
        for number, part in enumerate(self._host):
            feeds = {name: values[name] for name in self._wanted[number]}
            values |= zip(self._given[number], part.run(None, feeds), strict=True)
            if number < len(self._entering):
                given = device(number, [values[name] for name in self._entering[number]])
                values |= zip(self._leaving[number], given, strict=True)
        return {name: values[name] for name in self.outputs}

    def blank(self, entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """What a device would answer that computes nothing but zeros."""
        return [
            np.zeros((1, *tensor.shape), tensor.dtype.numpy)
            for tensor in self._image.chosen(self._image.entries[entry].outputs)
        ]


def _names(image: ProgramImage, indices: Sequence[int]) -> list[str]:
    return [tensor.name for tensor in image.chosen(indices)]


def check_there(wanted: Sequence[str], given: set[str], who: str, where: str) -> None:
    """Raise `ModelError` unless *who* finds every tensor that it wants in *where*."""
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ModelError(
            f"cannot load the model: {who} wants tensor {missing[0]!r}, {where} has"
            f" {', '.join(sorted(given))}"
        )
