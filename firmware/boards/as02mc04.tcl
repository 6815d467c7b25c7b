# Synthesise, place and route the NPU by itself, out of context, with Vivado's free edition.
# In the folder that firmware/boards/build.py made: vivado -mode batch -source as02mc04.tcl
# NOT RUN ON HARDWARE, and not run with Vivado.
set part xcku3p-ffvb676-2-e
read_verilog edged_npu.v
read_verilog -sv edged_array.sv
synth_design -top edged_npu -part $part -mode out_of_context
create_clock -name clk -period 4.000 [get_ports clk]
opt_design
place_design
phys_opt_design
route_design
report_utilization -hierarchical -file utilization.rpt
report_timing_summary -file timing.rpt
write_checkpoint -force edged_npu.dcp
