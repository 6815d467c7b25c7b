"""A program as the emulator holds it: an executor for each entry point, and what a run costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from edged._onnxruntime import RunOptions
from edged.emulator._encoding import WeightEncodings
from edged.emulator._executor import Executor
from edged.emulator._timing import Cost, cost_of
from edged.npu import ProgramImage, Tensor

__all__ = ["Program", "Runnable"]


@dataclass(frozen=True, slots=True)
class Runnable:
    """One of the entry points of a program."""

    executor: Executor
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    cost: Cost


@dataclass(frozen=True, slots=True)
class Program:
    """What remains of an image once it is loaded."""

    entries: tuple[Runnable, ...]
    dram_bytes: int

    @classmethod
    def of(
        cls, image: ProgramImage, weights: WeightEncodings, threads: int, options: RunOptions
    ) -> Self:
        """Make *image* ready to run.

        Args:
            weights, threads: see :class:`Executor`.
            options: ``terminate`` set on them from another thread ends it early.

        Raises:
            ImageError, DeviceError, MemoryError, ValueError: it cannot be executed, or was ended.
        """
        entries = []
        for number, entry in enumerate(image.entries):
            executor = Executor(image, number, weights=weights, threads=threads)
            executor.warm_up(options)
            inputs, outputs = map(image.chosen, (entry.inputs, entry.outputs))
            entries.append(Runnable(executor, inputs, outputs, cost_of(image, number)))
        return cls(tuple(entries), image.dram_bytes)
