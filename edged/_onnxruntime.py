"""The one place that imports ONNX Runtime and makes its sessions.

ONNX Runtime is silenced before it is imported: it starts its telemetry then, unless the environment
says otherwise, and an appliance phones nobody.
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

__all__ = ["InferenceSession", "RunOptions", "session"]

_FATAL_ONLY = 4


def session(model: bytes, *, threads: int = 1, as_written: bool = False) -> InferenceSession:
    """A session on the CPU that computes what *model* says.

    ONNX Runtime would replace a float operator between quantisers by an integer one, quantising
    float weights once more, with one scale for all channels; and it would move quantisers through
    the graph, with types that contradict each other from opset 21 on. Both is off here: what edged
    leaves in float stays in float.

    Args:
        model: an ONNX file.
        threads: how many threads one run may use. With one, sums do not depend on the number of
            cores.
        as_written: whether every operator runs as it is written, without any optimisation: the
            reference that other results are compared with.

    Raises:
        Exception: ONNX Runtime does not take the model; its classes share no other base.
    """
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between runs would take the cores from the processes around.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # What goes wrong comes as an exception, which says the same as the log.
    options.log_severity_level = _FATAL_ONLY
    if as_written:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])
