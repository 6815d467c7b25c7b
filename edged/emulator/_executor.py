"""The fast executor: an entry of a program image, run by ONNX Runtime, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged._onnxruntime import RunOptions, session
from edged.emulator._encoding import WeightEncodings
from edged.emulator._entry_graph import EntryGraph, carried, name_of, uncarried
from edged.errors import DeviceError, ImageError
from edged.npu import ProgramImage

__all__ = ["Executor"]

_Array = npt.NDArray[Any]


class Executor:
    """Runs one entry of a program image. Safe to use from several threads.

    Args:
        image: as :func:`edged.npu.parse_image` gives it; not kept.
        entry: number of the entry.
        weights: encodings that are exact on this CPU, see
            :func:`edged.emulator.exact_weight_encodings`.
        threads: how many threads one run may use.
        expose_all: keep every tensor, for :meth:`run_all`; slower.

    Raises:
        ImageError: ONNX Runtime does not accept the graph.
    """

    def __init__(
        self,
        image: ProgramImage,
        entry: int = 0,
        *,
        weights: WeightEncodings,
        threads: int = 1,
        expose_all: bool = False,
    ) -> None:
        self._tensors = image.tensors
        program = image.entries[entry]
        self._inputs = program.inputs
        self._outputs = program.outputs
        produced = list(dict.fromkeys(layer.output for layer in program.layers))
        wanted = produced if expose_all else [i for i in produced if i in set(program.outputs)]
        self._wanted = tuple(wanted)
        self._names = [name_of(i) for i in self._wanted]
        model = EntryGraph(image.tensors, program, weights).build(self._wanted)
        try:
            self._session = session(model, threads=threads)
        except Exception as error:  # ONNX Runtime's exceptions have no class in common
            raise ImageError(f"cannot execute program image: {error}") from error

    def run(self, inputs: Sequence[_Array], options: RunOptions | None = None) -> list[_Array]:
        """Run once.

        Args:
            inputs: one [H, W, C] array per input of the entry, of its dtype.
            options: set ``terminate`` on them from another thread to end the run early.

        Returns:
            One [H, W, C] array per output, of its dtype.

        Raises:
            DeviceError: the run was terminated, or ONNX Runtime failed.
        """
        values = self._run(inputs, options)
        return [values[index] for index in self._outputs]

    def warm_up(self, options: RunOptions | None = None) -> None:
        """Run on zeros, twice: the first runs pay for memory that the later ones find there.

        Raises:
            DeviceError: terminated through *options*, or there is not enough memory.
        """
        zeros = [
            np.zeros(self._tensors[i].shape, self._tensors[i].dtype.numpy) for i in self._inputs
        ]
        for _ in range(2):
            self._run(zeros, options)

    def run_all(self, inputs: Sequence[_Array]) -> dict[int, _Array]:
        """Run once; every tensor by its index, like :func:`edged.npu.numerics.run_all`."""
        return self._run(inputs, None)

    def _run(self, inputs: Sequence[_Array], options: RunOptions | None) -> dict[int, _Array]:
        values = dict(zip(self._inputs, inputs, strict=True))
        feeds = {name_of(i): carried(value)[np.newaxis] for i, value in values.items()}
        try:
            results = self._session.run(self._names, feeds, options)
        except Exception as error:  # ONNX Runtime's exceptions have no class in common
            raise DeviceError(f"cannot run program image: {error}") from error
        for index, result in zip(self._wanted, results, strict=True):
            values[index] = uncarried(result[0], self._tensors[index].dtype)
        return values
