"""What the files of a compiled model are called. Light, for the daemon does not read them."""

from __future__ import annotations

from typing import Final

from edged.npu.regmap import MAX_ENTRIES

__all__ = ["MAX_HOST_FILES", "PROGRAM_FILE", "host_file"]

PROGRAM_FILE: Final = "program.img"
MAX_HOST_FILES: Final = MAX_ENTRIES + 1


def host_file(number: int) -> str:
    """The ONNX file of the host's part that runs before the entry *number*, or behind the last."""
    return f"host-{number}.onnx"
