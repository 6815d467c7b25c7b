"""The NPU for a part that has no pins for its AXI ports: registers stand in for what is behind."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Signal
from amaranth.hdl._ir import PortDirection
from amaranth.utils import ceil_log2

from firmware.boards.npu import Flat

__all__ = ["Enclosed"]

_FOLD = 4
"""Bits of which one is made in a cycle: as many as a look-up table has inputs."""


class Enclosed(Elaboratable):
    """All inputs come from a shift register, all outputs go through registered parities to a pin.

    So every path of the NPU, those from and to its ports too, is between registers, nothing of it
    can be left out, and four pins do.

    Attributes
    ----------
    ports:
        As Amaranth's ``convert`` takes them: ``clk``, ``rst``, ``serial`` and ``parity``.
    """

    def __init__(self, flat: Flat, clk: Signal, rst: Signal) -> None:
        self._flat = flat
        self._serial = Signal(name="serial")
        self._parity = Signal(name="parity")
        self.ports = {
            "clk": (clk, PortDirection.Input),
            "rst": (rst, PortDirection.Input),
            "serial": (self._serial, PortDirection.Input),
            "parity": (self._parity, PortDirection.Output),
        }

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.npu = self._flat
        ports = self._flat.ports.values()
        inputs = Cat(signal for signal, way in ports if way is PortDirection.Input)
        outputs = Cat(signal for signal, way in ports if way is PortDirection.Output)
        shifted = Signal(len(inputs))
        m.d.sync += shifted.eq(Cat(self._serial, shifted))
        m.d.comb += inputs.eq(shifted)
        bits = outputs
        for level in range(ceil_log2(len(outputs)) // ceil_log2(_FOLD) + 1):
            count = -(-len(bits) // _FOLD)
            folded = Signal(count, name=f"parity_{level}")
            m.d.sync += folded.eq(
                Cat(bits[_FOLD * place : _FOLD * (place + 1)].xor() for place in range(count))
            )
            bits = folded
        m.d.comb += self._parity.eq(bits)
        return m
