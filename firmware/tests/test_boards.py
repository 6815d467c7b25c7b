"""What is built for boards: the ports, equal modules, and how cells are counted."""

from __future__ import annotations

from amaranth.back import rtlil
from amaranth.hdl import Fragment, Module, Signal
from amaranth.hdl._ir import PortDirection

from firmware.boards.build import resources, unique
from firmware.boards.parts import BOARDS


def test_ports_are_named_as_tools_for_axi_know_them() -> None:
    flat = BOARDS["ecp5"].npu()
    Fragment.get(flat, platform=None)
    widths = {name: len(signal) for name, (signal, _) in flat.ports.items()}
    channels = {
        "ar": ("addr", "len", "size", "burst", "cache", "prot", "valid", "ready"),
        "r": ("data", "resp", "last", "valid", "ready"),
        "aw": ("addr", "len", "size", "burst", "cache", "prot", "valid", "ready"),
        "w": ("data", "strb", "last", "valid", "ready"),
        "b": ("resp", "valid", "ready"),
    }
    wanted = {
        f"m_axi_{interface}_{channel}{name}"
        for interface in ("host", "dram")
        for channel, names in channels.items()
        for name in names
    }
    assert wanted == {name for name in widths if name.startswith("m_axi")}
    assert widths["m_axi_host_araddr"] == 64 and widths["m_axi_dram_wstrb"] == 64
    assert widths["s_axi_bar0_awaddr"] == 16 and widths["s_axi_bar0_wdata"] == 32
    assert flat.ports["m_axi_host_rdata"][1] is PortDirection.Input
    assert flat.ports["m_axi_host_arsize"][1] is PortDirection.Output


def test_modules_that_are_the_same_become_one() -> None:
    def design() -> str:
        m = Module()
        ports = []
        for number, width in enumerate((8, 8, 4, 8)):
            leaf, branch = Module(), Module()
            x, y = Signal(width, name="x"), Signal(width, name="y")
            leaf.d.sync += y.eq(x + 1)
            branch.submodules.leaf = leaf
            m.submodules[f"branch_{number}"] = branch
            into, out = Signal(width, name=f"in_{number}"), Signal(width, name=f"out_{number}")
            m.d.comb += [x.eq(into), out.eq(y)]
            ports += [into, out]
        return str(rtlil.convert(m, name="top", ports=ports, emit_src=False))

    before, after = design(), unique(design())
    assert before.count("\nmodule ") == 9
    assert after.count("\nmodule ") == 5
    for name in ("branch_0", "branch_1", "branch_3"):
        assert f"\\{name}\n" in after, "the cell is still there"


def test_cells_count_as_what_they_take() -> None:
    taken = resources(
        {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "$scopeinfo": 5}
    )
    assert taken == {"LUT": 28, "FF": 7, "block RAM": 0, "URAM": 0, "DSP": 0}
    assert resources({"RAMB36E1": 3, "RAMB18E1": 5, "DSP48E1": 2})["block RAM"] == 5.5
