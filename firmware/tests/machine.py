"""Programs on the core and on the instruction simulator, and what they leave in DRAM."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edged.npu.instructions import Instruction
from edged.npu.simulator import Simulator
from firmware.rtl.array import SOURCE
from firmware.rtl.core import Core
from firmware.rtl.parameters import Parameters
from firmware.sim.build import build, verilog_of

__all__ = ["Machine", "Outcome", "Program"]

_Bytes = npt.NDArray[np.uint8]
_HARNESS = Path(__file__).with_name("core.cpp")


class _Program(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("code", "code_end", "packed", "packed_end", "base", "size"),
            *("cycles", "patience", "seed"),
        )
    ]


class _Outcome(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("cycles", "array", "read", "written", "fault", "fault_address"),
            *("aborted", "ended", "strayed"),
        )
    ]


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        dram: the bank, [bytes].
        guards: whether what lies around the bank is as it was.
        fault: offset in the code of the instruction that could not be executed; None without.
    """

    dram: _Bytes
    guards: bool
    cycles: int
    array: int
    read: int
    written: int
    fault: int | None
    aborted: bool
    ended: bool
    strayed: int


@dataclass
class Program:
    """Code, what it finds, and how long it may take.

    Attributes:
        dram: the bank when it begins, [bytes], a multiple of 64.
        packed: section PACKED, a multiple of 64.
        cycles: after which it is aborted.
        seed: of stalls of memory; 0 for none.
    """

    code: bytes
    dram: _Bytes
    packed: bytes = b""
    cycles: int = 200_000
    seed: int = 0
    around: bytes = field(default=b"\xa5" * 128)


def encoded(instructions: Sequence[Instruction]) -> bytes:
    """The instructions as code."""
    return b"".join(instruction.pack() for instruction in instructions)


class Machine:
    """The core of these *parameters*, compiled once."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        library = build(verilog_of(Core, parameters=parameters), [SOURCE], harness=_HARNESS)
        self._run = ctypes.CDLL(str(library)).core_run
        self._run.restype = None

    def run(self, program: Program) -> Outcome:
        """Run it on the core. The bank has bytes around it that must not change."""
        guard = np.frombuffer(program.around, np.uint8)
        parts = [
            guard,
            program.dram,
            guard,
            np.frombuffer(program.packed, np.uint8),
            guard,
            np.frombuffer(program.code.ljust(-(-len(program.code) // 64) * 64, b"\0"), np.uint8),
        ]
        starts = np.cumsum([0, *(len(part) for part in parts)])
        whole = np.concatenate(parts)
        given = _Program(
            code=int(starts[5]),
            code_end=int(starts[5]) + len(program.code),
            packed=int(starts[3]),
            packed_end=int(starts[4]),
            base=int(starts[1]),
            size=len(program.dram),
            cycles=program.cycles,
            patience=5000,
            seed=program.seed,
        )
        before = whole.copy()
        out = _Outcome()
        self._run(
            whole.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(len(whole)),
            ctypes.byref(given),
            ctypes.byref(out),
        )
        bank = slice(int(starts[1]), int(starts[2]))
        dram = whole[bank].copy()
        before[bank] = dram
        return Outcome(
            dram,
            bool((before == whole).all()),
            out.cycles,
            out.array,
            out.read,
            out.written,
            out.fault_address - int(starts[5]) if out.fault else None,
            bool(out.aborted),
            bool(out.ended),
            out.strayed,
        )

    def simulated(self, program: Program) -> _Bytes:
        """What the instruction simulator leaves in the bank.

        Raises:
            InstructionError: a fault.
        """
        parameters = self.parameters
        simulator = Simulator(
            parameters.array,
            parameters.activation_buffer,
            parameters.weight_buffer,
            program.dram.copy(),
            program.packed,
        )
        simulator.run(program.code)
        return simulator.dram
