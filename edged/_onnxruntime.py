"""The one place that imports ONNX Runtime, silenced first: an appliance phones nobody.

ONNX Runtime starts its telemetry when it is imported, unless the environment says otherwise.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from onnxruntime import (
    GraphOptimizationLevel,
    InferenceSession,
    RunOptions,
    SessionOptions,
)

__all__ = ["GraphOptimizationLevel", "InferenceSession", "RunOptions", "SessionOptions"]
