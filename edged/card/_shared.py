"""One card, several openings: what the kernel does not do, since it knows one user of a card.

docs/adr has the reasons. A queue's ring is kept twice: the opening writes its own, and what the
card reads is a copy, made when the doorbell rings, in which each host address was looked up in what
that opening has mapped. Completions and tensors the card reads and writes where they belong.
"""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass, replace
from typing import Final

from edged._vfio_user import DmaFlag
from edged._vfio_user_server import Busy
from edged.card._interrupts import VECTORS, Interrupts
from edged.card._memory import AddressSpace, Memory, told
from edged.device import BusOwner, DmaBuffer, Step, Transport
from edged.errors import DeviceError, DeviceLostError
from edged.npu.access import AccessPolicy, read_words, words
from edged.npu.registers import (
    BAR0_SIZE,
    MAX_LOG2_SIZE,
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    QUEUES,
    RING_ALIGN,
    Bank,
    Completion,
    Descriptor,
    DescriptorFlag,
    Operation,
    Queue,
    QueueControl,
    Reg,
    Status,
    interrupt_of_queue,
    queue_offset,
)
from edged.npu.regmap import Access, Word, address_map

__all__ = ["Opening", "SharedCard"]

_LOW: Final = 0xFFFF_FFFF
_CONFIG_SIZE: Final = 4096
_RING_BYTES: Final = Descriptor.SIZE << MAX_LOG2_SIZE
_ABORT_SECONDS: Final = 0.2
_EVENT: Final = 0
_COMMAND_MASTER: Final = 4
_ENABLE: Final = int(QueueControl.ENABLE)
_INTERRUPT: Final = int(DescriptorFlag.INTERRUPT)
_WITHOUT_MEMORY: Final = (
    Operation.ACTIVATE_BANK,
    Operation.RUN,
    Operation.FENCE,
    Operation.FLUSH,
)
_NO_DEVICE_ADDRESS: Final = (1 << 64) - 4096


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """One connection's hold on the card."""

    memory: Memory
    interrupts: Interrupts


class _Queue:
    """A queue as its owner sees it, which is not quite how the card has it.

    Attributes:
        registers: what the owner set up, by the offset in the block of each word.
        tail: up to where descriptors were handed on.
        head: how many the card had fetched when it was asked last.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.owner: Opening | None = None
        self.enabled = False
        self.error = Status.OK
        self.registers = {
            register + 4 * part: 0
            for register in Queue
            if register.takes
            for part in range(register.nbytes // 4)
        }
        self.tail = self.head = 0

    def at(self, register: Queue) -> int:
        return queue_offset(self.number, register)

    def address(self, register: Queue) -> int:
        return self.registers[register] | self.registers[register + 4] << 32

    @property
    def log2_size(self) -> int:
        return self.registers[Queue.LOG2_SIZE]


class SharedCard:
    """Hands a card out to several openings, as ADR 2 has it.

    Args:
        transport: the one to the card, used by nobody else.
    """

    bar0_size = BAR0_SIZE
    config_size = _CONFIG_SIZE
    msi_vectors = VECTORS

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._space = AddressSpace()
        self._openings: list[Opening] = []
        self._queues = tuple(_Queue(number) for number in range(QUEUES))
        self._kept: list[Memory] = []
        self._rings = DmaBuffer(
            transport, self._space.take(QUEUES * _RING_BYTES), QUEUES * _RING_BYTES
        )
        assigned = address_map(transport.region_read(Reg.CAPABILITIES))
        self._writable = {at: word for at, word in assigned.items() if word.register.writable}
        self._ours = {
            at: word
            for at, word in assigned.items()
            if isinstance(word.register, Queue) or word.register is Reg.INTERRUPT_ENABLE
        }
        self._policy: AccessPolicy[Opening] = AccessPolicy(
            self._owner_of, lambda opening: opening in self._openings
        )

    @property
    def gives_memory(self) -> bool:
        """Whether the card sees memory as it is, with no IOMMU between."""
        return self._rings.is_given

    def open(self) -> Opening:
        """A new opening, with nothing mapped and no interrupts."""
        # It is told of changes after it exists, and so can name itself.
        opening = Opening(
            Memory(
                self._transport,
                self._space,
                lambda: self._may_reach(opening),
                # Who manages the card loads images, which are large.
                lambda: self.gives_memory and self._queues[QUEUE_MANAGEMENT].owner is not opening,
            ),
            Interrupts(lambda vector: self._connect(opening, vector)),
        )
        self._openings.append(opening)
        return opening

    def close(self, opening: Opening) -> None:
        """Let go of all that an opening held: its queues, its memory, its locks."""
        self._openings.remove(opening)
        with contextlib.suppress(DeviceError, DeviceLostError):
            for queue in self._queues:
                if queue.owner is opening:
                    self._abort(queue)
            for queue in self._queues:
                if queue.owner is opening:
                    self._wait_for_abort(queue)
            for bank in self._policy.unlock(opening):
                self._transport.region_write(Bank.OWNER.address(bank), 0)
        if self.gives_memory and any(queue.enabled for queue in self._orphans()):
            self._kept.append(opening.memory)
        else:
            with contextlib.suppress(DeviceError, DeviceLostError):
                opening.memory.close()
        with contextlib.suppress(DeviceError, DeviceLostError):
            for vector in range(VECTORS):
                if self._listener(vector) in (None, opening):
                    self._transport.set_interrupt(vector, None)
        opening.interrupts.close()

    @told()
    def function_level_reset(self, opening: Opening) -> bool:
        """Reset everything.

        Raises:
            Busy: another opening manages the card.
        """
        self._require_manager(opening)
        self._transport.reset()
        self._forget()
        return True

    @property
    def bus_steps(self) -> tuple[str, ...]:
        """What can be done to the bus that the card is on."""
        if not isinstance(self._transport, BusOwner):
            return ()
        return tuple(step.value for step in Step if step in self._transport.bus_steps)

    @told()
    def reset_bus(self, opening: Opening, step: str) -> None:
        """Do one of these.

        Raises:
            Busy: another opening manages the card.
        """
        self._require_manager(opening)
        assert isinstance(self._transport, BusOwner)
        self._transport.reset_bus(Step(step))
        self._forget()

    def _forget(self) -> None:
        """What a reset ends."""
        self._policy.unlock_all()
        for queue in self._queues:
            queue.owner, queue.enabled, queue.error = None, False, Status.OK
            queue.registers = dict.fromkeys(queue.registers, 0)
        for other in self._openings:
            other.interrupts.enabled = 0
        self._release_kept()

    @told()
    def read_config(self, offset: int, size: int) -> bytes:
        """*size* bytes of the configuration space, as the kernel shows it."""
        if size in (1, 2, 4):
            return self._transport.config_read(offset, size).to_bytes(size, "little")
        return b"".join(
            self._transport.config_read(at, 1).to_bytes(1, "little")
            for at in range(offset, offset + size)
        )

    @told()
    def write_config(self, opening: Opening, offset: int, data: bytes) -> None:
        """Only for who manages the card; the kernel keeps it from what is its own."""
        self._require_manager(opening)
        if len(data) in (1, 2, 4):
            self._transport.config_write(offset, int.from_bytes(data, "little"), len(data))

    @told()
    def read(self, opening: Opening, offset: int, size: int) -> bytes:
        """*size* bytes of BAR0; the range is inside of it."""
        if offset % 4 == size % 4 == 0 and self._ours.keys().isdisjoint(
            range(offset, offset + size, 4)
        ):
            return self._transport.region_read(offset, size).to_bytes(size, "little")
        return read_words(lambda at: self._read_word(opening, at), offset, size)

    @told()
    def write(self, opening: Opening, offset: int, data: bytes) -> None:
        """Write one or two aligned words of BAR0; anything else is ignored.

        Raises:
            Busy: another opening holds that register.
        """
        for at, value in words(offset, data):
            if at in self._writable:
                self._write_word(opening, at, value)

    # Registers. What is not looked after here is the card's.

    def _read_word(self, opening: Opening, offset: int) -> int:
        word = self._ours.get(offset)
        if word is None:
            return self._transport.region_read(offset)
        if word.register is Reg.INTERRUPT_ENABLE:
            return opening.interrupts.enabled
        queue = self._queues[word.index]
        if word.register.takes:
            return queue.registers[word.register + 4 * word.part]
        if word.register is Queue.ERROR and queue.error is not Status.OK:
            return queue.error
        return self._transport.region_read(offset)

    def _write_word(self, opening: Opening, offset: int, value: int) -> None:
        word = self._writable[offset]
        register, value = word.register, value & word.mask
        if register is Queue.TAIL and self._queues[word.index].owner is opening:
            # Each run waits for this; a queue that the card has disabled meanwhile ignores it.
            self._ring(opening, self._queues[word.index], value)
            return
        if why := self._policy.refusal(opening, word, value):
            raise Busy(why)
        if isinstance(register, Queue):
            self._write_queue(opening, self._queues[word.index], word, value)
        elif register is Reg.INTERRUPT_ENABLE:
            opening.interrupts.enabled = value
            enabled = functools.reduce(
                int.__or__, (other.interrupts.enabled for other in self._openings)
            )
            self._transport.region_write(offset, enabled)
        elif register.access is not Access.LOCK or self._policy.lock(opening, word.index, value):
            self._transport.region_write(offset, value)

    def _write_queue(self, opening: Opening, queue: _Queue, word: Word, value: int) -> None:
        """What the policy has let pass, but for the doorbell."""
        if word.register is Queue.CONTROL and not value:
            self._abort(queue)
        elif word.register is Queue.CONTROL:
            self._enable(opening, queue)
        elif word.register.takes:
            if queue.owner is None:
                queue.owner = opening
            if not queue.enabled:
                queue.registers[word.register + 4 * word.part] = value

    # Queues.

    def _enable(self, opening: Opening, queue: _Queue) -> None:
        if queue.enabled:
            return
        queue.error = Status.OK
        bases = queue.address(Queue.RING_BASE), queue.address(Queue.COMPLETION_BASE)
        if not 1 <= queue.log2_size <= MAX_LOG2_SIZE:
            queue.error = Status.BAD_LENGTH
            return
        completions = opening.memory.translated(
            bases[1], Completion.SIZE << queue.log2_size, DmaFlag.WRITE
        )
        if (bases[0] | bases[1]) % RING_ALIGN or completions is None:
            queue.error = Status.BAD_ADDRESS
            return
        for vector in (_EVENT, interrupt_of_queue(queue.number)):
            self._connect(opening, vector)
        ring = self._rings.iova + queue.number * _RING_BYTES
        for register, value, size in (
            (Queue.RING_BASE, ring, 8),
            (Queue.LOG2_SIZE, queue.log2_size, 4),
            (Queue.COMPLETION_BASE, completions, 8),
            (Queue.CONTROL, _ENABLE, 4),
        ):
            self._transport.region_write(queue.at(register), value, size, posted=True)
        queue.enabled = True
        queue.tail = queue.head = 0

    def _ring(self, opening: Opening, queue: _Queue, tail: int) -> None:
        """The doorbell: hand on what is new, up to *tail*."""
        if not queue.enabled:
            return
        size = 1 << queue.log2_size
        if (tail - queue.head) & _LOW > size:
            # A place in the ring is written again only after the card has read it.
            queue.head = self._transport.region_read(queue.at(Queue.HEAD))
            if (tail - queue.head) & _LOW > size:
                # No ring is to blame that somebody else's reset has disabled, nor one of a card
                # that reads as ones meanwhile.
                self._refresh(queue)
                if queue.enabled:
                    self._stop(queue, Status.OK if queue.head == _LOW else Status.BAD_LENGTH)
                return
        ring = queue.address(Queue.RING_BASE)
        copies = self._rings.array(queue.number * _RING_BYTES, (size, Descriptor.SIZE))
        while queue.tail != tail:
            index = queue.tail & (size - 1)
            entry = opening.memory.read(ring + index * Descriptor.SIZE, Descriptor.SIZE)
            if entry is None:
                self._stop(queue, Status.BAD_ADDRESS)
                return
            descriptor = _checked(Descriptor.unpack(entry), opening.memory, self._rings.iova)
            copies[index].data[:] = descriptor.pack()
            queue.tail = (queue.tail + 1) & _LOW
        self._transport.region_write(queue.at(Queue.TAIL), tail, posted=True)

    def _stop(self, queue: _Queue, error: Status) -> None:
        """As the card does with a ring that cannot be used."""
        queue.error = error
        self._abort(queue)

    def _abort(self, queue: _Queue) -> None:
        """Begin to; :meth:`_refresh` sees when the card has let go."""
        if queue.enabled:
            self._transport.region_write(queue.at(Queue.CONTROL), 0)
            self._refresh(queue)
        else:
            queue.owner = None

    def _refresh(self, queue: _Queue) -> None:
        """The card disables a queue itself: upon an error, at the end of an abort, in a reset."""
        if queue.enabled:
            control = self._transport.region_read(queue.at(Queue.CONTROL))
            if not control & _ENABLE:
                queue.enabled, queue.owner = False, None
                self._release_kept()

    def _wait_for_abort(self, queue: _Queue) -> None:
        """A little: what is unmapped under the card's hands is an error that it would report."""
        deadline = time.monotonic() + _ABORT_SECONDS
        while queue.enabled and time.monotonic() < deadline:
            time.sleep(0.0005)
            self._refresh(queue)

    # With no IOMMU, what the card may still write to must not become anyone else's memory.

    def _may_reach(self, opening: Opening) -> bool:
        """Whether the card may be at what *opening* had it do with tensors."""
        queue = self._queues[QUEUE_DATA]
        self._refresh(queue)
        return self.gives_memory and queue.enabled and queue.owner is opening

    def _release_kept(self) -> None:
        if self._kept and not any(queue.enabled for queue in self._orphans()):
            with contextlib.suppress(DeviceError, DeviceLostError):
                while self._kept:
                    self._kept.pop().close()

    def _orphans(self) -> list[_Queue]:
        """Queues whose owner is gone."""
        return [
            queue
            for queue in self._queues
            if queue.owner is not None and queue.owner not in self._openings
        ]

    # Who is who.

    def _connect(self, opening: Opening, vector: int) -> None:
        """Have a vector signal *opening*, if it is the one to be told."""
        if self._listener(vector) is opening:
            self._transport.set_interrupt(vector, opening.interrupts.eventfd(vector))

    def _listener(self, vector: int) -> Opening | None:
        """Who owns the queue, and of the card as a whole who manages it."""
        number = QUEUE_MANAGEMENT if vector == _EVENT else vector - interrupt_of_queue(0)
        return self._queues[number].owner

    def _owner_of(self, number: int) -> Opening | None:
        """Who owns a queue, unless the card has disabled it meanwhile."""
        queue = self._queues[number]
        self._refresh(queue)
        return queue.owner

    def _require_manager(self, opening: Opening) -> None:
        if why := self._policy.reset_refusal(opening):
            raise Busy(why)


def _checked(descriptor: Descriptor, memory: Memory, harmless: int) -> Descriptor:
    """What the card may be told, with addresses that it knows.

    Args:
        harmless: a host address that it may read.
    """
    if descriptor.op in _WITHOUT_MEMORY:
        return replace(descriptor, host_address=0)
    if descriptor.op not in Operation.__members__.values():
        return replace(descriptor, op=0, host_address=0)  # BAD_OPERATION
    access = DmaFlag.WRITE if descriptor.op == Operation.DMA_OUT else DmaFlag.READ
    address = memory.translated(descriptor.host_address, descriptor.length, access)
    if address is not None:
        return replace(descriptor, host_address=address)
    # The card answers BAD_ADDRESS, or what else is wrong with it, and touches nobody's memory.
    return replace(
        descriptor,
        op=Operation.DMA_IN if descriptor.op == Operation.DMA_OUT else descriptor.op,
        flags=descriptor.flags & _INTERRUPT,
        length=min(descriptor.length, Descriptor.SIZE),
        host_address=harmless,
        device_address=_NO_DEVICE_ADDRESS,
    )
