"""The link to a device: opens it, notices when it goes, opens it again when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from edged.device import Device, Unfit
from edged.errors import DeviceLostError, EdgedError, UnavailableError

__all__ = ["DeviceLink", "Gone"]

_log = logging.getLogger(__name__)
_LET_GO_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Gone:
    """Why a device is of no use any more.

    Attributes:
        mended: whether it is likely to be of use again at once, when it is opened anew.
    """

    why: str
    mended: bool = False


_HUNG_UP: Final = Gone("the device is gone")


class DeviceLink:
    """One device by the way it is reached.

    Args:
        connect: opens one more connection to the device; blocking.
        open_device: takes such a connection for the control plane; blocking.
        retry_seconds: pause between attempts while the device is away.
        unfit: ends with the reason when the device is there and of no use as it is.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        open_device: Callable[[socket.socket], Device],
        retry_seconds: float = 0.2,
        unfit: Callable[[Device], Awaitable[Unfit]] | None = None,
    ) -> None:
        self._connect = connect
        self._open_device = open_device
        self._retry_seconds = retry_seconds
        self._unfit = unfit
        self._lent = asyncio.Event()
        self._lent_for = ""
        self._free = asyncio.Event()
        self._back = asyncio.Event()
        self._borrowing = asyncio.Lock()

    async def opened(self, tell: Callable[[str], None] = lambda _why: None) -> Device:
        """Wait for the device, however long it takes, and open it.

        Args:
            tell: told why it cannot be used although it is there, when that changes.
        """
        said = ""
        while True:
            while self._lent.is_set():
                self._free.set()
                await self._back.wait()
            self._free.clear()
            try:
                return await asyncio.to_thread(lambda: self._open_device(self._connect()))
            except (EdgedError, OSError) as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("%s; waiting for the device", said)
                    if not isinstance(error, DeviceLostError):
                        tell(said)
                await asyncio.sleep(self._retry_seconds)

    @contextlib.asynccontextmanager
    async def lent(self, why: str) -> AsyncIterator[None]:
        """Have whoever uses the device let go of it, and nobody open it, until this ends.

        Args:
            why: what is done to the device meanwhile.

        Raises:
            UnavailableError: it is lent already, or not let go of.
        """
        if self._borrowing.locked():
            raise UnavailableError(f"cannot have the device: {self._lent_for}; try again later")
        async with self._borrowing:
            self._lent_for = why
            self._back.clear()
            self._free.clear()
            self._lent.set()
            try:
                async with asyncio.timeout(_LET_GO_SECONDS):
                    await self._free.wait()
                yield
            except TimeoutError as error:
                raise UnavailableError(
                    f"cannot have the device: it was not let go of within {_LET_GO_SECONDS:g} s"
                ) from error
            finally:
                self._lent.clear()
                self._back.set()

    async def data_connection(self) -> socket.socket:
        """One more connection, to be handed to the container that may use the data queue."""
        return await asyncio.to_thread(self._connect)

    async def gone(self, device: Device) -> Gone:
        """Wait until the device is of no use; why. Opened again, it is, or will be."""
        waits: list[asyncio.Task[Gone]] = [
            asyncio.create_task(self._hung_up(device)),
            asyncio.create_task(self._wanted()),
        ]
        if self._unfit is not None:
            waits.append(asyncio.create_task(_said(self._unfit(device))))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if waits[1] in done:
            return waits[1].result()
        # One that hung up is of no use either, and who watches it may notice first.
        return waits[-1].result() if waits[-1] in done and not _is_hung_up(device) else _HUNG_UP

    async def _wanted(self) -> Gone:
        """Wait until someone else wants the device."""
        await self._lent.wait()
        return Gone(self._lent_for)

    async def _hung_up(self, device: Device) -> Gone:
        """Wait until the other end of the device's connection is closed."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        # Only the hang-up is of interest here: what can be read belongs to the driver.
        with select.epoll() as hangup:
            hangup.register(device.fileno(), select.EPOLLRDHUP | select.EPOLLHUP)
            loop.add_reader(hangup.fileno(), event.set)
            try:
                await event.wait()
            finally:
                loop.remove_reader(hangup.fileno())
        return _HUNG_UP


def _is_hung_up(device: Device) -> bool:
    poll = select.poll()
    poll.register(device.fileno(), select.POLLRDHUP | select.POLLHUP)
    return bool(poll.poll(0))


async def _said(unfit: Awaitable[Unfit]) -> Gone:
    found = await unfit
    return Gone(f"the device cannot go on: {found.why}", found.mended)
