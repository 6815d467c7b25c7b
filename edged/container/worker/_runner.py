"""From samples to outputs: the parts of host and device, one sample after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged import detection
from edged.container._messages import Stage
from edged.container.worker._device import Device
from edged.container.worker._model import Arrays, Model
from edged.container.worker._recall import Recall
from edged.container.worker._stages import Stages
from edged.errors import DeadlineError, DeviceError, RequestError
from edged.npu import numerics

__all__ = ["Runner"]

_MOST_MACS: Final = 4_000_000_000
"""Of a program that a failed self-test is explained of: the reference does about as many in 2 s."""


class Runner:
    """Runs *model* on *device*, and tells *stages* what takes how long; for many threads.

    Args:
        recall: says of a call, before each of its runs, that it is wanted back.
    """

    def __init__(self, model: Model, device: Device, stages: Stages, recall: Recall) -> None:
        self._model = model
        self._device = device
        self._stages = stages
        self._recall = recall

    def run(self, sample: Arrays, deadline: float = math.inf) -> Arrays:
        """The model's outputs for one sample, by their names.

        Args:
            deadline: by time.monotonic(): the device does not run once more after it.
        """
        outputs = self._model.pipeline.run(sample, partial(self._run_device, deadline))
        self._stages.lap(Stage.EPILOGUE)
        return outputs

    def _run_device(
        self, deadline: float, entry: int, inputs: Sequence[npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        if entry and time.monotonic() > deadline:
            raise DeadlineError(
                f"cannot answer: the caller's time was over after {entry} of"
                f" {len(self._model.image.entries)} runs of the device for a sample"
            )
        # Whatever was done before the first run, from the call's bytes on, made its inputs.
        self._stages.lap(Stage.EPILOGUE if entry else Stage.DECODE)
        outputs = self._device.run(entry, inputs, self._recall.check)
        self._stages.lap(Stage.DEVICE)
        return outputs

    def diagnosis(self, sample: Arrays) -> str:
        """What a failed self-test has to add: which entries the device computes wrongly.

        A device gives the integers of the reference, so that what differs from them is its doing,
        and what does not is the model's. Empty for a program that the reference takes long for.
        """
        image = self._model.image
        if image.macs() > _MOST_MACS:
            return ""
        differ: list[str] = []

        def run(entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            found = self._run_device(math.inf, entry, inputs)
            wanted = numerics.run(image, [each[0] for each in inputs], entry)
            pairs = list(zip(found, wanted, strict=True))
            if wrong := sum(int((a[0] != b).sum()) for a, b in pairs):
                differ.append(
                    f"entry {entry} in {wrong} of {sum(b.size for _, b in pairs)} elements"
                )
            return found

        self._model.pipeline.run(sample, run)
        if not differ:
            return "; the device computes the program as the integer reference does"
        return f"; from the integer reference differs {', '.join(differ)}"

    def batch(
        self,
        samples: Sequence[Arrays],
        wanted: Mapping[str, str],
        deadline: float,
        state: Arrays | None = None,
    ) -> Arrays:
        """The outputs for all samples, along the first dimension.

        Args:
            wanted: key → name of an output of the model, or of its epilogue.
            deadline: by time.monotonic(), when nobody waits for it any more.
            state: of a sequence, of which the samples are the next steps: inputs by name, which
                become what the model makes of them.

        Returns:
            each output by its key.

        Raises:
            DeadlineError: the time was over before the last sample.
            GivenBack: the call was wanted back before that.
            DeviceError, UnavailableError: what the device says.
        """
        results: list[Arrays] = []
        kept = None if state is None else self._model.manifest.state
        needed = {*wanted.values(), *(() if kept is None else kept.outputs.values())}
        for sample in samples:
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"cannot answer: the caller's time was over after {len(results)} of"
                    f" {len(samples)} samples"
                )
            outputs = self._outputs(sample if state is None else sample | state, needed, deadline)
            results.append(outputs)
            if state is not None and kept is not None:
                state.update(kept.after(outputs))
        return {
            key: results[0][name]
            if len(results) == 1
            else np.concatenate([result[name] for result in results])
            for key, name in wanted.items()
        }

    def _outputs(self, sample: Arrays, wanted: Collection[str], deadline: float) -> Arrays:
        """The outputs in *wanted* for a sample, be they the model's or its epilogue's."""
        outputs = self.run(sample, deadline)
        epilogue = self._model.manifest.epilogue
        if epilogue is not None and not outputs.keys() >= set(wanted):
            try:
                found = detection.decode(outputs, epilogue)
            except RequestError as error:  # not the request's fault: the manifest has been checked
                raise DeviceError(f"cannot trust the answer of the model: {error}") from error
            outputs |= detection.to_tensors(found, epilogue.top)
            self._stages.lap(Stage.EPILOGUE)
        # Nothing else is kept: the raw outputs of a detector are 840 KB a sample.
        return {name: outputs[name] for name in wanted}
