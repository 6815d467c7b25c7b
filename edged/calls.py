"""A call on its way through the daemon, from whichever protocol it came by.

What stands on the way takes an `Answer` and is one; what counts, times or logs calls observes how
they ended.
"""

from __future__ import annotations

import asyncio
import enum
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edged.errors import EdgedError
from edged.wire import RequestedModel

__all__ = [
    "Answer",
    "Call",
    "Observed",
    "Observer",
    "Outcome",
    "Priority",
    "Stopwatch",
    "TraceParent",
]


class Priority(enum.IntEnum):
    """Which of the calls that wait go first; the smaller, the sooner."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @classmethod
    def parse(cls, text: str) -> Priority:
        """Read ``high``, ``normal`` or ``low``.

        Raises:
            ValueError: it is none.
        """
        for priority in cls:
            if text == priority.name.lower():
                return priority
        raise ValueError(text)

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class TraceParent:
    """Which trace a call belongs to, by W3C Trace Context; all in lower-case hexadecimal.

    Attributes:
        trace_id: 32 digits, not all zero.
        span_id: of the caller's span; 16 digits, not all zero.
        sampled: whether the caller records the trace.
    """

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def parse(cls, text: str) -> TraceParent:
        """Read the header ``traceparent``, of version 00 or what 00 is the beginning of.

        Raises:
            ValueError: it is none; the specification has it passed over then.
        """
        found = _TRACEPARENT.fullmatch(text)
        if not found or found["version"] == "ff" or (found["version"] == "00" and found["rest"]):
            raise ValueError(text)
        trace_id, span_id = found["trace"], found["span"]
        if not trace_id.strip("0") or not span_id.strip("0"):
            raise ValueError(text)
        return cls(trace_id, span_id, bool(int(found["flags"], 16) & 1))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<rest>(?:-[!-~]{0,400})?)"
)


class Stopwatch:
    """Seconds since it was made, and what each step of them took."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._steps: dict[str, float] = {}

    def lap(self, step: str) -> None:
        """What was done since the step before was *step*."""
        now = time.monotonic()
        self._steps[step] = self._steps.get(step, 0.0) + now - self._last
        self._last = now

    def split(self, parts: Mapping[str, float], rest: str) -> None:
        """What was done since the step before was *parts*, in seconds, and for the rest *rest*."""
        now = time.monotonic()
        left = now - self._last
        for step, seconds in parts.items():
            # Whoever says so may not be trusted: it was no more than has passed.
            taken = min(max(seconds, 0.0), left)
            left -= taken
            self._steps[step] = self._steps.get(step, 0.0) + taken
        self._steps[rest] = self._steps.get(rest, 0.0) + left
        self._last = now

    @property
    def steps(self) -> Mapping[str, float]:
        """Seconds of each step, in order."""
        return self._steps

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last step."""
        return self._last - self._began

    @property
    def elapsed(self) -> float:
        """From the beginning until now."""
        return time.monotonic() - self._began

    def __str__(self) -> str:
        """In milliseconds: ``drain 12, detach 3``."""
        return ", ".join(f"{step} {seconds * 1e3:.0f}" for step, seconds in self._steps.items())


@dataclass(slots=True, eq=False)
class Call:
    """One request, unparsed, and all that is known about it beside its bytes.

    Attributes:
        method: what is asked, by the full name of a gRPC method.
        payload: the request's bytes.
        deadline: until when the caller waits, by time.monotonic().
        model: the one that it names, where whoever made this looked.
        client: who calls: the name of its token or certificate, or else its address without the
            port. Those of one client take turns with those of the others.
        priority: which of the calls that wait go first.
        request_id: what the caller, and the answer to it, and the log know the call by.
        trace: the trace that it is part of, where the caller said so.
        served_by: name and version of the model that has it to answer, once one has.
        digest: of that model.
        local: whether it comes from this machine.
        extras: what the protocol says outside of those bytes, for whoever parses them; see
            :mod:`edged.wire.rest`.
        watch: is told what each stage took.
    """

    method: str
    payload: bytes
    deadline: float
    model: RequestedModel | None = None
    client: str = ""
    priority: Priority = Priority.NORMAL
    request_id: str = ""
    trace: TraceParent | None = None
    served_by: str = ""
    digest: str = ""
    local: bool = False
    extras: Mapping[str, str] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def left(self) -> float:
        """Seconds that the caller still waits; below 0 when it no longer does."""
        return self.deadline - time.monotonic()


Answer = Callable[[Call], Awaitable[bytes]]
"""The bytes of the response to a call; raises EdgedError."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended.

    Attributes:
        code: by its name in gRPC, OK among them.
        response_bytes: of the answer; 0 where there is none.
        seconds: what it took to answer, once the request was here.
        elapsed: what it took in all.
    """

    code: str
    response_bytes: int
    seconds: float
    elapsed: float

    @property
    def failed(self) -> bool:
        """Whether it was answered with an error, or not at all."""
        return self.code != "OK"


Observer = Callable[[Call, Outcome], None]
"""Is told, on the event loop, of each call that ended; must not block, nor raise."""


class Observed:
    """An `Answer` that has others told how each call ended, after its caller has been.

    Raises what *answer* does.
    """

    def __init__(self, answer: Answer, observers: Sequence[Observer]) -> None:
        self._answer = answer
        self._observers = tuple(observers)

    async def __call__(self, call: Call) -> bytes:
        code, size, received = "INTERNAL", 0, call.watch.seconds
        try:
            response = await self._answer(call)
            code, size = "OK", len(response)
            return response
        except EdgedError as error:
            code = error.grpc_status
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            elapsed = call.watch.elapsed
            outcome = Outcome(code, size, elapsed - received, elapsed)
            # Nobody waits for them: the answer goes out first.
            asyncio.get_running_loop().call_soon(self._tell, call, outcome)

    def _tell(self, call: Call, outcome: Outcome) -> None:
        for observer in self._observers:
            observer(call, outcome)
