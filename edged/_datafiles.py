"""The files beside an ONNX model that it keeps data in: which places may be named, and how many.

Without onnx, so that the daemon, which does not import it, judges by the same rule as who parses.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

__all__ = ["MAX_DATA_FILES", "is_inside"]

MAX_DATA_FILES: Final = 4096
"""Files that one model keeps its data in; some exporters write one for each tensor."""

_MAX_LOCATION: Final = 1024


def is_inside(location: str) -> bool:
    """Whether *location*, of external data, names a file in the model's folder or below it."""
    path = PurePosixPath(location)
    return (
        0 < len(location) <= _MAX_LOCATION
        and bool(path.name)
        and not path.is_absolute()
        and ".." not in path.parts
        and not set(location) & {"\0", "\\"}
    )
