"""Between the front and the model: what is asked of the server is answered here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from edged import __version__, wire
from edged.calls import Answer, Call
from edged.container import Region, Regions
from edged.errors import LimitError, RequestError, UnsupportedError
from edged.serving._models import Models, ModelVersion, Phase
from edged.wire import inference

__all__ = ["EXTENSIONS", "METHODS", "SERVER_NAME", "STATES", "Reception"]

SERVER_NAME: Final = "edged"
EXTENSIONS: Final = (
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "sequence",
    "sequence(string_id)",
    "statistics",
    "system_shared_memory",
)
"""Of Triton's extensions of the protocol, those that are there."""

_MAX_BYTES: Final = 64 << 10
"""No question about the server is larger; a model's requests are not parsed here."""

STATES: Final = {
    Phase.START: "UNAVAILABLE",
    Phase.LOADING: "LOADING",
    Phase.AVAILABLE: "READY",
    Phase.UNLOADING: "UNLOADING",
    Phase.END: "UNAVAILABLE",
}

_MODELS: Final = (
    wire.PREDICT,
    wire.CLASSIFY,
    wire.REGRESS,
    wire.GET_MODEL_METADATA,
    inference.MODEL_METADATA,
    inference.MODEL_CONFIG,
    inference.MODEL_INFER,
    inference.MODEL_STATISTICS,
)
"""Answered where the model is."""

_WITH_SHARED_MEMORY: Final = {inference.SHARED_MEMORY: ""}

M = TypeVar("M", bound=Message)
_Handler = Callable[[Call], Awaitable[Message]]


class Reception:
    """Answers what is asked of the server, and passes on what is asked of a model.

    Args:
        models: knows what there is.
        answer: answers for the model that is loaded.
        regions: the shared memory of clients; None to refuse it.
    """

    def __init__(self, models: Models, answer: Answer, regions: Regions | None = None) -> None:
        self._models = models
        self._answer = answer
        self._regions = regions
        self._handlers: dict[str, _Handler] = {
            wire.GET_MODEL_STATUS: self._model_status,
            wire.RELOAD_CONFIG: self._reload_config,
            inference.SERVER_LIVE: self._live,
            inference.SERVER_READY: self._ready,
            inference.MODEL_READY: self._model_ready,
            inference.SERVER_METADATA: self._metadata,
            inference.REPOSITORY_INDEX: self._index,
            inference.REPOSITORY_MODEL_LOAD: self._load,
            inference.REPOSITORY_MODEL_UNLOAD: self._unload,
            inference.SHARED_MEMORY_STATUS: self._shared_memory_status,
            inference.SHARED_MEMORY_REGISTER: self._register,
            inference.SHARED_MEMORY_UNREGISTER: self._unregister,
            inference.CUDA_SHARED_MEMORY_UNREGISTER: self._unregister_cuda,
        }

    async def answer(self, call: Call) -> bytes:
        """The bytes of the response; raises EdgedError."""
        handler = self._handlers.get(call.method)
        if handler is None:
            if call.method == inference.MODEL_INFER and call.local and self._regions is not None:
                call.extras = _WITH_SHARED_MEMORY
            return await self._answer(call)
        return (await handler(call)).SerializeToString()

    # TensorFlow Serving.

    async def _model_status(self, call: Call) -> Message:
        spec = _parse(wire.GetModelStatusRequest, call).model_spec
        version = spec.version_label or (
            str(spec.version.value) if spec.HasField("version") else ""
        )
        response = wire.GetModelStatusResponse()
        for each in await self._models.named(spec.name, version):
            response.model_version_status.add(
                version=each.record.manifest.serial,
                state=wire.ModelVersionStatus.State.Value(each.phase.name),
                status=_status(each),
            )
        return response

    async def _reload_config(self, _call: Call) -> Message:
        raise UnsupportedError(
            "cannot reload by a call what is to be served: copy a bundle into the drop folder, or"
            " run `edgectl activate NAME@VERSION`"
        )

    # Open Inference Protocol.

    async def _live(self, _call: Call) -> Message:
        return inference.ServerLiveResponse(live=True)

    async def _ready(self, _call: Call) -> Message:
        return inference.ServerReadyResponse(ready=self._models.serving is not None)

    async def _model_ready(self, call: Call) -> Message:
        asked = _parse(inference.ModelReadyRequest, call)
        ready = self._models.is_ready(asked.name, asked.version)
        return inference.ModelReadyResponse(ready=ready)

    async def _metadata(self, _call: Call) -> Message:
        return inference.ServerMetadataResponse(
            name=SERVER_NAME, version=__version__, extensions=EXTENSIONS
        )

    async def _index(self, call: Call) -> Message:
        asked = _parse(inference.RepositoryIndexRequest, call)
        response = inference.RepositoryIndexResponse()
        for each in await self._models.all():
            if not asked.ready or each.phase is Phase.AVAILABLE:
                response.models.add(
                    name=each.record.manifest.name,
                    version=each.version,
                    state=STATES[each.phase],
                    reason=each.reason,
                )
        return response

    async def _load(self, call: Call) -> Message:
        asked = _parse(inference.RepositoryModelLoadRequest, call)
        version = asked.parameters["version"].string_param if "version" in asked.parameters else ""
        others = sorted(asked.parameters.keys() - {"version"})
        if others:
            raise RequestError(
                f"cannot load {asked.model_name!r} with parameter {others[0]!r}: models come by the"
                " drop folder, with all that they need; only 'version' is taken"
            )
        await self._models.load(asked.model_name, version, call.client)
        return inference.RepositoryModelLoadResponse()

    async def _unload(self, call: Call) -> Message:
        asked = _parse(inference.RepositoryModelUnloadRequest, call)
        await self._models.unload(asked.model_name)
        return inference.RepositoryModelUnloadResponse()

    async def _shared_memory_status(self, call: Call) -> Message:
        asked = _parse(inference.SystemSharedMemoryStatusRequest, call)
        response = inference.SystemSharedMemoryStatusResponse()
        for region in self._shared(call).registered(asked.name):
            told = response.regions[region.name]
            told.name, told.key = region.name, region.key
            told.offset, told.byte_size = region.offset, region.size
        return response

    async def _register(self, call: Call) -> Message:
        asked = _parse(inference.SystemSharedMemoryRegisterRequest, call)
        region = Region(asked.name, asked.key, asked.offset, asked.byte_size)
        await self._shared(call).register(region)
        return inference.SystemSharedMemoryRegisterResponse()

    async def _unregister(self, call: Call) -> Message:
        asked = _parse(inference.SystemSharedMemoryUnregisterRequest, call)
        await self._shared(call).unregister(asked.name)
        return inference.SystemSharedMemoryUnregisterResponse()

    async def _unregister_cuda(self, _call: Call) -> Message:
        # There is none. Triton's perf_analyzer unregisters all that there may be.
        return inference.CudaSharedMemoryUnregisterResponse()

    def _shared(self, call: Call) -> Regions:
        """The regions, for those who may use them."""
        if self._regions is None:
            raise UnsupportedError(
                "cannot use shared memory: serving.shared_memory is off; send the tensors"
            )
        if not call.local:
            raise UnsupportedError(
                "cannot use shared memory: it is for clients on this machine; send the tensors"
            )
        return self._regions


METHODS: Final = (
    *_MODELS,
    wire.GET_MODEL_STATUS,
    wire.RELOAD_CONFIG,
    inference.SERVER_LIVE,
    inference.SERVER_READY,
    inference.MODEL_READY,
    inference.SERVER_METADATA,
    inference.REPOSITORY_INDEX,
    inference.REPOSITORY_MODEL_LOAD,
    inference.REPOSITORY_MODEL_UNLOAD,
    inference.SHARED_MEMORY_STATUS,
    inference.SHARED_MEMORY_REGISTER,
    inference.SHARED_MEMORY_UNREGISTER,
    inference.CUDA_SHARED_MEMORY_UNREGISTER,
)
"""What is served over gRPC, by full names."""


def _status(model: ModelVersion) -> wire.StatusProto:
    code: Any = grpc.StatusCode.FAILED_PRECONDITION if model.failed else grpc.StatusCode.OK
    return wire.StatusProto(error_code=code.value[0], error_message=model.reason)


def _parse(kind: type[M], call: Call) -> M:
    size = len(call.payload)
    what = f"cannot read the request: its {size} bytes are"
    if size > _MAX_BYTES:
        raise LimitError(f"{what} more than the {_MAX_BYTES} of any {kind.DESCRIPTOR.full_name}")
    try:
        return kind.FromString(call.payload)
    except DecodeError as error:
        raise RequestError(f"{what} no {kind.DESCRIPTOR.full_name}") from error
