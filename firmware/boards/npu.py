"""The NPU with the ports that every board has."""

from typing import Any, Final

from amaranth.hdl import Elaboratable, Module, Signal, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from firmware.boards.axi import CONSTANTS, Axi4, Axi4Lite, DramBridge, HostBridge, RegisterBridge
from firmware.rtl.interrupts import VECTORS
from firmware.rtl.shell import Shell

__all__ = ["Flat", "Npu"]


class Npu(wiring.Component):
    """Shell, core, and bridges to AXI.

    Parameters
    ----------
    shell:
        All but the core.
    core:
        A component with ``run`` and ``memory``, the other sides of the shell's ports.

    Attributes
    ----------
    bar0: :py:`In(Axi4Lite())`
    host, dram: :py:`Out(Axi4())`
    messages: :py:`Out(VECTORS)`
        Strobes: interrupts, a bit for each vector.
    function_level_reset: :py:`In(1)`
        Strobe.
    gateware_id: :py:`In(64)`
        What the loaded bitstream is known by.
    temperature_mc, power_mw: :py:`In(32)`
    calibrated: :py:`In(1)`
        Asserted: the DRAM's controller has calibrated.
    """

    bar0: In(Axi4Lite())
    host: Out(Axi4())
    dram: Out(Axi4())
    messages: Out(VECTORS)
    function_level_reset: In(1)
    gateware_id: In(64)
    temperature_mc: In(32)
    power_mw: In(32)
    calibrated: In(1)

    def __init__(self, shell: Shell, core: wiring.Component) -> None:
        self._shell = shell
        self._core = core
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.shell = shell = self._shell
        m.submodules.core = core = self._core
        m.submodules.registers_bridge = registers = RegisterBridge()
        m.submodules.host_bridge = host = HostBridge()
        m.submodules.dram_bridge = dram = DramBridge()
        wiring.connect(m, shell.core, core.run)
        wiring.connect(m, core.memory, shell.core_dram)
        wiring.connect(m, wiring.flipped(self.bar0), registers.axi)
        wiring.connect(m, registers.bus, shell.bus)
        wiring.connect(m, shell.host, host.memory)
        wiring.connect(m, host.axi, wiring.flipped(self.host))
        wiring.connect(m, shell.dram, dram.memory)
        wiring.connect(m, dram.axi, wiring.flipped(self.dram))
        m.d.comb += [
            self.messages.eq(shell.messages),
            shell.function_level_reset.eq(self.function_level_reset),
            shell.gateware_id.eq(self.gateware_id),
            shell.temperature_mc.eq(self.temperature_mc),
            shell.power_mw.eq(self.power_mw),
            shell.calibrated.eq(self.calibrated),
        ]
        return m


class Flat(Elaboratable):
    """The NPU with ports by the names that tools for AXI recognise: ``s_axi_bar0_araddr``.

    Attributes
    ----------
    ports:
        As Amaranth's ``convert`` takes them: signal and direction by name.
    """

    def __init__(self, npu: Npu) -> None:
        self._npu = npu
        self._connections: list[Any] = []
        self.ports: dict[str, tuple[Signal, PortDirection]] = {}
        for path, member, value in npu.signature.flatten(npu):
            name = "_".join([*(_PREFIXES.get(part, part) for part in path[:1]), *path[1:]])
            if len(path) == 3:  # interface, channel, signal
                name = f"{_PREFIXES[path[0]]}_{path[1]}"
                if path[2] != "payload":
                    name += path[2]
                elif not isinstance(value, data.View):
                    name += "resp" if path[1] == "b" else "addr"
            if isinstance(value, data.View):
                for field, _ in data.Layout.cast(value.shape()):
                    self._port(name + field, value[field], member.flow)
            else:
                self._port(name, value, member.flow)
        for interface in ("host", "dram"):
            for channel in ("ar", "aw"):
                for field, constant in CONSTANTS.items():
                    self._port(f"{_PREFIXES[interface]}_{channel}{field}", constant, Out)

    def _port(self, name: str, value: Value, flow: wiring.Flow) -> None:
        signal = Signal(value.shape(), name=name)
        if flow is In:
            self.ports[name] = (signal, PortDirection.Input)
            self._connections.append(value.eq(signal))
        else:
            self.ports[name] = (signal, PortDirection.Output)
            self._connections.append(signal.eq(value))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.npu = self._npu
        m.d.comb += self._connections
        return m


_PREFIXES: Final = {"bar0": "s_axi_bar0", "host": "m_axi_host", "dram": "m_axi_dram"}
