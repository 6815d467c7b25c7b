"""The files of a model, as its process is given them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from edged._compiledfiles import MAX_HOST_FILES, PROGRAM_FILE, host_file

__all__ = ["NAMES", "Files"]

NAMES: Final = (
    *("manifest.json", "labels.txt", "selftest.npz"),
    *(PROGRAM_FILE, "remarks.json"),
    *map(host_file, range(MAX_HOST_FILES)),
)
"""Those that a container reads, as far as there are any; what else is in the folder is of no use to
it."""


@dataclass(frozen=True, slots=True)
class Files:
    """In a folder that the process sees, or already open where it sees none.

    Attributes:
        folder: None if they are open.
        descriptors: by the file's name; each can be read once.
    """

    folder: Path | None
    descriptors: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> Files:
        """From an argument: an absolute path, or ``NAME=DESCRIPTOR,…``."""
        if text.startswith("/"):
            return cls(Path(text), {})
        pairs = (pair.partition("=") for pair in text.split(","))
        return cls(None, {name: int(number) for name, _, number in pairs})

    @property
    def read_only(self) -> tuple[Path, ...]:
        """What has to be seen for it."""
        return () if self.folder is None else (self.folder,)

    def open(self, name: str) -> BinaryIO:
        """One of them, from its beginning.

        Raises:
            OSError: it is not there.
        """
        if self.folder is not None:
            return (self.folder / name).open("rb")
        if name not in self.descriptors:
            raise FileNotFoundError(2, os.strerror(2), name)
        return os.fdopen(self.descriptors[name], "rb")
