"""The access log: who called what, what it took, and what became of it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Final

from edged.calls import Call, Outcome
from edged.notices import Notice, about

__all__ = ["AccessLog"]

_log = logging.getLogger("edged.access")
_WINDOW: Final = 1.0


class AccessLog:
    """Logs calls as ``key=value``, so many a second and no more.

    Those that were answered and those that failed have as many lines each: a flood of the one does
    not hide the other. What is left out is counted, and the count is logged.

    Attributes:
        lines_per_second: of each of the two; 0 logs no calls. May be set at any time.
    """

    def __init__(self, lines_per_second: int) -> None:
        self.lines_per_second = lines_per_second
        self._lines = {True: 0, False: 0}
        self._left_out = {True: 0, False: 0}
        self._window: asyncio.TimerHandle | None = None

    def observe(self, call: Call, outcome: Outcome) -> None:
        """Log it, if that is not one too many."""
        if not self.lines_per_second or not _log.isEnabledFor(logging.INFO):
            return
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(_WINDOW, self._next_window)
        well = not outcome.failed
        if self._lines[well] >= self.lines_per_second:
            self._left_out[well] += 1
            return
        self._lines[well] += 1
        fields = _fields(call, outcome)
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        extra = {key.upper(): str(value) for key, value in fields.items()}
        if call.digest:
            extra["DIGEST"] = call.digest
        # Only what went wrong is to be explained.
        _log.info("%s", line, extra=extra if well else extra | about(Notice.CALL_FAILED))

    def _next_window(self) -> None:
        self._window = None
        answered, failed = self._left_out[True], self._left_out[False]
        if answered or failed:
            _log.info(
                "left_out answered=%d failed=%d; log.access_lines_per_second is %d",
                answered,
                failed,
                self.lines_per_second,
            )
        self._lines = {True: 0, False: 0}
        self._left_out = {True: 0, False: 0}


def _fields(call: Call, outcome: Outcome) -> dict[str, object]:
    """What a line says; times are in milliseconds."""
    fields: dict[str, object] = {
        "method": call.method,
        "client": call.client,
        "model": call.served_by,
        "code": outcome.code,
        "request_bytes": len(call.payload),
        "response_bytes": outcome.response_bytes,
        "ms": f"{outcome.elapsed * 1e3:.2f}",
        "stages": ",".join(
            f"{step}:{seconds * 1e3:.2f}" for step, seconds in call.watch.steps.items()
        ),
        "request_id": call.request_id,
    }
    if call.trace is not None:
        fields["trace_id"] = call.trace.trace_id
    return fields


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and text.isascii() and not set(text) & set(' "=\\') and text.isprintable()
    return text if plain else json.dumps(text)
