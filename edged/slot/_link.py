"""The link to a device: opens it, notices when it goes, opens it again when it is back."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from edged.device import Device
from edged.errors import EdgedError

__all__ = ["DeviceLink"]

_log = logging.getLogger(__name__)
_GONE: Final = "the device is gone"


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
        unfit: Callable[[Device], Awaitable[str]] | None = None,
    ) -> None:
        self._connect = connect
        self._open_device = open_device
        self._retry_seconds = retry_seconds
        self._unfit = unfit

    async def opened(self) -> Device:
        """Wait for the device, however long it takes, and open it."""
        said = ""
        while True:
            try:
                return await asyncio.to_thread(lambda: self._open_device(self._connect()))
            except (EdgedError, OSError) as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("%s; waiting for the device", said)
                await asyncio.sleep(self._retry_seconds)

    async def data_connection(self) -> socket.socket:
        """One more connection, to be handed to the container that may use the data queue."""
        return await asyncio.to_thread(self._connect)

    async def gone(self, device: Device) -> str:
        """Wait until the device is of no use; why. Opened again, it is, or will be."""
        waits: list[asyncio.Task[str]] = [asyncio.create_task(self._hung_up(device))]
        if self._unfit is not None:
            waits.append(asyncio.create_task(_said(self._unfit(device))))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        # One that hung up is of no use either, and who watches it may notice first.
        return waits[-1].result() if waits[-1] in done and not _is_hung_up(device) else _GONE

    async def _hung_up(self, device: Device) -> str:
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
        return _GONE


def _is_hung_up(device: Device) -> bool:
    poll = select.poll()
    poll.register(device.fileno(), select.POLLRDHUP | select.POLLHUP)
    return bool(poll.poll(0))


async def _said(unfit: Awaitable[str]) -> str:
    return f"the device cannot go on: {await unfit}"
