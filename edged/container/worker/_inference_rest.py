"""The Open Inference Protocol's REST about the loaded model: bodies of HTTP in, frames out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import MessageToDict
from msgspec import Meta, Struct

from edged.container.worker._classes import ranked
from edged.container.worker._datatypes import (
    BYTES,
    datatype_of,
    dtype_of,
    from_bytes,
    shape_of,
    to_bytes,
)
from edged.container.worker._inference import Asked, OpenInference
from edged.container.worker._json import body_of, given_of, strings_of, to_json
from edged.container.worker._model import Arrays, Model
from edged.container.worker._sequences import step_of
from edged.container.worker._signature import STRING, Given
from edged.container.worker._statistics import OUTPUT, Statistics
from edged.errors import RequestError
from edged.wire import rest

__all__ = ["OpenInferenceRest"]

_BINARY: Final = "binary_data"
_ALL_BINARY: Final = "binary_data_output"
_SIZE: Final = "binary_data_size"
_CLASSES: Final = "classification"

_Count = Annotated[int, Meta(ge=0)]
_Parameters = dict[str, Any]


class _Input(Struct, frozen=True):
    name: str
    shape: list[_Count]
    datatype: str
    data: Any = None
    parameters: _Parameters = {}


class _Output(Struct, frozen=True):
    name: str
    parameters: _Parameters = {}


class _Request(Struct, frozen=True):
    inputs: list[_Input]
    outputs: list[_Output] = []
    id: str = ""
    parameters: _Parameters = {}


class OpenInferenceRest:
    """``/infer``, ``/stats`` and the metadata of one model.

    Args:
        grpc: the same over gRPC, which computes, and whose answers to what has no tensors are put
            into JSON.
    """

    def __init__(self, model: Model, statistics: Statistics, grpc: OpenInference) -> None:
        self._model = model
        self._statistics = statistics
        self._grpc = grpc

    def infer(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """Tensors as JSON or as bytes behind it, each way for itself and for each output."""
        with self._statistics.counting() as counting:
            self._check(extras)
            body, tensors = body_of(data, extras)
            try:
                request = msgspec.convert(_without_nulls(body), _Request)
            except msgspec.ValidationError as error:
                raise RequestError(f"cannot read the request: {error}") from error
            asked = Asked(
                [output.name for output in request.outputs],
                [tensor.name for tensor in request.inputs],
                step_of(request.parameters),
            )
            given = _given(request, tensors)
            with self._grpc.results(asked, given, deadline, counting) as results:
                answer = self._response(request, results)
            counting.watch.lap(OUTPUT)
        return answer

    def metadata(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """The model's tensors."""
        self._check(extras)
        described = MessageToDict(self._grpc.described(), preserving_proto_field_name=True)
        return rest.frame(to_json(_with_numbers(described)))

    def config(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """The model's tensors in Triton's words."""
        self._check(extras)
        configured = MessageToDict(self._grpc.configured(), preserving_proto_field_name=True)
        return rest.frame(to_json(_with_numbers(configured)))

    def statistics(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """What was asked of the model since it was loaded."""
        self._check(extras)
        return rest.frame(
            to_json(
                _with_numbers(
                    MessageToDict(
                        self._grpc.counted(),
                        preserving_proto_field_name=True,
                        always_print_fields_with_no_presence=True,
                    )
                )
            )
        )

    def _check(self, extras: Mapping[str, str]) -> None:
        self._grpc.check(extras.get(rest.MODEL, ""), extras.get(rest.VERSION, ""))

    def _response(self, request: _Request, results: Arrays) -> bytes:
        outputs, binary = [], []
        asked = {output.name: output.parameters for output in request.outputs}
        for key, value in results.items():
            parameters = asked.get(key, {})
            if _CLASSES in parameters:
                value = ranked(value, _classes(key, parameters), self._model.labels)
            datatype = BYTES if value.dtype == np.object_ else datatype_of(value.dtype.name)
            output: dict[str, Any] = {
                "name": key,
                "datatype": datatype,
                "shape": list(value.shape),
            }
            if parameters.get(_BINARY, request.parameters.get(_ALL_BINARY, False)):
                binary.append(to_bytes(value))
                output["parameters"] = {_SIZE: len(binary[-1])}
            else:
                output["data"] = _listed(value)
            outputs.append(output)
        manifest = self._model.manifest
        response: dict[str, Any] = {
            "model_name": manifest.name,
            "model_version": str(manifest.serial),
            "outputs": outputs,
        }
        if request.id:
            response["id"] = request.id
        if echoed := {k: v for k, v in request.parameters.items() if k != _ALL_BINARY}:
            response["parameters"] = echoed
        return rest.frame(to_json(response, results), binary)


def _without_nulls(body: Any) -> Any:
    """Members that are null, which many clients write for what they do not say, left out."""
    if not isinstance(body, dict):
        return body
    kept = {key: value for key, value in body.items() if value is not None}
    for key in ("inputs", "outputs"):
        if isinstance(kept.get(key), list):
            kept[key] = [
                {k: v for k, v in each.items() if v is not None} if isinstance(each, dict) else each
                for each in kept[key]
            ]
    return kept


def _given(request: _Request, tensors: memoryview) -> list[tuple[str, Given]]:
    given = []
    at = 0
    for tensor in request.inputs:
        what = f"cannot read input {tensor.name!r}"
        shape = shape_of(tensor.shape, what)
        if _SIZE in tensor.parameters:
            size = tensor.parameters[_SIZE]
            if not isinstance(size, int) or not 0 <= size <= len(tensors) - at:
                raise RequestError(
                    f"{what}: {_SIZE} is {str(size)[:40]}, after the JSON there are"
                    f" {len(tensors) - at} bytes more"
                )
            piece = tensors[at : at + size]
            at += size
            read = partial(from_bytes, piece, tensor.datatype, shape, what)
            given.append((tensor.name, Given(dtype_of(tensor.datatype), shape, read)))
        else:
            given.append((tensor.name, _from_json(tensor, shape, what)))
    if at != len(tensors):
        raise RequestError(
            f"cannot read the request: {len(tensors) - at} bytes follow that belong to no input"
        )
    return given


def _from_json(tensor: _Input, shape: tuple[int, ...], what: str) -> Given:
    """Its data, flat or nested."""
    dtype = dtype_of(tensor.datatype)
    data = tensor.data if isinstance(tensor.data, list) else [tensor.data]
    if dtype == STRING:
        strings = strings_of(data)
        if strings is None:
            raise RequestError(f"{what}: data is no list of texts")
        return _of_shape(Given(STRING, strings[0], lambda: strings[1]), shape, what)
    try:
        datatype_of(dtype)
    except KeyError as error:
        raise RequestError(f"{what}: there is no datatype {tensor.datatype[:40]!r}") from error
    given = given_of(data, dtype, what)
    if given.dtype == STRING:
        raise RequestError(f"{what}: data is text, {tensor.datatype} wants numbers")
    return _of_shape(given, shape, what)


def _of_shape(given: Given, shape: tuple[int, ...], what: str) -> Given:
    if np.prod(given.shape, dtype=object) != np.prod(shape, dtype=object):
        raise RequestError(f"{what}: its data is {given}, its shape {list(shape)}")

    def read() -> npt.NDArray[Any] | list[bytes]:
        value = given.read()
        return value if isinstance(value, list) else value.reshape(shape)

    return Given(given.dtype, shape, read)


def _classes(key: str, parameters: Mapping[str, Any]) -> int:
    count = parameters[_CLASSES]
    if not isinstance(count, int) or count < 1:
        raise RequestError(f"cannot answer: {_CLASSES} of output {key!r} is no number above 0")
    return count


def _listed(value: npt.NDArray[Any]) -> list[Any]:
    flat = value.reshape(-1).tolist()
    return [each.decode(errors="replace") for each in flat] if value.dtype == np.object_ else flat


def _with_numbers(value: Any) -> Any:
    """What protobuf writes as text because it may have 64 bits, as numbers."""
    if isinstance(value, dict):
        return {
            key: each if key in ("name", "version", "versions") else _with_numbers(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_with_numbers(each) for each in value]
    if isinstance(value, str) and value.removeprefix("-").isdigit():
        return int(value)
    return value
