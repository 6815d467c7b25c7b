"""Where the log goes: the journal under systemd, standard error otherwise."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

__all__ = ["set_level", "set_up_logging"]

# sd-daemon(3): a line on standard error may begin with its priority.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


def set_up_logging(
    level: str, environment: Mapping[str, str] = os.environ, stream: TextIO = sys.stderr
) -> None:
    """Send what is logged to where it is read.

    Args:
        level: name of the least severe level, in any case.
        environment: where ``JOURNAL_STREAM`` says whether *stream* is the journal.
    """
    logging.basicConfig(level=level.upper(), handlers=[_handler(environment, stream)], force=True)
    # One line per file system event and per call are no news, at any level of ours.
    for name in ("watchdog", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log what is at least as severe as *level*, its name in any case."""
    logging.getLogger().setLevel(level.upper())


def _handler(environment: Mapping[str, str], stream: TextIO) -> logging.Handler:
    if not _is_journal(environment.get("JOURNAL_STREAM", ""), stream):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        return handler
    try:
        from systemd.journal import JournalHandler
    except ImportError:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Prefixed())
        return handler
    journal: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER="edged")
    return journal


def _is_journal(journal_stream: str, stream: TextIO) -> bool:
    """Whether *stream* is the one that systemd connected to the journal (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{found.st_dev}:{found.st_ino}"


class _Prefixed(logging.Formatter):
    """Each line with its priority, so that the journal knows it."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        text = super().format(record)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())
