"""Both models, ready to run: float in ONNX Runtime, and the compiled program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged import detection
from edged._onnxfile import with_lower_versions
from edged._onnxruntime import session
from edged._pipeline import Arrays, Pipeline
from edged.bundle import FileName, Manifest, VerifiedBundle, read_arrays
from edged.compiler import CompiledModel, compile_model
from edged.emulator import in_process
from edged.errors import InputError, ModelError, RequestError
from edged.evaluation._answers import Boxes, Classes, Comparison, compare_values
from edged.evaluation._examples import Examples
from edged.evaluation._result import Result

__all__ = ["Evaluator"]

Progress = Callable[[float, str], None]

_SUM_OF_ALL: Final = 1e-2
"""Probabilities in half precision add up to 1 within this."""


def _silent(_fraction: float, _step: str) -> None:
    pass


class Evaluator:
    """A bundle's model in float, and compiled as edged does when the bundle is dropped.

    The program runs in this process, by the executor of the emulated device, which gives the
    integers that a device gives, to the bit.

    Args:
        output: which output has a value for each class; by default the one that looks like it.
        progress: told of the compiler's steps.

    Raises:
        InputError: there is no such output.
        ModelError, LimitError: the model cannot be compiled, or not be run in float.
    """

    def __init__(
        self,
        bundle: VerifiedBundle,
        *,
        output: str | None = None,
        progress: Progress = _silent,
    ) -> None:
        self._manifest = bundle.manifest
        self._output = _named(output, self._manifest)
        self._labels = len(bundle.labels)
        model = (bundle.folder / FileName.MODEL).read_bytes()
        calibration = bundle.folder / FileName.CALIBRATION
        self.compiled: CompiledModel = compile_model(
            model,
            calibration=read_arrays(calibration) if calibration.exists() else None,
            shapes=self._manifest.shapes,
            progress=progress,
        )
        parts = self.compiled
        self._pipeline = Pipeline(parts.image, parts.host)
        self._device = in_process(parts.image)
        try:
            self._floats = session(with_lower_versions(model, FileName.MODEL))
        except Exception as error:  # ONNX Runtime has a class of its own for each of its reasons
            raise _not_run(self._manifest, error) from error

    def run(self, examples: Examples, advance: Callable[[], None] = lambda: None) -> Result:
        """Compare both on all *examples*.

        Args:
            advance: called after each.

        Raises:
            InputError, LimitError, NotFoundError: an example cannot be read; says which.
            ModelError: a model does not run on an example.
        """
        compared = []
        for each in self._each(examples):
            compared.append(each)
            advance()
        return Result(tuple(compared), examples.labelled)

    def _each(self, examples: Examples) -> Iterator[Comparison]:
        count = len(examples)
        state = self._manifest.state
        if examples.in_sequence and state is not None:
            # Each of the two hands on its own.
            floats = device = state.zeros(self._manifest.inputs)
            for index in range(count):
                inputs = examples.inputs(index)
                answers = self._answers(floats | inputs, device | inputs)
                floats, device = map(state.after, answers)
                yield self._compared(examples, index, *answers)
            return
        # The first settles which output has the classes; the others run on all processors.
        yield self._of(examples, 0)
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        try:
            yield from pool.map(partial(self._of, examples), range(1, count))
        finally:
            pool.shutdown(cancel_futures=True)

    def _of(self, examples: Examples, index: int) -> Comparison:
        inputs = examples.inputs(index)
        return self._compared(examples, index, *self._answers(inputs, inputs))

    def _answers(self, floats: Arrays, device: Arrays) -> tuple[Arrays, Arrays]:
        """What both models make of their inputs."""
        return self._float_outputs(floats), self._device_outputs(device)

    def _compared(
        self, examples: Examples, index: int, floats: Arrays, device: Arrays
    ) -> Comparison:
        entry = examples.entries[index]
        return Comparison(
            entry.name,
            entry.label,
            {name: compare_values(floats[name], device[name]) for name in floats},
            self._classes(floats, device, examples.labelled),
            self._boxes(floats, device),
            () if self._manifest.state is None else self._manifest.state.outputs.values(),
        )

    def _float_outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        names = [tensor.name for tensor in self._manifest.outputs]
        try:
            return dict(zip(names, self._floats.run(names, dict(inputs)), strict=True))
        except Exception as error:  # As above.
            raise _not_run(self._manifest, error) from error

    def _device_outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        try:
            return self._pipeline.run(inputs, self._device)
        except Exception as error:  # As above.
            raise _not_run(self._manifest, error) from error

    def _boxes(self, floats: Arrays, device: Arrays) -> Boxes | None:
        epilogue = self._manifest.epilogue
        if epilogue is None:
            return None
        try:
            (first,), (second,) = (detection.decode(each, epilogue) for each in (floats, device))
        except RequestError as error:  # not a request's fault here
            raise ModelError(f"cannot evaluate {self._manifest}: {error}") from error
        return Boxes.of(first, second)

    def _classes(
        self, floats: Arrays, device: Arrays, labelled: bool
    ) -> tuple[Classes, Classes] | None:
        if self._manifest.epilogue is not None:
            return None
        if self._output is None:
            self._output = _of_classes(floats, self._labels, labelled)
        if not self._output:
            return None
        return Classes.of(floats[self._output]), Classes.of(device[self._output])


def _of_classes(outputs: Arrays, labels: int, labelled: bool) -> str:
    """The output with a value for each class, or nothing."""
    for name, values in outputs.items():
        if values.dtype.kind == "f" and 1 < values.size == max(values.shape):
            flat = values.astype(np.float64).reshape(-1)
            probable = bool((flat >= 0).all()) and abs(flat.sum() - 1) < _SUM_OF_ALL
            if labelled or probable or values.size == labels:
                return name
    return ""


def _named(output: str | None, manifest: Manifest) -> str | None:
    if output is None:
        return None
    for tensor in manifest.outputs:
        if output in (tensor.name, tensor.alias):
            return tensor.name
    there = ", ".join(repr(tensor.name) for tensor in manifest.outputs)
    raise InputError(f"cannot evaluate {manifest}: it has no output {output!r}, but {there}")


def _not_run(manifest: Manifest, error: Exception) -> ModelError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(f"cannot evaluate {manifest}: ONNX Runtime did not run it: {first[:500]}")
