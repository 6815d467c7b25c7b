"""After an upgrade, or with other gateware: what was compiled before is compiled anew."""

from __future__ import annotations

import asyncio
import logging
import time

from edged.errors import EdgedError
from edged.npu import Target
from edged.slot._slot import Slot, SlotStatus
from edged.slot._standby import Standbys
from edged.slot._states import State
from edged.store import BundleRecord, Store

__all__ = ["Renewal"]

_log = logging.getLogger(__name__)


class Renewal:
    """Compiles in the background what the store has compiled for another edged or device.

    The committed model is not waited for: the slot compiles it before anything else. Once it
    serves, the others follow one by one, so that a roll-back or a model that a call names takes no
    longer than before.

    Args:
        store: what was compiled.
        standbys: compile it.
        compiler_version: of this edged.
        slot: says when a model serves, and on what device.
    """

    def __init__(self, store: Store, standbys: Standbys, compiler_version: str, slot: Slot) -> None:
        self._store = store
        self._standbys = standbys
        self._compiler_version = compiler_version
        self._latest: Target | None = None
        self._targets: asyncio.Queue[Target] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        slot.on_change(self._notice)

    def start(self) -> None:
        """Begin as soon as a model serves."""
        self._task = asyncio.create_task(self._run(), name="renewal")

    async def stop(self) -> None:
        """Call off what is being compiled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _notice(self, status: SlotStatus) -> None:
        target = status.target
        if status.state is State.SERVING and target is not None and target != self._latest:
            self._latest = target
            self._targets.put_nowait(target)

    async def _run(self) -> None:
        while True:
            target = await self._targets.get()
            try:
                await self._renew_all(target)
            except EdgedError as error:
                _log.error("cannot compile the models in the store anew: %s", error)

    async def _renew_all(self, target: Target) -> None:
        outdated = await asyncio.to_thread(
            self._store.outdated, self._compiler_version, str(target)
        )
        for number, record in enumerate(outdated, 1):
            await self._renew(record, target, f"{number} of {len(outdated)}")
        await asyncio.to_thread(self._store.forget_superseded, self._compiler_version)

    async def _renew(self, record: BundleRecord, target: Target, which: str) -> None:
        start = time.monotonic()
        try:
            await self._standbys.renew(record, target)
        except EdgedError as error:
            _log.warning("cannot compile %s anew (%s): %s", record, which, error)
        else:
            seconds = time.monotonic() - start
            _log.info("compiled %s anew in the background (%s), %.1f s", record, which, seconds)
