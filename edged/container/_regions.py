"""Shared memory of clients: files under ``/dev/shm``, named by requests that bring no tensors.

The daemon opens them and hands the descriptors to every container, now and later. Nobody maps
them: they are read and written by pread(2) and pwrite(2), so that a client that cuts its file short
makes a call fail and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged.container._container import Container, Launcher
from edged.errors import ContainerError, EdgedError, LimitError, NotFoundError, RequestError

__all__ = ["Region", "Regions"]

_FOLDER: Final = Path("/dev/shm")  # noqa: S108  (where shm_open(3) has its files)
_MOST: Final = 64
_MAX_NAME: Final = 255
_MAX_BYTES: Final = 1 << 30
"""A container may not write further into a file than that; see edged.sandbox.Confinement."""


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of a file.

    Attributes:
        name: how requests call it.
        key: of the file, as shm_open(3) takes it.
        offset, size: of the piece, in bytes.
    """

    name: str
    key: str
    offset: int
    size: int


class Regions:
    """The regions that clients registered. They outlive every container.

    It is a `Launcher`, too: the containers that it starts know all of them.

    Args:
        launcher: starts the containers.
        folder: where the files are.
    """

    def __init__(self, launcher: Launcher, folder: Path = _FOLDER) -> None:
        self._launcher = launcher
        self._folder = folder
        self._regions: dict[str, tuple[Region, int]] = {}
        self._containers: set[Container] = set()
        # What is there changes for all containers, or for none.
        self._changing = asyncio.Lock()

    async def start(self, folder: Path) -> Container:
        """As :meth:`edged.container.Launcher.start`."""
        container = await self._launcher.start(folder)
        async with self._changing:
            try:
                for region, fd in self._regions.values():
                    await container.share(region.name, region.offset, region.size, fd)
            except BaseException:
                await container.stop()
                raise
            if not container.lost:
                self._containers.add(container)
                container.closed.add_done_callback(lambda _: self._containers.discard(container))
        return container

    def registered(self, name: str = "") -> list[Region]:
        """That region, or all of them.

        Raises:
            NotFoundError: there is none of that name.
        """
        if name and name not in self._regions:
            raise _unknown(name)
        return [region for region, _ in self._regions.values() if name in ("", region.name)]

    async def register(self, region: Region) -> None:
        """Have it known to every container.

        Raises:
            RequestError: its name is taken, or the file is none that can be used.
            NotFoundError: there is no such file.
            LimitError: there are as many as there may be.
        """
        what = f"cannot register shared memory {region.name[:80]!r}"
        async with self._changing:
            if not 1 <= len(region.name) <= _MAX_NAME:
                raise RequestError(f"{what}: wanted a name of 1 to {_MAX_NAME} characters")
            if region.name in self._regions:
                raise RequestError(f"{what}: it is registered already; unregister it before")
            if region.offset + region.size > _MAX_BYTES:
                raise LimitError(f"{what}: it ends after byte {_MAX_BYTES} of its file")
            if len(self._regions) >= _MOST:
                raise LimitError(f"{what}: there are {_MOST} already; unregister one")
            fd = await asyncio.to_thread(_opened, self._folder, region, what)
            self._regions[region.name] = (region, fd)
            for container in set(self._containers):
                # One that is gone has successors, which learn of it as they start.
                with contextlib.suppress(ContainerError):
                    await container.share(region.name, region.offset, region.size, fd)

    async def unregister(self, name: str = "") -> None:
        """Forget that region, or all of them; one that is not there is no error."""
        async with self._changing:
            for each in [name] if name else list(self._regions):
                _, fd = self._regions.pop(each, (None, None))
                if fd is None:
                    continue
                os.close(fd)
                for container in set(self._containers):
                    with contextlib.suppress(ContainerError):
                        await container.unshare(each)


def _opened(folder: Path, region: Region, what: str) -> int:
    key = region.key.removeprefix("/")
    if not 1 <= len(key) <= _MAX_NAME or "/" in key or "\0" in key or key in (".", ".."):
        raise RequestError(f"{what}: {region.key[:80]!r} is no key; wanted the name of a file")
    try:
        # A fifo would have us wait, a link could lead elsewhere.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        fd = os.open(folder / key, flags)
    except OSError as error:
        raise _not_opened(error, folder / key, what) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise RequestError(f"{what}: {folder / key} is no regular file")
        if region.size < 1 or region.offset + region.size > found.st_size:
            raise RequestError(
                f"{what}: {folder / key} has {found.st_size} bytes, wanted are {region.size} from"
                f" {region.offset} on"
            )
    except EdgedError:
        os.close(fd)
        raise
    return fd


def _not_opened(error: OSError, path: Path, what: str) -> EdgedError:
    if error.errno == errno.ENOENT:
        return NotFoundError(f"{what}: there is no {path}")
    if error.errno == errno.EACCES:
        return RequestError(
            f"{what}: edged, of user id {os.geteuid()}, may not read and write {path}; change its"
            " group or permissions"
        )
    return RequestError(f"{what}: {path}: {error.strerror}")


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"cannot find shared memory {name[:80]!r}: it is not registered")
