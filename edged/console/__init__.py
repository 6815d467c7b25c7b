"""The management API: what is loaded, what else there is, and having it changed.

It listens on a UNIX socket, whose permissions say who may ask. Questions are answered from the
store and the slot, changes are handed on. What is said, :mod:`edged.management` defines.
"""

from edged.console._console import Console, Control, Tell

__all__ = ["Console", "Control", "Tell"]
