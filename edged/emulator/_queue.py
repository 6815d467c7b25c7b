"""One queue: a thread that takes descriptors from a ring in the host's memory, in order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edged.emulator._core import Cancellation, Core, Push
from edged.emulator._interrupts import Interrupts
from edged.emulator._memory import DmaFault, HostMemory
from edged.npu.registers import (
    MAX_LOG2_SIZE,
    RING_ALIGN,
    Completion,
    Descriptor,
    DescriptorFlag,
    Injection,
    Status,
    interrupt_of_queue,
)

__all__ = ["Opening", "QueueEngine"]

_LOG = logging.getLogger(__name__)
_MODULO: Final = 0xFFFF_FFFF
_INTERRUPT: Final = int(DescriptorFlag.INTERRUPT)


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """One connection's hold on the device: its memory and its interrupts."""

    memory: HostMemory
    interrupts: Interrupts


class QueueEngine:
    """Executes one queue's descriptors. The register fields may be read at any time.

    Descriptors that fail say so in their completion, and the queue goes on; what makes it stop is
    a ring that cannot be used: then ``error`` tells why, and it is disabled.

    Args:
        number: of the queue.
        core: executes the descriptors.
        on_idle: called when an abort is done, with no lock held.
    """

    def __init__(self, number: int, core: Core, on_idle: Callable[[], None]) -> None:
        self.number = number
        self.owner: Opening | None = None
        self.ring_base = 0
        self.log2_size = 0
        self.completion_base = 0
        self.head = 0
        self.tail = 0
        self.error = Status.OK
        self.enabled = False
        self._core = core
        self._on_idle = on_idle
        self._changed = threading.Condition()
        self._aborting = False
        self._stopping = False
        self._sequence = 1
        self._cancellation = Cancellation()
        self._thread = threading.Thread(target=self._serve, name=f"queue{number}", daemon=True)
        self._thread.start()

    def clear(self) -> None:
        """Forget what was set up, as after power-on. For a queue that is not enabled."""
        self.ring_base = self.log2_size = self.completion_base = self.head = self.tail = 0
        self.error = Status.OK

    def enable(self) -> None:
        """Start at head = tail = 0, sequence 1."""
        with self._changed:
            if self.enabled or self.owner is None:
                return
            self.head = self.tail = 0
            self._sequence = 1
            self.error = Status.OK
            if not 1 <= self.log2_size <= MAX_LOG2_SIZE:
                self.error = Status.BAD_LENGTH
            elif (self.ring_base | self.completion_base) % RING_ALIGN:
                self.error = Status.BAD_ADDRESS
            if self.error is not Status.OK:
                return
            self._cancellation = Cancellation()
            self.enabled = True

    def ring(self, tail: int) -> None:
        """The doorbell."""
        with self._changed:
            if self.enabled and not self._aborting:
                self.tail = tail
                self._changed.notify()

    def abort(self) -> None:
        """Begin to abort: ``enabled`` turns false once the host's memory has been let go of."""
        with self._changed:
            if self.enabled:
                self._aborting = True
                self._cancellation.cancel()
                self._changed.notify()
            else:
                self.owner = None

    def push(self, push: Push) -> None:
        """Push what the queue does; has no effect on what does not hang."""
        self._cancellation.push(push)

    def stop(self) -> None:
        """Abort, and end the thread. Does not wait for an operation that cannot be cut short."""
        self.abort()
        self.push(Push.POWER_OFF)
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=1)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._stopping and not self.enabled:
                    return
                aborting = self._aborting
                opening = self.owner
            assert opening is not None
            if aborting:
                self._finish_abort(opening)
                continue
            try:
                self._step(opening)
            except DmaFault as fault:
                self._fail(opening, Status.BAD_ADDRESS, str(fault))
            except Exception:
                _LOG.exception("queue %d: internal error", self.number)
                self._fail(opening, Status.FAULT, "internal error")

    def _has_work(self) -> bool:
        return self._aborting or self._stopping or (self.enabled and self.head != self.tail)

    def _step(self, opening: Opening) -> None:
        """Fetch, execute and complete one descriptor."""
        if (self.tail - self.head) & _MODULO > 1 << self.log2_size:
            self._fail(opening, Status.BAD_LENGTH, f"tail {self.tail} is beyond head + size")
            return
        descriptor = self._fetch(opening)
        status, cycles = self._core.execute(
            descriptor, self.number, opening.memory, self._cancellation
        )
        self._complete(opening, descriptor, status, cycles)

    def _fetch(self, opening: Opening) -> Descriptor:
        index = self.head & ((1 << self.log2_size) - 1)
        address = self.ring_base + index * Descriptor.SIZE
        entry = opening.memory.read_small(address, Descriptor.SIZE)
        self.head = (self.head + 1) & _MODULO
        return Descriptor.unpack(entry)

    def _complete(
        self, opening: Opening, descriptor: Descriptor, status: Status, cycles: int
    ) -> None:
        entry = Completion(descriptor.tag, status, cycles, self._sequence).pack()
        index = (self._sequence - 1) & ((1 << self.log2_size) - 1)
        address = self.completion_base + index * Completion.SIZE
        at = Completion.SEQUENCE_OFFSET
        opening.memory.write_ordered(address, entry[:at], entry[at:])
        self._sequence = (self._sequence + 1) & _MODULO
        if descriptor.flags & _INTERRUPT and not self._core.faults.strike(Injection.LOST_INTERRUPT):
            opening.interrupts.trigger(interrupt_of_queue(self.number))

    def _finish_abort(self, opening: Opening) -> None:
        """Complete what is queued as ABORTED, then let go."""
        try:
            while 0 < (self.tail - self.head) & _MODULO <= 1 << self.log2_size:
                self._complete(opening, self._fetch(opening), Status.ABORTED, 0)
        except DmaFault:
            pass  # its memory is gone, and with it whoever could have read the completions
        self._disable()
        self._on_idle()

    def _fail(self, opening: Opening, status: Status, reason: str) -> None:
        _LOG.warning("queue %d stops: %s: %s", self.number, status.name, reason)
        self.error = status
        self._disable()
        opening.interrupts.trigger(0)
        self._on_idle()

    def _disable(self) -> None:
        with self._changed:
            self.enabled = self._aborting = False
            self.owner = None
