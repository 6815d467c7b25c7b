"""What was compiled by an earlier edged is compiled anew: a slot with fakes around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from slot.instant import MOMENT
from slot.test_failures import Box
from slot.world import UNFIT, _digest

from edged.slot import State
from edged.store import CompiledKey


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """It serves *a*, and has served *b*; *c* was never compiled."""
    box = Box(tmp_path)
    box.deploy("b")
    box.deploy("a")
    yield box
    assert not box.world.violations
    box.loop.kill()


def upgrade(box: Box, seconds: float = 0.0) -> None:
    box.loop.finish(box.daemon.stop(1.0))
    box.world.hardware.owner = None
    box.world.shelf.compiler_version += 1
    box.start(seconds)


def test_what_served_is_compiled_first_and_the_others_while_it_serves(box: Box) -> None:
    upgrade(box)
    compiler, said = box.daemon.compiler, []
    box.slot.on_change(lambda status: said.append((status.state, status.problem)))
    box.loop.run_for(1)
    assert compiler.done == ["a", "b"]
    first = said.index((State.SERVING, ""))
    assert (State.LOADING, "loading a 1.0.0: compiling 50%") in said[:first]
    assert {state for state, _ in said[first:]} == {State.SERVING}
    versions = {key.compiler_version for key in box.world.shelf.compiled}
    assert versions == {"2"}, "what the earlier compiler made is of no use any more"
    box.deploy("b")
    assert compiler.began == ["a", "b"], "nothing is compiled twice"


def test_it_gives_way_to_what_somebody_waits_for(box: Box) -> None:
    upgrade(box)
    compiler = box.daemon.compiler
    compiler.seconds = 100 * MOMENT
    while len(compiler.began) < 2:
        box.loop.run_for(MOMENT / 2)
    box.deploy("c")
    assert compiler.began == ["a", "b", "c", "b"]
    assert compiler.done == ["a", "c", "b"]


def test_one_that_cannot_be_compiled_keeps_none_of_the_others(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = box.world.shelf
    kept = next(iter(shelf.compiled.values()))
    shelf.compiled = {CompiledKey(_digest(UNFIT), "1", "16x32x4"): kept, **shelf.compiled}
    caplog.set_level(logging.INFO, "edged.slot")
    upgrade(box, 1)
    assert box.daemon.compiler.done == ["a", "b"] and box.serves == "a"
    assert "cannot compile unfit 1.0.0 anew (1 of 2): cannot compile it" in caplog.text
    assert "compiled b 1.0.0 anew in the background (2 of 2)" in caplog.text


def test_a_stop_calls_it_off(box: Box) -> None:
    upgrade(box)
    while len(box.daemon.compiler.began) < 2:
        box.loop.run_for(MOMENT / 2)
    assert not box.loop.finish(box.daemon.stop(1.0)), "tasks left"
    assert not box.daemon.store.leftovers
    box.start()
    box.loop.run_for(1)
    assert len({key.bundle for key in box.world.shelf.compiled}) == 2
