"""One slot: which model is on the device, and every way in which that changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from edged.bundle import Digest
from edged.calls import Call, Stopwatch
from edged.container import CALLS_AT_ONCE, CalledBack, Ending
from edged.device import Device
from edged.errors import (
    DeadlineError,
    DeviceError,
    DeviceLostError,
    EdgedError,
    LimitError,
    NotFoundError,
    NotRunError,
    UnavailableError,
    is_of_machine,
)
from edged.faults import fault_point
from edged.notices import Notice, about
from edged.npu import Target, image_digest
from edged.npu.registers import QUEUE_DATA, BankStatus
from edged.remarks import Remark
from edged.slot._demand import Demand
from edged.slot._failures import FIRST_PAUSE, Failures
from edged.slot._gate import Gate
from edged.slot._link import DeviceLink, Gone
from edged.slot._pace import Pace
from edged.slot._standby import Model, Standbys, Tell, log_only
from edged.slot._states import TRANSITIONS, Event, State
from edged.slot._to_its_end import to_its_end
from edged.store import BundleRecord, Store
from edged.wire import RequestedModel

__all__ = ["AT_ONCE", "Deployed", "Slot", "SlotLimits", "SlotStatus"]

_log = logging.getLogger(__name__)
_DEVICE_SECONDS: Final = 1.0
_RESET_SECONDS: Final = 5.0
"""While the device is reset, calls are held so long: an abort and a soft reset take no longer."""
_NOTICE_SECONDS: Final = 3.0
"""A device that did not run a call is found to be unfit within that time, or is not."""

AT_ONCE: Final = CALLS_AT_ONCE + 2
"""Calls that are let in: what the container works on, and what it goes on with while the daemon is
busy with an answer. All others wait where turns are fair."""

_TEST_SECONDS: Final = 0.01
"""While calls wait, vectors of the self-test are begun for so long, and one in any case."""


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """Bounds, in seconds and counts.

    Attributes:
        drain_seconds: how long a swap waits for the calls inside.
        attempts: starts of one model that may fail before it is set aside.
        max_queued: calls that may wait for their turn, or while models change.
        max_queued_bytes: what their requests may have together.
        failures: losses of a model's container within *failure_window* seconds, after which the
            model is set aside.
        on_demand: whether a call that names a model which is stored but not loaded has it loaded.
        residence_seconds: how long a model stays before another is loaded on demand.
    """

    drain_seconds: float = 30.0
    attempts: int = 3
    max_queued: int = 256
    max_queued_bytes: int = 256 << 20
    failures: int = 5
    failure_window: float = 60.0
    on_demand: bool = False
    residence_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The slot as a person asks for it.

    Attributes:
        since: seconds since the epoch at which the model began to serve, None with none serving.
        problem: why nothing serves, in a sentence; empty when something does.
        remarks: of the compiler on the model.
        target: of the device, None without one.
    """

    state: State
    model: BundleRecord | None
    since: float | None
    problem: str
    remarks: tuple[Remark, ...] = ()
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Deployed:
    """What became of a deployment.

    Attributes:
        since: when it began to serve, seconds since the epoch.
        already: the model was serving before; nothing changed.
        gate_closed_seconds: for how long calls were held.
        remarks: of the compiler.
    """

    model: BundleRecord
    since: float
    already: bool
    gate_closed_seconds: float
    remarks: tuple[Remark, ...] = ()


class Slot:
    """One model at a time on one device.

    Args:
        store: what is committed, and what was tried.
        standbys: makes models ready.
        link: the way to the device.
    """

    def __init__(
        self,
        store: Store,
        standbys: Standbys,
        link: DeviceLink,
        limits: SlotLimits = SlotLimits(),
    ) -> None:
        self._store = store
        self._standbys = standbys
        self._link = link
        self._limits = limits
        self._gate = Gate(limits.max_queued, limits.max_queued_bytes, AT_ONCE)
        self._pace = Pace()
        self._demand = Demand(limits.max_queued)
        self._state = State.ABSENT
        self._problem = "the device has not been found yet"
        self._device: Device | None = None
        self._found = asyncio.Event()
        self._lost = asyncio.Event()  # another one for each device
        self._loaded: Model | None = None
        self._deploying: Counter[Digest] = Counter()
        # Held by whoever changes what is on the device; calls never take it.
        self._changing = asyncio.Lock()
        self.failures = Failures(store, limits.failures, limits.failure_window)
        # Set aside, and to be loaded all the same when its pause is over.
        self._resort: Digest | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._server_of_demand: asyncio.Task[None] | None = None
        self._recoveries: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[SlotStatus], None]] = []
        self._event_listeners: list[Callable[[Event, SlotStatus], None]] = []

    @property
    def status(self) -> SlotStatus:
        loaded = self._loaded
        serving = loaded is not None and self._state in (State.SERVING, State.SWAPPING)
        return SlotStatus(
            self._state,
            loaded.record if loaded else None,
            loaded.since if loaded and serving else None,
            "" if serving else self._problem,
            loaded.remarks if loaded else (),
            self._device.identity.target if self._device else None,
        )

    @property
    def limits(self) -> SlotLimits:
        """May be set at any time, but for *on_demand*, which stays as it was at the start."""
        return self._limits

    @limits.setter
    def limits(self, limits: SlotLimits) -> None:
        self._limits = replace(limits, on_demand=self._limits.on_demand)
        self._gate.max_queued = limits.max_queued
        self._gate.max_queued_bytes = limits.max_queued_bytes
        self._demand.max_waiting = limits.max_queued
        self.failures.max_losses = limits.failures
        self.failures.window = limits.failure_window

    def slow_down(self, interval: float) -> None:
        """Let calls in one by one, *interval* seconds apart; 0 lets them in as they come."""
        self._pace.interval = interval

    @property
    def in_use(self) -> set[Digest]:
        """What is loaded, and what is on its way, by whose wish ever."""
        loaded = [self._loaded.record.digest] if self._loaded is not None else []
        return {*self._deploying, *loaded}

    def on_change(self, listener: Callable[[SlotStatus], None]) -> None:
        """Have *listener* called with the status after each transition."""
        self._listeners.append(listener)

    def on_event(self, listener: Callable[[Event, SlotStatus], None]) -> None:
        """Have *listener* called with each event and the status that it led to."""
        self._event_listeners.append(listener)

    @property
    def queued(self) -> int:
        """Calls that wait at the gate."""
        return self._gate.queued

    async def start(self) -> None:
        """Look for the device, and serve the committed model once it is there."""
        self._gate.refuse(DeviceLostError(f"cannot answer: {self._problem}; try again in a second"))
        self._supervisor = asyncio.create_task(self._supervise(), name="slot")
        if self._limits.on_demand:
            self._server_of_demand = asyncio.create_task(self._meet_demand(), name="demand")

    async def call(self, call: Call) -> bytes:
        """Answer one call by the loaded model.

        The model that it names changes nothing without on-demand loading: the container compares
        it with what it holds. Its watch is told what the stages took: *queue*, and what the
        container says, or *container* for one that failed there.

        Returns:
            the response's bytes.

        Raises:
            EdgedError: the class says what the caller should do about it.
        """
        await self._pace.turn(call.left)
        arrival = None
        again = False
        while True:
            if self._limits.on_demand and call.model is not None and call.model.name:
                await self._enter_on_demand(call, call.model)
            else:
                arrival = await self._gate.enter(call, arrival)
            call.watch.lap("queue")
            try:
                loaded = self._loaded
                if loaded is None:
                    raise UnavailableError(
                        "cannot answer: no model is loaded; try again in a second"
                    )
                lost = loaded.lost
                call.served_by = str(loaded.record)
                call.digest = str(loaded.record.digest)
                return await loaded.container.call(
                    call.method, call.payload, call.left, call.extras, call.watch
                )
            except CalledBack:
                # Models change, and it had not begun: it waits for what comes.
                continue
            except NotRunError:
                # Once more, by the device that was reset: a run has no effect but its outputs.
                if again or not await _is_let_go_of(lost, call.left):
                    raise
                again = True
            finally:
                if sys.exception() is not None:
                    call.watch.lap("container")
                self._gate.leave()

    async def deploy(self, record: BundleRecord, tell: Tell, cause: str = "") -> Deployed:
        """Make the stored bundle *record* the model that serves.

        Until the new model has passed its self-test, whatever fails leaves the old one serving.

        Args:
            cause: who wants it and why, for the history.

        Raises:
            EdgedError: why the new model does not serve; the old one does.
        """
        self._deploying[record.digest] += 1
        try:
            return await self._deploy(record, tell, cause)
        finally:
            self._deploying[record.digest] -= 1
            self._deploying += Counter()  # drops those at zero

    async def _deploy(self, record: BundleRecord, tell: Tell, cause: str) -> Deployed:
        if self._already(record) is not None:
            async with self._changing:  # It may serve and not be committed yet.
                if (already := self._already(record)) is not None:
                    return already
        if self._device is None:
            tell("waiting for the device")
        await self._found.wait()
        target = self._present().identity.target
        # Not under the lock: should the old model's container die meanwhile, it is replaced.
        standby = await self._standbys.prepare(record, target, tell)
        try:
            async with self._changing:
                # What is committed goes first: it is what a failure falls back to, and what serves
                # if this is called off meanwhile.
                await to_its_end(self._restore_or_recover(self._present()))
                device = self._present()
                if (already := self._already(record)) is not None:
                    await self._standbys.discard(standby)
                    return already
                if device.identity.target != target:
                    raise UnavailableError(
                        f"cannot load {record}: it was compiled for {target}, the device now is"
                        f" {device.identity.target}; it is tried again"
                    )
                closed = await self._swap(device, standby, tell, cause)
        except BaseException:
            if self._loaded is not standby:
                await self._standbys.discard(standby)
            raise
        _log.info(
            "%s serves; calls were held for %.0f ms (%s)",
            record,
            closed.seconds * 1000,
            closed,
            extra=about(Notice.SERVES, model=record, digest=record.digest),
        )
        _log_remarks(standby)
        return Deployed(
            record,
            standby.since,
            already=False,
            gate_closed_seconds=closed.seconds,
            remarks=standby.remarks,
        )

    def _already(self, record: BundleRecord) -> Deployed | None:
        loaded = self._loaded
        if loaded is None or self._state is not State.SERVING:
            return None
        if loaded.record.digest != record.digest:
            return None
        return Deployed(
            record, loaded.since, already=True, gate_closed_seconds=0.0, remarks=loaded.remarks
        )

    async def settled(self) -> None:
        """Wait until no model is on its way onto the device.

        What goes wrong afterwards is not taken for that model's fault at the next start.
        """
        # A device that is longer away is not waited for: nothing is loaded meanwhile.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEVICE_SECONDS):
                await self._found.wait()
        async with self._changing:
            pass

    async def stop(self, grace: float) -> None:
        """Let the calls inside finish, at most *grace* seconds, then put everything away."""
        self._problem = "edged is stopping"
        self._move(Event.STOP)
        refusal = UnavailableError("cannot answer: edged is stopping; try again shortly")
        self._gate.refuse(refusal)
        self._demand.refuse(refusal)
        with contextlib.suppress(EdgedError):
            await self._gate.drained(grace)
        for task in (self._server_of_demand, self._supervisor):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._found.set()  # Who waits for the device is told that none comes any more.
        async with self._changing:
            if self._loaded is not None:
                loaded, self._loaded = self._loaded, None
                await self._standbys.discard(loaded)

    # Models that calls ask for by name.

    async def _enter_on_demand(self, call: Call, model: RequestedModel) -> None:
        """Pass the gate with the model loaded that a call names, if the store has it."""
        stored = True
        while True:
            # Without a device the gate refuses at once.
            there = self._device is not None and self._state is not State.STOPPED
            if there and not self._is_loaded(model):
                stored = await self._demanded(model, call.deadline)
            await self._gate.enter(call)
            # It may have gone again while the call was held. A model that is not stored is the
            # container's to answer: it says what is loaded instead.
            if not stored or self._is_loaded(model):
                return
            self._gate.leave()

    async def _demanded(self, model: RequestedModel, deadline: float) -> bool:
        """Wait for *model* to be loaded; False at once when it may not be."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                record = await asyncio.to_thread(_loadable, self._store, model)
        except TimeoutError as error:
            raise DeadlineError(
                "cannot answer in time: the store takes long to say what it has"
            ) from error
        if record is None:
            return False
        if self._device is None or self._state is State.STOPPED:
            return True  # The gate says so.
        await self._demand.wait(record, deadline - time.monotonic())
        return True

    def _is_loaded(self, model: RequestedModel) -> bool:
        if self._loaded is None:
            return False
        return _means(model, self._loaded.record)

    async def _meet_demand(self) -> None:
        while True:
            record = await self._demand.next()
            if self._loaded is not None and self._loaded.record.digest != record.digest:
                stayed = time.time() - self._loaded.since
                await asyncio.sleep(max(0.0, self._limits.residence_seconds - stayed))
            # Those who asked may have given up while it was not their turn.
            if record is not await self._demand.next():
                continue
            try:
                # If it is pinned by now, those who wait look again, and find that it stays away.
                if not await asyncio.to_thread(self._store.pinned):
                    await self.deploy(record, log_only, "on demand")
            except EdgedError as error:
                self._demand.settle(record, error)
            else:
                self._demand.settle(record)

    # The device comes and goes.

    async def _supervise(self) -> None:
        while True:
            device = await self._link.opened(self._unusable)
            self._device = device
            self._problem = "the device is there, and the model for it is looked up"
            self._move(Event.DEVICE_FOUND)
            _log.info(
                "found device %s",
                device.identity,
                extra=about(Notice.DEVICE_FOUND, device=device.identity),
            )
            self._found.set()
            self._start_recovery(device)
            gone = Gone("the device is not looked after any more")
            try:
                gone = await self._link.gone(device)
            finally:
                self._lose(device, gone)
                for recovery in self._recoveries:
                    recovery.cancel()
                await asyncio.gather(*self._recoveries, return_exceptions=True)
                await asyncio.to_thread(device.close)

    def _unusable(self, why: str) -> None:
        """The device is there, and cannot be used."""
        if self._state is State.ABSENT:
            self._problem = why
            self._refuse_calls()
            self._tell_listeners()

    def _lose(self, device: Device, gone: Gone) -> None:
        self._device = None
        self._found.clear()
        self._lost.set()
        self._lost = asyncio.Event()
        if self._state is State.STOPPED:
            return
        self._problem = f"{gone.why}; serving resumes by itself when it is back"
        _log.error(
            "lost device %s: %s",
            device.identity,
            gone.why,
            extra=about(Notice.DEVICE_LOST, device=device.identity),
        )
        if gone.mended:
            self._hold_calls()
        else:
            self._refuse_calls()
        self._move(Event.DEVICE_LOST)

    def _hold_calls(self) -> None:
        """While the device is reset; for longer than that takes, nobody is left waiting."""
        lost = self._lost

        def give_up() -> None:
            if self._state is State.ABSENT and self._lost is lost:
                self._refuse_calls()

        self._gate.close()
        asyncio.get_running_loop().call_later(_RESET_SECONDS, give_up)

    def _refuse_calls(self) -> None:
        refusal = DeviceLostError(f"cannot answer: {self._problem}; try again in a second")
        self._gate.refuse(refusal)
        self._demand.refuse(refusal)

    def _start_recovery(self, device: Device, pause: float = 0.0) -> None:
        # Those before wait, for their turn or in a pause: this one goes on for them.
        for earlier in self._recoveries:
            earlier.cancel()
        recovery = asyncio.create_task(self._recover(device, pause))
        self._recoveries.add(recovery)
        recovery.add_done_callback(self._recoveries.discard)

    async def _recover(self, device: Device, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            async with self._changing:
                again = await self._restore(device)
            if again is None:
                return
            pause = again

    async def _restore_or_recover(self, device: Device) -> None:
        """As `_restore`, and once more later where it has to be, whoever called this then."""
        again = await self._restore(device)
        if again is not None:
            self._start_recovery(device, again)

    async def _restore(self, device: Device) -> float | None:
        """Bring the committed model onto a device that has none of ours running.

        Returns:
            None when there is no more to be done; or the seconds after which to try again, because
            the machine was at fault, or because the only model is set aside.
        """
        while self._device is device and self._state is State.EMPTY:
            self._gate.close()
            record = None
            try:
                record = await asyncio.to_thread(self._candidate)
                if record is None:
                    return await self._last_resort(device)
                await self._load(device, record)
            except BaseException as error:
                await self._excuse(record, device, error)
                if not (isinstance(error, EdgedError) or is_of_machine(error)):
                    raise
                if self._device is not device:
                    return None
                which = {} if record is None else {"model": record, "digest": record.digest}
                _log.error(
                    "cannot load the committed model: %s",
                    error,
                    extra=about(Notice.NOT_LOADED, **which),
                )
                self._problem = str(error)
                if self.status.state is State.LOADING:
                    self._move(Event.LOAD_FAILED)
                if is_of_machine(error) and not isinstance(error, NotRunError):
                    return await self._wait_to_try(device, self.failures.pause())
                await asyncio.sleep(FIRST_PAUSE)
        return None

    async def _excuse(
        self, record: BundleRecord | None, device: Device, error: BaseException
    ) -> None:
        """Forget the attempts to load *record* if it was the machine or the device that failed."""
        if record is not None and (is_of_machine(error) or self._device is not device):
            await asyncio.to_thread(self.failures.forget_starts, record)

    async def _last_resort(self, device: Device) -> float | None:
        """Load what is committed although it was set aside, where there is nothing else to load.

        Once the pause is over that is due; before, and where nothing is committed, nothing is
        loaded. Returns as `_restore`.
        """
        record = await asyncio.to_thread(self._store.committed)
        if record is None or record.set_aside is None:
            await self._load_nothing(device)
            return None
        if self._resort != record.digest:
            self._resort = record.digest
            self._problem = f"cannot serve {record}, which is set aside: {record.set_aside}"
            pause = self.failures.pause(record.attempts - self._limits.attempts)
            return await self._wait_to_try(device, pause)
        self._resort = None
        await asyncio.to_thread(self.failures.begin_start, record)
        _log.info("trying %s again: there is no other model that served", record)
        await self._load(device, record)
        return None

    async def _wait_to_try(self, device: Device, seconds: float) -> float:
        """Have nothing loaded for *seconds*; calls are held for no longer than a moment."""
        if seconds > FIRST_PAUSE:
            said = f"{self._problem}; it is tried again in {seconds:g} s"
            await self._load_nothing(device, UnavailableError(f"cannot answer: {said}"))
        return seconds

    async def _load_nothing(self, device: Device, refusal: EdgedError | None = None) -> None:
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            await self._standbys.discard(loaded)
        if not self._is_there(device):
            return  # It went away meanwhile, and calls have been told so.
        if not self._problem.startswith("cannot"):
            self._problem = "no model is loaded; copy a bundle into the drop folder"
        # Whoever had the queue is gone. Left to itself it would look like a run that hangs.
        with contextlib.suppress(EdgedError):
            await asyncio.to_thread(device.disable_queue, QUEUE_DATA)
        if not self._is_there(device):
            return
        self._gate.refuse(refusal or NotFoundError(f"cannot answer: {self._problem}"))
        self._tell_listeners()

    def _candidate(self) -> BundleRecord | None:
        """The committed model, or the last good one once that has failed too often."""
        for record in (self._store.committed(), self._store.last_good()):
            if record is None or record.set_aside:
                continue
            if self.failures.begin_start(record) <= self._limits.attempts:
                return record
            why = f"cannot start: {self._limits.attempts} attempts failed"
            try:
                self._store.set_aside(record.digest, why)
            except LimitError as error:
                _log.error("cannot note that %s is set aside: %s", record, error)
        return None

    async def _load(self, device: Device, record: BundleRecord) -> None:
        self._problem = f"loading {record}"
        self._move(Event.LOAD)
        model = self._loaded
        if model is not None and (model.record.digest != record.digest or model.container.lost):
            self._loaded = None
            await self._standbys.discard(model)
            model = None
        if model is None:
            target = device.identity.target
            model = await self._standbys.prepare(record, target, self._tell_loading(record))
        try:
            fault_point("slot.load.prepared")
            await asyncio.to_thread(device.disable_queue, QUEUE_DATA)
            model.bank = await asyncio.to_thread(_load_bank, device, model)
            fault_point("slot.load.preloaded")
            await self._prepare(model)
            await self._enter(device, model, Stopwatch())
            await model.container.self_test()
            fault_point("slot.load.entered")
            await asyncio.to_thread(self.failures.forget_starts, record)
            self._check_there(device)
        except BaseException:
            self._loaded = None
            await self._standbys.discard(model)
            raise
        self._serve(model, Event.LOADED)
        _log.info(
            "%s serves", record, extra=about(Notice.SERVES, model=record, digest=record.digest)
        )
        _log_remarks(model)

    def _tell_loading(self, record: BundleRecord) -> Tell:
        """Says how far a model is that the status does not have yet."""

        def tell(text: str, fraction: float | None = None) -> None:
            percent = "" if fraction is None else f" {fraction:.0%}"
            said = f"loading {record}: {text}{percent}"
            if self._state is State.LOADING and said != self._problem:
                self._problem = said
                self._tell_listeners()

        return tell

    # Models change places.

    async def _swap(self, device: Device, new: Model, tell: Tell, cause: str) -> Stopwatch:
        """Put *new* in the place of what is loaded; returns for how long the gate was closed."""
        tell("loading")
        try:
            await asyncio.to_thread(self._store.begin_attempt, new.record.digest)
            new.bank = await asyncio.to_thread(_load_bank, device, new)
            fault_point("slot.preloaded")
            await self._prepare(new)
            self._check_there(device)
            old = self._loaded
            closed = await self._exchange(device, old, new)
            # Called off half-way, the store would name another model than serves.
            await to_its_end(self._conclude(device, old, new, cause, closed.seconds))
        except BaseException:
            # It was survived, so it does not count against the model at a start to come.
            with contextlib.suppress(EdgedError):
                await asyncio.to_thread(self._store.clear_attempts, new.record.digest)
            raise
        return closed

    async def _exchange(self, device: Device, old: Model | None, new: Model) -> Stopwatch:
        """Close the gate, and open it with *new* behind it; if that fails, with *old*."""
        if old is None:
            self._problem = f"loading {new.record}"
        self._move(Event.SWAP if old else Event.LOAD)
        closed = Stopwatch()
        self._gate.close()
        drained = False
        try:
            fault_point("slot.closed")
            if old is not None:
                old.container.call_back()
            await self._gate.drained(self._limits.drain_seconds)
            drained = True
            closed.lap("drain")
            if old is not None:
                await old.container.detach()
                closed.lap("detach")
                fault_point("slot.detached")
            await asyncio.to_thread(device.disable_queue, QUEUE_DATA)
            closed.lap("disable")
            fault_point("slot.drained")
            await self._enter(device, new, closed)
            self._check_there(device)
        except BaseException as error:
            await to_its_end(self._roll_back(device, old, error, attached=not drained))
            raise
        self._serve(new, Event.SWAPPED if old else Event.LOADED)
        self.failures.all_well()
        return closed

    async def _conclude(
        self, device: Device, old: Model | None, new: Model, cause: str, held: float
    ) -> None:
        """Commit *new*, which serves; if that cannot be done, it is *old* that has to serve."""
        try:
            fault_point("slot.opened")
            # All of the vectors, of which there was no time for more than a few before.
            await new.container.self_test()
            await asyncio.to_thread(self._commit, new.record, cause, held)
        except BaseException as error:
            await self._take_back(device, new, old, error)
            raise
        try:
            fault_point("slot.committed")
            if old is not None:
                await self._standbys.discard(old)
                fault_point("slot.old.stopped")
        except EdgedError as error:
            # It changes nothing about what serves.
            _log.error("cannot put the old model away: %s", error)

    async def _prepare(self, model: Model) -> None:
        """Have the container of *model* do all that it can before it is given the device."""
        await model.container.prepare(await self._link.data_connection())

    async def _enter(self, device: Device, model: Model, closed: Stopwatch) -> None:
        """Give the device to *model*, which is in its bank, and see that it computes."""
        await asyncio.to_thread(device.activate, model.bank)
        closed.lap("activate")
        fault_point("slot.activated")
        await model.container.attach()
        closed.lap("attach")
        fault_point("slot.attached")
        await model.container.self_test(_TEST_SECONDS)
        closed.lap("self-test")
        fault_point("slot.tested")

    async def _take_back(
        self, device: Device, new: Model, old: Model | None, error: BaseException
    ) -> None:
        """Have *old* serve again, although *new* does already: it could not be committed."""
        try:
            if self._state is State.SERVING:
                self._move(Event.SWAP)
                self._gate.close()
                await self._gate.drained(self._limits.drain_seconds)
                await new.container.detach()
        except EdgedError as second:
            _log.warning("cannot detach %s, which is ended in any case: %s", new.record, second)
        finally:
            self._loaded = old
        if old is not None:
            with contextlib.suppress(EdgedError):  # It is gone, which is found next.
                await old.container.forget()
        if self._state is State.SWAPPING:
            await self._roll_back(device, old, error)

    async def _roll_back(
        self, device: Device, old: Model | None, error: BaseException, attached: bool = False
    ) -> None:
        """Have *old* serve again.

        Args:
            attached: it holds the device still, and calls of its own may be running.
        """
        if not self._is_there(device):
            return  # The device went away meanwhile: it comes back to the committed model.
        if old is None:
            self._problem = str(error)
            self._move(Event.LOAD_FAILED)
            self._gate.refuse(NotFoundError(f"cannot answer: no model is loaded: {error}"))
            return
        _log.warning(
            "rolling back to %s: %s",
            old.record,
            error,
            extra=about(Notice.ROLLED_BACK, model=old.record, digest=old.record.digest),
        )
        try:
            fault_point("slot.rollback.begun")
            if not attached:
                await asyncio.to_thread(device.disable_queue, QUEUE_DATA)
                await self._prepare(old)
                await self._enter(device, old, Stopwatch())
                self._check_there(device)
            fault_point("slot.rollback.entered")
        except EdgedError as second:
            if not self._is_there(device):
                return
            _log.error("cannot roll back at once: %s", second)
            self._problem = str(second)
            self._move(Event.LOAD_FAILED)
            self._start_recovery(device)
            return
        self._serve(old, Event.ROLLED_BACK)

    def _commit(self, record: BundleRecord, cause: str, held: float) -> None:
        try:
            self._store.commit(record.digest, cause, held)
        except EdgedError:
            # It may be on disk all the same, and is then what serves after a restart.
            committed = self._store.committed()
            if committed is None or committed.digest != record.digest:
                raise
        self.failures.forget_starts(record)

    def _serve(self, model: Model, event: Event) -> None:
        if model.watch is None:
            model.since = time.time()
            model.watch = asyncio.create_task(self._watch(model))
        self._loaded = model
        self._problem = ""
        self._resort = None
        self._move(event)
        # A call is let in a moment before it looks what is loaded; the device may go in between.
        model.lost = self._lost
        self._gate.open()

    async def _watch(self, model: Model) -> None:
        """Replace the container of *model* when it dies while it serves."""
        try:
            async with asyncio.timeout(self.failures.window):
                await model.container.gone
        except TimeoutError:
            await self._well(model.record)
        await model.container.gone
        if self._loaded is model and self._state is State.SERVING:
            self._gate.close()
        reason = await model.container.closed
        async with self._changing:
            device = self._device
            if self._loaded is not model or device is None or self._state is not State.SERVING:
                return
            _log.error(
                "the container of %s is gone (%s); starting another",
                model.record,
                reason,
                extra=about(Notice.CONTAINER_LOST, model=model.record, digest=model.record.digest),
            )
            self._move(Event.CONTAINER_LOST)
            self._loaded = None
            await self._standbys.discard(model)
            losses, pause = self.failures.count_loss(
                asyncio.get_running_loop().time(), reason.by_model
            )
            if losses >= self._limits.failures:
                await self._give_up(model.record, reason)
            self._start_recovery(device, pause)

    async def _well(self, record: BundleRecord) -> None:
        """*record* has served for long enough to be trusted again."""
        self.failures.all_well()
        with contextlib.suppress(EdgedError):
            if (await asyncio.to_thread(self._store.get, record.digest)).set_aside is not None:
                await asyncio.to_thread(self._store.clear_set_aside, record.digest)
                _log.info("%s serves again, and is no longer set aside", record)

    async def _give_up(self, record: BundleRecord, reason: Ending) -> None:
        """Set *record* aside: its containers end too often, and by its own fault."""
        why = (
            f"cannot keep it running: its container ended {self._limits.failures} times within"
            f" {self._limits.failure_window:g} s, the last time because {reason}"
        )
        _log.error(
            "%s is set aside: %s",
            record,
            why,
            extra=about(Notice.SET_ASIDE, model=record, digest=record.digest),
        )
        try:
            await asyncio.to_thread(self._store.set_aside, record.digest, why)
        except EdgedError as error:
            _log.error("cannot note that %s is set aside: %s", record, error)

    def _present(self) -> Device:
        if self._state is State.STOPPED:
            raise UnavailableError("cannot load the model: edged is stopping")
        if self._device is None:
            raise DeviceLostError("cannot load the model: the device is gone; it is tried again")
        return self._device

    def _is_there(self, device: Device) -> bool:
        return self._device is device and self._state is not State.STOPPED

    def _check_there(self, device: Device) -> None:
        """That what was waited for was not overtaken by the device's going."""
        if self._present() is not device:
            raise DeviceLostError("cannot load the model: the device is gone; it is tried again")

    def _move(self, event: Event) -> None:
        try:
            self._state = TRANSITIONS[self._state, event]
        except KeyError:
            raise DeviceError(
                f"cannot {event.value}: the slot is in state {self._state.value!r}"
            ) from None
        for listener in self._event_listeners:
            listener(event, self.status)
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener(self.status)


async def _is_let_go_of(lost: asyncio.Event, seconds: float) -> bool:
    """Whether the device of that time is let go of, soon if not yet."""
    try:
        async with asyncio.timeout(min(_NOTICE_SECONDS, seconds)):
            await lost.wait()
    except TimeoutError:
        return False
    return True


def _log_remarks(model: Model) -> None:
    for remark in model.remarks:
        _log.log(
            logging.WARNING if remark.warning else logging.INFO,
            "%s: %s",
            model.record,
            remark,
            extra=about(Notice.REMARK, model=model.record, digest=model.record.digest),
        )


def _loadable(store: Store, model: RequestedModel) -> BundleRecord | None:
    """The bundle that a call may have loaded."""
    found = [
        record for record in store.list() if _means(model, record) and record.set_aside is None
    ]
    if not found or store.pinned():
        return None
    return max(found, key=lambda record: (record.manifest.serial, record.added))


def _means(model: RequestedModel, record: BundleRecord) -> bool:
    manifest = record.manifest
    return model.means(manifest.name, str(manifest.version), manifest.serial)


def _load_bank(device: Device, model: Model) -> int:
    """The bank with the image of *model*: one that has it already, or the idle one, loaded."""
    # Not kept: a loaded model is looked after by a task that knows it, and such circles are freed
    # late. 30 swaps of a 3.6 MB image grew the daemon by 37 MB.
    image = (model.folder / "program.img").read_bytes()
    digest = image_digest(image)
    for number, bank in enumerate(device.banks()):
        if bank.digest == digest and bank.status is BankStatus.VALID:
            return number
    number = device.idle_bank()
    device.load(image, number)
    return number
