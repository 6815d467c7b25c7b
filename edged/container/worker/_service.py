"""The methods that clients call, from bytes to bytes."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from edged import detection, wire
from edged.container.worker._device import Device
from edged.container.worker._model import Arrays, Model
from edged.container.worker._shortage import is_short_of_memory
from edged.container.worker._signature import SIGNATURE_NAME, Signature
from edged.errors import DeadlineError, DeviceError, NotFoundError, RequestError

__all__ = ["ModelService"]

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
_METADATA_FIELD: Final = "signature_def"


class ModelService:
    """Answers calls with *model* on *device*; for many threads."""

    def __init__(self, model: Model, device: Device) -> None:
        self._model = model
        self._device = device
        self._signature = Signature(model.manifest)
        self._methods = {
            wire.PREDICT: self._predict,
            wire.GET_MODEL_METADATA: self._metadata,
            wire.GET_MODEL_STATUS: self._status,
        }

    def answer(self, method: str, request: bytes, deadline: float) -> bytes:
        """The bytes of the response.

        Args:
            deadline: by time.monotonic(), when nobody waits for it any more.

        Raises:
            EdgedError: why there is none.
        """
        if method not in self._methods:
            raise NotFoundError(f"cannot answer {method}: there are {', '.join(self._methods)}")
        return self._methods[method](request, deadline).SerializeToString()

    def warm_up(self) -> None:
        """Run a sample of zeros without a device, so that the first call finds memory and caches.

        An error says nothing of calls: zeros may be no sample that this model takes.
        """
        try:
            self._model.run(self._signature.zeros(), self._model.blank)
        except Exception as error:
            _log.info("cannot warm up: %s", error)

    def self_test(self, seconds: float) -> None:
        """Run the bundle's vectors, or a sample of zeros where it has none.

        Args:
            seconds: once they have passed, no further vector is begun; one is run in any case.

        Raises:
            DeviceError: an output is off by more than its tolerance, or not a number.
        """
        test = self._model.manifest.self_test
        vectors = self._model.vectors
        if test is None:
            self._run(self._signature.zeros())
            return
        begun = time.monotonic()
        for sample in range(test.samples):
            if sample and time.monotonic() - begun > seconds:
                return
            inputs = {
                tensor.name: vectors[f"in:{tensor.name}"][sample : sample + 1]
                for tensor in self._model.manifest.inputs
            }
            outputs = self._run(inputs)
            for tensor, tolerance in zip(
                self._model.manifest.outputs, test.tolerances, strict=True
            ):
                expected = vectors[f"out:{tensor.name}"][sample : sample + 1]
                _compare(tensor.name, sample, outputs[tensor.name], expected, tolerance)

    def _run(self, inputs: Arrays) -> Arrays:
        return self._model.run(inputs, self._device.run)

    def _answer(self, sample: Arrays, wanted: Collection[str]) -> Arrays:
        """The outputs in *wanted* for a sample, be they the model's or its epilogue's."""
        outputs = self._run(sample)
        epilogue = self._model.manifest.epilogue
        if epilogue is not None and not outputs.keys() >= set(wanted):
            try:
                found = detection.decode(outputs, epilogue)
            except RequestError as error:  # not the request's fault: the manifest has been checked
                raise DeviceError(f"cannot trust the answer of the model: {error}") from error
            outputs |= detection.to_tensors(found, epilogue.top)
        # Nothing else is kept: the raw outputs of a detector are 840 KB a sample.
        return {name: outputs[name] for name in wanted}

    def _predict(self, data: bytes, deadline: float) -> wire.PredictResponse:
        request = _parse(wire.PredictRequest, data)
        self._check_spec(request.model_spec)
        wanted = self._signature.outputs(request)
        batch = self._signature.inputs(request)
        results: list[Arrays] = []
        for sample in batch:
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"cannot answer: the caller's time was over after {len(results)} of"
                    f" {len(batch)} samples"
                )
            results.append(self._answer(sample, wanted.values()))
        response = wire.PredictResponse(model_spec=self._spec())
        for key, name in wanted.items():
            parts = [result[name] for result in results]
            value = parts[0] if len(parts) == 1 else np.concatenate(parts)
            response.outputs[key].MergeFrom(wire.from_array(value))
        return response

    def _metadata(self, data: bytes, deadline: float) -> wire.GetModelMetadataResponse:
        request = _parse(wire.GetModelMetadataRequest, data)
        self._check_spec(request.model_spec)
        unknown = [field for field in request.metadata_field if field != _METADATA_FIELD]
        if unknown:
            raise RequestError(
                f"cannot answer: there is no metadata {unknown[0]!r}, only {_METADATA_FIELD!r}"
            )
        signatures = wire.SignatureDefMap()
        signatures.signature_def[SIGNATURE_NAME].CopyFrom(self._signature.definition())
        response = wire.GetModelMetadataResponse(model_spec=self._spec())
        response.metadata[_METADATA_FIELD].Pack(signatures)
        return response

    def _status(self, data: bytes, deadline: float) -> wire.GetModelStatusResponse:
        self._check_spec(_parse(wire.GetModelStatusRequest, data).model_spec)
        states = wire.ModelVersionStatus.State
        response = wire.GetModelStatusResponse()
        response.model_version_status.add(
            version=self._model.manifest.serial,
            state=states.AVAILABLE if self._device.attached else states.LOADING,
            status=wire.StatusProto(),
        )
        return response

    def _spec(self) -> wire.ModelSpec:
        spec = wire.ModelSpec(name=self._model.manifest.name, signature_name=SIGNATURE_NAME)
        spec.version.value = self._model.manifest.serial
        return spec

    def _check_spec(self, spec: wire.ModelSpec) -> None:
        """Whether it is the loaded model that is meant; an empty field means it is."""
        manifest = self._model.manifest
        loaded = f"{manifest.name!r} {manifest.version} (serial {manifest.serial})"
        if spec.name and spec.name != manifest.name:
            raise NotFoundError(f"cannot answer: no model {spec.name!r} is loaded, but {loaded}")
        choice = spec.WhichOneof("version_choice")
        asked = str(spec.version.value if choice == "version" else spec.version_label)
        there = str(manifest.serial if choice == "version" else manifest.version)
        if choice is not None and asked != there:
            raise NotFoundError(
                f"cannot answer: version {asked!r} of {manifest.name!r} is not loaded, but {loaded}"
            )
        if spec.signature_name not in ("", SIGNATURE_NAME):
            raise NotFoundError(
                f"cannot answer: there is no signature {spec.signature_name!r}, only"
                f" {SIGNATURE_NAME!r}"
            )


def _parse(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        if is_short_of_memory(error):
            raise MemoryError from error
        raise RequestError(
            f"cannot read the request: its {len(data)} bytes are no {kind.DESCRIPTOR.full_name}"
        ) from error


def _compare(name: str, sample: int, found: Any, expected: Any, tolerance: float) -> None:
    where = f"cannot trust the device: in sample {sample} of the self-test, output {name!r}"
    if found.shape != expected.shape:
        raise DeviceError(f"{where} has shape {found.shape}, wanted {expected.shape}")
    off = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    # A NaN is never within the tolerance.
    if not (off <= tolerance).all():
        raise DeviceError(f"{where} is off by {off.max():.4g}, the tolerance is {tolerance:.4g}")
