"""From a file to a model that serves: verify, store, deploy."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

from edged.bundle import VerifiedBundle, pack_bare, verify_bundle
from edged.intake import Served, Tell
from edged.slot import Slot
from edged.store import Store

__all__ = ["Deployer"]


class Deployer:
    """What is done with a file that is whole.

    Args:
        store: keeps the bundle, before anything else is done with it.
        slot: makes it serve.
    """

    def __init__(self, store: Store, slot: Slot) -> None:
        self._store = store
        self._slot = slot

    async def accept(self, file: Path, tell: Tell) -> Served:
        """Verify *file*, a bundle or an ONNX model, take it into the store, and make it serve.

        Raises:
            EdgedError: why it does not serve; what served before still does.
        """
        tell("verifying")
        scratch = await asyncio.to_thread(self._store.scratch)
        try:
            verified = await asyncio.to_thread(_verify, file, scratch)
            record = await asyncio.to_thread(self._store.add, verified)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        deployed = await self._slot.deploy(record, tell)
        since = datetime.fromtimestamp(deployed.since, UTC)
        note = "the same bundle was serving already; nothing changed" if deployed.already else ""
        return Served(str(deployed.model), since, note)


def _verify(file: Path, scratch: Path) -> VerifiedBundle:
    if file.suffix.lower() == ".onnx":
        packed = scratch / f"{file.stem}.edgemodel"
        pack_bare(file, packed)
        file = packed
    into = scratch / "bundle"
    into.mkdir()
    return verify_bundle(file, into)
