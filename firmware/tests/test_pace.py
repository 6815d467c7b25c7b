"""How many cycles the core takes: what edged.scheduler.timing reckons with."""

from __future__ import annotations

import numpy as np
import pytest

from edged.npu.instructions import Flag, Instruction, Opcode, Unit
from edged.npu.regmap import ElementType
from firmware.tests.machine import Machine, Outcome, Program, encoded

_LOAD, _EXECUTE, _STORE = (1 << unit for unit in Unit)
_END = Instruction(Opcode.END, {})
_LATENCY = 64
_RATE = 51 / 64
"""Of DRAM, in beats a cycle."""
_START = 2 * _LATENCY + 30
"""Fetching the first instructions, the first data, and the end."""


def _cycles(machine: Machine, code: list[Instruction], packed: bytes = b"") -> Outcome:
    outcome = machine.run(Program(encoded([*code, _END]), np.zeros(1 << 17, np.uint8), packed))
    assert outcome.ended and outcome.fault is None
    return outcome


def _plane(width: int, channels: int, **more: int) -> dict[str, int]:
    plane = {"height": 1, "width": width, "pixel_bytes": channels, "lanes_across": 1}
    return {**plane, **more}


@pytest.mark.parametrize("channels", [64, 128, 24])
def test_a_load_goes_at_the_rate_of_dram(small: Machine, channels: int) -> None:
    """Up to 64 bytes of a pixel a cycle; of less a pixel a cycle."""
    pixels = 300
    code = [
        Instruction(Opcode.LOAD_PLANE, _plane(pixels, channels)),
        Instruction(Opcode.LOAD, {"rows": 1, "columns": pixels, "bytes": channels}),
    ]
    outcome = _cycles(small, code)
    beats = pixels * channels / 64
    assert outcome.read == beats // 1 + bool(beats % 1) + 2
    # Of small pixels beats are gathered to a request, one of which is under way at the end.
    assert outcome.cycles <= max(beats / _RATE, pixels) + _START + 64


def test_loads_see_the_latency_of_dram_once(small: Machine) -> None:
    count, pixels = 40, 16
    move = {"rows": 1, "columns": pixels, "bytes": 64}
    code = [Instruction(Opcode.LOAD_PLANE, _plane(pixels, 64))]
    code += [Instruction(Opcode.LOAD, move)] * count
    outcome = _cycles(small, code)
    assert outcome.cycles <= count * pixels / _RATE + count * 6 + _START


def test_a_store_goes_at_the_rate_of_dram(small: Machine) -> None:
    pixels = 300
    code = [
        Instruction(Opcode.STORE_PLANE, _plane(pixels, 64)),
        Instruction(Opcode.STORE, {"rows": 1, "columns": pixels, "bytes": 64}),
    ]
    outcome = _cycles(small, code)
    assert outcome.written == pixels
    assert outcome.cycles <= pixels / _RATE + _START


def _conv(rows: int, columns: int, blocks: int, taps: int, **tokens: int) -> list[Instruction]:
    frame = {
        "rows": rows,
        "columns": columns,
        "blocks": blocks,
        "kernel_rows": 1,
        "kernel_columns": 1,
        "kernel_blocks": taps,
        "source_column": 1,
        "target_column": 1,
    }
    kinds = {"source_type": ElementType.U8, "target_type": ElementType.U8, "hi": 255}
    return [
        Instruction(Opcode.FRAME, frame),
        Instruction(Opcode.RESULT, kinds),
        Instruction(Opcode.CONV, {"target": 1024}, flags=Flag.FIRST | Flag.LAST, **tokens),
    ]


@pytest.mark.parametrize("taps", [1, 2, 7])
def test_a_convolution_has_no_gaps_between_its_results(machine: Machine, taps: int) -> None:
    array = machine.parameters.array
    rows, columns, blocks = 10, 11, 5
    outcome = _cycles(machine, _conv(rows, columns, blocks, taps))
    assert outcome.array == rows * columns * blocks * taps
    words = max(taps, array.to // array.ti)  # of weights, or of results
    # A cycle for the parameters of each block, and what comes at the beginning and the end.
    assert outcome.cycles <= rows * columns * blocks * words + 3 * blocks + _LATENCY + 30


def test_units_work_beside_each_other(small: Machine) -> None:
    """Load, compute and store of 20 tiles take about as long as the longest of them."""
    tiles, pixels, taps = 20, 60, 3
    move = {"rows": 1, "columns": pixels, "bytes": 64}
    code = [
        Instruction(Opcode.LOAD_PLANE, _plane(pixels, 64)),
        Instruction(Opcode.STORE_PLANE, _plane(pixels, 64, height=1)),
    ]
    for tile in range(tiles):
        free = {"wait": _STORE} if tile >= 2 else {}
        half = tile % 2 * 512
        code.append(Instruction(Opcode.LOAD, {**move, "buffer": half}, signal=_EXECUTE, **free))
        code += _conv(5, 15, 1, taps, wait=_LOAD, signal=_STORE)
        code.append(
            Instruction(
                Opcode.STORE,
                {**move, "address": 1 << 16, "buffer": half},
                wait=_EXECUTE,
                signal=_LOAD,
            )
        )
    outcome = _cycles(small, code)
    assert outcome.array == tiles * 225
    # A half of the buffer is loaded, computed with, and stored, one after the other, while the
    # same goes on in the other half.
    alone = 225 + 2 * (pixels / _RATE + _LATENCY)
    assert outcome.cycles <= tiles * (alone / 2 + 80) + _START


def test_a_load_goes_on_while_each_cycle_writes_a_result(small: Machine) -> None:
    pixels = 100
    code = _conv(10, 40, 1, 1)
    code += [
        Instruction(Opcode.LOAD_PLANE, _plane(pixels, 64)),
        Instruction(
            Opcode.LOAD, {"rows": 1, "columns": pixels, "bytes": 64, "buffer": 8, "address": 64}
        ),
    ]
    outcome = _cycles(small, code)
    assert outcome.cycles <= 400 + _START
