"""Thousands of interleavings of all that can happen to a slot, and what has to hold in each.

Hypothesis makes up the sequences; the parts around the slot are fakes that may fail at any step
(`slot.world`), on a loop without real time (`slot.instant`). What is checked here is what someone
outside can see: the answers to calls, the store, the device, the containers. By default the
sequences are the same every time. For other ones, and more of them::

    EDGED_INTERLEAVINGS=20000 pytest tests/slot/test_machine.py --timeout 0
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from slot.instant import MOMENT, InstantLoop
from slot.world import (
    GOOD,
    HANG,
    UNEVEN,
    UNSOUND,
    FakeCompiler,
    FakeLauncher,
    FakeLink,
    FakeStore,
    Kind,
    World,
    previous,
)

from edged import calls
from edged.calls import Priority
from edged.container import Ending, Launcher
from edged.errors import (
    DeadlineError,
    EdgedError,
    NotFoundError,
    UnavailableError,
)
from edged.slot import (
    AT_ONCE,
    Deployed,
    DeviceLink,
    Renewal,
    Slot,
    SlotLimits,
    Standbys,
    State,
)
from edged.slot._failures import LONGEST_PAUSE
from edged.store import Store
from edged.wire import RequestedModel

LIMITS = SlotLimits(drain_seconds=2.0, attempts=3, failures=5, failure_window=60.0)
HURRIED, PATIENT = 0.01, 8.0
QUIET = 130.0
"""Seconds after which nothing is under way any more."""
LATE = 4 * MOMENT
"""What a call may take longer than its caller waits, or than at once."""
NOTICED = 5 * MOMENT
"""How long the slot may take to notice that the device went."""
_MOMENTS = 60
"""More than any deployment takes that is not interrupted."""


@dataclass(eq=False)
class Call:
    """A call under way.

    Attributes:
        name: of the model that it asks for; empty for the loaded one.
        seconds: how long it waits.
        settled: when all was last quiet with a model serving, -1 if it was not before the call.
        absent: the device is not there, and the slot knows.
        resets: of the device, before it.
        blocked: while it was under way, as many calls hung as are let in at a time.
    """

    name: str
    seconds: float
    hangs: bool
    began: float
    settled: float
    absent: bool
    sent: calls.Call
    task: asyncio.Task[bytes]
    resets: int
    blocked: bool = False


@dataclass(eq=False)
class Deployment:
    """A deployment under way; *settled* and *resets* as in `Call`."""

    name: str
    settled: float
    calls_hang: bool
    task: asyncio.Task[Deployed]
    resets: int


class Daemon:
    """One process of the daemon: a slot with what is its own."""

    def __init__(self, world: World, on_demand: bool) -> None:
        self.loop = loop = InstantLoop(world.clock)
        self.store = FakeStore(world, loop)
        store = cast(Store, self.store)
        limits = SlotLimits(
            drain_seconds=LIMITS.drain_seconds, on_demand=on_demand, residence_seconds=0.1
        )
        loop.run_for(0)
        version = str(world.shelf.compiler_version)
        self.compiler = FakeCompiler(world, loop)
        standbys = Standbys(
            store, cast(Launcher, FakeLauncher(world, loop)), self.compiler, version
        )
        self.slot = Slot(store, standbys, cast(DeviceLink, FakeLink(world, loop)), limits)
        self.renewal = Renewal(store, standbys, version, self.slot)
        loop.run_until_complete(loop.spawn(self.start()))

    async def start(self) -> None:
        await self.slot.start()
        self.renewal.start()

    async def stop(self, grace: float) -> None:
        await self.renewal.stop()
        await self.slot.stop(grace)


_QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of small folders


class SlotMachine(RuleBasedStateMachine):
    """What can happen, and what has to hold.

    Rules without a use at some moment do nothing then: with preconditions, what Hypothesis draws
    would depend on what the slot did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="slot-", dir=_QUICK))
        self.world = World(self.folder)
        self.calls: list[Call] = []
        self.deployments: list[Deployment] = []
        self.settled = -1.0
        self.on_demand = False

    @initialize(on_demand=st.booleans(), first=st.sampled_from(["", *GOOD]))
    def begin(self, on_demand: bool, first: str) -> None:
        self.on_demand = on_demand
        self.daemon = Daemon(self.world, on_demand)
        if first:
            self.deploy(first)
            self.settle()

    # What people and clients do.

    @rule(name=st.sampled_from([*GOOD, *UNSOUND]))
    def deploy(self, name: str) -> None:
        record = self.daemon.store.record(name)
        self.world.deploying[name] += 1
        hang = any(call.hangs for call in self.calls)
        task = self.daemon.loop.spawn(self.daemon.slot.deploy(record, _tell))
        deployment = Deployment(name, self.settled, hang, task, self.world.hardware.resets)
        self.deployments.append(deployment)
        task.add_done_callback(lambda _: self.deployed(deployment))

    @rule()
    def roll_back(self) -> None:
        if not previous(self.world.shelf):
            return
        self.deploy(previous(self.world.shelf) or "")

    @rule()
    def call_off(self) -> None:
        if not self.deployments:
            return
        self.deployments[0].task.cancel()

    @rule(
        name=st.sampled_from(["", "", *GOOD]),
        seconds=st.sampled_from([PATIENT, PATIENT, HURRIED]),
        hangs=st.sampled_from([False, False, False, True]),
        client=st.sampled_from(["ann", "bob"]),
        priority=st.sampled_from(Priority),
    )
    def call(self, name: str, seconds: float, hangs: bool, client: str, priority: Priority) -> None:
        hardware, now = self.world.hardware, self.world.clock.now
        if name and self.on_demand:
            self.world.demanded.add(name)
        payload = name.encode() + (HANG if hangs else b"")
        asked = RequestedModel(name) if name else None
        sent = calls.Call("Predict", payload, now + seconds, asked, client, priority)
        task = self.daemon.loop.spawn(self.daemon.slot.call(sent))
        absent = not hardware.present and hardware.changed + NOTICED < now
        call = Call(name, seconds, hangs, now, self.settled, absent, sent, task, hardware.resets)
        self.calls.append(call)
        if sum(call.hangs for call in self.calls) >= AT_ONCE:
            for each in self.calls:
                each.blocked = True
        for deployment in self.deployments:
            deployment.calls_hang |= hangs
        task.add_done_callback(lambda _: self.answered(call))

    @rule()
    def hang_up(self) -> None:
        if not self.calls:
            return
        self.calls[0].task.cancel()

    # What happens to the machine.

    @rule(moments=st.integers(1, 12))
    def time_passes(self, moments: int) -> None:
        self.daemon.loop.run_for(moments * MOMENT)

    @rule(times=st.integers(1, 8))
    def loop_turns(self, times: int) -> None:
        self.daemon.loop.turn(times)

    @rule(forgets=st.booleans())
    def unplug(self, forgets: bool) -> None:
        if not self.world.hardware.present:
            return
        self.world.hardware.unplug(forgets)

    @rule()
    def plug(self) -> None:
        if self.world.hardware.present:
            return
        self.world.hardware.plug()

    @rule(forgets=st.booleans())
    def reset(self, forgets: bool) -> None:
        if not self.world.hardware.present:
            return
        self.world.hardware.reset(forgets)

    @rule(by_model=st.booleans())
    def kill_container(self, by_model: bool) -> None:
        if not self.world.live:
            return
        self.world.trouble()
        min(self.world.live, key=lambda container: container.pid).die(
            Ending("it was killed", by_model)
        )

    @rule(after=st.integers(0, 30), kind=st.sampled_from(Kind))
    def arm(self, after: int, kind: Kind) -> None:
        if len(self.world.fuses) >= 2:
            return
        self.world.fuses.append((after, kind))

    @rule(name=st.sampled_from(GOOD))
    def rot(self, name: str) -> None:
        self.world.trouble()
        self.world.rotten.symmetric_difference_update({name})

    @rule()
    def kill_and_restart(self) -> None:
        self.world.trouble()
        self.daemon.loop.kill()
        self.forget()
        self.daemon = Daemon(self.world, self.on_demand)

    @rule()
    def upgrade(self) -> None:
        """What the store has compiled is of another compiler from here on."""
        self.world.shelf.compiler_version += 1
        self.stop_and_start(politely=True)

    @rule(politely=st.booleans())
    def stop_and_start(self, politely: bool) -> None:
        self.stop(politely)
        self.daemon = Daemon(self.world, self.on_demand)

    @rule()
    def settle(self) -> None:
        """Let everything come to its end; then the promises have to hold that are about that."""
        launches = self.world.launches.total()
        deployments = len(self.deployments)
        # Each fault that is still armed may meet an attempt that is made once a minute.
        faults = len(self.world.fuses)
        self.daemon.loop.run_for(QUIET + LONGEST_PAUSE * faults)
        self.check()
        assert not self.daemon.loop.strays, self.daemon.loop.strays
        assert not self.calls, "a call is still under way"
        hardware, status = self.world.hardware, self.daemon.slot.status
        launches = self.world.launches.total() - launches
        # And one after each pause of 0.5, 1, … 60 s.
        assert launches <= 2 * LIMITS.attempts + 3 * deployments + 12 + faults, (
            f"{launches} launches"
        )
        if not hardware.present:
            assert status.state is State.ABSENT
            assert self.outcome(PATIENT)[0] is UnavailableError
            return
        assert not self.deployments, "a deployment is still under way"
        wanted = self.world.expected()
        assert status.model is None or str(status.model.manifest.name) == wanted, status
        live = {container.name for container in self.world.live}
        assert len(self.world.live) == len(live) <= 1
        assert self.daemon.store.leftovers == len(live)
        if wanted is None:
            assert live == set()
            assert self.outcome(PATIENT)[0] in (NotFoundError, UnavailableError)
            return
        self.world.fuses.clear()
        assert self.outcome(PATIENT) == (None, wanted), status
        assert status.state is State.SERVING
        assert status.since is not None
        owner = hardware.owner
        assert owner is not None and owner.name == wanted and live == {wanted}
        assert hardware.active_image() == owner.image
        if self.world.troubled < self.settled:
            entries = self.world.shelf.entries.items()
            attempts = {
                name: entry.attempts
                for name, entry in entries
                if not entry.set_aside and name not in self.world.uncleared
            }
            assert not any(attempts.values()), f"failures that were survived count: {attempts}"
        self.settled = self.world.clock.now
        self.world.demanded.clear()

    # What has to hold always.

    @invariant()
    def check(self) -> None:
        assert not self.world.violations, self.world.violations
        for call in self.calls:
            late = self.world.clock.now - call.began - call.seconds
            assert late < LATE, f"a call is {late} s over its time: {call}"

    def answered(self, call: Call) -> None:
        """A call has ended: is that the end that it should have?"""
        before = self.calls[: self.calls.index(call)]
        self.calls.remove(call)
        world, now = self.world, self.world.clock.now
        if self.daemon.loop.dead or call.task.cancelled():
            return
        error = call.task.exception()
        took = now - call.began
        if took > call.seconds + LATE:
            world.violated(f"took {took:.3f} s: {call}")
        if error is not None and not isinstance(error, EdgedError):
            world.violated(f"{error!r} ended {call}")
        if error is None and call.name and call.task.result().decode() != call.name:
            world.violated(f"{call.task.result()!r} answered {call}")
        if error is None and not self.on_demand:
            # Who asks for a model by name may wait for it, and comes to the gate later.
            for other in before:
                if not other.sent.served_by and _same_line(call.sent, other.sent):
                    world.violated(f"{call} was answered before {other} was let in")
        absent = call.absent and not world.hardware.present
        if absent and (took > LATE or not isinstance(error, UnavailableError)):
            world.violated(f"{error!r} after {took:.3f} s without a device: {call}")
        if error is None or call.hangs or world.troubled >= call.settled:
            return
        if world.hardware.resets - call.resets > 1:
            return  # What was not run is tried again once.
        if (call.seconds == HURRIED or call.blocked) and isinstance(error, DeadlineError):
            return
        if call.name:
            # Another may be loaded; and if models come on demand, others may be before it.
            if self.on_demand and call.name in world.rotten:
                return
            if isinstance(error, DeadlineError if self.on_demand else NotFoundError):
                return
        world.violated(f"{error!r} ended {call}, and nothing had gone wrong")

    def deployed(self, deployment: Deployment) -> None:
        """A deployment has ended: is that the end that it should have?"""
        self.deployments.remove(deployment)
        name, world = deployment.name, self.world
        world.deploying[name] -= 1
        if self.daemon.loop.dead or deployment.task.cancelled():
            return
        error = deployment.task.exception()
        if error is None:
            if name in UNSOUND:
                world.violated(f"{name} was deployed")
            if name not in world.shelf.commits:
                world.violated(f"{name} was deployed but never committed")
        elif not isinstance(error, EdgedError) or "the slot is in state" in str(error):
            world.violated(f"deployment of {name} ended with {error!r}")
        elif name in UNSOUND or name in world.rotten or world.troubled >= deployment.settled:
            return
        elif world.hardware.resets == deployment.resets and not (
            deployment.calls_hang and isinstance(error, DeadlineError)
        ):
            # Only that a call hangs, and so the old model cannot be drained, would be a reason.
            world.violated(f"{error!r} ended the deployment of {name}; nothing had gone wrong")

    # How it ends.

    def outcome(self, seconds: float) -> tuple[type[EdgedError] | None, str]:
        """What a call gets: its error's nearest of three classes and no answer, or none and it."""
        loop = self.daemon.loop
        before = self.world.clock.now
        task = loop.spawn(self.daemon.slot.call(calls.Call("Predict", b"", loop.time() + seconds)))
        loop.run_for(seconds + MOMENT)
        assert task.done(), f"a call of {before} s is not done"
        error = task.exception()
        for kind in (UnavailableError, NotFoundError, EdgedError):
            if isinstance(error, kind):
                return kind, str(error)
        return None, task.result().decode()

    def stop(self, politely: bool) -> None:
        """As the daemon does it, or with deployments under way."""
        self.world.trouble()
        if politely:
            self.call_all_off()
        left = self.daemon.loop.finish(self.daemon.stop(1.0))
        assert not left, f"tasks left: {left}"
        self.check()
        assert not self.daemon.loop.strays, self.daemon.loop.strays
        assert not self.world.live, f"containers left: {[str(c) for c in self.world.live]}"
        assert not self.daemon.store.leftovers
        self.forget()

    def call_all_off(self) -> None:
        tasks = [deployment.task for deployment in self.deployments]
        for task in tasks:
            task.cancel()
        if tasks:
            self.daemon.loop.run_for(10.0)

    def forget(self) -> None:
        """The process is gone, and with it its children and all that waited."""
        self.calls.clear()
        self.deployments.clear()
        self.world.deploying.clear()
        self.world.live.clear()
        self.world.unnoted.clear()
        self.world.hardware.owner = None

    def teardown(self) -> None:
        try:
            if not hasattr(self, "daemon"):
                return
            if self.world.violations or self.daemon.loop.is_closed():
                return
            if not self.world.hardware.present:
                self.plug()
            self.settle()
            self.stop(politely=True)
        finally:
            if hasattr(self, "daemon") and not self.daemon.loop.is_closed():
                self.daemon.loop.kill()
            shutil.rmtree(self.folder)


@pytest.mark.parametrize(
    "interrupt",
    [
        SlotMachine.call_off,
        lambda machine: machine.kill_container(by_model=True),
        lambda machine: machine.kill_container(by_model=False),
        lambda machine: machine.reset(forgets=False),
        lambda machine: machine.reset(forgets=True),
        lambda machine: (machine.unplug(forgets=True), machine.plug()),
    ],
    ids=[
        "called off",
        "container dies",
        "container killed",
        "reset",
        "reset, forgets",
        "unplugged for a moment",
    ],
)
@pytest.mark.parametrize("first", ["", "a"])
def test_a_deployment_is_interrupted_at_each_moment(
    interrupt: Callable[[SlotMachine], object], first: str
) -> None:
    for moment in range(_MOMENTS):
        machine = SlotMachine()
        try:
            machine.begin(on_demand=False, first=first)
            machine.deploy("b")
            machine.daemon.loop.run_for(moment * MOMENT)
            interrupt(machine)
            machine.settle()
        finally:
            machine.teardown()


def test_who_serves_again_after_another_has_answered_remembers_no_sequence() -> None:
    """It would go on with states that are older than the client's."""
    machine, tasks = SlotMachine(), []
    try:
        machine.begin(on_demand=False, first="a")
        for moment in range(_MOMENTS):
            if moment == 1:
                machine.deploy(UNEVEN)
            machine.call("", PATIENT, False, "ann", Priority.NORMAL)
            tasks.append(machine.calls[-1].task)
            machine.time_passes(1)
        machine.settle()
        answers = [task.result() for task in tasks]
        changes = [name for name, _ in itertools.groupby(answers)]
        assert changes == [b"a", UNEVEN.encode(), b"a"]
    finally:
        machine.teardown()


def test_a_call_is_let_in_at_the_moment_at_which_the_device_is_reset() -> None:
    """By one that leaves just then: it is run once more, as those are that were in before."""
    machine = SlotMachine()
    try:
        machine.begin(on_demand=False, first="a")
        for hangs in [True] * AT_ONCE + [False]:
            machine.call("", PATIENT, hangs, "ann", Priority.NORMAL)
        machine.daemon.loop.run_for(MOMENT)
        machine.hang_up()
        machine.reset(forgets=False)
        machine.settle()
    finally:
        machine.teardown()


def _same_line(one: calls.Call, other: calls.Call) -> bool:
    return (one.client, one.priority) == (other.client, other.priority)


def _tell(text: str, fraction: float | None = None) -> None:
    """Nobody listens."""


_MORE = int(os.environ.get("EDGED_INTERLEAVINGS", "0"))

TestSlot: Any = SlotMachine.TestCase
TestSlot.settings = settings(
    max_examples=_MORE or 300,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=not _MORE,
    # Thirty steps can be read as they are; to make them fewer takes minutes.
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
