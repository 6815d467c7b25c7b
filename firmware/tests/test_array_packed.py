"""Two products in one multiplier are the same products: both arrays, beside each other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from firmware.boards.build import PACKED_ARRAY
from firmware.rtl.array import SOURCE

_BENCH = """
module bench;
  localparam TI = 8, TO = 16, TP = 2, R = 8;
  reg clk = 0, valid, is_signed, high, first, last;
  reg [1:0] group;
  reg [TP*TI*8-1:0] x;
  reg [TI*TO*8-1:0] w;
  wire [TP*R*32-1:0] sums, packed_sums;
  edged_array #(TI, TO, TP, R) one (.*);
  packed_array #(TI, TO, TP, R) other (.sums(packed_sums), .*);
  integer cycle, n, checked;
  initial begin
    checked = 0;
    for (cycle = 0; cycle < 20000; cycle = cycle + 1) begin
      {valid, is_signed, high, first, last} = $urandom;
      group = 2'($urandom % 2);
      // The ends of the range more often than by chance.
      for (n = 0; n < TP*TI; n = n + 1)
        x[n*8+:8] = $urandom % 3 == 0 ? (8'h80 ^ 8'($urandom % 4) - 8'd2) : 8'($urandom);
      for (n = 0; n < TI*TO; n = n + 1)
        w[n*8+:8] = $urandom % 3 == 0 ? (8'h80 ^ 8'($urandom % 4) - 8'd2) : 8'($urandom);
      #1 clk = 1;
      #1 clk = 0;
      if (sums !== packed_sums) begin
        $display("cycle %0d: %h is not %h", cycle, packed_sums, sums);
        $fatal;
      end
      if (sums != 0) checked = checked + 1;
    end
    $display("%0d equal", checked);
    $finish;
  end
endmodule
"""


@pytest.mark.skipif(shutil.which("verilator") is None, reason="there is no Verilator")
@pytest.mark.slow  # 20,000 cycles, compiled with the time between them: a minute
@pytest.mark.parametrize("change", ["", "no borrow"])
def test_both_arrays_are_equal(change: str, tmp_path: Path) -> None:
    packed = PACKED_ARRAY.read_text().replace("edged_array", "packed_array")
    if change:
        assert " + 32'(products[o*TI+i][15])" in packed
        packed = packed.replace(" + 32'(products[o*TI+i][15])", "")
    for name, text in (
        ("one.sv", SOURCE.read_text()),
        ("other.sv", packed),
        ("bench.sv", _BENCH),
    ):
        (tmp_path / name).write_text(text)
    subprocess.run(
        "verilator --binary -Wno-fatal -Wno-lint --top bench --Mdir made one.sv other.sv bench.sv",
        shell=True,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    done = subprocess.run(["made/Vbench"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) is not bool(change), done.stdout[-500:]
    if not change:
        assert "equal" in done.stdout and int(done.stdout.split()[0]) > 10000
