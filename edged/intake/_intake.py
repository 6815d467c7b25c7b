"""From a file in the drop folder to a model that serves, one file at a time."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

from edged.errors import (
    EdgedError,
    IncompleteError,
    InputError,
    LimitError,
    NotFoundError,
    UnavailableError,
    is_of_machine,
)
from edged.faults import fault_point
from edged.intake._answered import Answered
from edged.intake._folder import (
    Dropped,
    Form,
    Rejected,
    begin_work,
    end_work,
    identify,
    is_being_written,
    is_ignored,
    is_there,
    look,
    move_to_rejected,
    remove,
    remove_data,
    take_back,
)
from edged.intake._status import Fate, StatusBoard, moment
from edged.intake._wakeups import Wakeups
from edged.management import WaitingDrop
from edged.notices import Notice, about
from edged.remarks import Remark

__all__ = ["Accept", "Arrival", "Intake", "Served", "Stored", "Tell"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

# Events come in bursts; looking more often than this tells nothing new.
_LEAST_PAUSE = 0.05
_LONGEST_PAUSE_BETWEEN_TRIES = 60.0
# Of edged, while a file was at work: as often as the same is tried.
_MOST_ENDS = 3
# How many rejected files are watched, and for how long: a copy that pauses longer was given up.
_MOST_REJECTED = 32
_MAY_GROW_SECONDS = 900.0
# How a line of a status file begins that the compiler has to say.
_REMARK = "note: "


@dataclass(frozen=True, slots=True)
class Served:
    """What became of an accepted file: its model serves.

    Attributes:
        model: name and version, as people know it.
        since: when it began to serve.
        note: what else there is to say, for instance that it was serving before.
        remarks: of the compiler; a line each.
    """

    model: str
    since: datetime
    note: str = ""
    remarks: tuple[Remark, ...] = ()

    def __str__(self) -> str:
        lines = [f"{Fate.SERVING}{moment(self.since)}", self.model, self.note]
        lines += [f"{_REMARK}{remark}" for remark in self.remarks]
        return "\n".join(filter(None, lines))


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an accepted file: its model is kept, and does not serve yet.

    Attributes:
        model: name and version, as people know it.
        note: why it does not serve, and what to do about it.
    """

    model: str
    note: str

    def __str__(self) -> str:
        return f"{Fate.STORED}{self.note}\n{self.model}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A model that was dropped, and is whole.

    Attributes:
        file: the bundle, or the ONNX file.
        shown: what was dropped, as people know it: the name of the file, or of the folder.
        name: what to call the model if it does not say so itself.
        data: files that the model keeps data in, relative to its folder, as far as
            `IncompleteError` has named them.
    """

    file: Path
    shown: str
    name: str
    data: tuple[str, ...] = ()


class Tell(Protocol):
    """Told how far a file has come; from any thread."""

    def __call__(self, text: str, fraction: float | None = None) -> None: ...


Accept = Callable[[Arrival, Tell], Awaitable[Served | Stored]]
"""Makes a model the one that serves, or keeps it for later. Raises EdgedError when it cannot;
UnavailableError when trying again later helps; IncompleteError when the model keeps data in files
that `Arrival.data` does not list, or that are not there."""


class _Stage(enum.Enum):
    SETTLING = enum.auto()
    QUEUED = enum.auto()
    AT_WORK = enum.auto()
    CALLED_OFF = enum.auto()
    POSTPONED = enum.auto()
    INCOMPLETE = enum.auto()
    LEFT_ALONE = enum.auto()


@dataclass(slots=True, eq=False)
class _Entry:
    """A file or folder and how far it has come.

    Attributes:
        due: loop time at which to look at it again, when it is settling or postponed; at which to
            wait no longer, when it is incomplete.
        number: the order in which files became whole.
        data: the files that it keeps data in, relative to its folder; None while nobody has looked.
        parts: what stood for them in the drop folder when all was there.
        told: what was said of their missing.
        reason: why it was postponed.
    """

    dropped: Dropped
    due: float
    stage: _Stage = _Stage.SETTLING
    number: int = 0
    tries: int = 0
    data: tuple[str, ...] | None = None
    parts: dict[str, Dropped] = field(default_factory=dict)
    told: str = ""
    reason: str = ""
    overdue: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.dropped.path.name

    @property
    def tops(self) -> set[str]:
        """The names in the drop folder by which its data are there; none for a folder's model."""
        if self.dropped.inside is not None:
            return set()
        return {file.partition("/")[0] for file in self.data or ()}

    @property
    def is_bare(self) -> bool:
        """Whether it is an ONNX file beside which there may be data."""
        return self.dropped.form is Form.FILE and self.name.lower().endswith(".onnx")


@dataclass(frozen=True, slots=True)
class _Spent:
    """Data of a model that has its answer: to go, once no other model wants them."""

    files: tuple[str, ...]
    parts: dict[str, Dropped]


class Intake:
    """Looks after one drop folder.

    A file that was accepted is removed, since it is in the store; a rejected one goes to
    ``rejected/``, and comes back from there if it turns out that its copy was not finished. A file
    that is replaced while it is at work is taken up again afterwards.

    A model that keeps data in other files waits for them, and goes where they go. A folder with one
    model in it, as model repositories are laid out, is taken for that; it stays as it is, and what
    changes in it is taken anew.

    Args:
        folder: the drop folder; made if it does not exist.
        accept: is given each file once it is whole.
        rescan_seconds: how often to look without being told to.
        settle_seconds: for how long a file must not have changed.
        max_file_bytes: larger files are rejected unread.
        retry_seconds: pause before a file whose time had not come is tried again; doubles.
        data_seconds: for how long a model waits for its data, counted from the last that came.

    Attributes:
        rescan_seconds, settle_seconds, max_file_bytes, data_seconds: as above; may be changed at
            any time.
    """

    def __init__(
        self,
        folder: Path,
        accept: Accept,
        *,
        rescan_seconds: float = 5.0,
        settle_seconds: float = 1.0,
        max_file_bytes: int = 4 << 30,
        retry_seconds: float = 5.0,
        data_seconds: float = 900.0,
    ) -> None:
        self._folder = folder
        self._accept = accept
        self.rescan_seconds = rescan_seconds
        self.settle_seconds = settle_seconds
        self.max_file_bytes = max_file_bytes
        self.data_seconds = data_seconds
        self._retry_seconds = retry_seconds
        self._answered = Answered(folder)
        self._board = StatusBoard(folder)
        self._entries: dict[str, _Entry] = {}
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue()
        self._at_work: _Entry | None = None
        self._taking: asyncio.Task[None] | None = None
        self._ready = 0
        self._serves: Served | None = None
        self._serves_changed = asyncio.Event()
        self._wake = asyncio.Event()
        # Held while files are looked at and while they are moved: a look must not bring back what
        # has just been put away.
        self._moving = asyncio.Lock()
        self._rejected: deque[tuple[Rejected, float]] = deque(maxlen=_MOST_REJECTED)
        self._spent: list[_Spent] = []
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the folder, and begin to take what is in it and what comes.

        A folder that cannot be used is logged and looked at again; it ends nothing.
        """
        try:
            await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            self._complain(error)
        await self._board.revise(self._forget_unfinished)
        self._task = asyncio.create_task(self._run(), name="intake")

    async def stop(self) -> None:
        """Take nothing more. The file at work stays where it is, to be taken up next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def serving(self, model: str, since: datetime, remarks: tuple[Remark, ...] = ()) -> None:
        """Be told what serves, each time that it changes; the status files follow shortly.

        Args:
            model: what serves now, as :attr:`Served.model` names it.
            since: since when.
            remarks: of the compiler.
        """
        self._serves = Served(model, since, remarks=remarks)
        self._serves_changed.set()

    def waiting(self) -> list[WaitingDrop]:
        """What is tried again later, in the order in which it became whole."""
        now = asyncio.get_running_loop().time()
        postponed = [e for e in self._entries.values() if e.stage is _Stage.POSTPONED]
        return [
            WaitingDrop(e.dropped.shown, e.reason, e.tries, max(e.due - now, 0.0))
            for e in sorted(postponed, key=lambda entry: entry.number)
        ]

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._board.run(), name="intake status")
                    tasks.create_task(self._keep_true(), name="intake truth")
                    tasks.create_task(self._watch(), name="intake watch")
                    tasks.create_task(self._work(), name="intake work")
            except* Exception:
                # Not meant to happen. What serves goes on serving; the folder gets another chance.
                _log.exception("cannot look after %s; beginning anew", self._folder)
            self._entries.clear()
            await asyncio.sleep(self.rescan_seconds)

    async def _keep_true(self) -> None:
        """Have the status files say what serves and what did, whoever brought that about."""
        while True:
            await self._serves_changed.wait()
            self._serves_changed.clear()
            if self._serves is not None:
                await self._board.revise(functools.partial(_made_true, self._serves))

    # Watching: what is there, and what of it is whole.

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        wakeups = Wakeups(self._folder, wake)
        try:
            while True:
                self._wake.clear()
                await asyncio.to_thread(wakeups.renew)
                async with self._moving:
                    await self._look()
                await asyncio.sleep(_LEAST_PAUSE)
                await self._pause()
        finally:
            await asyncio.to_thread(wakeups.close)

    def _forget_unfinished(self, name: str, lines: list[str]) -> str | None:
        """What an earlier life had not finished, of a file that is not there any more."""
        text = "\n".join(lines)
        return text if text.startswith(tuple(Fate)) or (self._folder / name).exists() else None

    async def _pause(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [e.due for e in self._entries.values() if e.stage in _WAITING]
        seconds = min([self.rescan_seconds, *(max(0.0, d - now) for d in due)])
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _look(self) -> None:
        await self._take_back()
        try:
            found = await asyncio.to_thread(look, self._folder)
        except OSError as error:
            self._complain(error)
            return
        self._complaint = ""
        present = {dropped.path.name for dropped in found}
        for name in [name for name in self._entries if name not in present]:
            entry = self._entries.pop(name)
            self._let_go(entry)
            if entry.stage is not _Stage.AT_WORK:
                self._board.post(name, None)
            elif self._taking is not None:
                entry.stage = _Stage.CALLED_OFF
                self._taking.cancel()
        for dropped in found:
            await self._notice(dropped)
        for entry in list(self._entries.values()):
            if entry.stage is _Stage.INCOMPLETE:
                await self._look_for_data(entry)
        await self._clear_spent()

    def _let_go(self, entry: _Entry) -> None:
        """Have the data of a model that was taken away tell for themselves again."""
        for top in entry.tops:
            part = self._entries.get(top)
            if part is not None and part.stage is _Stage.LEFT_ALONE:
                part.stage, part.due = _Stage.SETTLING, 0.0

    async def _take_back(self) -> None:
        """Have what grew in ``rejected/`` again, where it was rejected."""
        now = asyncio.get_running_loop().time()
        for rejected, at in list(self._rejected):
            grew: bool | None = None
            if now - at < _MAY_GROW_SECONDS:
                with contextlib.suppress(OSError):
                    grew = await asyncio.to_thread(take_back, rejected)
            if grew:
                _log.info("taking %s back: its copy goes on", rejected.moved.shown)
            if grew is not False:
                self._rejected.remove((rejected, at))

    async def _notice(self, dropped: Dropped) -> None:
        now = asyncio.get_running_loop().time()
        entry = self._entries.get(dropped.path.name)
        if entry is None or entry.dropped != dropped:
            entry = self._entries[dropped.path.name] = _Entry(dropped, now + self.settle_seconds)
            fault_point("intake.noticed")
            if dropped.form is Form.FOLDER and await asyncio.to_thread(self._answered.has, dropped):
                entry.stage = _Stage.LEFT_ALONE
            elif dropped.is_model and not self._is_at_work(entry.name):
                self._board.post(entry.name, "waiting for the copy to finish")
        if entry.stage not in (_Stage.SETTLING, _Stage.POSTPONED) or now < entry.due:
            return
        if entry.stage is _Stage.SETTLING:
            if await asyncio.to_thread(is_being_written, dropped):
                entry.due = now + self.settle_seconds
                return
            if not dropped.is_model:
                entry.stage = _Stage.LEFT_ALONE
                if not any(entry.name in other.tops for other in self._entries.values()):
                    self._board.post(entry.name, await asyncio.to_thread(_passed_over, dropped))
                return
            fault_point("intake.settled")
        self._enqueue(entry)

    def _enqueue(self, entry: _Entry) -> None:
        """Have *entry*, which is whole, taken in its turn."""
        if entry.stage is not _Stage.POSTPONED:
            self._ready += 1
            entry.number = self._ready
        entry.stage = _Stage.QUEUED
        if self._at_work is not None and not self._is_at_work(entry.name):
            self._board.post(entry.name, f"waiting for {self._at_work.dropped.shown}")
        self._queue.put_nowait(entry)

    async def _look_for_data(self, entry: _Entry) -> None:
        """Have *entry* taken once all its data are there, or rejected when they do not come."""
        now = asyncio.get_running_loop().time()
        missing = await asyncio.to_thread(self._missing, entry)
        coming = sorted(
            top
            for top in entry.tops
            if top in self._entries and self._entries[top].stage is _Stage.SETTLING
        )
        if coming:
            entry.due = now + self.data_seconds
        elif not missing:
            entry.parts = self._parts(entry)
            for top in entry.tops:
                self._board.post(top, f"data of {entry.dropped.shown}, taken together with it")
            self._enqueue(entry)
            return
        elif now >= entry.due:
            entry.overdue = True
            self._enqueue(entry)
            return
        told = (
            f"waiting for the copy of {_some(coming)} to finish"
            if coming
            else f"waiting for {_some(missing)}, in which {entry.dropped.shown} keeps its weights;"
            " copy it here too"
        )
        if told != entry.told:
            entry.told = told
            self._board.post(entry.name, told)

    def _missing(self, entry: _Entry) -> list[str]:
        """The data files of *entry* that are not there. Blocking."""
        folder = entry.dropped.model.parent
        return [
            file
            for file in entry.data or ()
            if not (folder / file).is_file()
            or (
                entry.tops
                and file.partition("/")[0] not in self._entries
                and not is_ignored(file.partition("/")[0])
            )
        ]

    async def _clear_spent(self) -> None:
        """Delete the data of models that have their answer, if they are of no other model."""
        for spent in list(self._spent):
            if any(self._may_want(other, spent) for other in self._entries.values()):
                continue
            self._spent.remove(spent)
            for top, part in spent.parts.items():
                entry = self._entries.get(top)
                if entry is None or entry.dropped != part:
                    continue  # New data, of a model to come.
                for file in spent.files:
                    if file.partition("/")[0] == top:
                        with contextlib.suppress(OSError):
                            await asyncio.to_thread(remove_data, self._folder, file)
                del self._entries[top]
                self._board.post(top, None)

    def _may_want(self, entry: _Entry, spent: _Spent) -> bool:
        if not entry.is_bare or entry.stage is _Stage.LEFT_ALONE:
            return False
        return entry.data is None or bool(set(entry.data) & set(spent.files))

    def _is_at_work(self, name: str) -> bool:
        return self._at_work is not None and self._at_work.name == name

    def _complain(self, error: OSError) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            _log.error("cannot take models from %s: %s; looking again", self._folder, error)

    # Working: one file after the other.

    async def _work(self) -> None:
        while True:
            entry = await self._queue.get()
            # It may be gone or replaced since it was queued.
            if self._entries.get(entry.name) is entry:
                entry.stage = _Stage.AT_WORK
                self._at_work = entry
                self._taking = asyncio.create_task(self._take(entry), name="intake take")
                try:
                    await self._taking
                except asyncio.CancelledError:
                    if entry.stage is not _Stage.CALLED_OFF or _is_ending():
                        raise
                finally:
                    self._taking = None
                    self._at_work = None
                    self._wake.set()
                    await _to_the_end(asyncio.to_thread(end_work, self._folder))

    async def _take(self, entry: _Entry) -> None:
        _log.info(
            "taking %s, %d bytes",
            entry.dropped.shown,
            entry.dropped.size,
            extra=about(Notice.TAKEN, file=entry.dropped.shown),
        )
        tell = _Progress(self._board, entry.name)
        try:
            self._check_size(entry.dropped)
            await asyncio.to_thread(_check_kind, entry.dropped)
            if entry.overdue:
                raise await asyncio.to_thread(self._too_late, entry)
            if entry.data and entry.parts != self._parts(entry):
                self._await_data(entry, entry.data)
                return
            await self._check_survivable(entry.dropped)
            fate = await self._accept(_arrival(entry), tell)
        except asyncio.CancelledError:
            tell.stop()
            if entry.stage is _Stage.CALLED_OFF:
                _log.info("called off %s: it was taken away", entry.dropped.shown)
                self._board.post(entry.name, None)
                raise
            self._board.write_blocking(
                entry.name, "interrupted: edged was stopped; it goes on when edged is back"
            )
            raise
        except IncompleteError as error:
            tell.stop()
            if set(error.files) <= set(entry.data or ()):
                await self._reject(entry, str(error))
            else:
                self._await_data(entry, error.files)
        except (EdgedError, OSError, MemoryError) as error:
            tell.stop()
            # A container that went away may have had bad luck; who counts that says when it is not.
            if is_of_machine(error) or isinstance(error, UnavailableError):
                await self._postpone(entry, error)
            elif await asyncio.to_thread(_all_there, entry.parts):
                await self._reject(entry, str(error))
            else:
                self._await_data(entry, entry.data or ())  # its beginning was taken for the whole
        except Exception:
            tell.stop()
            _log.exception("cannot take %s", entry.dropped.shown)
            await self._reject(
                entry, f"cannot take {entry.dropped.shown}: an error inside edged; see its log"
            )
        else:
            tell.stop()
            await self._finish(entry, fate)

    def _await_data(self, entry: _Entry, files: tuple[str, ...]) -> None:
        """Go on with *entry* when its data are there, which they may be already."""
        entry.data = files
        entry.due = asyncio.get_running_loop().time() + self.data_seconds
        entry.stage = _Stage.INCOMPLETE
        self._wake.set()

    def _parts(self, entry: _Entry) -> dict[str, Dropped]:
        """What stands for the data of *entry* in the drop folder now."""
        return {
            top: self._entries[top].dropped for top in sorted(entry.tops) if top in self._entries
        }

    def _too_late(self, entry: _Entry) -> NotFoundError:
        """Why *entry* waits for its data no longer. Blocking."""
        return NotFoundError(
            f"cannot take {entry.dropped.shown}: it keeps its weights in"
            f" {_some(self._missing(entry))}, and that did not come within {self.data_seconds:g} s;"
            " copy both here at once, or one file that holds both:"
            " onnx.save(onnx.load(PATH), NEW_PATH)"
        )

    def _check_size(self, dropped: Dropped) -> None:
        size = dropped.size if dropped.inside is None else dropped.model.lstat().st_size
        if size > self.max_file_bytes:
            raise LimitError(
                f"cannot take {dropped.shown}: it has {size} bytes, more than the limit"
                f" of {self.max_file_bytes} (drop.max_file_bytes in the configuration)"
            )

    async def _check_survivable(self, dropped: Dropped) -> None:
        """Refuse a file that edged has not survived: with it there, no start would last."""
        try:
            ends = await asyncio.to_thread(begin_work, dropped)
        except OSError as error:
            _log.warning("cannot note that %s is at work: %s", dropped.shown, error)
            return
        if ends >= _MOST_ENDS:
            raise InputError(
                f"cannot take {dropped.shown}: edged, or the machine, ended {ends} times while it"
                " was at work on it; see the log, and drop it again to have it tried once more"
            )

    async def _finish(self, entry: _Entry, fate: Served | Stored) -> None:
        # What the compiler remarks is in the log already, a line each.
        told = replace(fate, remarks=()) if isinstance(fate, Served) else fate
        _log.info("%s: %s", entry.dropped.shown, " · ".join(str(told).splitlines()))
        if isinstance(fate, Served):
            await self._reject_older(entry)
        async with self._moving:
            if entry.dropped.inside is None:
                await self._put_away(entry, remove)
                self._spend(entry)
            else:
                await self._leave(entry)
                if isinstance(fate, Served) and not fate.note:
                    fate = replace(fate, note="the folder stays; what changes in it is taken anew")
            await self._board.write(entry.name, str(fate))
        self._serves_changed.set()  # Another may have taken its place by now.

    async def _reject_older(self, entry: _Entry) -> None:
        """What was dropped before *entry* and waits must not take its place later."""
        for other in list(self._entries.values()):
            if other.stage is _Stage.POSTPONED and other.number < entry.number:
                await self._reject(
                    other,
                    f"cannot take {other.dropped.shown}: {entry.dropped.shown} was dropped after"
                    " it and serves now; drop it again to have it back",
                )

    async def _reject(self, entry: _Entry, reason: str) -> None:
        _log.warning(
            "rejected %s: %s",
            entry.dropped.shown,
            reason,
            extra=about(Notice.REJECTED, file=entry.dropped.shown),
        )
        text = f"{Fate.REJECTED}{reason}"
        if entry.dropped.inside is not None:
            async with self._moving:
                if await self._leave(entry):
                    stays = "the folder stays, and is tried again when something in it changes"
                    await self._board.write(entry.name, f"{text}\n{stays}")
            return
        missing = await asyncio.to_thread(self._missing, entry)
        data = {f: entry.parts.get(f) for f in entry.data or () if f not in missing}
        async with self._moving:
            rejected = await self._put_away(
                entry, lambda it: move_to_rejected(it, f"{text}\n", data)
            )
            if rejected is not None:
                self._spend(entry)
                now = asyncio.get_running_loop().time()
                self._rejected.append((rejected, now))
                place = rejected.moved.path.relative_to(self._folder)
                text += f"\nmoved to {place}"
                if data:
                    text += f", with {_some(list(data))}"
            elif entry.name not in self._entries:
                # Whoever took it away, or put another in its place, needs no answer.
                await self._board.write(entry.name, None)
                return
            elif self._entries[entry.name] is not entry:
                return
            await self._board.write(entry.name, text)

    def _spend(self, entry: _Entry) -> None:
        """Have the data of *entry*, which has its answer, deleted from the drop folder."""
        if entry.data and entry.tops:
            self._spent.append(_Spent(entry.data, entry.parts or self._parts(entry)))
            self._wake.set()

    async def _leave(self, entry: _Entry) -> bool:
        """Let a folder that has its answer be; whether it is still there, and the same."""
        entry.stage = _Stage.LEFT_ALONE
        if self._entries.get(entry.name) is not entry:
            return False
        try:
            await asyncio.to_thread(self._answered.note, entry.dropped, set(self._entries))
        except OSError as error:
            _log.error("cannot note that %s has its answer: %s", entry.dropped.shown, error)
        return True

    async def _put_away(self, entry: _Entry, put: Callable[[Dropped], _T]) -> _T | None:
        """Get the file out of the folder; one that stays is not taken up again as it is."""
        if self._entries.get(entry.name) is entry:
            entry.stage = _Stage.LEFT_ALONE
        try:
            put_to = await asyncio.to_thread(put, entry.dropped)
        except OSError as error:
            _log.error(
                "cannot move %s out of the drop folder: %s; it stays, and is left alone until it"
                " changes",
                entry.dropped.shown,
                error,
            )
            return None
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
        return put_to

    async def _postpone(self, entry: _Entry, error: Exception) -> None:
        """Have *entry* tried again: this machine, or the moment, is at fault."""
        seconds = min(self._retry_seconds * 2**entry.tries, _LONGEST_PAUSE_BETWEEN_TRIES)
        _log.warning(
            "postponed %s by %g s: %s",
            entry.dropped.shown,
            seconds,
            _said(error, entry),
            extra=about(Notice.POSTPONED, file=entry.dropped.shown),
        )
        entry.tries += 1
        entry.reason = _said(error, entry)
        entry.due = asyncio.get_running_loop().time() + seconds
        entry.stage = _Stage.POSTPONED
        await self._board.write(
            entry.name,
            f"waiting: {entry.reason}\ntried {entry.tries}×, next in {seconds:g} s",
        )


async def _to_the_end(work: Coroutine[None, None, None]) -> None:
    """Await *work*; a cancellation waits for it, so that no thread goes on behind us."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _arrival(entry: _Entry) -> Arrival:
    dropped = entry.dropped
    name = dropped.inside.name if dropped.inside is not None else dropped.path.stem
    return Arrival(dropped.model, dropped.shown, name, entry.data or ())


def _check_kind(dropped: Dropped) -> None:
    """Refuse what its first bytes say is no model. Blocking."""
    try:
        kind = identify(dropped.model)
    except OSError:
        return  # Whoever reads it next says what is wrong with it.
    if kind is not None:
        where = "" if dropped.inside is None else f"of {dropped.inside.model}, "
        raise InputError(f"cannot take {dropped.shown}: {where}{kind.said_of(dropped.model.name)}")


def _all_there(parts: dict[str, Dropped]) -> bool:
    """Whether data files are what they were when their model was taken. Blocking."""
    return all(is_there(part) for part in parts.values())


def _passed_over(dropped: Dropped) -> str | None:
    """What is said of a file or folder that is no model; None where nothing is. Blocking."""
    match dropped.form:
        case Form.FOLDER:
            assert dropped.inside is not None
            return f"ignored: {dropped.inside.problem}"
        case Form.LINK:
            return "ignored: it is a symbolic link; copy the file itself here: cp -L"
        case Form.OTHER:
            return f"ignored: it is {dropped.form}; copy a model here"
    try:
        kind = identify(dropped.path)
    except OSError as error:
        return f"ignored: it cannot be read ({error.strerror}); give edged the right to read it"
    if kind is None or kind.silent:
        return None
    return f"{'waiting' if kind.is_data else 'ignored'}: {kind.said_of(dropped.shown)}"


def _some(names: list[str]) -> str:
    """Names as they can stand in a line."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _said(error: Exception, entry: _Entry) -> str:
    """What a person is told of *error*, which may be the operating system's own."""
    if isinstance(error, EdgedError):
        return str(error)
    why = "there is too little memory" if isinstance(error, MemoryError) else str(error)
    return f"cannot take {entry.dropped.shown} at this moment: {why}"


def _is_ending() -> bool:
    """Whether the task that runs is cancelled itself, and not only what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _made_true(serves: Served, _name: str, lines: list[str]) -> str:
    """The text of a status file, of which *lines* are there, now that *serves* does."""
    text = "\n".join(lines)
    if lines[1:2] == [serves.model] and text.startswith((Fate.SERVING, Fate.SERVED, Fate.STORED)):
        notes = (line for line in lines[2:3] if not line.startswith(_REMARK))
        return str(replace(serves, note=next(notes, "")))
    if not text.startswith(Fate.SERVING):
        return text
    began = lines[0].removeprefix(Fate.SERVING)
    successor = f"{serves.model} took its place"
    return "\n".join(
        [f"{Fate.SERVED}{began} to {moment(datetime.now(UTC))}; {successor}", *lines[1:2]]
    )


_WAITING = (_Stage.SETTLING, _Stage.POSTPONED, _Stage.INCOMPLETE)


class _Progress:
    """The :class:`Tell` of one file at work."""

    def __init__(self, board: StatusBoard, name: str) -> None:
        self._board = board
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._stopped = False

    def __call__(self, text: str, fraction: float | None = None) -> None:
        if fraction is not None:
            text = f"{text} {min(max(fraction, 0.0), 1.0) * 100:.0f} %"
        self._loop.call_soon_threadsafe(self._post, text)

    def stop(self) -> None:
        """Let nothing come after the last word."""
        self._stopped = True

    def _post(self, text: str) -> None:
        if not self._stopped:
            self._board.post(self._name, text)
