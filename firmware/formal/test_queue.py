"""A queue stays in its rings, and completes what it has fetched, each once.

Proved by induction, for rings of every size at any address, whatever the host writes and answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal

from edged.npu.regmap import COMPLETION, DESCRIPTOR, MAX_LOG2_SIZE, RING_ALIGN
from firmware.formal.prove import broken, harness, in_state, opened, proved
from firmware.rtl import queue
from firmware.rtl.ports import BEAT_BYTES

_PLACES = BEAT_BYTES // COMPLETION.size


def _queue(module: Any) -> tuple[Module, list[Signal]]:
    m, inputs = harness()
    dut = module.Queue()
    m.submodules.dut = block = opened(dut)
    host, execution = dut.host.memory, dut.execution
    inputs += [
        dut.ring_base,
        dut.completion_base,
        dut.log2_size,
        dut.tail_write,
        dut.control_write,
        dut.data,
        dut.abort,
        dut.clear,
        host.request.ready,
        host.data.valid,
        host.data.payload.as_value(),
        host.write.ready,
        host.written,
        host.refused,
        execution.done,
        execution.status,
    ]

    # What the registers and the resets keep to.
    begun = Signal()
    base, completions, log2_size = Signal(64), Signal(64), Signal(32)
    m.d.sync += [
        begun.eq(1),
        base.eq(dut.ring_base),
        completions.eq(dut.completion_base),
        log2_size.eq(dut.log2_size),
    ]
    with m.If(begun & dut.enabled):
        m.d.comb += Assume(
            (base == dut.ring_base)
            & (completions == dut.completion_base)
            & (log2_size == dut.log2_size)
        )
    m.d.comb += Assume(~(dut.clear & dut.enabled))

    # It is enabled only with rings that can be used.
    size = Signal(MAX_LOG2_SIZE + 1)
    m.d.comb += size.eq(1 << dut.log2_size[:4])
    with m.If(dut.enabled):
        m.d.comb += [
            Assert((dut.log2_size != 0) & (dut.log2_size <= MAX_LOG2_SIZE)),
            Assert((dut.ring_base | dut.completion_base) % RING_ALIGN == 0),
        ]
    with m.If(dut.host.claim):
        m.d.comb += Assert(dut.enabled)
    m.d.comb += Assert(dut.enabled | in_state(block, "IDLE"))

    # Reads: one beat of the ring, modulo 2^64.
    ring, request = size * DESCRIPTOR.size, host.request
    with m.If(request.valid):
        m.d.comb += [
            Assert(request.payload.beats == 1),
            Assert((request.payload.address - dut.ring_base)[:64] + BEAT_BYTES <= _whole(ring)),
        ]

    # Writes: one entry of the completions.
    write = host.write
    with m.If(write.valid):
        m.d.comb += [
            Assert(
                (write.payload.address - dut.completion_base)[:64] + BEAT_BYTES
                <= _whole(size * COMPLETION.size)
            ),
        ]
        one = (1 << COMPLETION.size) - 1
        inside = [
            (write.payload.strobe & ~(one << COMPLETION.size * place)) == 0
            for place in range(_PLACES)
        ]
        m.d.comb += Assert(sum(inside[1:], start=inside[0]) != 0)

    # What is fetched while there is something that waits, and completed once.
    fetched = host.data.valid & host.data.ready & ~host.data.payload.fault
    completed = dut.interrupt | (in_state(block, "WRITTEN") & host.written)
    open_ = Signal()
    m.d.sync += open_.eq(Mux(fetched, 1, Mux(completed, 0, open_)))
    is_open = in_state(block, "EXECUTE", "EXECUTING", "COMPLETE", "SEQUENCE", "WRITTEN")
    m.d.comb += [
        Assert(~(fetched & open_)),
        Assert(~(write.valid & ~open_)),
        Assert(open_ == is_open),
    ]
    waits = Signal()
    m.d.sync += waits.eq((dut.tail != dut.head) & (dut.tail - dut.head <= size))
    was_asked = Signal()
    m.d.sync += was_asked.eq(request.valid)
    with m.If(begun & request.valid & ~was_asked):
        m.d.comb += Assert(waits)
    return m, inputs


def _whole(size: Any) -> Any:
    """A ring of less than a beat still has one: its base is aligned to one."""
    return Mux(size < BEAT_BYTES, BEAT_BYTES, size)


def test_it_stays_in_its_rings(tmp_path: Path) -> None:
    verdict = proved(lambda: _queue(queue), tmp_path)
    assert verdict.holds, verdict.said


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("place = self.head & (size - 1)", "place = self.head"),
        ("index.eq((sequence - 1) & (size - 1))", "index.eq((sequence - 1) & size)"),
        ("with m.Elif(waiting > size):", "with m.Elif(waiting > size + 1):"),
        (
            '!= 0\n                        )\n                        m.next = "IDLE"',
            '!= 0\n                        )\n                        m.next = "COMPLETE"',
        ),
    ],
    ids=["fetch", "completion", "too many", "twice"],
)
def test_it_would_be_noticed(correct: str, wrong: str, tmp_path: Path) -> None:
    assert not proved(
        lambda: _queue(broken("firmware.rtl.queue", (correct, wrong))), tmp_path
    ).holds
