"""Confining the process that reads what strangers sent.

From outside, `command` wraps a command line in bubblewrap: own namespaces, no network, a file
system of the named paths alone. From inside, `lock_down` gives up the rest before the first
untrusted byte: privileges, memory beyond a bound, other files (Landlock), system calls (seccomp).
Either half is worth something without the other; `available` says what this host offers.

A process that is started by root is put into a user namespace as nobody by bubblewrap. Without
bubblewrap it keeps user id 0, with no capability at all: root's files are its own to read wherever
Landlock lets it look. Run the daemon as a user of its own.
"""

from __future__ import annotations

from edged.sandbox._bubblewrap import command, worker_environment
from edged.sandbox._confinement import Confinement
from edged.sandbox._ending import no_answer
from edged.sandbox._lock_down import Offer, available, lock_down

__all__ = [
    "Confinement",
    "Offer",
    "available",
    "command",
    "lock_down",
    "no_answer",
    "worker_environment",
]
