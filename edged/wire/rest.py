"""REST between front and container: bodies of HTTP under names like those of methods.

The front reads path and headers, and passes the body on as it came. What it knows goes with the
call as extras, whose names are here. The answer is :func:`frame`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

__all__ = [
    "CLASSIFY",
    "ENCODING",
    "GET_MODEL_METADATA",
    "JSON_BYTES",
    "MODEL",
    "MODEL_CONFIG",
    "MODEL_INFER",
    "MODEL_METADATA",
    "MODEL_STATISTICS",
    "MOST_BYTES",
    "PREDICT",
    "REGRESS",
    "VERSION",
    "frame",
    "unframe",
]

PREDICT: Final = "tensorflow.serving.rest/Predict"
CLASSIFY: Final = "tensorflow.serving.rest/Classify"
REGRESS: Final = "tensorflow.serving.rest/Regress"
GET_MODEL_METADATA: Final = "tensorflow.serving.rest/GetModelMetadata"
MODEL_INFER: Final = "inference.rest/ModelInfer"
MODEL_CONFIG: Final = "inference.rest/ModelConfig"
MODEL_METADATA: Final = "inference.rest/ModelMetadata"
MODEL_STATISTICS: Final = "inference.rest/ModelStatistics"

MODEL: Final = "model"
"""Extra: the model that the path names."""
VERSION: Final = "version"
"""Extra: its version in the path, written out or as a serial; absent for any."""
ENCODING: Final = "encoding"
"""Extra: ``gzip`` or ``deflate``, how the body is compressed; absent for not at all."""
MOST_BYTES: Final = "most-bytes"
"""Extra: the most that it may have when it no longer is."""
JSON_BYTES: Final = "json-bytes"
"""Extra: how much of the body is JSON; what follows is the tensors' bytes. Absent for all."""

_LENGTH: Final = struct.Struct("<Q")


def frame(json: bytes, tensors: Sequence[bytes] = ()) -> bytes:
    """An answer: JSON, and the bytes of the tensors that follow it."""
    return b"".join((_LENGTH.pack(len(json)), json, *tensors))


def unframe(answer: bytes) -> tuple[memoryview, int]:
    """The body of an answer, and how much of it is JSON.

    Raises:
        ValueError: it is no frame.
    """
    if len(answer) < _LENGTH.size:
        raise ValueError("an answer without a length")
    (length,) = _LENGTH.unpack_from(answer)
    body = memoryview(answer)[_LENGTH.size :]
    if length > len(body):
        raise ValueError("an answer shorter than it says")
    return body, length
