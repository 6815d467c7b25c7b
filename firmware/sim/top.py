"""The whole NPU with flat ports, as the C++ around it drives them (``harness.cpp``)."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.interrupts import VECTORS
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES
from firmware.rtl.shell import Shell

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
        m.submodules.shell = shell = self._shell
        m.submodules.core = core = self._core
        wiring.connect(m, shell.core, core.run)
        wiring.connect(m, core.memory, shell.core_dram)
        bus, host, dram = shell.bus, shell.host, shell.dram
        m.d.comb += [
            bus.valid.eq(self.bus_valid),
            bus.write.eq(self.bus_write),
            bus.address.eq(self.bus_address),
            bus.data.eq(self.bus_data),
            self.bus_answer.eq(bus.answer),
            host.data.payload.data.eq(self.host_data),
            host.data.payload.fault.eq(self.host_data_fault),
            host.written.eq(self.host_written),
            host.refused.eq(self.host_refused),
            dram.data.payload.eq(self.dram_data),
            dram.written.eq(self.dram_written),
            self.messages.eq(shell.messages),
            shell.function_level_reset.eq(self.function_level_reset),
            self.resetting.eq(shell.resetting),
            self.idle.eq(shell.idle),
            shell.gateware_id.eq(self.gateware_id),
            shell.temperature_mc.eq(self.temperature_mc),
            shell.power_mw.eq(self.power_mw),
            shell.calibrated.eq(1),
        ]
        for name, memory in (("host", host), ("dram", dram)):
            request, data, write = (
                {
                    kind: getattr(self, f"{name}_{stream}_{kind}")
                    for kind in ("valid", "ready", *payload)
                }
                for stream, payload in (
                    ("request", ("address", "beats")),
                    ("data", ()),
                    ("write", ("address", "data", "strobe")),
                )
            )
            m.d.comb += [
                request["valid"].eq(memory.request.valid),
                request["address"].eq(memory.request.payload.address),
                request["beats"].eq(memory.request.payload.beats),
                memory.request.ready.eq(request["ready"]),
                memory.data.valid.eq(data["valid"]),
                data["ready"].eq(memory.data.ready),
                write["valid"].eq(memory.write.valid),
                write["address"].eq(memory.write.payload.address),
                write["data"].eq(memory.write.payload.data),
                write["strobe"].eq(memory.write.payload.strobe),
                memory.write.ready.eq(write["ready"]),
            ]
        return m
