"""Where the log goes: the journal under systemd, standard error otherwise."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import TextIO

from edged.notices import Notice, about

__all__ = ["log_failure", "set_level", "set_up_logging"]

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
    handler = _handler(environment, stream)
    if handler.formatter is None:
        handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line per file system event and per call are no news, at any level of ours.
    for name in ("watchdog", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log what is at least as severe as *level*, its name in any case."""
    logging.getLogger().setLevel(level.upper())


def log_failure(
    text: str, environment: Mapping[str, str] = os.environ, stream: TextIO = sys.stderr
) -> None:
    """Say why edged ends, which it may before its log is set up."""
    if not _is_journal(environment.get("JOURNAL_STREAM", ""), stream):
        stream.write(f"edged: {text}\n")
        return
    set_up_logging("error", environment, stream)
    logging.getLogger("edged").error("%s", text, extra=about(Notice.FAILED))


def _handler(environment: Mapping[str, str], stream: TextIO) -> logging.Handler:
    if not _is_journal(environment.get("JOURNAL_STREAM", ""), stream):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            _Printable("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        return handler
    try:
        from systemd.journal import send
    except ImportError:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Prefixed())
        return handler
    return _Journal(send)


class _Journal(logging.Handler):
    """Sends each record with its fields, and those that ``extra`` has in capitals.

    Args:
        send: ``systemd.journal.send``: the message, and the fields by name.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in vars(record).items() if name.isupper()}
        try:
            self._send(
                self.format(record),
                PRIORITY=str(_priority(record.levelno)),
                SYSLOG_IDENTIFIER="edged",
                LOGGER=record.name,
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName or "",
                **fields,
            )
        except Exception:  # As every handler: a log that cannot be written ends nothing.
            self.handleError(record)


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def _is_journal(journal_stream: str, stream: TextIO) -> bool:
    """Whether *stream* is the one that systemd connected to the journal (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{found.st_dev}:{found.st_ino}"


class _Printable(logging.Formatter):
    """A message on one line: names of files and of models are others' to choose."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging calls it so)
        record.message = "".join(
            sign if sign.isprintable() else sign.encode("unicode_escape").decode()
            for sign in record.message
        )
        return super().formatMessage(record)


class _Prefixed(_Printable):
    """Each line with its priority, so that the journal knows it."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _priority(record.levelno)
        text = super().format(record)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())
