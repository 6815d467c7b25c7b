"""Everything that is asked of a model: the methods that clients call, and its self-test."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from edged import wire
from edged.bundle import Judge
from edged.container._messages import NO_EXTRAS
from edged.container.worker._device import Device
from edged.container.worker._inference import OpenInference
from edged.container.worker._inference_rest import OpenInferenceRest
from edged.container.worker._model import Arrays, Model
from edged.container.worker._order import Order
from edged.container.worker._recall import Recall
from edged.container.worker._regions import Regions
from edged.container.worker._runner import Runner
from edged.container.worker._sequences import Sequences
from edged.container.worker._signature import Signature
from edged.container.worker._stages import Stages
from edged.container.worker._statistics import Statistics
from edged.container.worker._tensorflow import TensorFlowServing
from edged.container.worker._tensorflow_rest import TensorFlowRest
from edged.errors import DeviceError, NotFoundError
from edged.wire import inference, rest

__all__ = ["ModelService"]

_log = logging.getLogger(__name__)

_OF_SEQUENCES: Final = (inference.MODEL_INFER, rest.MODEL_INFER)

_Method = Callable[[bytes, float, Mapping[str, str]], bytes]


class ModelService:
    """Answers calls with *model* on *device*; for many threads.

    Args:
        stages: is told what takes how long.
        recall: knows which calls are wanted back.
        regions: the shared memory of clients.
        order: in which calls came.
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        stages: Stages,
        recall: Recall,
        regions: Regions | None = None,
        order: Order | None = None,
    ) -> None:
        self._model = model
        self._order = order = order or Order()
        self._runner = Runner(model, device, stages, recall)
        self._signature = Signature(model.manifest, takes_nan=model.takes_nan)
        statistics = Statistics()
        parts = (model, self._signature, self._runner, statistics)
        self._sequences = Sequences(model.manifest, order)
        tensorflow, tensorflow_rest = TensorFlowServing(*parts), TensorFlowRest(*parts)
        oip = OpenInference(*parts, regions or Regions(), self._sequences)
        oip_rest = OpenInferenceRest(model, statistics, oip)
        self._methods: dict[str, _Method] = {
            wire.PREDICT: tensorflow.predict,
            wire.CLASSIFY: tensorflow.classify,
            wire.REGRESS: tensorflow.regress,
            wire.GET_MODEL_METADATA: tensorflow.metadata,
            inference.MODEL_METADATA: oip.metadata,
            inference.MODEL_CONFIG: oip.config,
            inference.MODEL_INFER: oip.infer,
            inference.MODEL_STATISTICS: oip.statistics,
            rest.PREDICT: tensorflow_rest.predict,
            rest.CLASSIFY: tensorflow_rest.classify,
            rest.REGRESS: tensorflow_rest.regress,
            rest.GET_MODEL_METADATA: tensorflow_rest.metadata,
            rest.MODEL_CONFIG: oip_rest.config,
            rest.MODEL_INFER: oip_rest.infer,
            rest.MODEL_METADATA: oip_rest.metadata,
            rest.MODEL_STATISTICS: oip_rest.statistics,
        }

    def answer(
        self, method: str, request: bytes, deadline: float, extras: Mapping[str, str] = NO_EXTRAS
    ) -> bytes:
        """The bytes of the response.

        Args:
            deadline: by time.monotonic(), when nobody waits for it any more.
            extras: what the method wants beside the request.

        Raises:
            EdgedError: why there is none.
        """
        if method not in self._methods:
            raise NotFoundError(f"cannot answer {method}: there are {', '.join(self._methods)}")
        if method not in _OF_SEQUENCES:
            self._order.passed()
        return self._methods[method](request, deadline, extras)

    def forget(self) -> None:
        """Drop the states of all sequences."""
        self._sequences.forget()

    def warm_up(self) -> None:
        """Run a sample of zeros without a device, so that the first call finds memory and caches.

        An error says nothing of calls: zeros may be no sample that this model takes.
        """
        try:
            pipeline = self._model.pipeline
            pipeline.run(self._signature.zeros(), pipeline.blank)
        except Exception as error:
            _log.info("cannot warm up: %s", error)

    def self_test(self, seconds: float) -> None:
        """Run the bundle's vectors, or a sample of zeros where it has none.

        Args:
            seconds: once they have passed, no further vector is begun; one is run in any case.

        Raises:
            DeviceError: an output is off by more than its tolerance, or not a number, or too many
                elements of a discrete one differ.
        """
        test = self._model.manifest.self_test
        vectors = self._model.vectors
        if test is None:
            self._runner.run(self._signature.zeros())
            return
        judges = {
            tensor.name: Judge(tensor.name, vectors[f"out:{tensor.name}"], tolerance)
            for tensor, tolerance in zip(self._model.manifest.outputs, test.tolerances, strict=True)
            if f"out:{tensor.name}" in vectors
        }
        begun = time.monotonic()
        for sample in range(test.samples):
            if sample and time.monotonic() - begun > seconds:
                break
            inputs = {
                tensor.name: vectors[f"in:{tensor.name}"][sample : sample + 1]
                for tensor in self._model.manifest.inputs
            }
            outputs = self._runner.run(inputs)
            with self._explaining(inputs):
                for name, judge in judges.items():
                    judge.add(sample, outputs[name])
        with self._explaining(inputs):
            for judge in judges.values():
                judge.finish()

    @contextlib.contextmanager
    def _explaining(self, inputs: Arrays) -> Iterator[None]:
        """Add to what is found to be wrong whether it is the device's doing."""
        try:
            yield
        except DeviceError as error:
            raise DeviceError(f"{error}{self._runner.diagnosis(inputs)}") from error
