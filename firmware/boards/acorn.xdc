# The card's clock of 200 MHz and its PCIe lanes, as LiteX's platform sqrl_acorn has them.
# NOT RUN ON HARDWARE. To be used with what stands at the AXI ports; out of context they are none.
create_clock -name clk200 -period 5.000 [get_ports clk200_p]
set_property -dict {PACKAGE_PIN J19 IOSTANDARD DIFF_SSTL15} [get_ports clk200_p]
set_property -dict {PACKAGE_PIN H19 IOSTANDARD DIFF_SSTL15} [get_ports clk200_n]
create_clock -name pcie_refclk -period 10.000 [get_ports pcie_refclk_p]
set_property PACKAGE_PIN F6 [get_ports pcie_refclk_p]
set_property PACKAGE_PIN E6 [get_ports pcie_refclk_n]
set_property -dict {PACKAGE_PIN J1 IOSTANDARD LVCMOS15 PULLUP TRUE} [get_ports pcie_reset_n]
set_property BITSTREAM.CONFIG.SPI_BUSWIDTH 4 [current_design]
set_property CONFIG_VOLTAGE 3.3 [current_design]
set_property CFGBVS VCCO [current_design]
