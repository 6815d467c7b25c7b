"""What there is to serve and what serves now, for those who ask the server and not a model."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edged.bundle import Digest
from edged.errors import (
    CalledOffError,
    EdgedError,
    LimitError,
    NotFoundError,
    UnsupportedError,
)
from edged.slot import Deployed, SlotStatus, State, Tell
from edged.store import BundleRecord, Store

__all__ = ["Activate", "ModelVersion", "Models", "Phase"]

_log = logging.getLogger(__name__)

_MAX_LOADS: Final = 8


class Activate(Protocol):
    """Makes a stored bundle serve, as :meth:`edged.deploy.Deployer.activate` does."""

    async def __call__(
        self, name: str, version: str | None, cause: str, tell: Tell
    ) -> Deployed: ...


class Phase(enum.Enum):
    """Where a stored bundle is on its way onto the device and off it again.

    The names are TensorFlow Serving's, whose clients read them; START is what a call for the model
    would have loaded.
    """

    START = enum.auto()
    LOADING = enum.auto()
    AVAILABLE = enum.auto()
    UNLOADING = enum.auto()
    END = enum.auto()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One bundle in the store.

    Attributes:
        reason: why it does not serve, as a sentence; empty where there is nothing to say.
        failed: whether that is for a fault of its own.
    """

    record: BundleRecord
    phase: Phase
    reason: str = ""
    failed: bool = False

    @property
    def version(self) -> str:
        """As it is on the wire: its serial."""
        return str(self.record.manifest.serial)

    def is_called(self, version: str) -> bool:
        """Whether *version* means it: by its serial, as people write it, or not said."""
        return version in ("", self.version, str(self.record.manifest.version))


class Models:
    """Questions about models, and wishes, that the daemon answers by itself.

    Args:
        store: what there is.
        slot_status: what is loaded.
        in_use: what is loaded or on its way.
        activate: loads what clients want loaded; None to refuse.
        on_demand: whether a call has a model loaded that is stored.
    """

    def __init__(
        self,
        store: Store,
        slot_status: Callable[[], SlotStatus],
        in_use: Callable[[], Collection[Digest]],
        activate: Activate | None = None,
        on_demand: bool = False,
    ) -> None:
        self._store = store
        self._slot_status = slot_status
        self._in_use = in_use
        self._activate = activate
        self._on_demand = on_demand
        self._loads: set[asyncio.Task[Deployed]] = set()

    @property
    def serving(self) -> BundleRecord | None:
        """What answers calls now."""
        status = self._slot_status()
        return status.model if status.since is not None else None

    async def all(self) -> list[ModelVersion]:
        """Every bundle in the store, by name and then the newest first."""
        records, pinned = await asyncio.to_thread(
            lambda: (self._store.list(), self._store.pinned())
        )
        found = [self._version(record, pinned) for record in records]
        return sorted(
            found, key=lambda each: (each.record.manifest.name, -each.record.manifest.serial)
        )

    async def named(self, name: str, version: str = "") -> list[ModelVersion]:
        """Those of that name; with an empty one, of the loaded model's.

        Raises:
            NotFoundError: there is none; says what there is.
        """
        status = self._slot_status()
        if not name and status.model is not None:
            name = status.model.manifest.name
        known = await self.all()
        found = [
            each for each in known if each.record.manifest.name == name and each.is_called(version)
        ]
        if found:
            return found
        what = f"model {name[:200]!r}" + (f" of version {version[:80]!r}" if version else "")
        raise NotFoundError(f"cannot find {what}: {_listed(known)}")

    def is_ready(self, name: str, version: str) -> bool:
        """Whether calls for that model are answered by it."""
        serving = self.serving
        if serving is None:
            return False
        there = ModelVersion(serving, Phase.AVAILABLE)
        return name in ("", serving.manifest.name) and there.is_called(version)

    async def load(self, model: str, version: str, who: str) -> None:
        """Make a stored model serve. What was begun goes on when *who* no longer waits.

        Args:
            model: its name, or NAME@VERSION.
            version: of it, as people write it; the newest where neither says one.

        Raises:
            UnsupportedError: clients may not.
            NotFoundError: there is none.
            EdgedError: why it does not serve; what served before still does.
        """
        if self._activate is None:
            raise UnsupportedError(
                f"cannot load {model[:200]!r} for a client: serving.model_control is off; turn it"
                " on in the configuration, or load it by `edgectl activate`"
            )
        name, _, in_name = model.partition("@")
        (newest, *_) = await self.named(name, version or in_name)
        if len(self._loads) >= _MAX_LOADS:
            raise LimitError(
                f"cannot load {newest.record}: {len(self._loads)} models are on their way already"
            )
        _log.info("%s is to be loaded, by wish of %s", newest.record, who)
        load = asyncio.create_task(
            self._load(self._activate, newest, f"model load by {who}"), name="model load"
        )
        self._loads.add(load)
        load.add_done_callback(self._loaded)
        await asyncio.shield(load)

    async def unload(self, model: str) -> None:
        """Refuse to, unless it is not loaded: there is always one that serves.

        Raises:
            UnsupportedError: it is loaded; says what to do.
            NotFoundError: there is none.
        """
        for each in await self.named(model.partition("@")[0]):
            if each.phase in (Phase.LOADING, Phase.AVAILABLE, Phase.UNLOADING):
                raise UnsupportedError(
                    f"cannot unload {each.record}: what serves is only replaced, so that the device"
                    " is never idle; load another model"
                )

    async def stop(self) -> None:
        """Break off what is being loaded."""
        for load in self._loads:
            load.cancel()
        if self._loads:
            await asyncio.wait(self._loads)

    async def _load(self, activate: Activate, model: ModelVersion, cause: str) -> Deployed:
        manifest = model.record.manifest
        try:
            return await activate(manifest.name, str(manifest.version), cause, _tell_nobody)
        except asyncio.CancelledError as error:
            raise CalledOffError(f"cannot load {model.record}: edged is stopping") from error

    def _loaded(self, load: asyncio.Task[Deployed]) -> None:
        self._loads.discard(load)
        if load.cancelled():
            return
        if isinstance(error := load.exception(), EdgedError):
            _log.warning("a client's wish was not met: %s", error)

    def _version(self, record: BundleRecord, pinned: bool) -> ModelVersion:
        status, in_use = self._slot_status(), self._in_use()
        loaded = status.model is not None and status.model.digest == record.digest
        if loaded and status.since is None:
            return ModelVersion(record, Phase.LOADING, status.problem)
        if loaded and status.state is State.SWAPPING and set(in_use) - {record.digest}:
            return ModelVersion(record, Phase.UNLOADING)
        if loaded:
            return ModelVersion(record, Phase.AVAILABLE)
        if record.digest in in_use:
            return ModelVersion(record, Phase.LOADING)
        if record.set_aside is not None:
            return ModelVersion(record, Phase.END, f"set aside: {record.set_aside}", failed=True)
        if self._on_demand and not pinned:
            return ModelVersion(record, Phase.START, "loaded when a call names it")
        return ModelVersion(record, Phase.END, "not loaded")


def _listed(known: Sequence[ModelVersion]) -> str:
    names = dict.fromkeys(str(each.record) for each in known)
    if not names:
        return "the store is empty; copy a bundle into the drop folder"
    shown = ", ".join(list(names)[:20])
    return f"there are {shown}{', …' if len(names) > 20 else ''}"


def _tell_nobody(text: str, fraction: float | None = None) -> None:
    _log.debug("%s", text if fraction is None else f"{text} {fraction:.0%}")
