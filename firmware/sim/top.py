"""The whole NPU with flat ports, as the C++ around it drives them (``harness.cpp``).

What comes in and goes out passes registers (:mod:`~firmware.sim.decoupled`).
"""

from amaranth.hdl import ClockDomain, ClockSignal, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.interrupts import VECTORS
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES
from firmware.rtl.shell import Shell
from firmware.sim.decoupled import Decoupled

__all__ = ["Top"]


class Top(wiring.Component):
    """Shell and core.

    Parameters
    ----------
    shell:
        All but the core.
    core:
        A component with ``run`` and ``memory``, the other sides of the shell's ports.
    """

    clk: In(1)
    bus_valid: In(1)
    bus_write: In(1)
    bus_address: In(16)
    bus_data: In(32)
    bus_answer: Out(32)
    host_request_valid: Out(1)
    host_request_ready: In(1)
    host_request_address: Out(64)
    host_request_beats: Out(8)
    host_data_valid: In(1)
    host_data_ready: Out(1)
    host_data: In(8 * BEAT_BYTES)
    host_data_fault: In(1)
    host_write_valid: Out(1)
    host_write_ready: In(1)
    host_write_address: Out(64)
    host_write_data: Out(8 * BEAT_BYTES)
    host_write_strobe: Out(BEAT_BYTES)
    host_written: In(1)
    host_refused: In(1)
    dram_request_valid: Out(1)
    dram_request_ready: In(1)
    dram_request_address: Out(ADDRESS_BITS)
    dram_request_beats: Out(8)
    dram_data_valid: In(1)
    dram_data_ready: Out(1)
    dram_data: In(8 * BEAT_BYTES)
    dram_write_valid: Out(1)
    dram_write_ready: In(1)
    dram_write_address: Out(ADDRESS_BITS)
    dram_write_data: Out(8 * BEAT_BYTES)
    dram_write_strobe: Out(BEAT_BYTES)
    dram_written: In(1)
    messages: Out(VECTORS)
    function_level_reset: In(1)
    resetting: Out(1)
    idle: Out(1)
    gateware_id: In(64)
    temperature_mc: In(32)
    power_mw: In(32)

    def __init__(self, shell: Shell, core: wiring.Component) -> None:
        self._shell = shell
        self._core = core
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # As after configuration; a reset from outside would reach everything in no time.
        m.domains.sync = ClockDomain(reset_less=True)
        m.d.comb += ClockSignal().eq(self.clk)
        m.submodules.shell = shell = self._shell
        m.submodules.core = core = self._core
        wiring.connect(m, shell.core, core.run)
        wiring.connect(m, core.memory, shell.core_dram)
        bus, host, dram = shell.bus, shell.host, shell.dram
        m.d.sync += [
            bus.valid.eq(self.bus_valid),
            bus.write.eq(self.bus_write),
            bus.address.eq(self.bus_address),
            bus.data.eq(self.bus_data),
            shell.function_level_reset.eq(self.function_level_reset),
            host.refused.eq(self.host_refused),
        ]
        m.d.comb += [
            self.bus_answer.eq(bus.answer),
            self.messages.eq(shell.messages),
            self.resetting.eq(shell.resetting),
            self.idle.eq(shell.idle),
            shell.gateware_id.eq(self.gateware_id),
            shell.temperature_mc.eq(self.temperature_mc),
            shell.power_mw.eq(self.power_mw),
            shell.calibrated.eq(1),
        ]
        for name, memory in (("host", host), ("dram", dram)):
            parts = {}
            for kind in ("request", "data", "write"):
                parts[kind] = Decoupled(getattr(memory, kind).payload.shape())
                m.submodules[f"{name}_{kind}"] = parts[kind]
            outside = {
                kind: (getattr(self, f"{name}_{kind}_valid"), getattr(self, f"{name}_{kind}_ready"))
                for kind in parts
            }
            for kind in ("request", "write"):
                part, (valid, ready) = parts[kind], outside[kind]
                wiring.connect(m, getattr(memory, kind), part.i)
                m.d.comb += [valid.eq(part.o.valid), part.o.ready.eq(ready)]
            part, (valid, ready) = parts["data"], outside["data"]
            wiring.connect(m, part.o, memory.data)
            m.d.comb += [part.i.valid.eq(valid), ready.eq(part.i.ready)]
            request, write = parts["request"].o.payload, parts["write"].o.payload
            m.d.comb += [
                getattr(self, f"{name}_request_address").eq(request.address),
                getattr(self, f"{name}_request_beats").eq(request.beats),
                getattr(self, f"{name}_write_address").eq(write.address),
                getattr(self, f"{name}_write_data").eq(write.data),
                getattr(self, f"{name}_write_strobe").eq(write.strobe),
            ]
            # What is on its way through these registers has not reached the memory.
            reached = Signal(name=f"{name}_reached")
            m.d.sync += reached.eq(getattr(self, f"{name}_written") & parts["write"].empty)
            m.d.comb += memory.written.eq(reached & parts["write"].empty)
            if name == "host":
                m.d.comb += [
                    part.i.payload.data.eq(self.host_data),
                    part.i.payload.fault.eq(self.host_data_fault),
                ]
            else:
                m.d.comb += part.i.payload.eq(self.dram_data)
        return m
