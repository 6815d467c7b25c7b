"""A queue's rings: what is fetched and completed, and what stops it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.sim import Simulator

from edged.npu.registers import Completion, Descriptor, DescriptorFlag, Operation, Status
from firmware.rtl.queue import Queue
from firmware.tests.memory import HOST, Memory

COMPLETIONS = 2048
"""Where they are in the memory."""


class Bench:
    """A queue, its host, and an executor that answers with the tag as the status.

    Attributes:
        executed: tags of the descriptors that were begun.
        interrupts, stops: how often there were.
        hangs: whether what is begun ends only when it is cancelled.
    """

    def __init__(self, seed: int, log2_size: int = 2) -> None:
        self.rng = random.Random(seed)
        self.queue = Queue()
        self.host = Memory(self.queue.host.memory, HOST, self.rng, host=True)
        self.host.bytes[COMPLETIONS:] = bytes(len(self.host.bytes) - COMPLETIONS)
        self.log2_size = log2_size
        self.size = 1 << log2_size
        self.executed: list[int] = []
        self.interrupts = self.stops = 0
        self.hangs = False

    def simulate(self, act: Callable[[Any], Any]) -> None:
        simulator = Simulator(self.queue)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self._world, background=True)
        simulator.add_testbench(self._execute, background=True)
        simulator.add_testbench(act)
        simulator.run()

    async def _world(self, ctx: Any) -> None:
        queue = self.queue
        while True:
            self.host.drive(ctx)
            self.host.look(ctx)
            if ctx.get(queue.host.memory.request.valid) or ctx.get(queue.host.memory.write.valid):
                assert ctx.get(queue.host.claim)
            self.interrupts += ctx.get(queue.interrupt)
            self.stops += ctx.get(queue.stopped)
            await ctx.tick()

    async def _execute(self, ctx: Any) -> None:
        execution = self.queue.execution
        while True:
            await ctx.tick()
            if ctx.get(execution.start):
                tag = ctx.get(execution.descriptor.tag)
                self.executed.append(tag)
                await ctx.tick().repeat(self.rng.randrange(1, 5))
                while self.hangs and not ctx.get(execution.cancel):
                    await ctx.tick()
                ctx.set(execution.status, tag % 8)
                ctx.set(execution.done, 1)
                await ctx.tick()
                ctx.set(execution.done, 0)

    async def write(self, ctx: Any, strobe: Any, value: int) -> None:
        ctx.set(self.queue.data, value)
        ctx.set(strobe, 1)
        await ctx.tick()
        ctx.set(strobe, 0)

    async def enable(self, ctx: Any, ring: int = HOST, completions: int = HOST + 2048) -> None:
        queue = self.queue
        ctx.set(queue.ring_base, ring)
        ctx.set(queue.completion_base, completions)
        ctx.set(queue.log2_size, self.log2_size)
        await self.write(ctx, queue.control_write, 1)

    async def idle(self, ctx: Any) -> None:
        await ctx.tick().repeat(2)
        for _ in range(20_000):
            if ctx.get(self.queue.idle):
                return
            await ctx.tick()
        raise AssertionError("the queue does not come to rest")

    def put(self, number: int, **fields: int) -> None:
        """The descriptor that is number *number* since the queue was enabled."""
        at = (number % self.size) * Descriptor.SIZE
        entry = Descriptor(Operation.FENCE, tag=number + 1, **fields).pack()
        self.host.bytes[at : at + Descriptor.SIZE] = entry

    def completion(self, number: int) -> Completion:
        at = COMPLETIONS + (number % self.size) * Completion.SIZE
        return Completion.unpack(bytes(self.host.bytes[at : at + Completion.SIZE]))


@pytest.mark.parametrize("log2_size", [1, 2, 6])
def test_descriptors_in_their_order(log2_size: int) -> None:
    bench = Bench(log2_size, log2_size)
    total = 3 * bench.size + 1
    signalled = [bench.rng.random() < 0.5 for _ in range(total)]

    async def act(ctx: Any) -> None:
        await bench.enable(ctx)
        done = 0
        while done < total:
            count = min(bench.rng.randint(1, bench.size), total - done)
            for number in range(done, done + count):
                bench.put(number, flags=DescriptorFlag.INTERRUPT if signalled[number] else 0)
            await bench.write(ctx, bench.queue.tail_write, done + count)
            await bench.idle(ctx)
            for number in range(done, done + count):
                completion = bench.completion(number)
                assert (completion.tag, completion.sequence) == (number + 1, number + 1)
                assert completion.status == (number + 1) % 8
                assert completion.cycles > 0
            done += count
        assert ctx.get(bench.queue.head) == ctx.get(bench.queue.tail) == total

    bench.simulate(act)
    assert bench.executed == list(range(1, total + 1))
    assert bench.interrupts == sum(signalled)
    assert not bench.stops


def test_the_sequence_is_written_last() -> None:
    """As two writes, of which the second has nothing but it."""
    bench = Bench(0)

    async def act(ctx: Any) -> None:
        await bench.enable(ctx)
        for number in range(2):
            bench.put(number)
        await bench.write(ctx, bench.queue.tail_write, 2)
        await bench.idle(ctx)

    bench.simulate(act)
    assert bench.host.strobes == [0x0FFF, 0xF000, 0x0FFF << 16, 0xF000 << 16]


def test_an_abort_completes_what_is_queued() -> None:
    bench = Bench(1)
    bench.hangs = True

    async def act(ctx: Any) -> None:
        queue = bench.queue
        await bench.enable(ctx)
        for number in range(3):
            bench.put(number)
        await bench.write(ctx, queue.tail_write, 3)
        await ctx.tick().repeat(200)
        assert ctx.get(queue.enabled) and not ctx.get(queue.idle)
        await bench.write(ctx, queue.control_write, 0)
        assert ctx.get(queue.enabled), "it has not let go yet"
        await bench.write(ctx, queue.control_write, 1)  # too early: ignored
        await bench.write(ctx, queue.tail_write, 4)  # likewise
        await bench.idle(ctx)
        assert not ctx.get(queue.enabled)
        assert ctx.get(queue.error) == Status.OK
        # What was under way says what became of it, and those behind it were not begun.
        statuses = [bench.completion(number).status for number in range(4)]
        assert statuses == [1, Status.ABORTED, Status.ABORTED, 0]
        bench.hangs = False
        await bench.enable(ctx)
        assert ctx.get(queue.head) == ctx.get(queue.tail) == 0
        await bench.write(ctx, queue.tail_write, 1)
        await bench.idle(ctx)
        assert bench.completion(0).sequence == 1

    bench.simulate(act)
    assert bench.executed == [1, 1]
    assert not bench.stops


@pytest.mark.parametrize(
    ("bases", "log2_size", "status"),
    [
        ({"ring": HOST + 32}, 2, Status.BAD_ADDRESS),
        ({"completions": HOST + 2048 + 16}, 2, Status.BAD_ADDRESS),
        ({}, 0, Status.BAD_LENGTH),
        ({}, 13, Status.BAD_LENGTH),
    ],
)
def test_a_ring_that_cannot_be_set_up(
    bases: dict[str, int], log2_size: int, status: Status
) -> None:
    bench = Bench(2, log2_size)

    async def act(ctx: Any) -> None:
        await bench.enable(ctx, **bases)
        await bench.idle(ctx)
        assert not ctx.get(bench.queue.enabled)
        assert ctx.get(bench.queue.error) == status

    bench.simulate(act)


@pytest.mark.parametrize(
    ("ring", "completions", "tail", "status", "executed"),
    [
        (HOST + 4096 - 64, HOST + 2048, 1, Status.BAD_ADDRESS, 0),
        (HOST, HOST + 4096 - 64, 1, Status.BAD_ADDRESS, 1),
        (HOST, HOST + 2048, 5, Status.BAD_LENGTH, 0),
        (HOST, HOST + 2048, 0xFFFF_FFFF, Status.BAD_LENGTH, 0),
    ],
)
def test_a_ring_that_cannot_be_used_stops_the_queue(
    ring: int, completions: int, tail: int, status: Status, executed: int
) -> None:
    bench = Bench(3)
    bench.host.mapped = 4096 - 64

    async def act(ctx: Any) -> None:
        queue = bench.queue
        await bench.enable(ctx, ring, completions)
        await bench.write(ctx, queue.tail_write, tail)
        await bench.idle(ctx)
        assert not ctx.get(queue.enabled)
        assert ctx.get(queue.error) == status

    bench.simulate(act)
    assert bench.stops == 1
    assert len(bench.executed) == executed
