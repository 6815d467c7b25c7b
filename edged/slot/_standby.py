"""Getting a model ready beside the one that serves: its files, its image, its container."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edged.container import Container, Launcher
from edged.faults import fault_point
from edged.npu import Target
from edged.remarks import Remark
from edged.slot._to_its_end import to_its_end
from edged.store import BundleRecord, CompiledKey, Store, read_remarks, translated

__all__ = ["Compile", "Model", "Standbys", "Tell", "log_only"]

_log = logging.getLogger(__name__)


class Tell(Protocol):
    """Told what is going on, in a few words, and how much of it is done, 0 … 1."""

    def __call__(self, text: str, fraction: float | None = None) -> None: ...


class Compile(Protocol):
    """What :class:`edged.slot.CompilerProcess` does."""

    async def __call__(
        self, job: Path, output: Path, target: Target, tell: Callable[[float, str], None]
    ) -> None: ...


@dataclass(slots=True, eq=False)
class Model:
    """A model with its files laid out and its container running.

    Attributes:
        folder: its files, of the bundle and of the compiler; gone with :meth:`Standbys.discard`.
        remarks: of the compiler.
        bank: the device's bank that holds the image, -1 before it does.
        since: when it began to serve, seconds since the epoch; 0 before it does.
        watch: sees to it when the container dies.
        lost: set when the device that it serves on is let go of.
    """

    record: BundleRecord
    folder: Path
    container: Container
    remarks: tuple[Remark, ...] = ()
    bank: int = -1
    since: float = 0.0
    watch: asyncio.Task[None] | None = None
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class Standbys:
    """Makes models ready, and puts them away.

    Args:
        store: bundles, and images that were compiled before.
        launcher: starts containers.
        compile_model: makes a program image of a bundle's model.
        compiler_version: part of the key under which compiled images are kept.
    """

    def __init__(
        self, store: Store, launcher: Launcher, compile_model: Compile, compiler_version: str
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._compile = compile_model
        self._compiler_version = compiler_version
        self._hurried = 0
        self._unhurried = asyncio.Event()
        self._unhurried.set()
        self._renewing: asyncio.Task[Path] | None = None

    async def prepare(self, record: BundleRecord, target: Target, tell: Tell) -> Model:
        """Lay out the files of *record*, compile it if that was not done yet, start a container.

        Raises:
            EdgedError: why that cannot be done; nothing of it is left.
        """
        folder = await asyncio.to_thread(self._store.scratch)
        try:
            with translated(f"cannot lay out the files of {record}"):
                await asyncio.to_thread(self._store.materialize, record.digest, folder)
                fault_point("slot.materialised")
                compiled = await self._compiled(record, folder, target, tell)
                await asyncio.to_thread(_link_files, compiled, folder)
                remarks = await asyncio.to_thread(read_remarks, folder)
                fault_point("slot.compiled")
            tell("starting the container")
            container = await self._launcher.start(folder)
            fault_point("slot.started")
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        return Model(record, folder, container, remarks)

    async def renew(self, record: BundleRecord, target: Target) -> None:
        """Compile *record* if that was not done yet, when nobody waits for another to be.

        What is compiled for somebody who waits comes first: this is called off then, and begins
        anew afterwards, so that there is one compiler at a time for it.

        Raises:
            EdgedError: why that cannot be done; nothing of it is left.
        """
        folder = await asyncio.to_thread(self._store.scratch)
        try:
            with translated(f"cannot lay out the files of {record}"):
                await asyncio.to_thread(self._store.materialize, record.digest, folder)
                while not await self._renewed(record, folder, target):
                    await self._unhurried.wait()
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def discard(self, model: Model) -> None:
        """End the container and remove the files."""
        if model.watch is not None and model.watch is not asyncio.current_task():
            model.watch.cancel()
        await to_its_end(_put_away(model))

    def _key(self, record: BundleRecord, target: Target) -> CompiledKey:
        return CompiledKey(record.digest, self._compiler_version, str(target))

    async def _compiled(
        self, record: BundleRecord, folder: Path, target: Target, tell: Tell
    ) -> Path:
        key = self._key(record, target)
        if (compiled := await asyncio.to_thread(self._store.compiled, key)) is not None:
            return compiled
        self._hurried += 1
        self._unhurried.clear()
        if self._renewing is not None:
            self._renewing.cancel()
        try:
            return await self._compile_for(key, record, folder, target, tell)
        finally:
            self._hurried -= 1
            if not self._hurried:
                self._unhurried.set()

    async def _renewed(self, record: BundleRecord, folder: Path, target: Target) -> bool:
        """Whether it was compiled, and not called off for another."""
        key = self._key(record, target)
        if await asyncio.to_thread(self._store.compiled, key) is not None:
            return True
        if self._hurried:
            return False
        renewing = self._renewing = asyncio.create_task(
            self._compile_for(key, record, folder, target, log_only)
        )
        try:
            await asyncio.wait({renewing})
        finally:
            self._renewing = None
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        return not renewing.cancelled() and bool(renewing.result())

    async def _compile_for(
        self, key: CompiledKey, record: BundleRecord, folder: Path, target: Target, tell: Tell
    ) -> Path:
        output = await asyncio.to_thread(self._store.scratch)
        try:
            _log.info(
                "compiling %s: compiler %s, target %s, ABI %d",
                record,
                key.compiler_version,
                key.array,
                key.abi,
            )
            tell("compiling", 0.0)
            await self._compile(folder, output, target, lambda done, _step: tell("compiling", done))
            fault_point("slot.compiler.done")
            return await asyncio.to_thread(self._store.add_compiled, key, output)
        finally:
            await asyncio.to_thread(shutil.rmtree, output, ignore_errors=True)


async def _put_away(model: Model) -> None:
    try:
        await model.container.stop()
    finally:
        await asyncio.to_thread(shutil.rmtree, model.folder, ignore_errors=True)


def log_only(text: str, fraction: float | None = None) -> None:
    """A :class:`Tell` for when nobody waits."""
    _log.debug("%s", text if fraction is None else f"{text} {fraction:.0%}")


def _link_files(source: Path, target: Path) -> None:
    for file in source.iterdir():
        os.link(file, target / file.name)
