"""The core against the instruction simulator, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from edged.npu import numerics
from edged.npu.instructions import CHANNEL, INSTRUCTION_BYTES, Flag, Instruction, Opcode, Unit
from edged.npu.regmap import ElementType
from edged.npu.simulator import InstructionError
from firmware.tests.machine import Machine, Program, encoded
from firmware.tests.programs import KINDS, program

_LOAD, _EXECUTE, _STORE = (1 << unit for unit in Unit)
_END = Instruction(Opcode.END, {})


def _same(machine: Machine, given: Program) -> None:
    expected = machine.simulated(given)
    outcome = machine.run(given)
    assert outcome.fault is None and outcome.ended and not outcome.aborted
    assert outcome.guards and not outcome.strayed
    differ = np.flatnonzero(expected != outcome.dram)
    assert not len(differ), f"{len(differ)} bytes differ, the first is {differ[0]}"


@pytest.mark.parametrize("kind", KINDS)
def test_random_programs_leave_the_bytes_of_the_simulator(machine: Machine, kind: str) -> None:
    for seed in range(30):
        _same(machine, program(kind, machine.parameters, seed))


def _dram(size: int = 4096) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, size, np.uint8)


def _plane(height: int, width: int, channels: int, **more: int) -> dict[str, int]:
    return {
        "height": height,
        "width": width,
        "row_bytes": width * channels,
        "pixel_bytes": channels,
        "lanes_across": 1,
        **more,
    }


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_has_the_numbers_of_its_definition(small: Machine, kernel: int) -> None:
    """Directed, on paper: 6×5 pixels of 11 channels to 13, padded by zeros."""
    height, width, c_in, c_out, pad = 6, 5, 11, 13, kernel // 2
    ti, to = small.parameters.array.ti, small.parameters.array.to
    random = np.random.default_rng(kernel)
    dram = _dram()
    x = dram[: height * width * c_in].reshape(height, width, c_in).astype(np.int64)
    weights = random.integers(-128, 128, (c_out, kernel, kernel, c_in))
    bias = random.integers(-(2**16), 2**16, c_out)
    shift = random.integers(6, 14, c_out, np.uint8)

    blocks_in, blocks_out = -(-c_in // ti), -(-c_out // to)
    padded = np.zeros((blocks_out * to, kernel, kernel, blocks_in * ti), np.int8)
    padded[:c_out, :, :, :c_in] = weights
    packed = b""
    for block in range(blocks_out):
        record = np.zeros(to, np.dtype([("bias", "<i4"), ("shift", "u1"), ("rest", "u1", 3)]))
        assert record.itemsize == CHANNEL.size
        count = min(to, c_out - block * to)
        record["bias"][:count] = bias[block * to :][:count]
        record["shift"][:count] = shift[block * to :][:count]
        packed += record.tobytes().ljust(ti * to, b"\0")
        of_block = padded[block * to : (block + 1) * to].transpose(1, 2, 3, 0)
        packed += of_block.tobytes()
    words = len(packed) // (ti * to)
    packed = packed.ljust(-(-len(packed) // 64) * 64, b"\0")

    inner = {"buffer_row": (width + 2 * pad) * blocks_in, "buffer_pixel": blocks_in}
    result = {"buffer_row": width * -(-c_out // ti), "buffer_pixel": -(-c_out // ti)}
    code = [
        Instruction(
            Opcode.LOAD_WEIGHTS,
            {"address": 0, "buffer": 3, "words": words},
            signal=_EXECUTE,
        ),
        Instruction(Opcode.LOAD_PLANE, _plane(height, width, c_in, **inner)),
        Instruction(
            Opcode.LOAD,
            {
                "row": -pad,
                "column": -pad,
                "rows": height + 2 * pad,
                "columns": width + 2 * pad,
                "bytes": c_in,
            },
            signal=_EXECUTE,
        ),
        Instruction(
            Opcode.FRAME,
            {
                "rows": height,
                "columns": width,
                "blocks": blocks_out,
                "source_row": inner["buffer_row"],
                "source_column": blocks_in,
                "target_row": result["buffer_row"],
                "target_column": result["buffer_pixel"],
                "kernel_rows": kernel,
                "kernel_columns": kernel,
                "kernel_blocks": blocks_in,
                "kernel_row": inner["buffer_row"],
                "kernel_column": blocks_in,
            },
            wait=_LOAD,
        ),
        Instruction(
            Opcode.RESULT,
            {"source_type": ElementType.U8, "target_type": ElementType.U8, "lo": 0, "hi": 255},
            wait=_LOAD,
        ),
        Instruction(
            Opcode.CONV,
            {"source": 0, "target": 1000, "weights": 3},
            flags=Flag.FIRST | Flag.LAST,
            signal=_STORE,
        ),
        Instruction(Opcode.STORE_PLANE, _plane(height, width, c_out, **result)),
        Instruction(
            Opcode.STORE,
            {"address": 1001, "buffer": 1000, "rows": height, "columns": width, "bytes": c_out},
            wait=_EXECUTE,
        ),
        _END,
    ]
    given = Program(encoded(code), dram, packed)
    _same(small, given)
    outcome = small.run(given)

    seen = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    total = np.zeros((height, width, c_out), np.int64)
    for row, column in np.ndindex(kernel, kernel):
        window = seen[row : row + height, column : column + width]
        total += window @ weights[:, row, column].T
    expected = np.clip(numerics.shift_round_half_even(total + bias, shift), 0, 255)
    size = expected.size
    assert (outcome.dram[1001 : 1001 + size].reshape(expected.shape) == expected).all()
    assert outcome.array == height * width * kernel**2 * blocks_in * blocks_out


def test_a_load_that_waits_for_the_store_reads_what_it_wrote(small: Machine) -> None:
    plane = _plane(1, 1, 64)
    code = [
        Instruction(Opcode.LOAD_PLANE, plane),
        Instruction(Opcode.LOAD, {"rows": 1, "columns": 1, "bytes": 64}, signal=_STORE),
        Instruction(Opcode.STORE_PLANE, plane, wait=_LOAD),
        Instruction(
            Opcode.STORE, {"address": 1024, "rows": 1, "columns": 1, "bytes": 64}, signal=_LOAD
        ),
        Instruction(
            Opcode.LOAD,
            {"address": 1024, "buffer": 100, "rows": 1, "columns": 1, "bytes": 64},
            wait=_STORE,
            signal=_STORE,
        ),
        Instruction(
            Opcode.STORE,
            {"address": 2048, "buffer": 100, "rows": 1, "columns": 1, "bytes": 64},
            wait=_LOAD,
        ),
        _END,
    ]
    _same(small, Program(encoded(code), _dram()))


def _store(address: int, size: int = 64) -> list[Instruction]:
    """Fill a part of the buffer, and store it."""
    plane = _plane(0, 0, 1)
    move = {"rows": 1, "columns": 1, "bytes": size}
    return [
        Instruction(Opcode.LOAD_PLANE, plane),
        Instruction(Opcode.LOAD, move),
        Instruction(Opcode.SYNC, {}),
        Instruction(Opcode.STORE_PLANE, _plane(1, 1, size)),
        Instruction(Opcode.STORE, {"address": address, **move}),
        _END,
    ]


_FAULTS: dict[str, list[Instruction | bytes]] = {
    "no such operation": [_END.pack(), bytes([15]) + bytes(31)],
    "a load that leaves the bank": [
        Instruction(Opcode.LOAD_PLANE, _plane(1, 1, 64)),
        Instruction(Opcode.LOAD, {"address": 4033, "rows": 1, "columns": 1, "bytes": 64}),
        _END,
    ],
    "a load far away": [
        Instruction(Opcode.LOAD_PLANE, _plane(65535, 65535, 1, row_bytes=0xFFFF_FFFF)),
        Instruction(Opcode.LOAD, {"row": 32767, "rows": 1, "columns": 1, "bytes": 1}),
        _END,
    ],
    "a load of 4 GiB": [
        Instruction(Opcode.LOAD_PLANE, _plane(1, 1, 1)),
        Instruction(Opcode.LOAD, {"rows": 1, "columns": 1, "bytes": 0xFFFF_FFFF}),
        _END,
    ],
    "a load without a plane": [
        Instruction(Opcode.LOAD, {"rows": 1, "columns": 1, "bytes": 1}),
        _END,
    ],
    "a plane of no lanes": [
        Instruction(Opcode.STORE_PLANE, {"height": 1, "width": 1}),
        Instruction(Opcode.STORE, {"rows": 1, "columns": 1, "bytes": 1}),
        _END,
    ],
    "weights beyond the section": [Instruction(Opcode.LOAD_WEIGHTS, {"words": 1}), _END],
    "a matrix that leaves the bank": [
        Instruction(
            Opcode.LOAD_MATRIX, {"address": 4000, "row_bytes": 90, "rows": 2, "columns": 8}
        ),
        _END,
    ],
    "a store that leaves the bank": list(_store(4033)),
    "no frame": [Instruction(Opcode.RESULT, {}), Instruction(Opcode.POOL, {}), _END],
    "no result": [Instruction(Opcode.FRAME, {}), Instruction(Opcode.VECTOR, {}), _END],
    "sums from one CONV to the next of several pixels": [
        Instruction(Opcode.FRAME, {"rows": 2, "columns": 1, "blocks": 1}),
        Instruction(Opcode.RESULT, {}),
        Instruction(Opcode.CONV, {}, flags=Flag.FIRST),
        _END,
    ],
    "the code ends": [Instruction(Opcode.SYNC, {})],
    "more tokens than there may be": [
        *[Instruction(Opcode.FRAME, {}, signal=_STORE)] * 256,
        _END,
    ],
}


@pytest.mark.parametrize("name", _FAULTS)
def test_what_cannot_be_executed_is_a_fault(machine: Machine, name: str) -> None:
    parts = [part if isinstance(part, bytes) else part.pack() for part in _FAULTS[name]]
    if name == "no such operation":
        parts.reverse()
    given = Program(b"".join(parts), _dram())
    if name != "a load of 4 GiB":  # which takes as much memory
        with pytest.raises(InstructionError):
            machine.simulated(given)
    outcome = machine.run(given)
    assert outcome.fault is not None and outcome.ended and not outcome.aborted
    assert outcome.guards and not outcome.strayed
    # The instruction itself, which is the last but END; of one too many tokens also.
    bad = len(parts) - 1 if parts[-1] == _END.pack() else len(parts)
    if name not in ("no such operation", "the code ends"):
        assert outcome.fault == (bad - 1) * INSTRUCTION_BYTES
    # And a fault leaves nothing behind: the next program runs.
    _same(machine, program("conv", machine.parameters, 1))


@pytest.mark.parametrize("end", [0, 64])
def test_a_store_up_to_the_last_byte_is_none(machine: Machine, end: int) -> None:
    _same(machine, Program(encoded(_store(4096 - 64 - end)), _dram()))


def test_a_program_that_waits_for_ever_is_aborted(machine: Machine) -> None:
    code = [Instruction(Opcode.FRAME, {}, wait=_STORE), _END]
    given = Program(encoded(code), _dram(), cycles=500)
    outcome = machine.run(given)
    assert outcome.aborted and outcome.ended and outcome.fault is None
    _same(machine, program("move", machine.parameters, 2))


@pytest.mark.parametrize("after", [60, 90, 130, 200, 333, 500, 700])
def test_an_abort_ends_whatever_goes_on(machine: Machine, after: int) -> None:
    for kind in ("move", "conv", "table", "mean"):
        given = program(kind, machine.parameters, after)
        given.cycles = after
        outcome = machine.run(given)
        assert outcome.aborted and outcome.ended and outcome.fault is None
        assert outcome.cycles < after + 1000
        assert outcome.guards and not outcome.strayed
    _same(machine, program("conv", machine.parameters, after))


def _hostile(seed: int) -> bytes:
    """Instructions that exist, with operands that are anything."""
    random = np.random.default_rng(seed)
    code = random.integers(0, 256, (64, INSTRUCTION_BYTES), np.uint8)
    small = random.random(code.shape) < random.choice([0.3, 0.7, 0.9])
    code[small] &= random.integers(0, 4, dtype=np.uint8)
    code[:, 0] = random.integers(2, 15, 64)
    code[:, 1:3] &= random.integers(0, 2, dtype=np.uint8) * 7
    # Operands of 32 bits that lie in the bank more often than not.
    code[random.random(64) < 0.5, 6:8] = 0
    return code.tobytes()


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_a_hostile_program_stays_in_its_bank_and_ends(machine: Machine, first: int) -> None:
    for seed in range(first, first + 50):
        code = _hostile(seed) if seed % 4 else np.random.default_rng(seed).bytes(4096)
        given = Program(code, _dram(1 << 14), bytes(4096), cycles=3000, seed=seed)
        outcome = machine.run(given)
        assert outcome.ended and (outcome.aborted or outcome.fault is not None)
        assert outcome.guards and not outcome.strayed
    _same(machine, program("conv", machine.parameters, first))
