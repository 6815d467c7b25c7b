"""The host that edged runs on: what systemd is told, and where the log goes."""

from edged.host._access import AccessLog
from edged.host._activation import sockets_given
from edged.host._load import LoadMeter
from edged.host._log import log_failure, set_level, set_up_logging
from edged.host._memory import keep_large_buffers
from edged.host._notify import Notifier

__all__ = [
    "AccessLog",
    "LoadMeter",
    "Notifier",
    "keep_large_buffers",
    "log_failure",
    "set_level",
    "set_up_logging",
    "sockets_given",
]
