"""One queue of the device: descriptors out, completions in."""

from __future__ import annotations

import contextlib
import os
import select
import struct
import time
from collections.abc import Sequence
from typing import Final

from edged.device._memory import DmaBuffer
from edged.device._transport import Transport
from edged.errors import DeadlineError, DeviceError, DeviceLostError, EdgedError, IncompatibleError
from edged.npu.registers import (
    Completion,
    Descriptor,
    Operation,
    Queue,
    QueueControl,
    Reg,
    Status,
    Timing,
    interrupt_of_queue,
    queue_offset,
)

__all__ = ["ALL_ONES", "QueueTakenError", "Ring", "disable_queue", "link_down", "refusal"]

ALL_ONES: Final = 0xFFFF_FFFF
"""What is read of a PCI device that does not answer."""
DISABLE_SECONDS: Final = Timing.QUEUE_HANDOVER.seconds

_MODULO: Final = 0xFFFF_FFFF
_ENABLE: Final = int(QueueControl.ENABLE)
_DESCRIPTOR_BYTES: Final = Descriptor.SIZE
_COMPLETION_BYTES: Final = Completion.SIZE
_SEQUENCE: Final = struct.Struct("<I")
_RELEASE_SECONDS: Final = 1.0
_HINT_MS: Final = Timing.LOST_INTERRUPT.seconds * 1000
"""An interrupt can be lost: look without one, this often."""
_LOST: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class QueueTakenError(DeviceError):
    """The queue was disabled from outside, as a reset does; what was submitted was not begun."""


class Ring:
    """A queue's rings in memory of ours.

    One thread at a time may submit, while one at a time waits; to start is for when nobody waits.

    Args:
        memory: holds the rings in its first :meth:`bytes_for` bytes.
        log2_size: descriptors in the ring, as a power of two.
        start: whether to take the queue at once; otherwise :meth:`start` does.

    Raises:
        DeviceError: another opening holds the queue.
        DeadlineError: the device does not let go of what the queue did before.
    """

    def __init__(
        self,
        transport: Transport,
        queue: int,
        memory: DmaBuffer,
        log2_size: int,
        *,
        start: bool = True,
    ) -> None:
        self.size = 1 << log2_size
        self._transport = transport
        self._queue = queue
        self._log2_size = log2_size
        self._memory = memory
        self._descriptors = memory.array(0, (self.size, _DESCRIPTOR_BYTES))
        at = self.size * _DESCRIPTOR_BYTES
        self._completions = memory.array(at, (self.size, _COMPLETION_BYTES))
        self._completion_data = self._completions.data.cast("B")
        self._tail = 0
        self._seen = 0
        self._doorbell = queue_offset(queue, Queue.TAIL)
        self._vector = interrupt_of_queue(queue)
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._eventfd, select.POLLIN)
        self._poll.register(transport.fileno(), _LOST)
        try:
            transport.set_interrupt(self._vector, self._eventfd)
            if start:
                self.start()
        except BaseException:
            os.close(self._eventfd)
            raise

    @staticmethod
    def bytes_for(log2_size: int) -> int:
        """What the rings take of their memory, a multiple of 64."""
        return (_DESCRIPTOR_BYTES + _COMPLETION_BYTES) << max(log2_size, 2)

    def start(self, seconds: float = DISABLE_SECONDS) -> None:
        """Take the queue, empty; what it was doing is aborted.

        Args:
            seconds: longest wait for the end of that.

        Raises:
            QueueTakenError: it is disabled again at once, or the device does not hear of it.
            DeviceError, DeadlineError: as when the ring is made.
        """
        disable_queue(self._transport, self._queue, seconds)
        self._completions[:] = 0
        self._tail = self._seen = 0
        interrupts = self._transport.region_read(Reg.INTERRUPT_ENABLE)
        self._transport.region_write(Reg.INTERRUPT_ENABLE, interrupts | 1 << self._vector)
        base = self._memory.iova
        for register, value, size in (
            (Queue.RING_BASE, base, 8),
            (Queue.LOG2_SIZE, self._log2_size, 4),
            (Queue.COMPLETION_BASE, base + self.size * _DESCRIPTOR_BYTES, 8),
            (Queue.CONTROL, _ENABLE, 4),
        ):
            # The first write makes the queue ours, or hears that it is not. The others need no
            # answer: the read that follows them tells whether all went well.
            posted = register is not Queue.RING_BASE
            offset = queue_offset(self._queue, register)
            self._transport.region_write(offset, value, size, posted=posted)
        if not self._enabled():
            raise self._disabled("enable")

    def submit(self, descriptors: Sequence[bytes]) -> None:
        """Queue packed descriptors, at most as many as the ring has, with one doorbell."""
        for descriptor in descriptors:
            slot = self._descriptors[self._tail & (self.size - 1)]
            slot.data[:] = descriptor
            self._tail = (self._tail + 1) & _MODULO
        self._transport.region_write(self._doorbell, self._tail, posted=True)

    def wait(self, deadline: float, count: int | None = None) -> list[Completion]:
        """The completions that come next, in order.

        Args:
            deadline: by :func:`time.monotonic`.
            count: how many; as many as were submitted when it is None.

        Raises:
            DeadlineError: not all are there by then; call :meth:`start` before the next use.
            DeviceLostError: the device is gone.
            QueueTakenError: the queue was taken away.
            DeviceError: it was stopped.
        """
        done = []
        end = self._tail if count is None else (self._seen + count) & _MODULO
        while self._seen != end:
            while not self._has_next():
                self._sleep(deadline)
            index = self._seen & (self.size - 1)
            at = index * _COMPLETION_BYTES
            done.append(Completion.unpack(self._completion_data[at : at + _COMPLETION_BYTES]))
            self._seen = (self._seen + 1) & _MODULO
        return done

    def release(self) -> None:
        """Give the queue back, so that who asks next gets it; a wait in another thread fails.

        If the device does not answer, the queue is free once it notices that we are gone.
        """
        with contextlib.suppress(EdgedError):
            disable_queue(self._transport, self._queue, _RELEASE_SECONDS)

    def close(self) -> None:
        """Let go of what is ours, after the transport was closed."""
        if self._eventfd >= 0:
            os.close(self._eventfd)
            self._eventfd = -1

    def _has_next(self) -> bool:
        at = (self._seen & (self.size - 1)) * _COMPLETION_BYTES + Completion.SEQUENCE_OFFSET
        (sequence,) = _SEQUENCE.unpack_from(self._completion_data, at)
        return bool(sequence == (self._seen + 1) & _MODULO)

    def _sleep(self, deadline: float) -> None:
        """Until an interrupt hints that something happened, or a little while."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineError("cannot get an answer from the device in time")
        events = self._poll.poll(min(_HINT_MS, remaining * 1000))
        for fd, _ in events:
            if fd == self._eventfd:
                os.eventfd_read(fd)
            elif not self._has_next():
                raise DeviceLostError("cannot get an answer from the device: it is gone")
        if not events and not self._enabled() and not self._has_next():
            raise self._disabled("use")

    def _enabled(self) -> bool:
        control = self._transport.region_read(queue_offset(self._queue, Queue.CONTROL))
        if control == ALL_ONES:
            raise link_down()
        return bool(control & _ENABLE)

    def _disabled(self, what: str) -> DeviceError:
        """The error for a queue that is not enabled: for its own, or for somebody else's doing."""
        error = self._transport.region_read(queue_offset(self._queue, Queue.ERROR))
        kind = DeviceError if error else QueueTakenError
        return kind(
            f"cannot {what} queue {self._queue}: it was disabled, its error register says"
            f" {_status_name(error)}"
        )


def _status_name(status: int) -> str:
    known = status in Status.__members__.values()
    return Status(status).name if known else f"status {status}"


def link_down() -> DeviceLostError:
    """The error for registers that read as ones."""
    return DeviceLostError("cannot reach device: its registers read as ones; its link is down")


def disable_queue(transport: Transport, queue: int, seconds: float = DISABLE_SECONDS) -> None:
    """Abort a queue, and wait until the device has let go of its owner's memory.

    Args:
        seconds: longest wait.

    Raises:
        DeadlineError: it does not let go.
        DeviceError: the queue is not ours to disable.
        DeviceLostError: the device is gone.
    """
    control = queue_offset(queue, Queue.CONTROL)
    transport.region_write(control, 0)
    deadline = time.monotonic() + seconds
    while (found := transport.region_read(control)) & _ENABLE:
        if found == ALL_ONES:
            raise link_down()
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"cannot disable queue {queue}: it still works after {seconds:g} s;"
                " reset the device"
            )
        time.sleep(0.0005)


def refusal(what: str, operation: Operation, status: int, detail: str = "") -> DeviceError:
    """The error for a completion that is not OK."""
    kind = IncompatibleError if status == Status.INCOMPATIBLE else DeviceError
    name = _status_name(status)
    return kind(f"cannot {what}: the device answered {operation.name} with {name}{detail}")
