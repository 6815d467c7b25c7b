"""A small client for edged, or for anything that answers TensorFlow Serving's Predict."""

from edged.client._client import PredictionClient, Score

__all__ = ["PredictionClient", "Score"]
