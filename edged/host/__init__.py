"""The host that edged runs on: what systemd is told, and where the log goes."""

from edged.host._log import set_level, set_up_logging
from edged.host._memory import keep_large_buffers
from edged.host._notify import Notifier

__all__ = ["Notifier", "keep_large_buffers", "set_level", "set_up_logging"]
