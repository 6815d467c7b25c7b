"""The messages of TensorFlow Serving on the wire, frozen graphs, and tensors to and from arrays.

Those of the Open Inference Protocol are in :mod:`edged.wire.inference`.

A hand-written, wire-compatible subset of the published messages, in a descriptor pool of its own:
a process may import TensorFlow as well.
"""

from __future__ import annotations

from typing import Final

from edged.wire import inference
from edged.wire._pb.example_pb2 import Example, Feature
from edged.wire._pb.graph_pb2 import AttrValue, GraphDef, NodeDef
from edged.wire._pb.serving_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    Input,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
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
    dtype_of,
    from_array,
    shape_of,
    to_array,
)

__all__ = [
    "CLASSIFY",
    "GET_MODEL_METADATA",
    "GET_MODEL_STATUS",
    "MAX_TENSOR_BYTES",
    "MODEL_SERVICE",
    "POOL",
    "PREDICT",
    "PREDICTION_SERVICE",
    "REGRESS",
    "RELOAD_CONFIG",
    "AttrValue",
    "ClassificationRequest",
    "ClassificationResponse",
    "DataType",
    "Example",
    "Feature",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "GraphDef",
    "Input",
    "ModelSpec",
    "ModelVersionStatus",
    "NodeDef",
    "PredictRequest",
    "PredictResponse",
    "RegressionRequest",
    "RegressionResponse",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "RequestedModel",
    "SignatureDef",
    "SignatureDefMap",
    "StatusProto",
    "TensorInfo",
    "TensorProto",
    "TensorShapeProto",
    "data_type_of",
    "describe",
    "dtype_of",
    "from_array",
    "inference",
    "requested_model",
    "shape_of",
    "to_array",
]

PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
MODEL_SERVICE: Final = "tensorflow.serving.ModelService"
PREDICT: Final = f"{PREDICTION_SERVICE}/Predict"
GET_MODEL_METADATA: Final = f"{PREDICTION_SERVICE}/GetModelMetadata"
GET_MODEL_STATUS: Final = f"{MODEL_SERVICE}/GetModelStatus"
CLASSIFY: Final = f"{PREDICTION_SERVICE}/Classify"
REGRESS: Final = f"{PREDICTION_SERVICE}/Regress"
RELOAD_CONFIG: Final = f"{MODEL_SERVICE}/HandleReloadConfigRequest"
