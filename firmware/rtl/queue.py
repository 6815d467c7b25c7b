"""A queue: takes descriptors from a ring in the host's memory, in order, and completes them.

It equals ``edged/emulator/_queue.py``. A descriptor that fails says so in its completion, and the
queue goes on; what stops it is a ring that cannot be used.
"""

from amaranth import unsigned
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from edged.npu.regmap import (
    COMPLETION,
    DESCRIPTOR,
    MAX_LOG2_SIZE,
    RING_ALIGN,
    DescriptorFlag,
    Record,
    Status,
)
from firmware.rtl.host import HostMemory
from firmware.rtl.ports import BEAT_BYTES
from firmware.rtl.sharing import Claimed

__all__ = ["Execution", "Queue", "layout_of"]


def layout_of(record: Record) -> data.StructLayout:
    """A record of the contract as bits: its first byte lowest."""
    items = {item.name: unsigned(8 * item.nbytes) for item in record.items}
    return data.StructLayout(items)


class Execution(wiring.Signature):
    """Carrying out a descriptor, as a queue drives it.

    Members
    -------
    descriptor: :py:`Out(layout_of(DESCRIPTOR))`
        Stays until ``done``.
    start: :py:`Out(1)`
        Strobe.
    cancel: :py:`Out(1)`
        While it is asserted, what is under way ends as soon as it can, ABORTED.
    done: :py:`In(1)`
        Strobe: it is over; not in the cycle of ``start``.
    status: :py:`In(16)`
        Valid with ``done``: a :class:`~edged.npu.regmap.Status`.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "descriptor": Out(layout_of(DESCRIPTOR)),
                "start": Out(1),
                "cancel": Out(1),
                "done": In(1),
                "status": In(16),
            }
        )


class Queue(wiring.Component):
    """One queue.

    Attributes
    ----------
    ring_base, completion_base: Signal(64), in
    log2_size: Signal(32), in
        As the host set them up; they stay the same while ``enabled``.
    tail_write, control_write: Signal, in
        Strobes: the host rings with, or enables or aborts by, ``data``.
    data: Signal(32), in
    abort: Signal, in
        While it is asserted the queue aborts, and is not enabled.
    clear: Signal, in
        Strobe: forget head, tail and error. For a queue that is not enabled.
    head, tail, error: Signal(32), out
    enabled: Signal, out
        Asserted until the host's memory has been let go of.
    host: Interface, out
    execution: Interface, out
    interrupt: Signal, out
        Strobe: a completion that wants it is written.
    stopped: Signal, out
        Strobe: the queue has stopped, and ``error`` says why.
    idle: Signal, out
        Asserted: nothing happens before the host's next write.
    """

    ring_base: In(64)
    completion_base: In(64)
    log2_size: In(32)
    tail_write: In(1)
    control_write: In(1)
    data: In(32)
    abort: In(1)
    clear: In(1)
    head: Out(32)
    tail: Out(32)
    error: Out(32)
    enabled: Out(1)
    host: Out(Claimed(HostMemory()))
    execution: Out(Execution())
    interrupt: Out(1)
    stopped: Out(1)
    idle: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        aborting = Signal()
        sequence = Signal(32, init=1)
        cycles = Signal(64)
        status = Signal(16)
        descriptor = self.execution.descriptor
        host = self.host.memory
        size = Signal(MAX_LOG2_SIZE + 1)
        waiting = Signal(32)
        m.d.comb += [
            size.eq(1 << self.log2_size[:4]),
            waiting.eq(self.tail - self.head),
            self.execution.cancel.eq(aborting),
        ]

        with m.If(self.control_write):
            with m.If(~self.data[0]):
                m.d.sync += aborting.eq(self.enabled)
            with m.Elif(~self.enabled & ~self.abort):
                m.d.sync += [
                    self.head.eq(0),
                    self.tail.eq(0),
                    self.error.eq(Status.OK),
                    sequence.eq(1),
                ]
                with m.If((self.log2_size == 0) | (self.log2_size > MAX_LOG2_SIZE)):
                    m.d.sync += self.error.eq(Status.BAD_LENGTH)
                with m.Elif((self.ring_base | self.completion_base) % RING_ALIGN != 0):
                    m.d.sync += self.error.eq(Status.BAD_ADDRESS)
                with m.Else():
                    m.d.sync += self.enabled.eq(1)
        with m.If(self.tail_write & self.enabled & ~aborting):
            m.d.sync += self.tail.eq(self.data)
        with m.If(self.abort & self.enabled):
            m.d.sync += aborting.eq(1)
        with m.If(self.clear):
            m.d.sync += [self.head.eq(0), self.tail.eq(0), self.error.eq(Status.OK)]

        def let_go() -> None:
            m.d.sync += [self.enabled.eq(0), aborting.eq(0)]
            m.next = "IDLE"

        def fail(why: Status) -> None:
            """Stop; during an abort nobody is left who could be told."""
            with m.If(~aborting):
                m.d.comb += self.stopped.eq(1)
                m.d.sync += self.error.eq(why)
            let_go()

        entries_per_beat = BEAT_BYTES // DESCRIPTOR.size
        refused = Signal()
        slot = Signal(range(BEAT_BYTES // COMPLETION.size))
        completion = Signal(layout_of(COMPLETION))
        index = Signal(MAX_LOG2_SIZE)
        completed_at = Signal(64)
        m.d.comb += [
            index.eq((sequence - 1) & (size - 1)),
            completed_at.eq(self.completion_base + index * COMPLETION.size),
            slot.eq(index),
            completion.tag.eq(descriptor.tag),
            completion.status.eq(status),
            completion.cycles.eq(cycles),
            completion.sequence.eq(sequence),
            host.write.payload.address.eq(completed_at & ~(BEAT_BYTES - 1)),
            host.write.payload.data.eq(
                Cat(completion for _ in range(BEAT_BYTES // COMPLETION.size))
            ),
        ]
        first = (1 << COMPLETION.offset("sequence")) - 1
        last = (1 << COMPLETION.size) - 1 & ~first

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.enabled):
                    with m.If(aborting):
                        with m.If((waiting != 0) & (waiting <= size)):
                            m.next = "FETCH"
                        with m.Else():
                            let_go()
                    with m.Elif(waiting > size):
                        fail(Status.BAD_LENGTH)
                    with m.Elif(waiting != 0):
                        m.next = "FETCH"
                    with m.Else():
                        m.d.comb += self.idle.eq(~self.abort)
                with m.Else():
                    m.d.comb += self.idle.eq(1)
            with m.State("FETCH"):
                place = self.head & (size - 1)
                address = self.ring_base + place * DESCRIPTOR.size
                m.d.comb += [
                    self.host.claim.eq(1),
                    host.request.valid.eq(1),
                    host.request.payload.address.eq(address & ~(BEAT_BYTES - 1)),
                    host.request.payload.beats.eq(1),
                ]
                with m.If(host.request.ready):
                    m.next = "FETCHED"
            with m.State("FETCHED"):
                m.d.comb += [self.host.claim.eq(1), host.data.ready.eq(1)]
                with m.If(host.data.valid):
                    with m.If(host.data.payload.fault):
                        fail(Status.BAD_ADDRESS)
                    with m.Else():
                        place = self.head[: exact_log2(entries_per_beat)]
                        m.d.sync += [
                            descriptor.eq(
                                host.data.payload.data.word_select(place, 8 * DESCRIPTOR.size)
                            ),
                            self.head.eq(self.head + 1),
                            cycles.eq(0),
                            status.eq(Status.ABORTED),
                        ]
                        with m.If(aborting):
                            m.next = "COMPLETE"
                        with m.Else():
                            m.next = "EXECUTE"
            with m.State("EXECUTE"):
                m.d.comb += self.execution.start.eq(1)
                m.d.sync += cycles.eq(1)
                m.next = "EXECUTING"
            with m.State("EXECUTING"):
                m.d.sync += cycles.eq(cycles + 1)
                with m.If(self.execution.done):
                    m.d.sync += status.eq(self.execution.status)
                    with m.If(aborting & (self.execution.status == Status.OK)):
                        m.d.sync += status.eq(Status.ABORTED)
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.comb += [
                    self.host.claim.eq(1),
                    host.write.valid.eq(1),
                    host.write.payload.strobe.eq(first << slot * COMPLETION.size),
                ]
                m.d.sync += refused.eq(0)
                with m.If(host.write.ready):
                    m.next = "SEQUENCE"
            with m.State("SEQUENCE"):
                m.d.comb += [
                    self.host.claim.eq(1),
                    host.write.valid.eq(1),
                    host.write.payload.strobe.eq(last << slot * COMPLETION.size),
                ]
                with m.If(host.write.ready):
                    m.next = "WRITTEN"
                with m.If(host.refused):
                    m.d.sync += refused.eq(1)
            with m.State("WRITTEN"):
                m.d.comb += self.host.claim.eq(1)
                with m.If(host.refused):
                    m.d.sync += refused.eq(1)
                with m.If(host.written):
                    with m.If(refused | host.refused):
                        fail(Status.BAD_ADDRESS)
                    with m.Else():
                        m.d.sync += sequence.eq(sequence + 1)
                        m.d.comb += self.interrupt.eq(
                            (descriptor.flags & DescriptorFlag.INTERRUPT) != 0
                        )
                        m.next = "IDLE"
        return m
