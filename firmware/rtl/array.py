"""The multiplier array."""

from __future__ import annotations

from pathlib import Path

from amaranth import Cat, ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from edged.npu.registers import Array
from firmware.rtl.ports import BEAT_BYTES

__all__ = ["LATENCY", "SOURCE", "Multipliers", "groups"]

SOURCE = Path(__file__).with_name("array.sv")
"""Its inside, in SystemVerilog: 2048 multipliers simulate ten times as fast as loops than as a
netlist, and compile in seconds instead of minutes."""
LATENCY = 4
"""Cycles from operands to sums."""


def groups(array: Array) -> int:
    """Words of ``ti`` channels that ``to`` channels fill; 1 also if they fill a part of it."""
    return max(array.to // array.ti, 1)


class Multipliers(wiring.Component):
    """``ti·to`` multipliers in each of ``tp`` lanes, ``to`` sums of ``ti`` products each, and an
    accumulator of 32 bits for each sum.

    Attributes
    ----------
    valid: :py:`In(1)`
        Strobe: there are operands.
    activations: :py:`In(8 * ti).array(tp)`
        A word of each lane.
    is_signed: :py:`In(1)`
        They are s8. If not asserted they are u8.
    high: :py:`In(1)`
        They are high bytes: their products count 256 times.
    weights: :py:`In(512).array(slices)`
        A word of weights, s8.
    first: :py:`In(1)`
        The accumulators begin with these products. If not asserted, these are added.
    last: :py:`In(1)`
        The sums are complete: four cycles later they are ``sums``, until others are.
    group: :py:`In(2)`
        Which ``ti`` of the ``to`` sums of each lane are read.
    sums: :py:`Out(signed(32)).array(tp, min(ti, to))`
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        self._channels = min(array.ti, array.to)
        super().__init__(
            {
                "valid": In(1),
                "activations": In(8 * array.ti).array(array.tp),
                "is_signed": In(1),
                "high": In(1),
                "weights": In(8 * BEAT_BYTES).array(array.ti * array.to // BEAT_BYTES),
                "first": In(1),
                "last": In(1),
                "group": In(2),
                "sums": Out(32).array(array.tp, self._channels),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if hasattr(platform, "add_file"):
            platform.add_file(SOURCE.name, SOURCE.read_text())
        array = self._array
        sums = Signal(array.tp * self._channels * 32)
        m.submodules.array = Instance(
            "edged_array",
            p_TI=array.ti,
            p_TO=array.to,
            p_TP=array.tp,
            p_R=self._channels,
            i_clk=ClockSignal(),
            i_valid=self.valid,
            i_is_signed=self.is_signed,
            i_high=self.high,
            i_first=self.first,
            i_last=self.last,
            i_group=self.group,
            i_x=Cat(self.activations),
            i_w=Cat(self.weights),
            o_sums=sums,
        )
        for lane in range(array.tp):
            for channel in range(self._channels):
                at = lane * self._channels + channel
                m.d.comb += self.sums[lane][channel].eq(sums.word_select(at, 32))
        return m
