"""The states of sequences: how long they are kept, who waits for whom, what a failure does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from patience import PATIENCE

from edged.bundle import (
    BundleFile,
    Digest,
    ElementType,
    FileName,
    Manifest,
    MediaType,
    State,
    StatePair,
    TensorDecl,
    Version,
)
from edged.container.worker._order import Order
from edged.container.worker._recall import GivenBack
from edged.container.worker._sequences import Sequences, Step
from edged.errors import (
    BundleError,
    CalledOffError,
    DeadlineError,
    DeviceError,
    NotFoundError,
    NotRunError,
    OverloadError,
)

FLOAT = ElementType.FLOAT32


def manifest(state: State | None = None, hidden: tuple[int | None, ...] = (None, 2)) -> Manifest:
    return Manifest(
        name="adder",
        version=Version.parse("1.0.0"),
        serial=1,
        inputs=(TensorDecl("x", FLOAT, (None, 2)), TensorDecl("h", FLOAT, hidden)),
        outputs=(TensorDecl("y", FLOAT, (None, 2)), TensorDecl("hn", FLOAT, (None, 2))),
        files=(BundleFile(FileName.MODEL, MediaType.WEIGHT, Digest.of(b"model"), 5),),
        state=state or State((StatePair("h", "hn"),), sequences=2, idle_seconds=60),
    )


class World:
    """Sequences, and a clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = Order()
        self.sequences = Sequences(manifest(), self.order, lambda: self.now)

    def add(self, name: str, start: bool = False, end: bool = False) -> float:
        """One more is added to the state; what it is then."""
        with self.sequences.step(Step(name, start, end), math.inf) as state:
            assert state is not None
            state["h"] = state["h"] + 1
            return float(state["h"][0, 0])

    def fail(self, step: Step) -> None:
        """A call that changes the state, and then fails."""
        with self.sequences.step(step, math.inf) as state:
            assert state is not None
            state["h"] = state["h"] + 5
            raise DeviceError("cannot")

    def numbered(self, number: int, work: Callable[[], float]) -> float:
        """*work* as the call of that number, which was begun before."""
        self.order.work_on(number)
        try:
            return work()
        finally:
            self.order.passed()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4)


def test_a_state_begins_with_zeros_and_goes_on(world: World) -> None:
    with world.sequences.step(Step("a", start=True), math.inf) as state:
        assert state is not None
        np.testing.assert_array_equal(state["h"], np.zeros((1, 2), np.float32))
        assert state["h"].dtype == np.float32
    assert [world.add("a"), world.add("a"), world.add("a", end=True)] == [1, 2, 3]
    with pytest.raises(NotFoundError, match="it was ended; begin it with sequence_start"):
        world.add("a")
    assert world.add("a", start=True) == 1


def test_the_idle_are_dropped_and_told_so(world: World) -> None:
    world.add("a", start=True)
    world.now = 59
    world.add("b", start=True)
    world.now = 61
    with pytest.raises(NotFoundError, match="nobody called it for more than 60 s"):
        world.add("a")
    assert world.add("b") == 2
    with pytest.raises(NotFoundError, match="it was not begun, or the model was loaded anew"):
        world.add("c")


def test_one_too_many_is_refused_until_there_is_room(world: World) -> None:
    world.add("a", start=True)
    world.add("b", start=True)
    with pytest.raises(OverloadError, match="there are 2, and more are not kept"):
        world.add("c", start=True)
    assert world.add("b", start=True) == 1, "one that is kept may begin anew"
    world.add("a", end=True)
    assert world.add("c", start=True) == 1
    world.now = 61
    assert world.add("d", start=True) == 1


def test_nothing_is_kept_over_another_model(world: World) -> None:
    world.add("a", start=True)
    world.sequences.forget()
    with pytest.raises(NotFoundError, match="another model served meanwhile"):
        world.add("a")
    assert world.add("a", start=True) == 1


def test_a_failure_leaves_the_state_as_it_was(world: World) -> None:
    world.add("a", start=True)
    with pytest.raises(DeviceError):
        world.fail(Step("a", end=True))
    assert world.add("a") == 2
    with pytest.raises(DeviceError):
        world.fail(Step("a", start=True))
    assert world.add("a") == 3
    with pytest.raises(DeviceError):
        world.fail(Step("b", start=True))
    with pytest.raises(NotFoundError, match="its first call failed"):
        world.add("b")


@pytest.mark.parametrize(
    ("failure", "follows"),
    [
        (DeviceError("cannot"), CalledOffError),
        # What the front or the client does again, it does again for all of them.
        (NotRunError("cannot"), NotRunError),
        (GivenBack(), GivenBack),
    ],
)
def test_who_waits_behind_a_failure_fails_up_to_the_next_start(
    world: World, threads: ThreadPoolExecutor, failure: Exception, follows: type[Exception]
) -> None:
    world.add("a", start=True)
    for number in (1, 2, 3):
        world.order.begin(number)
    waiting: list[Future[float]] = []

    def fail() -> float:
        with world.sequences.step(Step("a"), math.inf):
            waiting.append(threads.submit(world.numbered, 2, lambda: world.add("a")))
            waiting.append(threads.submit(world.numbered, 3, lambda: world.add("a", start=True)))
            # The third is in line once nobody is before a fourth.
            world.order.begin(4)
            world.order.work_on(4)
            world.order.wait(time.monotonic() + PATIENCE)
            raise failure

    with pytest.raises(type(failure)):
        world.numbered(1, fail)
    behind, anew = waiting
    assert isinstance(behind.exception(PATIENCE), follows)
    assert anew.result(PATIENCE) == 1
    assert world.add("a") == 2


def test_calls_join_in_the_order_in_which_they_were_begun(
    world: World, threads: ThreadPoolExecutor
) -> None:
    for number in (1, 2, 3):
        world.order.begin(number)
    # The last comes first, to a sequence that the first is to begin.
    third = threads.submit(world.numbered, 3, lambda: world.add("a"))
    second = threads.submit(world.numbered, 2, lambda: world.add("a"))
    first = threads.submit(world.numbered, 1, lambda: world.add("a", start=True))
    assert [each.result(PATIENCE) for each in (first, second, third)] == [1, 2, 3]


def test_a_call_without_a_sequence_keeps_nobody_waiting(world: World) -> None:
    world.order.begin(1)
    world.order.begin(2)
    world.order.work_on(1)
    with world.sequences.step(None, math.inf) as state:
        assert state is None
        world.order.work_on(2)
        assert world.add("a", start=True) == 1


def test_what_is_not_its_turn_in_time(world: World, threads: ThreadPoolExecutor) -> None:
    passed = time.monotonic() - 1

    def late() -> None:
        with world.sequences.step(Step("a"), passed):
            raise AssertionError("its turn came")

    with world.sequences.step(Step("a", start=True), math.inf) as state:
        assert state is not None
        with pytest.raises(DeadlineError, match="on sequence 'a' took too long"):
            threads.submit(late).result(PATIENCE)
    assert world.add("a") == 1
    world.order.begin(1)
    world.order.begin(2)
    world.order.work_on(2)
    with pytest.raises(DeadlineError, match="came before took too long"):
        late()


def test_a_manifest_with_a_state_is_written_and_read() -> None:
    known = manifest()
    assert Manifest.parse(known.serialize()) == known
    assert [tensor.name for tensor in known.fed] == ["x"]


@pytest.mark.parametrize(
    ("state", "hidden", "problem"),
    [
        (State(()), (None, 2), "found none"),
        (State((StatePair("g", "hn"),)), (None, 2), "no input 'g'; there are 'x', 'h'"),
        (State((StatePair("h", "gn"),)), (None, 2), "no output 'gn'; there are 'y', 'hn'"),
        (State((StatePair("h", "hn"), StatePair("h", "y"))), (None, 2), "'h' is there twice"),
        (State((StatePair("h", "hn"), StatePair("x", "y"))), (None, 2), "every input is a state"),
        (State((StatePair("h", "hn"),)), (None, 3), "wanted the same, the batch first"),
        (State((StatePair("h", "hn"),)), (None, None), "wanted the same, the batch first"),
        (State((StatePair("h", "hn"),), sequences=0), (None, 2), "found 0; wanted 1 to 4096"),
        (State((StatePair("h", "hn"),), idle_seconds=0.5), (None, 2), "found 0.5; wanted 1 to"),
        (State((StatePair("h", "hn"),), idle_seconds=math.nan), (None, 2), "found nan; wanted"),
    ],
)
def test_a_state_that_does_not_fit(
    state: State, hidden: tuple[int | None, ...], problem: str
) -> None:
    with pytest.raises(BundleError, match=problem):
        manifest(state, hidden)
