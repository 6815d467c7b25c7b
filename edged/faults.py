"""Named places where a test makes the process fail.

``EDGED_FAULT=store.commit.before`` in the environment ends the process on the spot when it gets
there, as a power cut would (``os._exit``: nothing is flushed, nothing is cleaned up);
``EDGED_FAULT=store.commit.before:raise`` raises there instead, ``…:enospc`` what a full disk
raises. Several are separated by commas. Without the variable a fault point costs a look into the
environment.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from edged.errors import EdgedError

__all__ = ["FAULT_EXIT_STATUS", "fault_point"]

FAULT_EXIT_STATUS: Final = 86


def fault_point(name: str) -> None:
    """Fail here if the environment asks for it.

    Args:
        name: ``room.place``, unique in the project.

    Raises:
        EdgedError: when asked to raise.
        OSError: when asked for a full disk.
    """
    asked = os.environ.get("EDGED_FAULT")
    if not asked:
        return
    for fault in asked.split(","):
        place, _, action = fault.partition(":")
        if place == name:
            if action == "enospc":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            if action == "raise":
                raise EdgedError(f"cannot go on: a test asked for a fault at {name}")
            os._exit(FAULT_EXIT_STATUS)
