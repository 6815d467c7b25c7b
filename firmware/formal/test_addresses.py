"""What the core reads and writes lies in what the program may: its bank, or section PACKED.

Proved by induction for the two blocks that drive the memory port with addresses that a program
has computed, whatever its instructions say. The third reader, the fetch, has no address of the
program's: it goes from one beat to the next, up to ``code_end``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Const, Module, Signal

from edged.npu.instructions import Opcode
from edged.npu.registers import Array
from firmware.formal.prove import broken, harness, in_state, inner, opened, proved
from firmware.rtl import store, window
from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, WriteBeat
from firmware.rtl.records import operands

_PARAMETERS = Parameters(Array(8, 8, 2), 16384, 8192)


def _range(m: Module, base: Signal, size: Signal) -> None:
    """What a :class:`~firmware.rtl.ports.Run` says of the bank, and the shell of PACKED."""
    m.d.comb += Assume((base % BEAT_BYTES == 0) & (size % BEAT_BYTES == 0))
    m.d.comb += Assume(base + size < 1 << ADDRESS_BITS)


def _stays(m: Module, *values: Any, unless: Any) -> None:
    """The *values* are those of the cycle before."""
    began = Signal()
    m.d.sync += began.eq(1)
    for value in values:
        before = Signal.like(value)
        m.d.sync += before.eq(value)
        with m.If(began & ~unless):
            m.d.comb += Assume(before == value)


def _reads(module: Any) -> tuple[Module, list[Signal]]:
    m, inputs = harness()
    dut = module.Requests(_PARAMETERS.activation_words, 2)
    m.submodules.dut = block = opened(dut)
    pixels, request = dut.pixels, dut.request
    inputs += [
        dut.start,
        dut.stop,
        pixels.valid,
        pixels.payload.as_value(),
        dut.pixel_bytes,
        dut.base,
        dut.size,
        request.ready,
        dut.arrived,
    ]
    _range(m, dut.base, dut.size)
    m.d.comb += Assume(dut.pixel_bytes != 0)
    left, beat = inner(block, "left"), inner(block, "beat")
    last, last_valid = inner(block, "last"), inner(block, "last_valid")
    # An instruction is done when all that it has requested is there.
    _stays(m, dut.base, dut.size, dut.pixel_bytes, unless=left == 0)
    with m.If(request.valid):
        m.d.comb += [
            Assert(request.payload.address >= dut.base),
            Assert(
                request.payload.address + request.payload.beats * BEAT_BYTES <= dut.base + dut.size
            ),
            Assert(request.payload.beats != 0),
        ]
    with m.If(left != 0):
        m.d.comb += [
            Assert((beat + left) * BEAT_BYTES <= dut.size),
            Assert(last_valid & (last + 1 == beat + left)),
        ]
    return m, inputs


def _writes(module: Any) -> tuple[Module, list[Signal]]:
    m, inputs = harness()
    dut = module.Store(_PARAMETERS)
    m.submodules.dut = block = opened(dut)
    instruction = dut.instruction
    inputs += [
        instruction.valid,
        instruction.payload.as_value(),
        dut.stop,
        dut.clear,
        dut.base,
        dut.size,
        dut.bank.ready,
        dut.bank_data,
        dut.write.ready,
        dut.written,
    ]
    _range(m, dut.base, dut.size)
    _stays(m, dut.base, dut.size, unless=Const(0))
    was_open, was_stop = Signal(), Signal()
    m.d.sync += [was_open.eq(instruction.valid & ~instruction.ready), was_stop.eq(dut.stop)]
    _stays(m, instruction.payload.as_value(), unless=~was_open | was_stop)
    m.d.comb += Assume(in_state(block, "IDLE") | instruction.valid | dut.stop)
    m.d.comb += Assume(~(instruction.valid & dut.stop))

    def in_bank(beat: Any) -> Any:
        inside = (beat.address >= dut.base) & (beat.address + BEAT_BYTES <= dut.base + dut.size)
        return ~beat.strobe.any() | inside

    with m.If(dut.write.valid):
        m.d.comb += Assert(in_bank(dut.write.payload))
    # Of a pixel in several chunks: what has gone, what is left.
    walk, _ = block._named_submodules["walk"]
    pixels, move = walk.pixels, operands(Opcode.STORE, instruction.payload)
    m.d.comb += Assert(in_state(block, "MOVE") | ~pixels.valid)
    with m.If(inner(block, "later")):
        number, rest = inner(block, "number"), inner(block, "rest")
        m.d.comb += [
            Assert(pixels.valid & pixels.payload.inside),
            Assert((number != 0) & (rest != 0)),
        ]
        with m.If(instruction.valid):
            m.d.comb += Assert(number * BEAT_BYTES + rest == move.bytes)
    for name in ("gathered", "leaving"):
        with m.If(inner(block, f"{name}_valid")):
            m.d.comb += Assert(in_bank(WriteBeat(inner(block, name))))
    for name in ("fetched", "placed"):
        place = inner(block, name)
        beat, offset, count = place[:34], place[34:40], place[40:]
        with m.If(inner(block, f"{name}_valid")):
            m.d.comb += Assert(beat * BEAT_BYTES + offset + count <= dut.size)
            m.d.comb += Assert(count <= BEAT_BYTES)
    return m, inputs


def test_reads(tmp_path: Path) -> None:
    verdict = proved(lambda: _reads(window), tmp_path)
    assert verdict.holds, verdict.said


def test_writes(tmp_path: Path) -> None:
    verdict = proved(lambda: _writes(store), tmp_path)
    assert verdict.holds, verdict.said


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("outside = end > self.size", "outside = end > self.size + 1"),
        ("(first_beat == last + 1)", "(first_beat == last + 2)"),
        ("left.eq(left - beats), beat.eq(beat + beats)", "left.eq(left), beat.eq(beat + beats)"),
    ],
    ids=["bound", "gap", "again"],
)
def test_a_wrong_read_would_be_noticed(correct: str, wrong: str, tmp_path: Path) -> None:
    module = broken("firmware.rtl.window", (correct, wrong))
    assert not proved(lambda: _reads(module), tmp_path).holds


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("pixel.address + move.bytes > self.size", "pixel.address + move.bytes > self.size + 1"),
        ("pixel.inside & (pixel.address", "(pixel.address[:32]"),
        ("rest.eq(left - BEAT_BYTES)", "rest.eq(left - 32)"),
        ("gathered.address.eq(address + BEAT_BYTES)", "gathered.address.eq(address + 128)"),
    ],
    ids=["bound", "wraps", "rest", "crosses"],
)
def test_a_wrong_write_would_be_noticed(correct: str, wrong: str, tmp_path: Path) -> None:
    module = broken("firmware.rtl.store", (correct, wrong))
    assert not proved(lambda: _writes(module), tmp_path).holds
