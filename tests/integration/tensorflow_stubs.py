"""Scores a photograph with TensorFlow's own stubs; prints the values. Run with TensorFlow's Python.

Everything here is as the original client does it: no model_spec, tf.make_tensor_proto and
tf.make_ndarray, a channel without options.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

address, photo, output = sys.argv[1:]
channel = grpc.insecure_channel(address)
stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
models = model_service_pb2_grpc.ModelServiceStub(channel)
metadata = [("authorization", "Bearer "), ("x-ms-aml-grpc-service-route", "/api/v1/service/")]

request = predict_pb2.PredictRequest()
request.inputs["images"].CopyFrom(tf.make_tensor_proto([Path(photo).read_bytes()]))
answer = stub.Predict(request, 30, metadata=metadata)
scores = tf.make_ndarray(answer.outputs["output_alias"])[0]

request = predict_pb2.PredictRequest()
pixels = np.zeros((2, 16, 16, 3), np.float32)
request.inputs["Placeholder:0"].CopyFrom(tf.make_tensor_proto(pixels))
answer = stub.Predict(request, 30, metadata=metadata)
assert tf.make_ndarray(answer.outputs[output]).shape == (2, 5)
assert answer.model_spec.name == "sample" and answer.model_spec.signature_name == "serving_default"

question = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
question.model_spec.name = "sample"
known = get_model_metadata_pb2.SignatureDefMap()
stub.GetModelMetadata(question, 30).metadata["signature_def"].Unpack(known)
assert known.signature_def["serving_default"].inputs["images"].name == "Placeholder:0"

question.model_spec.signature_name = "none"
refused = stub.GetModelMetadata.future(question, 30).exception()
assert refused.code() is grpc.StatusCode.NOT_FOUND, refused

status = models.GetModelStatus(
    get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "sample"}), 30
)
(version,) = status.model_version_status
assert version.state == get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
reload = model_management_pb2.ReloadConfigRequest()
refused = models.HandleReloadConfigRequest.future(reload, 30).exception()
assert refused.code() is grpc.StatusCode.UNIMPLEMENTED, refused

example = tf.train.Example()
example.features.feature["images"].bytes_list.value.append(Path(photo).read_bytes())
classify = classification_pb2.ClassificationRequest()
classify.input.example_list.examples.append(example)
refused = stub.Classify.future(classify, 30).exception()
if refused is None:
    (found,) = stub.Classify(classify, 30).result.classifications
    assert found.classes[0].score == max(scores)
else:  # without labels there are no classes
    assert "has no labels" in refused.details(), refused
regress = regression_pb2.RegressionRequest(input=classify.input)
refused = stub.Regress.future(regress, 30).exception()
assert "no output of 'sample' is a single number" in refused.details(), refused

json.dump(scores.tolist(), sys.stdout)
