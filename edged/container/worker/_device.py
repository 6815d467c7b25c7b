"""The device of this model, while it has one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from edged.device import InferenceQueue, vfio_user
from edged.errors import DeviceLostError, NotRunError, UnavailableError
from edged.npu import ProgramImage

__all__ = ["Device"]


class Device:
    """Runs the program on whatever device is attached; for many threads.

    Args:
        image: what the device holds in its active bank by the time it is attached.
        on_lost: told, once for each device, when it has gone away.
    """

    def __init__(self, image: ProgramImage, on_lost: Callable[[DeviceLostError], None]) -> None:
        self._image = image
        self._on_lost = on_lost
        self._changing = threading.Lock()
        self._prepared: InferenceQueue | None = None
        self._queue: InferenceQueue | None = None

    @property
    def attached(self) -> bool:
        return self._queue is not None

    def prepare(self, fd: int) -> None:
        """Make everything ready over the connection *fd*, but for taking the queue.

        Raises:
            DeviceLostError, DeviceError: it is no device, or gone.
        """
        connection = socket.socket(fileno=fd)
        self.detach()
        transport = vfio_user.VfioUserTransport(connection)
        self._prepared = InferenceQueue(transport, self._image, take=False)

    def attach(self) -> None:
        """Take the queue of the device that was prepared.

        Raises:
            UnavailableError: none was.
            DeviceLostError, DeviceError: it is gone, or another program is active on it.
        """
        queue, self._prepared = self._prepared, None
        if queue is None:
            raise UnavailableError("cannot attach the device: none was prepared")
        queue.take()
        with self._changing:
            self._queue = queue

    def detach(self) -> None:
        """Let go of the device, if there is one."""
        with self._changing:
            queue, self._queue = self._queue, None
        prepared, self._prepared = self._prepared, None
        for each in (queue, prepared):
            if each is not None:
                each.close()

    def run(
        self, entry: int, inputs: Sequence[npt.NDArray[Any]], on_turn: Callable[[], None]
    ) -> list[npt.NDArray[Any]]:
        """One run of an entry: u8 or s8 [1, H, W, C] in the image's order, in and out.

        Args:
            on_turn: see :meth:`InferenceQueue.run`.

        Raises:
            NotRunError: no device is attached, or it is being reset.
            DeviceLostError: it goes away.
            DeviceError, DeadlineError: it fails.
        """
        queue = self._queue
        if queue is None:
            raise NotRunError(
                "cannot answer: the model has no device at this moment; try again in a second"
            )
        try:
            return queue.run(inputs, entry=entry, on_turn=on_turn)
        except DeviceLostError as error:
            if self._forget(queue):
                queue.close()
                self._on_lost(error)
            raise

    def _forget(self, queue: InferenceQueue) -> bool:
        """Whether this thread is the one that took *queue* out of use."""
        with self._changing:
            mine = self._queue is queue
            if mine:
                self._queue = None
        return mine
