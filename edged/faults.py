"""Named places where a test makes the process fail.

``EDGED_FAULT=store.commit.before`` in the environment ends the process on the spot when it gets
there, as a power cut would. What happens may be said after a colon, and after an at sign how often
the place is passed unharmed before, counted from 1: ``slot.tested:raise@2``. Several faults are
separated by commas.

========== ======================================================================================
exit       ``os._exit``: nothing is flushed, nothing is cleaned up; the default
raise      an `EdgedError`
enospc     the `OSError` of a full disk
stall      the thread blocks for ever: to be ended from outside, as everything that hangs
pause      the process stops (SIGSTOP), so that a test can do something to another one at exactly
           this moment, and goes on when it is told to (SIGCONT)
========== ======================================================================================

Each says on standard error that it struck. Without the variable a fault point costs a look into
the environment. ``tests/campaign`` strikes at every one of them.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from typing import Final

from edged.errors import EdgedError

__all__ = ["FAULT_EXIT_STATUS", "fault_point"]

FAULT_EXIT_STATUS: Final = 86

# How often each place was passed; counted only while faults are asked for.
_passed: Counter[str] = Counter()


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
    _passed[name] += 1
    for fault in asked.split(","):
        what, _, count = fault.partition("@")
        place, _, action = what.partition(":")
        if place == name and _passed[name] == int(count or _passed[name]):
            _strike(name, action or "exit")


def _strike(name: str, action: str) -> None:
    os.write(2, f"fault: {name}:{action}\n".encode())
    match action:
        case "exit":
            os._exit(FAULT_EXIT_STATUS)
        case "raise":
            raise EdgedError(f"cannot go on: a test asked for a fault at {name}")
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        case "stall":
            threading.Event().wait()
        case "pause":
            os.kill(os.getpid(), signal.SIGSTOP)
        case _:
            raise ValueError(f"cannot strike at {name}: {action!r} is none of the actions")
