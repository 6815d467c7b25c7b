"""Whose fault a failure was, and what becomes of the model: a slot with fakes around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slot.test_machine import LIMITS, Daemon
from slot.world import FakeLauncher, Kind, World

from edged.calls import Call
from edged.container import Ending
from edged.errors import EdgedError, NotFoundError, SandboxError
from edged.slot import State
from edged.slot._failures import FIRST_PAUSE, LONGEST_PAUSE, Failures
from edged.slot._standby import log_only


class Box:
    """A daemon whose slot serves a model, and time that passes when it is told to."""

    def __init__(self, folder: Path, serves: str = "a") -> None:
        self.world = World(folder)
        self.start()
        if serves:
            self.deploy(serves)

    def start(self, seconds: float = 1.0) -> None:
        self.daemon = Daemon(self.world, on_demand=False)
        self.loop, self.slot = self.daemon.loop, self.daemon.slot
        if seconds:
            self.loop.run_for(seconds)

    def deploy(self, name: str) -> None:
        self.world.deploying[name] += 1
        deployed = self.loop.spawn(self.slot.deploy(self.daemon.store.record(name), log_only))
        self.loop.run_for(1)
        assert deployed.result().model.manifest.name == name

    def lose(self, times: int, by_model: bool) -> None:
        """Have that many containers end, each once it serves."""
        for _ in range(times):
            (container,) = self.world.live
            container.die(Ending("it was killed", by_model))
            self.loop.run_for(1.2)

    @property
    def serves(self) -> str | None:
        status = self.slot.status
        serving = status.state is State.SERVING and status.model is not None
        return status.model.manifest.name if serving and status.model else None

    def is_aside(self, name: str) -> bool:
        return self.world.shelf.entries[name].set_aside is not None

    def seconds_to_serve(self) -> float:
        """How long it takes until it serves."""
        began = self.world.clock.now
        while not self.serves:
            self.loop.run_for(0.1)
            assert self.world.clock.now - began < 2 * LONGEST_PAUSE, self.slot.status.problem
        return self.world.clock.now - began


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    assert not box.world.violations
    box.loop.kill()


def test_what_others_do_does_not_count_against_a_model(box: Box) -> None:
    box.lose(LIMITS.failures - 1, by_model=False)
    assert box.serves == "a"
    for _ in range(6):
        (container,) = box.world.live
        container.die(Ending("it was killed", by_model=False))
        box.loop.run_for(0.1)
        box.seconds_to_serve()
    assert box.serves == "a" and not box.is_aside("a")


def test_a_model_that_dies_by_itself_gives_way_to_the_last_good_one(box: Box) -> None:
    box.deploy("b")
    box.lose(LIMITS.failures, by_model=True)
    box.seconds_to_serve()
    assert box.serves == "a" and box.is_aside("b") and not box.is_aside("a")


def test_the_only_model_is_tried_again_after_growing_pauses(box: Box) -> None:
    box.lose(LIMITS.failures, by_model=True)
    assert box.is_aside("a")
    first = box.seconds_to_serve()
    taken = [first]
    for _ in range(3):
        (container,) = box.world.live
        container.die(Ending("it crashed", by_model=True))
        box.loop.run_for(0.1)
        taken.append(box.seconds_to_serve())
    assert taken == sorted(taken) and taken[-1] > 4 * FIRST_PAUSE
    # Once it has served for the whole window it is as good as any.
    box.loop.run_for(LIMITS.failure_window + 1)
    assert not box.is_aside("a") and box.serves == "a"


def test_it_is_tried_again_after_a_restart_as_well(box: Box) -> None:
    box.lose(LIMITS.failures, by_model=True)
    box.loop.kill()
    box.world.live.clear()
    box.world.hardware.owner = None
    box.start()
    assert box.seconds_to_serve() < LONGEST_PAUSE
    assert box.serves == "a"


@pytest.mark.parametrize(
    "error", [SandboxError("cannot confine processes"), OSError("no more processes"), MemoryError()]
)
def test_a_start_that_the_machine_fails_does_not_count(
    box: Box, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = FakeLauncher.start

    async def fails(_self: FakeLauncher, _folder: Path) -> None:
        raise error

    monkeypatch.setattr(FakeLauncher, "start", fails)
    (container,) = box.world.live
    container.die(Ending("it was killed", by_model=False))
    box.loop.run_for(2 * LONGEST_PAUSE)
    assert box.slot.status.state is State.EMPTY and not box.is_aside("a")
    assert "it is tried again" in str(box.slot._gate._refusal)
    monkeypatch.setattr(FakeLauncher, "start", start)
    box.seconds_to_serve()
    assert box.serves == "a"
    assert box.world.shelf.entries["a"].attempts == 0


def test_pauses_double_up_to_a_bound(box: Box) -> None:
    failures = Failures(box.slot._store, 5, 60.0)
    pauses = [failures.pause() for _ in range(10)]
    assert pauses[:4] == [FIRST_PAUSE * 2**n for n in range(4)] and pauses[-1] == LONGEST_PAUSE
    failures.all_well()
    assert failures.pause() == FIRST_PAUSE
    assert failures.pause(failed=10) == LONGEST_PAUSE


def test_losses_count_within_the_window_alone(box: Box) -> None:
    failures = Failures(box.slot._store, 3, 60.0)
    assert failures.count_loss(0.0, by_model=True) == (1, 0.0)
    assert failures.count_loss(50.0, by_model=True) == (2, 0.0)
    assert failures.count_loss(100.0, by_model=True) == (2, 0.0)
    assert failures.count_loss(101.0, by_model=False) == (2, FIRST_PAUSE)


def test_errors_say_whose_fault_they_are() -> None:
    """Each class was thought about: a new one has to be put into one of the two lists."""
    of_machine = {
        *("ShortageError", "ConfigError", "UnavailableError", "DeviceLostError"),
        *("NotRunError", "KilledError", "IncompatibleError", "SandboxError", "StoreError"),
    }

    def below(kind: type[EdgedError]) -> Iterator[type[EdgedError]]:
        for each in kind.__subclasses__():
            if each.__module__ == "edged.errors":
                yield each
                yield from below(each)

    assert {kind.__name__ for kind in below(EdgedError) if kind.of_machine} == of_machine


@pytest.mark.parametrize("first", range(24))
def test_calls_are_told_that_nothing_serves_whatever_a_full_disk_prevents(
    tmp_path: Path, first: int
) -> None:
    """Two operations of a deployment fail: among them, to look what is committed."""
    box = Box(tmp_path, serves="")
    try:
        box.world.deploying["a"] += 1
        box.world.fuses = [(first, Kind.ERROR), (first + 1, Kind.ERROR)]
        deployed = box.loop.spawn(box.slot.deploy(box.daemon.store.record("a"), log_only))
        box.loop.run_for(2)
        box.world.fuses.clear()
        call = box.loop.spawn(box.slot.call(Call("Predict", b"", box.loop.time() + 8)))
        box.loop.run_for(9)
        if deployed.exception() is None:
            assert call.result() == b"a"
        else:
            assert isinstance(call.exception(), NotFoundError), deployed.exception()
        assert not box.world.violations
    finally:
        box.loop.kill()
