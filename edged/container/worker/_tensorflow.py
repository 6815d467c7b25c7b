"""TensorFlow Serving's calls about the loaded model, from bytes to bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy.typing as npt

from edged import wire
from edged.bundle import Manifest, TensorDecl
from edged.container.worker._examples import (
    Example,
    classes_of,
    given_examples,
    numbers_of,
    scalar,
    scores,
)
from edged.container.worker._model import Model
from edged.container.worker._parse import parse
from edged.container.worker._requested import check_model, check_serial, check_version
from edged.container.worker._runner import Runner
from edged.container.worker._signature import SIGNATURE_NAME, STRING, Given, Signature
from edged.container.worker._statistics import INFER, INPUT, OUTPUT, Statistics
from edged.errors import NotFoundError, RequestError

__all__ = ["TensorFlowServing", "check_signature", "signatures"]

_METADATA_FIELD: Final = "signature_def"
_METHOD_NAME: Final = "tensorflow/serving/predict"


class TensorFlowServing:
    """Predict and what belongs to it, for one model."""

    def __init__(
        self, model: Model, signature: Signature, runner: Runner, statistics: Statistics
    ) -> None:
        self._model = model
        self._signature = signature
        self._runner = runner
        self._statistics = statistics

    def predict(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """A PredictRequest answered by a PredictResponse."""
        with self._statistics.counting() as counting:
            request = parse(wire.PredictRequest, data)
            self._check(request.model_spec)
            wanted = self._signature.wanted(request.output_filter, request.inputs)
            samples = self._signature.samples(_given(request))
            counting.samples = len(samples)
            counting.watch.lap(INPUT)
            results = self._runner.batch(samples, wanted, deadline)
            counting.watch.lap(INFER)
            response = wire.PredictResponse(model_spec=_spec(self._model.manifest))
            for key, value in results.items():
                response.outputs[key].MergeFrom(wire.from_array(value))
            answer = response.SerializeToString()
            counting.watch.lap(OUTPUT)
        return answer

    def metadata(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """A GetModelMetadataRequest answered by the signature."""
        request = parse(wire.GetModelMetadataRequest, data)
        self._check(request.model_spec)
        unknown = [field for field in request.metadata_field if field != _METADATA_FIELD]
        if unknown:
            raise RequestError(
                f"cannot answer: there is no metadata {unknown[0]!r}, only {_METADATA_FIELD!r}"
            )
        response = wire.GetModelMetadataResponse(model_spec=_spec(self._model.manifest))
        response.metadata[_METADATA_FIELD].Pack(signatures(self._model.manifest, self._signature))
        return response.SerializeToString()

    def classify(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """A ClassificationRequest answered by all classes, the highest score first."""
        request = parse(wire.ClassificationRequest, data)
        labels = self._model.labels
        self._check(request.model_spec)
        output = scores(self._model.manifest, labels)
        response = wire.ClassificationResponse(model_spec=_spec(self._model.manifest))
        for row in classes_of(self._run(request.input, output, deadline), labels):
            classes = response.result.classifications.add().classes
            for each in row:
                classes.add(label=each.label, score=each.score)
        return response.SerializeToString()

    def regress(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """A RegressionRequest answered by a number for each example."""
        request = parse(wire.RegressionRequest, data)
        self._check(request.model_spec)
        output = scalar(self._model.manifest)
        response = wire.RegressionResponse(model_spec=_spec(self._model.manifest))
        for value in numbers_of(self._run(request.input, output, deadline)):
            response.result.regressions.add(value=value)
        return response.SerializeToString()

    def _run(self, given: wire.Input, output: TensorDecl, deadline: float) -> npt.NDArray[Any]:
        """That output, for the examples of a request."""
        with self._statistics.counting() as counting:
            samples = self._signature.samples(given_examples(_examples(given), self._signature))
            counting.samples = len(samples)
            counting.watch.lap(INPUT)
            results = self._runner.batch(samples, {output.name: output.name}, deadline)
            counting.watch.lap(INFER)
        return results[output.name]

    def _check(self, spec: wire.ModelSpec) -> None:
        """Whether it is the loaded model that is meant; an empty field means it is."""
        check_model(self._model.manifest, spec.name)
        match spec.WhichOneof("version_choice"):
            case "version":
                check_serial(self._model.manifest, spec.version.value)
            case "version_label":
                check_version(self._model.manifest, spec.version_label)
        check_signature(spec.signature_name)


def signatures(manifest: Manifest, signature: Signature) -> wire.SignatureDefMap:
    """What clients may send and get. The first dimension is the batch."""
    definition = wire.SignatureDef(method_name=_METHOD_NAME)
    for tensor in manifest.inputs:
        definition.inputs[tensor.alias or tensor.name].CopyFrom(_info(tensor))
    for tensor in signature.answerable:
        definition.outputs[tensor.alias or tensor.name].CopyFrom(_info(tensor))
    found = wire.SignatureDefMap()
    found.signature_def[SIGNATURE_NAME].CopyFrom(definition)
    return found


def check_signature(name: str) -> None:
    """There is one signature; an empty name means it.

    Raises:
        NotFoundError: there is none of that name.
    """
    if name not in ("", SIGNATURE_NAME):
        raise NotFoundError(
            f"cannot answer: there is no signature {name!r}, only {SIGNATURE_NAME!r}"
        )


def _spec(manifest: Manifest) -> wire.ModelSpec:
    spec = wire.ModelSpec(name=manifest.name, signature_name=SIGNATURE_NAME)
    spec.version.value = manifest.serial
    return spec


def _given(request: wire.PredictRequest) -> Iterator[tuple[str, Given]]:
    for key, tensor in request.inputs.items():
        strings = tensor.dtype == wire.DataType.DT_STRING
        yield (
            key,
            Given(
                STRING if strings else wire.dtype_of(tensor),
                wire.shape_of(tensor, name=key),
                partial(wire.to_array, tensor, name=key),
            ),
        )


def _examples(given: wire.Input) -> list[Example]:
    """Each with what the context adds to it."""
    match given.WhichOneof("kind"):
        case "example_list":
            return [_features(example) for example in given.example_list.examples]
        case "example_list_with_context":
            listed = given.example_list_with_context
            context = _features(listed.context)
            return [{**context, **_features(example)} for example in listed.examples]
    return []


def _features(example: wire.Example) -> Example:
    found: dict[str, Sequence[Any]] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = getattr(feature, kind).value if kind else ()
    return found


def _info(tensor: TensorDecl) -> wire.TensorInfo:
    info = wire.TensorInfo(name=tensor.name, dtype=wire.data_type_of(str(tensor.dtype)))
    for size in (-1, *(-1 if size is None else size for size in tensor.shape[1:])):
        info.tensor_shape.dim.add(size=size)
    return info
