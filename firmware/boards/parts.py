"""The boards: what is built for each, and what its part has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edged.npu.registers import Array
from firmware.boards.npu import Flat, Npu
from firmware.rtl.core import Core
from firmware.rtl.parameters import Parameters
from firmware.rtl.shell import Shell

__all__ = ["BOARDS", "Board"]


@dataclass(frozen=True, slots=True)
class Board:
    """A part, and the NPU for it.

    Attributes:
        part: as the vendor orders it.
        family: whose primitives: ecp5, xc7 or xcup.
        parameters: of the core.
        dram_bytes: what the card has, or the model of it.
        clock_khz: that is aimed at.
        totals: of the part, by kind of resource.
    """

    name: str
    part: str
    family: str
    parameters: Parameters
    dram_bytes: int
    clock_khz: int
    totals: dict[str, int]

    def npu(self) -> Flat:
        """The NPU with AXI ports."""
        shell = Shell(
            self.parameters,
            dram_bytes=self.dram_bytes,
            clock_khz=self.clock_khz,
            capabilities=0,
        )
        return Flat(Npu(shell, Core(self.parameters)))


_KIB: Final = 1024
_GIB: Final = 1 << 30

BOARDS: Final = {
    board.name: board
    for board in (
        # Totals: Lattice FPGA-DS-02012, table 1.1; AMD DS180 and DS922.
        Board(
            "ecp5",
            "LFE5UM5G-85F-8BG756C",
            "ecp5",
            Parameters(Array(8, 8, 1), 64 * _KIB, 64 * _KIB),
            _GIB,
            80_000,
            {"LUT": 83_640, "FF": 83_640, "block RAM": 208, "DSP": 156},
        ),
        Board(
            "acorn",
            "xc7a200tfbg484-3",
            "xc7",
            Parameters(Array(16, 16, 4), 512 * _KIB, 512 * _KIB),
            _GIB,
            125_000,
            {"LUT": 134_600, "FF": 269_200, "block RAM": 365, "DSP": 740},
        ),
        Board(
            "as02mc04",
            "xcku3p-ffvb676-2-e",
            "xcup",
            Parameters(Array(16, 32, 4), 1024 * _KIB, 1024 * _KIB),
            8 * _GIB,
            250_000,
            {"LUT": 162_720, "FF": 325_440, "block RAM": 360, "URAM": 48, "DSP": 1368},
        ),
    )
}
"""Every board by its name."""
