"""The Open Inference Protocol's calls about the loaded model, from bytes to bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.bundle import TensorDecl
from edged.container.worker._classes import ranked
from edged.container.worker._datatypes import (
    BYTES,
    check_size,
    datatype_of,
    dtype_of,
    from_bytes,
    shape_of,
    to_bytes,
)
from edged.container.worker._model import Arrays, Model
from edged.container.worker._parse import parse
from edged.container.worker._regions import Regions
from edged.container.worker._requested import check_model, check_version
from edged.container.worker._runner import Runner
from edged.container.worker._sequences import SEQUENCE_KEYS, Sequences, Step, step_of
from edged.container.worker._signature import MAX_BATCH, Given, Signature
from edged.container.worker._statistics import INFER, INPUT, OUTPUT, Counting, Statistics
from edged.errors import RequestError
from edged.wire import inference

__all__ = ["PLATFORM", "Asked", "OpenInference"]

PLATFORM: Final = "edged_onnx"
"""What runs the models, in the protocol's form PROJECT_FORMAT."""

_REGION: Final = "shared_memory_region"
_OFFSET: Final = "shared_memory_offset"
_SIZE: Final = "shared_memory_byte_size"
_CLASSES: Final = "classification"
"""Triton's parameter of an output: so many labels instead of the values."""

_CONTENTS: Final = {
    "BOOL": ("bool_contents", np.dtype("?")),
    "INT8": ("int_contents", np.dtype("<i4")),
    "INT16": ("int_contents", np.dtype("<i4")),
    "INT32": ("int_contents", np.dtype("<i4")),
    "INT64": ("int64_contents", np.dtype("<i8")),
    "UINT8": ("uint_contents", np.dtype("<u4")),
    "UINT16": ("uint_contents", np.dtype("<u4")),
    "UINT32": ("uint_contents", np.dtype("<u4")),
    "UINT64": ("uint64_contents", np.dtype("<u8")),
    "FP32": ("fp32_contents", np.dtype("<f4")),
    "FP64": ("fp64_contents", np.dtype("<f8")),
}

_Request = inference.ModelInferRequest
_Response = inference.ModelInferResponse


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says beside its tensors.

    Attributes:
        outputs: that it names.
        inputs: the names by which they came.
        step: of which sequence it is.
    """

    outputs: Sequence[str]
    inputs: Sequence[str]
    step: Step | None


class OpenInference:
    """ModelInfer and what belongs to it, for one model."""

    def __init__(
        self,
        model: Model,
        signature: Signature,
        runner: Runner,
        statistics: Statistics,
        regions: Regions,
        sequences: Sequences,
    ) -> None:
        self._model = model
        self._signature = signature
        self._runner = runner
        self._statistics = statistics
        self._regions = regions
        self._sequences = sequences

    def infer(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """A ModelInferRequest answered in the way it was asked: raw contents for raw contents."""
        with self._statistics.counting() as counting:
            request = parse(_Request, data)
            self.check(request.model_name, request.model_version)
            local = inference.SHARED_MEMORY in extras
            asked = Asked(
                [output.name for output in request.outputs],
                [tensor.name for tensor in request.inputs],
                _step(request.parameters),
            )
            given = self._given(request, local)
            with self.results(asked, given, deadline, counting) as results:
                response = self._response(request, results, local).SerializeToString()
            counting.watch.lap(OUTPUT)
        return response

    @contextmanager
    def results(
        self,
        asked: Asked,
        given: Iterable[tuple[str, Given]],
        deadline: float,
        counting: Counting,
    ) -> Iterator[Arrays]:
        """The outputs of a request by their keys, for the time in which they are written.

        Of a request that belongs to a sequence the state goes on once that is done.
        """
        step = asked.step if self._sequences.outputs else None
        spared = self._sequences.outputs if step else {}
        wanted = self._signature.wanted(asked.outputs, asked.inputs, spared.values())
        samples = self._signature.samples(given, spared)
        counting.samples = len(samples)
        counting.watch.lap(INPUT)
        with self._sequences.step(step, deadline) as state:
            results = self._runner.batch(samples, wanted, deadline, state)
            counting.watch.lap(INFER)
            yield results

    def metadata(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """The model's tensors. The first dimension is the batch.

        An input that takes images is here with the tensor's type, and takes BYTES as well. A state
        that is kept for sequences is not among the inputs.
        """
        request = parse(inference.ModelMetadataRequest, data)
        self.check(request.name, request.version)
        return self.described().SerializeToString()

    def described(self) -> inference.ModelMetadataResponse:
        """See :meth:`metadata`."""
        manifest = self._model.manifest
        return inference.ModelMetadataResponse(
            name=manifest.name,
            versions=[str(manifest.serial)],
            platform=PLATFORM,
            inputs=[_described(tensor) for tensor in manifest.fed],
            outputs=[_described(tensor) for tensor in self._signature.answerable],
        )

    def config(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """The same in Triton's words: without the batch, which has a bound.

        What the compiler remarks is among the parameters, by its code, and so are the labels: the
        protocol's own metadata have no place for them.
        """
        request = parse(inference.ModelConfigRequest, data)
        self.check(request.name, request.version)
        return inference.ModelConfigResponse(config=self.configured()).SerializeToString()

    def configured(self) -> inference.ModelConfig:
        """See :meth:`config`."""
        manifest = self._model.manifest
        config = inference.ModelConfig(
            name=manifest.name, platform=PLATFORM, max_batch_size=MAX_BATCH
        )
        for listed, tensors in (
            (config.input, manifest.fed),
            (config.output, self._signature.answerable),
        ):
            for tensor in tensors:
                described = _described(tensor)
                listed.add(name=described.name, data_type=_kind(tensor), dims=described.shape[1:])
        if (state := manifest.state) is not None:
            kept = config.sequence_batching
            kept.direct.SetInParent()
            kept.max_sequence_idle_microseconds = round(state.idle_seconds * 1e6)
            for tensor in manifest.inputs:
                if tensor.name in state.outputs:
                    kept.state.add(
                        input_name=tensor.name,
                        output_name=state.outputs[tensor.name],
                        data_type=_kind(tensor),
                        dims=_described(tensor).shape[1:],
                    )
        for code in dict.fromkeys(remark.code for remark in self._model.remarks):
            said = (remark.text for remark in self._model.remarks if remark.code == code)
            config.parameters[code].string_value = "; ".join(said)
        if self._model.labels:
            text = "\n".join(self._model.labels)
            config.parameters[inference.LABELS_PARAMETER].string_value = text
        return config

    def statistics(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """What was asked of the model since it was loaded, by whichever protocol."""
        request = parse(inference.ModelStatisticsRequest, data)
        self.check(request.name, request.version)
        return self.counted().SerializeToString()

    def counted(self) -> inference.ModelStatisticsResponse:
        """See :meth:`statistics`."""
        manifest = self._model.manifest
        stats = inference.ModelStatistics(name=manifest.name, version=str(manifest.serial))
        _count(self._statistics, stats)
        return inference.ModelStatisticsResponse(model_stats=[stats])

    def check(self, name: str, version: str) -> None:
        """Whether it is the loaded model that is meant; an empty string means it is.

        Raises:
            NotFoundError: it is another.
        """
        check_model(self._model.manifest, name)
        check_version(self._model.manifest, version)

    def _given(self, request: _Request, local: bool) -> Iterator[tuple[str, Given]]:
        """Each input from where it is: contents, raw contents, or shared memory."""
        here = [tensor for tensor in request.inputs if _REGION not in tensor.parameters]
        raw = iter(request.raw_input_contents)
        if request.raw_input_contents and len(request.raw_input_contents) != len(here):
            raise RequestError(
                f"cannot read the request: raw_input_contents has"
                f" {len(request.raw_input_contents)} tensors for {len(here)} inputs"
            )
        for tensor in request.inputs:
            what = f"cannot read input {tensor.name!r}"
            shape = shape_of(tensor.shape, what)
            if place := _place(tensor.parameters, local, what):
                check_size(place.size, tensor.datatype, shape, what)
                read = partial(self._from_region, place, tensor.datatype, shape, what)
            elif not request.raw_input_contents:
                read = partial(_from_contents, tensor, shape, what)
            elif tensor.HasField("contents"):
                raise RequestError(f"{what}: it has contents, and raw_input_contents as well")
            else:
                read = partial(from_bytes, next(raw), tensor.datatype, shape, what)
            yield tensor.name, Given(dtype_of(tensor.datatype), shape, read)

    def _from_region(
        self, place: _Place, datatype: str, shape: tuple[int, ...], what: str
    ) -> npt.NDArray[Any] | list[bytes]:
        data = self._regions.read(place.region, place.offset, place.size)
        return from_bytes(data, datatype, shape, what)

    def _to_region(self, place: _Place, data: bytes, what: str) -> None:
        if len(data) > place.size:
            raise RequestError(
                f"{what}: it has {len(data)} bytes, its place in {place.region!r} has {place.size}"
            )
        self._regions.write(place.region, place.offset, data)

    def _response(self, request: _Request, results: Arrays, local: bool) -> _Response:
        manifest = self._model.manifest
        response = _Response(
            model_name=manifest.name, model_version=str(manifest.serial), id=request.id
        )
        for name, parameter in request.parameters.items():
            response.parameters[name].CopyFrom(parameter)
        typed = any(tensor.HasField("contents") for tensor in request.inputs)
        classes = {output.name: _classes(output) for output in request.outputs}
        places = {
            output.name: place
            for output in request.outputs
            if (place := _place(output.parameters, local, f"cannot give output {output.name!r}"))
        }
        for key, value in results.items():
            if count := classes.get(key):
                value = ranked(value, count, self._model.labels)
            output = response.outputs.add(
                name=key, datatype=_datatype(value.dtype), shape=value.shape
            )
            if place := places.get(key):
                data = to_bytes(value)
                self._to_region(place, data, f"cannot give output {key!r}")
                output.parameters[_REGION].string_param = place.region
                output.parameters[_SIZE].int64_param = len(data)
                if place.offset:
                    output.parameters[_OFFSET].int64_param = place.offset
                if not typed:
                    response.raw_output_contents.append(b"")  # clients count them
            elif typed and output.datatype in _CONTENTS:
                field, listed = _CONTENTS[output.datatype]
                getattr(output.contents, field).extend(value.reshape(-1).astype(listed).tolist())
            elif typed and output.datatype == BYTES:
                output.contents.bytes_contents.extend(value.reshape(-1).tolist())
            else:
                response.raw_output_contents.append(to_bytes(value))
        return response


def _count(found: Statistics, stats: inference.ModelStatistics) -> None:
    """Put *found* into the protocol's message."""
    stats.last_inference = int(found.last * 1000)
    stats.inference_count = stats.execution_count = found.samples
    sums = stats.inference_stats
    sums.success.count, sums.success.ns = found.succeeded, _ns(found.seconds)
    sums.fail.count, sums.fail.ns = found.failed, _ns(found.seconds_failed)
    # Calls wait at the gate, outside of the container; what they wait is in edged's metrics.
    sums.queue.count = found.succeeded
    for step, duration in (
        (INPUT, sums.compute_input),
        (INFER, sums.compute_infer),
        (OUTPUT, sums.compute_output),
    ):
        duration.count, duration.ns = found.succeeded, _ns(found.steps[step])


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in shared memory a tensor is, in bytes."""

    region: str
    offset: int
    size: int


def _place(
    parameters: Mapping[str, inference.InferParameter], local: bool, what: str
) -> _Place | None:
    """What the parameters say; None where the tensor is in the message."""
    if _REGION not in parameters:
        return None
    if not local:
        raise RequestError(
            f"{what}: shared memory is for clients on this machine, and serving.shared_memory has"
            " to be on"
        )
    return _Place(
        parameters[_REGION].string_param,
        _number(parameters, _OFFSET),
        _number(parameters, _SIZE),
    )


def _number(parameters: Mapping[str, inference.InferParameter], key: str) -> int:
    if key not in parameters:
        return 0
    return int(parameters[key].int64_param or parameters[key].uint64_param)


def _step(parameters: Mapping[str, inference.InferParameter]) -> Step | None:
    """The sequence that the parameters name; 0 and "" name none."""
    return step_of({key: _value(parameters[key]) for key in SEQUENCE_KEYS if key in parameters})


def _value(parameter: inference.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _from_contents(
    tensor: _Request.InferInputTensor, shape: tuple[int, ...], what: str
) -> npt.NDArray[Any] | list[bytes]:
    count = math.prod(shape)
    if tensor.datatype == BYTES:
        strings = list(tensor.contents.bytes_contents)
        _check_count(len(strings), count, "bytes_contents", shape, what)
        return strings
    if tensor.datatype not in _CONTENTS:
        raise RequestError(
            f"{what}: {tensor.datatype[:40]!r} has no typed contents; send raw_input_contents, or"
            f" one of {', '.join(_CONTENTS)}, {BYTES}"
        )
    field, listed = _CONTENTS[tensor.datatype]
    values = getattr(tensor.contents, field)
    _check_count(len(values), count, field, shape, what)
    wide = np.array(values, listed)
    narrow = wide.astype(dtype_of(tensor.datatype))
    if (wrong := np.flatnonzero(narrow != wide)).size and listed.kind in "iu":
        raise RequestError(
            f"{what}: {field}[{wrong[0]}] is {wide[wrong[0]]}, which {tensor.datatype} cannot hold"
        )
    return narrow.reshape(shape)


def _check_count(found: int, wanted: int, field: str, shape: tuple[int, ...], what: str) -> None:
    if found != wanted:
        raise RequestError(
            f"{what}: {field} has {found} values, its shape {list(shape)} wants {wanted}"
        )


def _classes(output: _Request.InferRequestedOutputTensor) -> int:
    """How many classes are asked for; 0 for the values themselves."""
    if _CLASSES not in output.parameters:
        return 0
    parameter = output.parameters[_CLASSES]
    count = parameter.int64_param or parameter.uint64_param
    if count < 1:
        raise RequestError(
            f"cannot answer: {_CLASSES} of output {output.name!r} is no number above 0"
        )
    return int(count)


def _datatype(dtype: np.dtype[Any]) -> str:
    return BYTES if dtype == np.object_ else datatype_of(dtype.name)


def _kind(tensor: TensorDecl) -> Any:
    return inference.DataType.Value(f"TYPE_{datatype_of(str(tensor.dtype))}")


def _described(tensor: TensorDecl) -> inference.ModelMetadataResponse.TensorMetadata:
    return inference.ModelMetadataResponse.TensorMetadata(
        name=tensor.alias or tensor.name,
        datatype=datatype_of(str(tensor.dtype)),
        shape=[-1, *(-1 if size is None else size for size in tensor.shape[1:])],
    )
