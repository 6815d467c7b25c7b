"""The RTL compiled by Verilator: its DRAM, and the device that it makes."""
