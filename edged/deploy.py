"""What may serve, and how it comes to: drops by what they bring, people by what they ask for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections import Counter
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path

from edged.bundle import Digest, VerifiedBundle, pack_bare, verify_bundle
from edged.errors import (
    CalledOffError,
    ContainerError,
    DeviceLostError,
    EdgedError,
    InputError,
    KilledError,
    NotFoundError,
)
from edged.faults import fault_point
from edged.intake import Arrival, Served, Stored, Tell
from edged.notices import Notice, about
from edged.slot import Deployed, Slot, State
from edged.store import BundleRecord, Store

__all__ = ["Deployer"]

_log = logging.getLogger(__name__)


class Deployer:
    """Decides which bundle is to serve, has the slot do it, and tidies up behind it.

    Changes that come at the same time are made one after the other by the slot.

    Args:
        store: keeps every bundle, before anything else is done with it.
        slot: makes it serve.
        keep: how many bundles stay that are neither committed nor the last good one.
        attempts: how often the container of a dropped bundle may end before the bundle is set
            aside.
        bubblewrap: as :func:`edged.sandbox.command` takes it.

    Attributes:
        keep, attempts: as above; may be changed at any time.
    """

    def __init__(
        self, store: Store, slot: Slot, *, keep: int, attempts: int, bubblewrap: str
    ) -> None:
        self._store = store
        self._slot = slot
        self.keep = keep
        self.attempts = attempts
        self._bubblewrap = bubblewrap
        self._at_work: Counter[Digest] = Counter()
        self._deployments: dict[asyncio.Task[Deployed], BundleRecord] = {}

    async def accept(self, arrival: Arrival, tell: Tell) -> Served | Stored:
        """Verify what arrived, a bundle or an ONNX model, store it, and make it serve.

        Raises:
            IncompleteError: the model keeps data in files that are not there or not listed.
            EdgedError: why it does not serve; what served before still does.
        """
        await self._slot.settled()
        tell("verifying")
        record = await self._take_in(arrival)
        with self._protected(record):
            try:
                if (stored := await asyncio.to_thread(self._stored_only, record)) is not None:
                    return stored
                deployed = await self._deploy(record, f"drop of {arrival.shown}", tell)
            except CalledOffError as error:
                return Stored(str(record), f"not activated: {error}")
            finally:
                await self._collect()
        since = datetime.fromtimestamp(deployed.since, UTC)
        note = "the same bundle was serving already; nothing changed" if deployed.already else ""
        return Served(str(deployed.model), since, note, deployed.remarks)

    async def activate(self, name: str, version: str | None, cause: str, tell: Tell) -> Deployed:
        """Make a stored bundle serve: pinned or not, older or newer, set aside or not.

        Args:
            version: None for the highest serial of that name.
            cause: who wants it, for the history.

        Raises:
            NotFoundError: there is no such bundle.
            DeviceLostError: there is no device now.
            EdgedError: why it does not serve; what served before still does.
        """
        record = await asyncio.to_thread(self._store.find, name, version)
        return await self._activate(record, cause, tell)

    async def rollback(self, cause: str, tell: Tell) -> Deployed:
        """Make the model serve that did before the one that is committed.

        Raises:
            NotFoundError: there is none.
            EdgedError: as :meth:`activate`.
        """
        record = await asyncio.to_thread(self._store.last_good)
        if record is None:
            raise NotFoundError(
                "cannot roll back: the store has no other model that served before and is not set"
                " aside; `edgectl models` lists what there is"
            )
        return await self._activate(record, cause, tell)

    async def cancel(self, who: str) -> list[str]:
        """Call off what is on its way into the slot; what serves goes on serving.

        Args:
            who: calls it off, for those who wait.

        Returns:
            the models that were on their way, by name and version. One for which the gate had
            opened serves all the same.
        """
        under_way = dict(self._deployments)
        for task in under_way:
            task.cancel(who)
        if under_way:
            await asyncio.wait(under_way)
        called_off = [record for task, record in under_way.items() if task.cancelled()]
        return [str(record) for record in called_off if not self._serves(record)]

    async def remove(self, name: str, version: str) -> None:
        """Forget the bundles of that name and version.

        Raises:
            NotFoundError: there is none.
            InputError: it is loaded, committed, or on its way into the slot.
        """
        wanted = str(await asyncio.to_thread(self._store.find, name, version))
        stored = await asyncio.to_thread(self._store.list)
        records = [record for record in stored if str(record) == wanted]
        if self._in_use() & {record.digest for record in records}:
            raise InputError(
                f"cannot remove {wanted}: it is in use; activate another one first:"
                " edgectl activate NAME"
            )
        for record in records:
            await asyncio.to_thread(self._store.remove, record.digest)

    async def pin(self, pinned: bool) -> None:
        """Have what serves stay, whatever is dropped; or no longer."""
        await asyncio.to_thread(self._store.pin, pinned)

    async def _take_in(self, arrival: Arrival) -> BundleRecord:
        scratch = await asyncio.to_thread(self._store.scratch)
        try:
            verified = await asyncio.to_thread(_verify, arrival, scratch, self._bubblewrap)
            fault_point("deploy.verified")
            record = await asyncio.to_thread(self._store.add, verified)
            fault_point("deploy.stored")
            return record
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    def _stored_only(self, record: BundleRecord) -> Stored | None:
        """Why *record*, which was dropped, is kept and not activated, if so.

        Raises:
            InputError: it is older than what it would replace.
        """
        current = self._slot.status.model or self._store.committed()
        if current is not None and current.digest == record.digest:
            return None
        manifest = record.manifest
        command = f"edgectl activate {manifest.name}@{manifest.version}"
        if self._store.pinned():
            to = f" to {current}" if current is not None else ""
            return Stored(str(record), f"not activated, because edged is pinned{to}: {command}")
        if (
            current is not None
            and current.manifest.name == manifest.name
            and manifest.serial < current.manifest.serial
        ):
            raise InputError(
                f"cannot replace {current}: serial {manifest.serial} of {record} is older than"
                f" serial {current.manifest.serial}; it is kept, and `{command}` activates it on"
                " purpose"
            )
        return None

    async def _activate(self, record: BundleRecord, cause: str, tell: Tell) -> Deployed:
        if self._slot.status.state is State.ABSENT:
            raise DeviceLostError(f"cannot activate {record}: {self._slot.status.problem}")
        with self._protected(record):
            if record.set_aside is not None:
                await asyncio.to_thread(self._store.clear_set_aside, record.digest)
            return await self._deploy(record, cause, tell)

    async def _deploy(self, record: BundleRecord, cause: str, tell: Tell) -> Deployed:
        try:
            deployed = await self._cancellable(record, self._slot.deploy(record, tell, cause))
        except KilledError:
            raise
        except ContainerError as error:
            # It may have been bad luck once.
            if self._slot.failures.count_deployment(record.digest) < self.attempts:
                raise
            said = f"its container ended {self.attempts} times; the last time: {error}"
            failure = InputError(f"cannot load {record}: {said}")
            await self._set_aside(record, failure)
            raise failure from error
        except CalledOffError:
            raise
        except EdgedError as error:
            if not error.of_machine:
                await self._set_aside(record, error)
            raise
        self._slot.failures.forget_deployments(record.digest)
        return deployed

    async def _cancellable(
        self, record: BundleRecord, deployment: Coroutine[None, None, Deployed]
    ) -> Deployed:
        task = asyncio.create_task(deployment, name=f"deployment of {record}")
        self._deployments[task] = record
        try:
            return await task
        except asyncio.CancelledError as error:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise  # Whoever waits for it is ended, and not the deployment alone.
            if self._serves(record):
                return await self._done_all_the_same(record)
            manifest = record.manifest
            raise CalledOffError(
                f"cannot load {record}: {error} called it off; it is kept, and"
                f" `edgectl activate {manifest.name}@{manifest.version}` loads it"
            ) from error
        finally:
            del self._deployments[task]

    def _serves(self, record: BundleRecord) -> bool:
        status = self._slot.status
        return (
            status.since is not None
            and status.model is not None
            and status.model.digest == record.digest
        )

    async def _done_all_the_same(self, record: BundleRecord) -> Deployed:
        """What became of a deployment that was called off when its model served already."""
        (last,) = await asyncio.to_thread(self._store.history, 1)
        since = self._slot.status.since or last.at
        held = last.gate_closed or 0.0
        remarks = self._slot.status.remarks
        return Deployed(record, since, already=False, gate_closed_seconds=held, remarks=remarks)

    async def _set_aside(self, record: BundleRecord, error: EdgedError) -> None:
        self._slot.failures.forget_deployments(record.digest)
        _log.warning(
            "%s is set aside: %s",
            record,
            error,
            extra=about(Notice.SET_ASIDE, model=record, digest=record.digest),
        )
        try:
            committed = await asyncio.to_thread(self._store.committed)
            # What serves after a restart is judged by how it starts then.
            if committed is None or committed.digest != record.digest:
                await asyncio.to_thread(self._store.set_aside, record.digest, str(error))
        except EdgedError as second:
            _log.error("cannot note that %s is set aside: %s", record, second)

    async def _collect(self) -> None:
        try:
            removed = await asyncio.to_thread(self._store.collect, self.keep, self._in_use())
        except EdgedError as error:
            _log.error("cannot remove old bundles: %s", error)
            return
        for record in removed:
            _log.info("removed %s, which is older than the %d to keep", record, self.keep)

    def _in_use(self) -> set[Digest]:
        return {*self._at_work, *self._slot.in_use}

    @contextlib.contextmanager
    def _protected(self, record: BundleRecord) -> Iterator[None]:
        self._at_work[record.digest] += 1
        try:
            yield
        finally:
            self._at_work[record.digest] -= 1
            self._at_work += Counter()  # drops those at zero


def _verify(arrival: Arrival, scratch: Path, bubblewrap: str) -> VerifiedBundle:
    file = arrival.file
    if file.suffix.lower() == ".onnx":
        file = scratch / file.name  # errors name it as it was dropped
        pack_bare(arrival.file, file, name=arrival.name, data=arrival.data, bubblewrap=bubblewrap)
    into = scratch / "bundle"
    into.mkdir()
    return verify_bundle(file, into)
