"""Clients for edged, or for anything that answers TensorFlow Serving's Predict.

`PredictionClient` has the constructor, methods and defaults of ``azureml.accel.PredictionClient``
(azureml-accel-models 1.0), and `AsyncPredictionClient` is its twin for asyncio.
"""

from edged.client._aio import AsyncPredictionClient
from edged.client._answers import Score
from edged.client._client import PredictionClient
from edged.client._requests import DataType, RawTensor

__all__ = ["AsyncPredictionClient", "DataType", "PredictionClient", "RawTensor", "Score"]
