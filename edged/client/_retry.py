"""Which failed calls are made again, and when: decisions only, the waiting is done elsewhere."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any, Final

import grpc

from edged.client._connection import MAX_MESSAGE_BYTES
from edged.errors import EdgedError, InputError, LimitError, by_grpc_status

__all__ = ["Attempts"]

_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 4.0
_PUSHBACK: Final = "grpc-retry-pushback-ms"
"""In the trailers: when to come again; negative for never (gRFC A6)."""


class Attempts:
    """The attempts of one call, all of them within its time.

    UNAVAILABLE is tried again, and RESOURCE_EXHAUSTED when the server says when to come back: there
    waiting helps. Every other error is final. The original client made five attempts, too, but on
    every error except INVALID_ARGUMENT, each with the whole timeout and 1, 2, 4, 8 s between them.

    Args:
        address: of the server, for messages.
        timeout: seconds for all attempts together.
        most: how many there are.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (timeout > 0 and math.isfinite(timeout)):
            raise InputError(f"cannot call with a timeout of {timeout} s: wanted more than 0")
        self._address = address
        self._left = most
        self._clock = clock
        self._deadline = clock() + timeout
        self._wait = _FIRST_WAIT

    def seconds(self) -> float:
        """What is left for the next attempt."""
        return max(0.001, self._deadline - self._clock())

    def wait_after(self, error: Any) -> float:
        """How many seconds to wait before the next attempt.

        Raises:
            EdgedError: there is none; the class is that of the status.
        """
        self._left -= 1
        hint = _hint(error)
        # All who were turned away together shall not come back together.
        wait = self._wait * random.uniform(0.8, 1.2) if hint is None else hint  # noqa: S311
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        in_time = self._clock() + wait < self._deadline
        if self._left > 0 and in_time and _waiting_helps(error.code(), hint):
            return wait
        raise _translate(error, self._address) from error


def _waiting_helps(status: grpc.StatusCode, hint: float | None) -> bool:
    if hint is not None and hint < 0:
        return False
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return hint is not None
    return status is grpc.StatusCode.UNAVAILABLE


def _hint(error: Any) -> float | None:
    """Seconds, as the server has them; -1 for never."""
    for key, value in error.trailing_metadata() or ():
        if key == _PUSHBACK:
            return int(value) / 1000 if str(value).isdecimal() else -1.0
    return None


def _translate(error: Any, address: str) -> EdgedError:
    status, details = error.code(), error.details() or ""
    if details.startswith("cannot "):  # then it is from edged
        return by_grpc_status(status.name)(details)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return LimitError(
            f"cannot get an answer from {address}: {details}; this client takes messages of up to"
            f" {MAX_MESSAGE_BYTES >> 20} MiB, edged those of serving.max_message_bytes"
        )
    return by_grpc_status(status.name)(
        f"cannot get an answer from {address}: {details} ({status.name}); is edged there?"
    )
