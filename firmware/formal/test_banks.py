"""The active bank is a valid one, and the data queue moves data in its program's range only.

Proved by induction, of both queues' executors and the banks together, whatever their descriptors
say, the host answers and images contain. What is assumed of the neighbours: a queue keeps a
descriptor until it is done; resets wait for both queues; the loader accepts no program that has
more DRAM than a bank.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Assume, Module, Signal

from edged.npu.regmap import BANKS, QUEUE_DATA, QUEUE_MANAGEMENT, BankStatus, Operation
from firmware.formal.prove import (
    broken,
    harness,
    in_state,
    inner,
    opened,
    proved,
    within,
)
from firmware.rtl import banks as banks_module
from firmware.rtl import executor as executor_module

_BANK_BYTES = 1 << 30


def _device(modules: Any) -> tuple[Module, list[Signal]]:
    m, inputs = harness()
    banks = modules.banks.Banks()
    m.submodules.banks = known = opened(banks)
    executors, blocks, transfers = [], [], []
    began = Signal()
    m.d.sync += began.eq(1)
    for number in range(2):
        executor = modules.executor.Executor(number, _BANK_BYTES)
        block = opened(executor)
        m.submodules[f"executor_{number}"] = block
        transfers.append(within(block, "transfer"))
        executors.append(executor)
        blocks.append(block)
        execution = executor.execution
        inputs += [
            execution.descriptor.as_value(),
            execution.start,
            execution.cancel,
            executor.turn.done,
            executor.turn.status,
            executor.piece.done,
            executor.piece.fault,
            executor.piece.next_crc,
        ]
        idle = in_state(block, "IDLE")
        m.d.comb += Assume(idle | ~execution.start)
        before = Signal.like(execution.descriptor.as_value())
        m.d.sync += before.eq(execution.descriptor.as_value())
        with m.If(began & ~idle):
            m.d.comb += Assume(before == execution.descriptor.as_value())
        m.d.comb += [
            executor.is_active.eq(banks.is_active),
            executor.active_bank.eq(banks.active_bank),
            executor.program.eq(banks.active_program),
            *(
                mine.eq(status)
                for mine, status in zip(executor.statuses, banks.statuses, strict=True)
            ),
        ]
    manager, mover = executors[QUEUE_MANAGEMENT], executors[QUEUE_DATA]
    run_busy, reset, ends = Signal(), Signal(), Signal()
    inputs += [run_busy, reset, ends, banks.sound, banks.program.as_value(), manager.copy]
    inputs += [manager.target, manager.load_status]
    loading = in_state(blocks[QUEUE_MANAGEMENT], "LOAD")
    idle = in_state(blocks[0], "IDLE") & in_state(blocks[1], "IDLE")
    starts = executors[0].execution.start | executors[1].execution.start
    m.d.comb += [
        manager.busy.eq(run_busy | mover.moves),
        banks.reset.eq(reset),
        banks.bank.eq(manager.bank),
        banks.begin.eq(manager.load),
        banks.end.eq(ends),
        manager.loaded.eq(ends),
        banks.activate.eq(manager.activate),
        Assume(~ends | loading),
        Assume(~manager.copy | loading),
        Assume(~reset | (idle & ~starts)),
        Assume(~banks.sound | (banks.program.dram_bytes <= _BANK_BYTES)),
    ]

    active = Array(banks.statuses)[banks.active_bank]
    program = banks.active_program
    base, end = Signal(40), Signal(41)
    m.d.comb += [
        base.eq(banks.active_bank * _BANK_BYTES),
        end.eq(base + program.dram_bytes),
    ]
    with m.If(banks.is_active):
        m.d.comb += [
            Assert(active == BankStatus.VALID),
            Assert(program.dram_bytes <= _BANK_BYTES),
            Assert(~loading | (manager.bank != banks.active_bank)),
        ]
    for number, status in enumerate(banks.statuses):
        with m.If(status == BankStatus.VALID):
            kept = modules.banks.Program(inner(known, f"program_{number}"))
            m.d.comb += Assert(kept.dram_bytes <= _BANK_BYTES)
    m.d.comb += Assert((banks.active == 0xFFFF_FFFF) | (banks.active < BANKS))
    with m.If(loading):
        m.d.comb += Assert(manager.execution.descriptor.op == Operation.LOAD_IMAGE)

    piece, left = mover.piece, inner(transfers[QUEUE_DATA], "left")
    with m.If(piece.valid):
        m.d.comb += [
            Assert(banks.is_active),
            Assert(piece.device >= base),
            Assert(piece.device + piece.length <= end),
            # What the induction takes.
            Assert(in_state(blocks[QUEUE_DATA], "DMA")),
            Assert((left != 0) & (piece.device + left <= end)),
        ]
    return m, inputs


def test_one_valid_bank_and_its_range(tmp_path: Path) -> None:
    modules = SimpleNamespace(banks=banks_module, executor=executor_module)
    verdict = proved(lambda: _device(modules), tmp_path)
    assert verdict.holds, verdict.said


@pytest.mark.parametrize(
    ("name", "correct", "wrong"),
    [
        ("executor", "with m.Elif(status != BankStatus.VALID):", "with m.Elif(status == 0):"),
        ("executor", "self.is_active & (self.active_bank == self.bank)", "self.is_active & 0"),
        ("executor", "(end > first + size)", "(end > first + size + 1)"),
        ("executor", "(descriptor.device_address < first)", "0"),
        ("executor", "with m.Elif(self.busy):", "with m.Elif(self.busy & 0):"),
        ("banks", "self.active_bank.eq(self.bank)", "self.active_bank.eq(0)"),
    ],
    ids=["not valid", "active one loaded", "end", "beginning", "switched", "another one"],
)
def test_it_would_be_noticed(name: str, correct: str, wrong: str, tmp_path: Path) -> None:
    modules = {"banks": banks_module, "executor": executor_module}
    modules[name] = broken(f"firmware.rtl.{name}", (correct, wrong))
    assert not proved(lambda: _device(SimpleNamespace(**modules)), tmp_path).holds
