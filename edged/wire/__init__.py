"""The messages of TensorFlow Serving on the wire, frozen graphs, and tensors to and from arrays.

A hand-written, wire-compatible subset of the published messages, in a descriptor pool of its own:
a process may import TensorFlow as well.
"""

from __future__ import annotations

from typing import Final

from edged.wire._pb.graph_pb2 import AttrValue, GraphDef, NodeDef
from edged.wire._pb.serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
    StatusProto,
)
from edged.wire._pb.tensor_pb2 import (
    DataType,
    SignatureDef,
    TensorInfo,
    TensorProto,
    TensorShapeProto,
)
from edged.wire._peek import RequestedModel, requested_model
from edged.wire._pool import POOL
from edged.wire._tensor import (
    MAX_TENSOR_BYTES,
    data_type_of,
    describe,
    from_array,
    shape_of,
    to_array,
)

__all__ = [
    "GET_MODEL_METADATA",
    "GET_MODEL_STATUS",
    "MAX_TENSOR_BYTES",
    "MODEL_SERVICE",
    "POOL",
    "PREDICT",
    "PREDICTION_SERVICE",
    "AttrValue",
    "DataType",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "GraphDef",
    "ModelSpec",
    "ModelVersionStatus",
    "NodeDef",
    "PredictRequest",
    "PredictResponse",
    "RequestedModel",
    "SignatureDef",
    "SignatureDefMap",
    "StatusProto",
    "TensorInfo",
    "TensorProto",
    "TensorShapeProto",
    "data_type_of",
    "describe",
    "from_array",
    "requested_model",
    "shape_of",
    "to_array",
]

PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
MODEL_SERVICE: Final = "tensorflow.serving.ModelService"
PREDICT: Final = f"{PREDICTION_SERVICE}/Predict"
GET_MODEL_METADATA: Final = f"{PREDICTION_SERVICE}/GetModelMetadata"
GET_MODEL_STATUS: Final = f"{MODEL_SERVICE}/GetModelStatus"
