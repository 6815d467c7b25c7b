"""What is around a slot, in memory: a device, containers, a compiler, a store; and who watches.

The fakes keep the rules of the parts that they stand for, and note in `World.violations` whatever
the slot does to them that breaks one of the invariants. They know nothing of the slot.
"""

from __future__ import annotations

import asyncio
import enum
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from slot.instant import MOMENT, Clock, InstantLoop

from edged.bundle import (
    BundleFile,
    Digest,
    ElementType,
    FileName,
    Manifest,
    MediaType,
    TensorDecl,
    Version,
)
from edged.calls import Stopwatch
from edged.container import CalledBack, Ending
from edged.errors import (
    ContainerError,
    DeadlineError,
    DeviceError,
    DeviceLostError,
    EdgedError,
    LimitError,
    ModelError,
    NotFoundError,
    NotRunError,
    StoreError,
    UnavailableError,
)
from edged.npu import Target, image_digest
from edged.npu.registers import BankStatus
from edged.slot._link import Gone
from edged.store import BundleRecord, CompiledKey

HANG = b"!"
"""A call that ends with this is not answered."""
GOOD = ("a", "b", "c")
UNTRUE = "untrue"
"""Its self-test always fails."""
UNFIT = "unfit"
"""It cannot be compiled."""
UNEVEN = "uneven"
"""It passes the first vector of its self-test, and not the others."""
UNSOUND = (UNTRUE, UNFIT, UNEVEN)

_LATE = 3.0


class Kind(enum.Enum):
    """How an operation fails that was armed to."""

    ERROR = "error"
    DEADLINE = "deadline"
    LOST = "lost"
    SLOW = "slow"


class Part(enum.Enum):
    """Whose operation it is, and so which errors are its own."""

    DEVICE = "device"
    CONTAINER = "container"
    LAUNCHER = "launcher"
    COMPILER = "compiler"
    STORE = "store"
    CONNECTION = "connection"


_ERRORS: dict[tuple[Part, Kind], type[EdgedError]] = {
    (Part.LAUNCHER, Kind.LOST): ContainerError,
    (Part.LAUNCHER, Kind.ERROR): LimitError,
    (Part.COMPILER, Kind.LOST): LimitError,
    (Part.COMPILER, Kind.ERROR): ModelError,
    **{(Part.STORE, kind): StoreError for kind in Kind},
    **{(Part.CONNECTION, kind): DeviceLostError for kind in Kind},
}


@dataclass
class Bank:
    image: bytes = b""
    status: BankStatus = BankStatus.EMPTY


@dataclass
class World:
    """All that outlives a process of the daemon, and what was seen to go wrong.

    Attributes:
        fuses: operations that still go well before one fails, and how it does.
        troubled: when something last went wrong from outside, such as a fuse or a lost device.
        rotten: models that no longer start.
        deploying: models whose deployment is under way.
        demanded: models that calls asked for, where that has them loaded.
        launches: containers started, by model.
        live: containers that run.
        answered_last: the container that answered a call last.
        unnoted: models that this process could not set aside, because the disk was full.
        uncleared: models whose attempts the store failed to forget.
    """

    folder: Path
    clock: Clock = field(default_factory=Clock)
    violations: list[str] = field(default_factory=list)
    fuses: list[tuple[int, Kind]] = field(default_factory=list)
    troubled: float = -1.0
    rotten: set[str] = field(default_factory=set)
    deploying: Counter[str] = field(default_factory=Counter)
    demanded: set[str] = field(default_factory=set)
    launches: Counter[str] = field(default_factory=Counter)
    live: set[FakeContainer] = field(default_factory=set)
    answered_last: FakeContainer | None = None
    unnoted: set[str] = field(default_factory=set)
    uncleared: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hardware = Hardware(self)
        self.shelf = Shelf()

    def trouble(self) -> None:
        self.troubled = self.clock.now

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.clock.now * 1000:.0f} ms: {what}")

    def burns(self) -> Kind | None:
        """Count an operation; how it is to fail, if it is."""
        fuses, self.fuses = self.fuses, []
        burnt = None
        for left, kind in fuses:
            if left > 0:
                self.fuses.append((left - 1, kind))
            elif burnt is None:
                burnt = kind
                self.trouble()
        return burnt

    def may_answer(self) -> set[str]:
        """Models from which an answer is right at this moment."""
        shelf = self.shelf
        names = {name for name, count in self.deploying.items() if count} | self.demanded
        if shelf.commits:
            names.add(shelf.commits[-1])
            names |= set(shelf.commits) if self._given_up(shelf.commits[-1]) else set()
        return names

    def _given_up(self, name: str) -> bool:
        return name in self.unnoted or self.shelf.entries[name].set_aside is not None

    def expected(self) -> str | None:
        """The model that has to serve when all is quiet and the device is there."""
        commits = self.shelf.commits
        for name in reversed(commits):
            if not self._given_up(name):
                return name
        # With no other, what was committed last is tried again, if it is known to be set aside.
        last = commits[-1] if commits else ""
        return None if last in self.rotten or last in self.unnoted else last or None


class Hardware:
    """The device itself: two banks, a data queue with one owner at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.present = True
        self.changed = 0.0
        self.insertion = 0
        self.resets = 0
        self.was_reset = False
        self.banks = [Bank(), Bank()]
        self.active: int | None = None
        self.owner: FakeContainer | None = None
        self._waiting: list[asyncio.Event] = []

    def event(self) -> asyncio.Event:
        """Set when the device comes or goes."""
        event = asyncio.Event()
        self._waiting.append(event)
        return event

    def unplug(self, forgets: bool) -> None:
        self._world.trouble()
        self.present, self.changed = False, self._world.clock.now
        self.was_reset = False
        self.release(DeviceLostError("cannot answer: the device is gone"))
        if forgets:
            self.banks, self.active = [Bank(), Bank()], None
        self._tell()

    def plug(self) -> None:
        self._world.trouble()
        self.present, self.changed = True, self._world.clock.now
        self.insertion += 1
        self._tell()

    def reset(self, forgets: bool) -> None:
        """By who watches it: openings of before are of no use, a new one finds it well."""
        self.resets += 1
        self.insertion += 1
        self.was_reset = True
        if self.owner is not None:
            self.owner.was_reset = True
        self.release(NotRunError("cannot run: it is being reset"))
        if forgets:
            self.banks, self.active = [Bank(), Bank()], None
        self._tell()

    def release(self, error: EdgedError) -> None:
        """Take the data queue from who has it."""
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.abort(error)

    def active_image(self) -> bytes:
        return b"" if self.active is None else self.banks[self.active].image

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()


class FakeDevice:
    """One opening of the device's control plane: `edged.device.Device` to the slot."""

    identity = SimpleNamespace(target=Target())

    def __init__(self, world: World, loop: InstantLoop) -> None:
        self._world = world
        self._loop = loop
        self._hardware = world.hardware
        self.insertion = world.hardware.insertion

    def banks(self) -> list[SimpleNamespace]:
        self._operate()
        return [
            SimpleNamespace(
                number=number,
                digest=image_digest(bank.image) if bank.image else bytes(32),
                status=bank.status,
                active=number == self._hardware.active,
            )
            for number, bank in enumerate(self._hardware.banks)
        ]

    def idle_bank(self) -> int:
        self._operate()
        return 1 if self._hardware.active == 0 else 0

    def load(self, image: bytes, bank: int, timeout: float = 120.0) -> None:
        if bank == self._hardware.active:
            self._world.violated("an image was loaded over the active one")
        try:
            self._operate()
        except EdgedError:
            self._hardware.banks[bank] = Bank(image[:100], BankStatus.CORRUPT)
            raise
        self._hardware.banks[bank] = Bank(image, BankStatus.VALID)

    def activate(self, bank: int, timeout: float = 30.0) -> None:
        self._operate()
        new, owner = self._hardware.banks[bank], self._hardware.owner
        if new.status is not BankStatus.VALID:
            raise DeviceError(f"cannot activate bank {bank}: no valid image")
        if owner is not None and owner.image != new.image:
            self._world.violated(f"the image was changed under {owner}")
        self._hardware.active = bank

    def disable_queue(self, queue: int) -> None:
        self._operate()
        self._hardware.release(DeviceError("cannot answer: the queue was aborted"))

    def close(self) -> None:
        pass

    def _operate(self) -> None:
        if not self._hardware.present or self.insertion != self._hardware.insertion:
            raise DeviceLostError("cannot use the device: it is gone")
        match self._world.burns():
            case None:
                pass
            case Kind.SLOW:
                self._loop.lag = _LATE
            case Kind.LOST:
                self._hardware.unplug(forgets=True)
                raise DeviceLostError("cannot use the device: it went away")
            case Kind.DEADLINE:
                raise DeadlineError("cannot use the device: it did not answer in time")
            case Kind.ERROR:
                raise DeviceError("cannot use the device: a fault that was armed")


class FakeLink:
    """`edged.slot.DeviceLink` to the slot."""

    def __init__(self, world: World, loop: InstantLoop) -> None:
        self._world = world
        self._loop = loop

    async def opened(self, _tell: Callable[[str], None]) -> FakeDevice:
        await asyncio.sleep(MOMENT)
        while not self._world.hardware.present:
            await self._world.hardware.event().wait()
            await asyncio.sleep(MOMENT)
        return FakeDevice(self._world, self._loop)

    async def gone(self, device: FakeDevice) -> Gone:
        hardware = self._world.hardware
        while hardware.present and hardware.insertion == device.insertion:
            await hardware.event().wait()
        mended = hardware.present and hardware.was_reset
        return Gone("it was reset" if mended else "the device is gone", mended)

    async def data_connection(self) -> SimpleNamespace:
        await _pause(self._loop, MOMENT)
        hardware = self._world.hardware
        if not hardware.present or self._world.burns():
            raise DeviceLostError("cannot connect to the device")
        return SimpleNamespace(insertion=hardware.insertion)


class FakeContainer:
    """`edged.container.Container` to the slot: a process with one model."""

    def __init__(self, world: World, loop: InstantLoop, name: str, image: bytes) -> None:
        self.name = name
        self.image = image
        self.pid = sum(world.launches.values())
        self._world = world
        self._loop = loop
        self._gone: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[Ending] = loop.create_future()
        self._pending: dict[asyncio.Future[bytes], None] = {}  # in order
        self._tested = False
        self._remembers = False
        self._prepared: int | None = None
        self.was_reset = False
        self.lost = False
        world.live.add(self)

    def __str__(self) -> str:
        return f"container {self.pid} of {self.name}"

    @property
    def closed(self) -> asyncio.Future[Ending]:
        return asyncio.shield(self._closed)

    @property
    def gone(self) -> asyncio.Future[None]:
        return asyncio.shield(self._gone)

    async def prepare(self, connection: SimpleNamespace) -> None:
        await self._operate(Part.CONTAINER)
        self._prepared = connection.insertion

    async def attach(self) -> None:
        await self._operate(Part.CONTAINER)
        hardware = self._world.hardware
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            self._world.violated(f"{self} was attached to a device that was not prepared")
        if not hardware.present or prepared != hardware.insertion:
            raise DeviceLostError("cannot attach: the device is gone")
        if hardware.owner is not None:
            self._world.violated(f"{self} was attached while {hardware.owner} is")
        self._tested = self.was_reset = False
        hardware.owner = self
        await _pause(self._loop, MOMENT)

    async def detach(self) -> None:
        await self._operate(Part.CONTAINER)
        if self._world.hardware.owner is self:
            self._world.hardware.release(UnavailableError("cannot answer: detached"))
        self.was_reset = False
        await _pause(self._loop, MOMENT)

    async def forget(self) -> None:
        await self._operate(Part.CONTAINER)
        self._remembers = False

    async def self_test(self, at_most: float = math.inf) -> None:
        await self._operate(Part.CONTAINER)
        self._check_attached()
        fails = self.name == UNTRUE or (self.name == UNEVEN and at_most == math.inf)
        if fails or self._world.hardware.active_image() != self.image:
            raise DeviceError("cannot accept the device's answers: they differ")
        self._tested = True
        await _pause(self._loop, MOMENT)

    async def call(
        self,
        method: str,
        payload: bytes,
        timeout: float,  # noqa: ASYNC109 (as the real one)
        extras: Mapping[str, str],
        watch: Stopwatch,
    ) -> bytes:
        self._check_live()
        name = payload.removesuffix(HANG).decode()
        if name and name != self.name:
            raise NotFoundError(f"cannot find model {name!r}; loaded is {self.name!r}")
        self._check_attached()
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._pending[answer] = None
        if not payload.endswith(HANG):
            self._loop.call_later(2 * MOMENT, self._run, answer)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError as error:
            raise DeadlineError("cannot answer in time") from error
        finally:
            del self._pending[answer]

    def call_back(self) -> None:
        """One call may have begun; the others go back."""
        for answer in list(self._pending)[1:]:
            if not answer.done():
                answer.set_exception(CalledBack("cannot answer: called back"))

    async def stop(self) -> None:
        # Once told, it ends, whoever waits for it.
        self._loop.call_later(MOMENT, self.die, Ending("it was stopped", by_model=False))
        await _pause(self._loop, 2 * MOMENT)

    def die(self, reason: Ending) -> None:
        if self.lost or self._loop.dead:
            return
        self.lost = True
        self._gone.set_result(None)
        self._world.live.discard(self)
        if self._world.hardware.owner is self:
            self._world.hardware.owner = None
        self.abort(ContainerError("cannot answer: the container is gone"))
        self._loop.call_later(MOMENT, self._close, reason)

    def abort(self, error: EdgedError) -> None:
        for answer in self._pending:
            if not answer.done():
                answer.set_exception(type(error)(*error.args))

    def _close(self, reason: Ending) -> None:
        if not self._closed.done():
            self._closed.set_result(reason)

    def _run(self, answer: asyncio.Future[bytes]) -> None:
        if answer.done():
            return
        world = self._world
        if world.hardware.active_image() != self.image:
            world.violated(f"a call to {self} ran on the image of another model")
        if not self._tested:
            world.violated(f"a call was answered by {self} before its self-test")
        if self.name not in world.may_answer():
            world.violated(f"a call was answered by {self}; right were {world.may_answer()}")
        if self._remembers and world.answered_last is not self:
            world.violated(f"{self} went on with its sequences after another had answered")
        self._remembers, world.answered_last = True, self
        self._loop.call_later(MOMENT, self._answer, answer)

    def _answer(self, answer: asyncio.Future[bytes]) -> None:
        if not answer.done():
            answer.set_result(self.name.encode())

    async def _operate(self, part: Part) -> None:
        self._check_live()
        await _pause(self._loop, MOMENT)
        self._check_live()
        kind = self._world.burns()
        if kind is Kind.SLOW:
            await _pause(self._loop, _LATE)
        elif kind is Kind.LOST:
            self.die(Ending("a fault that was armed"))
        elif kind is Kind.DEADLINE:
            raise DeadlineError("cannot do it: the container did not answer in time")
        elif kind is Kind.ERROR:
            raise DeviceError("cannot do it: a fault that was armed")
        self._check_live()

    def _check_live(self) -> None:
        if self.lost:
            raise ContainerError("cannot reach the container: it is gone")

    def _check_attached(self) -> None:
        if self.was_reset:
            raise NotRunError("cannot run: the data queue was taken away")
        if self._world.hardware.owner is not self:
            raise UnavailableError("cannot answer: no device is attached")


class FakeLauncher:
    """`edged.container.Launcher`."""

    def __init__(self, world: World, loop: InstantLoop) -> None:
        self._world = world
        self._loop = loop

    async def start(self, folder: Path) -> FakeContainer:
        image = (folder / "program.img").read_bytes()
        name = image.rstrip(b".").decode()
        self._world.launches[name] += 1
        await _pause(self._loop, 2 * MOMENT)
        await _burn(self._world, self._loop, Part.LAUNCHER)
        if name in self._world.rotten:
            raise ContainerError("cannot start the container: the model does not load")
        return FakeContainer(self._world, self._loop, name, image)


class FakeCompiler:
    """`edged.slot.CompilerProcess` to the slot.

    Attributes:
        began, done: models, in the order in which it did.
        seconds: that it takes for one.
    """

    def __init__(self, world: World, loop: InstantLoop) -> None:
        self._world = world
        self._loop = loop
        self.seconds = 5 * MOMENT
        self.began: list[str] = []
        self.done: list[str] = []

    async def __call__(
        self, job: Path, output: Path, target: Target, tell: Callable[[float, str], None]
    ) -> None:
        name = (job / "model.onnx").read_text()
        self.began.append(name)
        tell(0.5, "compiling")
        await _pause(self._loop, self.seconds)
        await _burn(self._world, self._loop, Part.COMPILER)
        if name == UNFIT:
            raise ModelError("cannot compile it")
        (output / "program.img").write_bytes(name.encode().ljust(512, b"."))
        self.done.append(name)


@dataclass
class Entry:
    manifest: Manifest
    attempts: int = 0
    set_aside: str | None = None


class Shelf:
    """What the store has on disk; *commits* by name, the oldest first."""

    def __init__(self) -> None:
        self.entries = {name: Entry(_manifest(name)) for name in (*GOOD, *UNSOUND)}
        self.commits: list[str] = []
        self.compiled: dict[CompiledKey, Path] = {}
        self.compiler_version = 1


class FakeStore:
    """`edged.store.Store` to the slot, as one process has it open."""

    def __init__(self, world: World, loop: InstantLoop) -> None:
        self._world = world
        self._loop = loop
        self._shelf = world.shelf
        self._scratch = world.folder / "scratch"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        self._folders = 0

    @property
    def leftovers(self) -> int:
        """Scratch folders with something in them."""
        return sum(any(folder.iterdir()) for folder in self._scratch.iterdir())

    def record(self, name: str) -> BundleRecord:
        entry = self._shelf.entries[name]
        return BundleRecord(_digest(name), entry.manifest, 0.0, entry.attempts, entry.set_aside)

    def get(self, digest: Digest) -> BundleRecord:
        self._operate()
        return self.record(self._name(digest))

    def list(self) -> list[BundleRecord]:
        self._operate()
        return [self.record(name) for name in self._shelf.entries]

    def materialize(self, digest: Digest, into: Path) -> None:
        self._operate()
        (into / "model.onnx").write_text(self._name(digest))

    def compiled(self, key: CompiledKey) -> Path | None:
        self._operate()
        return self._shelf.compiled.get(key)

    def add_compiled(self, key: CompiledKey, folder: Path) -> Path:
        self._operate()
        kept = self._world.folder / f"compiled-{self._name(key.bundle)}"
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        self._shelf.compiled[key] = kept
        return kept

    def outdated(self, compiler_version: str, array: str) -> list[BundleRecord]:
        self._operate()
        keys = self._shelf.compiled.keys()
        current = {key.bundle for key in keys if key.compiler_version == compiler_version}
        names = dict.fromkeys(self._name(key.bundle) for key in keys if key.bundle not in current)
        return [self.record(name) for name in names]

    def forget_superseded(self, compiler_version: str) -> None:
        self._operate()
        self._shelf.compiled = {
            key: folder
            for key, folder in self._shelf.compiled.items()
            if key.compiler_version == compiler_version
        }

    def commit(
        self, digest: Digest, cause: str = "", gate_closed_seconds: float | None = None
    ) -> None:
        self._operate()
        name = self._name(digest)
        if not self._world.deploying[name] and name not in self._world.demanded:
            self._world.violated(f"{name} was committed, and nobody deploys it")
        self._shelf.commits.append(name)
        self._world.unnoted.discard(name)
        self._shelf.entries[name].set_aside = None

    def committed(self) -> BundleRecord | None:
        self._operate()
        return self.record(self._shelf.commits[-1]) if self._shelf.commits else None

    def last_good(self) -> BundleRecord | None:
        self._operate()
        name = previous(self._shelf)
        return self.record(name) if name else None

    def pinned(self) -> bool:
        self._operate()
        return False

    def begin_attempt(self, digest: Digest) -> int:
        self._operate()
        entry = self._shelf.entries[self._name(digest)]
        entry.attempts += 1
        return entry.attempts

    def clear_attempts(self, digest: Digest) -> None:
        name = self._name(digest)
        self._world.uncleared.add(name)
        self._operate()
        self._shelf.entries[name].attempts = 0
        self._world.uncleared.discard(name)

    def set_aside(self, digest: Digest, reason: str) -> None:
        try:
            self._operate()
        except LimitError:
            self._world.unnoted.add(self._name(digest))
            raise
        self._shelf.entries[self._name(digest)].set_aside = reason

    def clear_set_aside(self, digest: Digest) -> None:
        self._operate()
        entry = self._shelf.entries[self._name(digest)]
        entry.set_aside, entry.attempts = None, 0

    def scratch(self) -> Path:
        self._operate()
        self._folders += 1
        folder = self._scratch / str(self._folders)
        folder.mkdir()
        return folder

    def _name(self, digest: Digest) -> str:
        return next(name for name in self._shelf.entries if _digest(name) == digest)

    def _operate(self) -> None:
        kind = self._world.burns()
        if kind is Kind.SLOW:
            self._loop.lag = _LATE
        elif kind is not None:
            raise StoreError("cannot write the catalogue: no space left on device")


def previous(shelf: Shelf) -> str | None:
    """What `Store.last_good` finds."""
    for name in reversed(shelf.commits):
        if name != shelf.commits[-1] and shelf.entries[name].set_aside is None:
            return name
    return None


async def _pause(loop: InstantLoop, seconds: float) -> None:
    """As long as something takes; what a dead process waits for never comes."""
    if loop.dead:
        raise asyncio.CancelledError
    await asyncio.sleep(seconds)


async def _burn(world: World, loop: InstantLoop, part: Part) -> None:
    kind = world.burns()
    if kind is Kind.SLOW:
        await _pause(loop, _LATE)
    elif kind is not None:
        error = _ERRORS.get((part, kind), DeadlineError)
        raise error(f"cannot do it: a fault of the {part.value} that was armed")


def _digest(name: str) -> Digest:
    return Digest.of(name.encode())


def _manifest(name: str) -> Manifest:
    tensor = TensorDecl("x", ElementType.UINT8, (None, 1))
    file = BundleFile(FileName.MODEL, MediaType.WEIGHT, _digest(name), 1)
    return Manifest(
        name=name,
        version=Version.parse("1.0.0"),
        serial=1,
        inputs=(tensor,),
        outputs=(TensorDecl("y", ElementType.UINT8, (None, 1)),),
        files=(file,),
    )
