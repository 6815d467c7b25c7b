"""What stands between the NPU and a board: AXI, and scripts that build it for a part."""
