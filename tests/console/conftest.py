"""A console over a real store and a real socket; only who carries out its changes is made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from edged.bundle import (
    BundleFile,
    Digest,
    ElementType,
    FileName,
    Manifest,
    MediaType,
    TensorDecl,
    VerifiedBundle,
    Version,
)
from edged.console import Console, Tell
from edged.errors import EdgedError
from edged.slot import Deployed, SlotStatus, State
from edged.store import BundleRecord, Store


@dataclass
class FakeControl:
    """Does what it is told to, and remembers what it was asked."""

    store: Store
    asked: list[tuple[object, ...]] = field(default_factory=list)
    fails: EdgedError | Exception | None = None
    steps: tuple[tuple[str, float | None], ...] = (("compiling", 0.5), ("loading", None))
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.hold.set()

    async def activate(self, name: str, version: str | None, cause: str, tell: Tell) -> Deployed:
        self.asked.append(("activate", name, version, cause))
        return await self._change(self.store.find(name, version), tell)

    async def rollback(self, cause: str, tell: Tell) -> Deployed:
        self.asked.append(("rollback", cause))
        return await self._change(self.store.list()[0], tell)

    async def remove(self, name: str, version: str) -> None:
        self.asked.append(("remove", name, version))
        if self.fails is not None:
            raise self.fails

    async def pin(self, pinned: bool) -> None:
        self.store.pin(pinned)

    async def _change(self, record: BundleRecord, tell: Tell) -> Deployed:
        for text, fraction in self.steps:
            # From another thread, as the parts that work there do.
            await asyncio.to_thread(tell, text, fraction)
        await self.hold.wait()
        if self.fails is not None:
            raise self.fails
        self.done.set()
        return Deployed(record, 1000.5, already=False, gate_closed_seconds=0.025)


@dataclass
class Running:
    """A console that listens, and what it stands on."""

    console: Console
    control: FakeControl
    store: Store
    path: Path
    client: aiohttp.ClientSession
    status: SlotStatus


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    path = tmp_path / "run" / "control.sock"
    with closing(Store(tmp_path / "state")) as store:
        a, b = store.add(make_bundle(tmp_path, "a")), store.add(make_bundle(tmp_path, "b"))
        store.commit(a.digest, "drop of a.edgemodel", 0.5)
        store.commit(b.digest)
        store.set_aside(a.digest, "it broke")
        status = SlotStatus(State.SERVING, b, 999.0, "")
        control = FakeControl(store)
        console = Console(store, lambda: status, control, path, 0o640)
        await console.start()
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession("http://edged", connector=connector) as client:
            yield Running(console, control, store, path, client, status)
        await console.stop()
        assert not path.exists()


def make_bundle(root: Path, name: str) -> VerifiedBundle:
    folder = root / name
    folder.mkdir()
    model = f"the model {name}".encode()
    (folder / "model.onnx").write_bytes(model)
    manifest = Manifest(
        name=name,
        version=Version.parse("1.0.0"),
        serial=1,
        inputs=(TensorDecl("x", ElementType.FLOAT32, (1, 4)),),
        outputs=(TensorDecl("y", ElementType.FLOAT32, (1, 4)),),
        files=(BundleFile(FileName.MODEL, MediaType.WEIGHT, Digest.of(model), len(model)),),
    )
    config = manifest.serialize()
    image = (
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        '"artifactType":"application/vnd.cncf.model.manifest.v1+json","config":{"mediaType":'
        f'"application/vnd.cncf.model.config.v1+json","digest":"{Digest.of(config)}",'
        f'"size":{len(config)}}},"layers":[]}}'
    ).encode()
    (folder / "manifest.json").write_bytes(config)
    (folder / "oci-manifest.json").write_bytes(image)
    return VerifiedBundle(digest=Digest.of(image), manifest=manifest, folder=folder)
