"""The states of sequences of calls: begun, handed from one call to the next, and dropped."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from edged.bundle import Manifest
from edged.container.worker._model import Arrays
from edged.container.worker._order import Order, left
from edged.container.worker._recall import GivenBack
from edged.errors import (
    CalledOffError,
    DeadlineError,
    NotFoundError,
    OverloadError,
    RequestError,
    UnavailableError,
)

__all__ = ["SEQUENCE_KEYS", "Sequences", "Step", "step_of"]

_ID: Final = "sequence_id"
_START: Final = "sequence_start"
_END: Final = "sequence_end"
SEQUENCE_KEYS: Final = (_ID, _START, _END)
"""Parameters of a request, by Triton's sequence extension of the protocol."""

_MAX_ID: Final = 256
_REMEMBERED: Final = 1024
_ENDED: Final = "it was ended"


@dataclass(frozen=True, slots=True)
class Step:
    """Which sequence a call belongs to, as Triton's sequence extension has it.

    Attributes:
        id: a text, or a number as text.
        start: it is the first: the state is zeros, also where there was a sequence of that id.
        end: it is the last: the state is dropped.

    Raises:
        RequestError: the id is longer than 256 characters.
    """

    id: str
    start: bool = False
    end: bool = False

    def __post_init__(self) -> None:
        if len(self.id) > _MAX_ID:
            raise RequestError(
                f"cannot answer: sequence_id has {len(self.id)} characters, at most {_MAX_ID} are"
                " taken"
            )


def step_of(parameters: Mapping[str, Any]) -> Step | None:
    """The sequence that the parameters of a request name; 0 and "" name none.

    Raises:
        RequestError: one of them has the wrong type, or there is a start or an end of none.
    """
    name = parameters.get(_ID) or ""
    marks = [parameters.get(key, False) for key in (_START, _END)]
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise RequestError(f"cannot answer: {_ID} is {str(name)[:40]}; wanted a number or a text")
    for key, mark in zip((_START, _END), marks, strict=True):
        if not isinstance(mark, bool):
            raise RequestError(f"cannot answer: {key} is {str(mark)[:40]}; wanted true or false")
        if mark and not name:
            raise RequestError(
                f"cannot answer: {key} is given and no {_ID}; wanted a number above 0, or a text"
            )
    return Step(str(name), *marks) if name else None


@dataclass(slots=True, eq=False)
class _Turn:
    """A call in line.

    Attributes:
        start: it begins the sequence.
        error: why its turn will not come.
    """

    start: bool
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Sequence:
    """One that is kept.

    Attributes:
        state: input name → value, as the last call that succeeded left it; None before the first.
        used: when it was called last, by the clock.
        line: calls on it, the one that runs first.
    """

    state: Arrays | None
    used: float
    line: deque[_Turn] = field(default_factory=deque)

    def send_away(self, error: Callable[[], Exception]) -> None:
        """Those in line up to the next that begins the sequence anew."""
        while self.line and not self.line[0].start:
            self.line.popleft().error = error()


class Sequences:
    """The states of one model, for many threads. Calls of one sequence run one after the other.

    Args:
        manifest: names the state, and the bounds.
        order: in which calls came.
        clock: seconds that never go back.
    """

    def __init__(
        self, manifest: Manifest, order: Order, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._manifest = manifest
        self._order = order
        self._clock = clock
        self._changed = threading.Condition()
        # The one that was called last is the last.
        self._kept: OrderedDict[str, _Sequence] = OrderedDict()
        self._dropped: OrderedDict[str, str] = OrderedDict()

    @property
    def outputs(self) -> dict[str, str]:
        """Input of the state → the output that becomes it."""
        return {} if self._manifest.state is None else self._manifest.state.outputs

    def forget(self) -> None:
        """Drop all that nobody is at, because another model has answered meanwhile."""
        with self._changed:
            for name, sequence in list(self._kept.items()):
                if not sequence.line:
                    self._drop(name, "another model served meanwhile, and states end with that")

    @contextmanager
    def step(self, step: Step | None, deadline: float) -> Iterator[Arrays | None]:
        """The state for a call: what is put into it is kept, unless the block raises.

        There is none for a call that belongs to no sequence.

        Those of a sequence run in the order in which they came. Where one fails, the state stays
        as it was before, and those that wait behind it fail as well: they would be computed without
        it.

        Args:
            deadline: by time.monotonic().

        Raises:
            NotFoundError: the sequence was not begun, or is dropped; says which.
            OverloadError: there is no room for one more.
            DeadlineError: its turn did not come in time.
            CalledOffError: the call before it failed.
            GivenBack, UnavailableError: so did the call before it, and both can be done again.
        """
        if step is None or self._manifest.state is None:
            self._order.passed()
            yield None
            return
        zeros = self._manifest.state.zeros(self._manifest.inputs)
        turn = _Turn(step.start)
        self._order.wait(deadline)
        with self._changed:
            sequence = self._joined(step)
            sequence.line.append(turn)
        self._order.passed()
        try:
            self._wait(sequence, turn, step, deadline)
            state = zeros if step.start or sequence.state is None else dict(sequence.state)
            yield state
        except BaseException as error:
            with self._changed:
                self._failed(sequence, turn, step, error)
            raise
        with self._changed:
            sequence.line.popleft()
            sequence.state = state
            if step.end:
                sequence.send_away(lambda: self._unknown(step.id, _ENDED))
            self._left(step.id, sequence, _ENDED if step.end else None)

    def _failed(self, sequence: _Sequence, turn: _Turn, step: Step, error: BaseException) -> None:
        if turn not in sequence.line:
            return  # sent away
        first = sequence.line[0] is turn
        sequence.line.remove(turn)
        if first:
            kind = (
                type(error) if isinstance(error, GivenBack | UnavailableError) else CalledOffError
            )
            sequence.send_away(
                lambda: kind(
                    f"cannot answer: the call before it on sequence {step.id[:80]!r} failed; send"
                    " it again after that one"
                )
            )
        self._left(step.id, sequence, "its first call failed" if not sequence.state else None)

    def _left(self, name: str, sequence: _Sequence, ended: str | None) -> None:
        """A call is through with its sequence, which ends if nobody waits to begin it anew."""
        sequence.used = self._clock()
        if name in self._kept:
            self._kept.move_to_end(name)
        if ended is not None and not sequence.line:
            self._drop(name, ended)
        self._changed.notify_all()

    def _joined(self, step: Step) -> _Sequence:
        """The sequence of the call; a new one where it starts one. Idle ones are dropped first."""
        bounds = self._manifest.state
        assert bounds is not None
        oldest = self._clock() - bounds.idle_seconds
        for name, sequence in list(self._kept.items()):
            if sequence.used >= oldest:
                break
            if not sequence.line:
                idle = f"nobody called it for more than {bounds.idle_seconds:g} s"
                self._drop(name, idle)
        found = self._kept.get(step.id)
        if found is not None:
            found.used = self._clock()
            self._kept.move_to_end(step.id)
            return found
        if not step.start:
            why = self._dropped.get(
                step.id,
                "it was not begun, or the model was loaded anew since: states end with it",
            )
            raise self._unknown(step.id, why)
        if len(self._kept) >= bounds.sequences:
            raise OverloadError(
                f"cannot begin sequence {step.id[:80]!r} of {self._manifest.name!r}: there are"
                f" {bounds.sequences}, and more are not kept; end one with sequence_end, or try"
                f" again: one that is idle for {bounds.idle_seconds:g} s makes room"
            )
        self._dropped.pop(step.id, None)
        self._kept[step.id] = sequence = _Sequence(None, self._clock())
        return sequence

    def _wait(self, sequence: _Sequence, turn: _Turn, step: Step, deadline: float) -> None:
        """Until it is the first in line."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: turn.error is not None or sequence.line[0] is turn,
                left(deadline),
            )
            if turn.error is not None:
                raise turn.error
            if not came:
                raise DeadlineError(
                    f"cannot answer: calls that came before on sequence {step.id[:80]!r} took too"
                    " long"
                )

    def _drop(self, name: str, why: str) -> None:
        """Forget a state, but not at once why there is none any more."""
        del self._kept[name]
        self._dropped[name] = why
        while len(self._dropped) > _REMEMBERED:
            self._dropped.popitem(last=False)

    def _unknown(self, name: str, why: str) -> NotFoundError:
        return NotFoundError(
            f"cannot go on with sequence {name[:80]!r} of {self._manifest.name!r}: {why}; begin it"
            " with sequence_start"
        )
