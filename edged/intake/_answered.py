"""Which dropped folders have had their answer, kept over restarts.

A file that was answered leaves the drop folder; a folder stays, as a model repository does, and is
taken again when something in it changes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from edged.intake._folder import Dropped

__all__ = ["Answered"]

_NAME: Final = ".edged.answered"
_MAX_BYTES: Final = 1 << 20


class Answered:
    """Identities of the folders that were answered, in a file in the drop folder.

    Without the file, which anyone who may drop may delete, a folder is answered once more.

    Args:
        folder: the drop folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._known: dict[str, str] | None = None

    def has(self, dropped: Dropped) -> bool:
        """Whether this very folder, unchanged, had its answer. Blocking."""
        return self._load().get(os.fsencode(dropped.path.name).hex()) == dropped.identity

    def note(self, dropped: Dropped, present: Collection[str]) -> None:
        """Note that *dropped* has its answer, and forget all that are not *present*. Blocking.

        Raises:
            OSError: it cannot be written.
        """
        wanted = {os.fsencode(name).hex() for name in present}
        known = {name: known for name, known in self._load().items() if name in wanted}
        known[os.fsencode(dropped.path.name).hex()] = dropped.identity
        self._known = known
        temporary = self._path.with_name(f"{_NAME}.tmp")
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8") as file:
            file.writelines(f"{name} {identity}\n" for name, identity in known.items())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def _load(self) -> dict[str, str]:
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError):
                file = os.open(
                    self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
                )
                with os.fdopen(file, encoding="utf-8", errors="replace") as text:
                    for line in text.read(_MAX_BYTES).splitlines():
                        name, _, identity = line.partition(" ")
                        self._known[name] = identity
        return self._known
