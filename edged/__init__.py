"""edged: an inference appliance out of a Linux box with an FPGA on PCIe."""

__version__ = "0.1.0"
