"""The messages of the Open Inference Protocol (KServe v2), in edged's own descriptor pool."""

from __future__ import annotations

from typing import Final

from edged.wire._pb.inference_pb2 import (
    CudaSharedMemoryUnregisterRequest,
    CudaSharedMemoryUnregisterResponse,
    DataType,
    InferBatchStatistics,
    InferParameter,
    InferStatistics,
    InferTensorContents,
    ModelConfig,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatistics,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
    StatisticDuration,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
)

__all__ = [
    "CUDA_SHARED_MEMORY_UNREGISTER",
    "LABELS_PARAMETER",
    "MODEL_CONFIG",
    "MODEL_INFER",
    "MODEL_METADATA",
    "MODEL_READY",
    "MODEL_STATISTICS",
    "REPOSITORY_INDEX",
    "REPOSITORY_MODEL_LOAD",
    "REPOSITORY_MODEL_UNLOAD",
    "SERVER_LIVE",
    "SERVER_METADATA",
    "SERVER_READY",
    "SERVICE",
    "SHARED_MEMORY",
    "SHARED_MEMORY_REGISTER",
    "SHARED_MEMORY_STATUS",
    "SHARED_MEMORY_UNREGISTER",
    "CudaSharedMemoryUnregisterRequest",
    "CudaSharedMemoryUnregisterResponse",
    "DataType",
    "InferBatchStatistics",
    "InferParameter",
    "InferStatistics",
    "InferTensorContents",
    "ModelConfig",
    "ModelConfigRequest",
    "ModelConfigResponse",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ModelStatistics",
    "ModelStatisticsRequest",
    "ModelStatisticsResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryModelLoadRequest",
    "RepositoryModelLoadResponse",
    "RepositoryModelUnloadRequest",
    "RepositoryModelUnloadResponse",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
    "StatisticDuration",
    "SystemSharedMemoryRegisterRequest",
    "SystemSharedMemoryRegisterResponse",
    "SystemSharedMemoryStatusRequest",
    "SystemSharedMemoryStatusResponse",
    "SystemSharedMemoryUnregisterRequest",
    "SystemSharedMemoryUnregisterResponse",
]

SHARED_MEMORY: Final = "shared-memory"
"""Extra of a call of ModelInfer that may use shared memory."""

SERVICE: Final = "inference.GRPCInferenceService"
SERVER_LIVE: Final = f"{SERVICE}/ServerLive"
SERVER_READY: Final = f"{SERVICE}/ServerReady"
MODEL_READY: Final = f"{SERVICE}/ModelReady"
SERVER_METADATA: Final = f"{SERVICE}/ServerMetadata"
MODEL_METADATA: Final = f"{SERVICE}/ModelMetadata"
MODEL_CONFIG: Final = f"{SERVICE}/ModelConfig"
LABELS_PARAMETER: Final = "labels"
"""Of a configuration: the labels of the classes, a line each, in the order of the output."""
MODEL_INFER: Final = f"{SERVICE}/ModelInfer"
MODEL_STATISTICS: Final = f"{SERVICE}/ModelStatistics"
REPOSITORY_INDEX: Final = f"{SERVICE}/RepositoryIndex"
REPOSITORY_MODEL_LOAD: Final = f"{SERVICE}/RepositoryModelLoad"
REPOSITORY_MODEL_UNLOAD: Final = f"{SERVICE}/RepositoryModelUnload"
SHARED_MEMORY_STATUS: Final = f"{SERVICE}/SystemSharedMemoryStatus"
SHARED_MEMORY_REGISTER: Final = f"{SERVICE}/SystemSharedMemoryRegister"
SHARED_MEMORY_UNREGISTER: Final = f"{SERVICE}/SystemSharedMemoryUnregister"
CUDA_SHARED_MEMORY_UNREGISTER: Final = f"{SERVICE}/CudaSharedMemoryUnregister"
