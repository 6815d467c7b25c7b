"""From complete sums to words of the bank."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from edged.npu.registers import Array
from firmware.rtl.array import groups
from firmware.rtl.records import CHANNEL_LAYOUT
from firmware.rtl.requantise import Requantiser

__all__ = ["Results"]


class Results(wiring.Component):
    """Rounds the sums of a tile, ``ti`` channels of each lane a cycle, and writes them.

    Attributes
    ----------
    start: :py:`In(1)`
        Strobe: the sums of a tile are there. They stay while they are read.
    word, part: :py:`In(...)`
        Where the result begins in the bank, and which part of the word it fills, with ``start``.
    of_array: :py:`In(1)`
        The sums are the array's, otherwise those of the elements. This, and what follows, stay the
        same until ``idle`` is asserted.
    wide: :py:`In(1)`
        The result is s16, two words.
    has_bias, has_shift, bounded: :py:`In(1)`
        What is done; without a shift it is by 0 places.
    lo, hi: :py:`In(signed(16))`
    parameters: :py:`In(CHANNEL_LAYOUT).array(max(ti, to))`
        Of the block's channels. They may change after the last cycle of a tile.
    group: :py:`Out(2)`
        Which ``ti`` of the ``to`` channels of the array are read.
    array_sums: :py:`In(signed(32)).array(tp, min(ti, to))`
    element_sums: :py:`In(signed(32)).array(tp, ti)`
    write, write_word, write_mask, write_data:
        To :class:`~firmware.rtl.activations.Banks`.
    idle: :py:`Out(1)`
        Asserted while nothing is on its way, and nothing starts.
    """

    def __init__(self, array: Array, bank_words: int) -> None:
        self._array = array
        self._parts = max(array.ti // array.to, 1)
        super().__init__(
            {
                "start": In(1),
                "word": In(range(bank_words)),
                "part": In(range(max(self._parts, 2))),
                "of_array": In(1),
                "wide": In(1),
                "has_bias": In(1),
                "has_shift": In(1),
                "bounded": In(1),
                "lo": In(signed(16)),
                "hi": In(signed(16)),
                "parameters": In(CHANNEL_LAYOUT).array(max(array.ti, array.to)),
                "group": Out(2),
                "array_sums": In(signed(32)).array(array.tp, min(array.ti, array.to)),
                "element_sums": In(signed(32)).array(array.tp, array.ti),
                "write": Out(1),
                "write_word": Out(range(bank_words)),
                "write_mask": Out(self._parts),
                "write_data": Out(8 * array.ti).array(array.tp),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array = self._array
        where = data.StructLayout({"word": self.word.shape(), "part": self.part.shape(), "high": 1})
        # The tile at work: group by group, of each the low bytes and then the high ones.
        going, next_group, next_high = Signal(), Signal(2), Signal()
        next_word, part = Signal.like(self.word), Signal.like(self.part)
        now, valid = Signal(where), Signal()
        m.d.comb += [
            valid.eq(self.start | going),
            self.group.eq(Mux(self.start, 0, next_group)),
            now.high.eq(~self.start & next_high),
            now.word.eq(Mux(self.start, self.word, next_word)),
            now.part.eq(Mux(self.start, self.part, part)),
        ]
        group_done = ~self.wide | now.high
        last_group = ~self.of_array | (self.group == groups(array) - 1)
        with m.If(valid):
            m.d.sync += [
                going.eq(~(group_done & last_group)),
                next_high.eq(~group_done),
                next_group.eq(self.group + group_done),
                next_word.eq(now.word + 1),
                part.eq(now.part),
            ]

        valids = Signal(3)
        stages = [Signal(where, name=f"where{stage}") for stage in range(3)]
        m.d.sync += valids.eq((valids << 1) | valid)
        m.d.sync += [mine.eq(before) for mine, before in zip(stages, (now, *stages), strict=False)]
        m.d.comb += [
            self.idle.eq(~valid & ~valids.any()),
            self.write.eq(valids[2]),
            self.write_word.eq(stages[2].word),
        ]
        if self._parts > 1:
            whole = ~self.of_array
            m.d.comb += self.write_mask.eq(Mux(whole, -1, 1 << stages[2].part))
        else:
            m.d.comb += self.write_mask.eq(1)

        results = [
            [Signal(8, name=f"byte_{lane}_{channel}") for channel in range(array.ti)]
            for lane in range(array.tp)
        ]
        for channel in range(array.ti):
            bias, shift = (
                Signal(signed(32), name=f"bias{channel}"),
                Signal(6, name=f"shift{channel}"),
            )
            mine = Signal(CHANNEL_LAYOUT, name=f"parameters{channel}")
            m.d.comb += mine.eq(self.parameters[channel])
            for group in range(1, groups(array)):
                with m.If(self.of_array & (self.group == group)):
                    m.d.comb += mine.eq(self.parameters[group * array.ti + channel])
            if array.ti > array.to:
                with m.If(self.of_array):
                    m.d.comb += mine.eq(self.parameters[channel % array.to])
            with m.If(self.has_bias):
                m.d.comb += bias.eq(mine.bias)
            with m.If(self.has_shift):
                m.d.comb += shift.eq(mine.shift)
            for lane in range(array.tp):
                m.submodules[f"channel_{lane}_{channel}"] = requantiser = Requantiser()
                of_array = self.array_sums[lane][channel % min(array.ti, array.to)]
                m.d.comb += [
                    requantiser.valid.eq(valid),
                    requantiser.sum.eq(
                        Mux(self.of_array, of_array, self.element_sums[lane][channel])
                    ),
                    requantiser.bias.eq(bias),
                    requantiser.shift.eq(shift),
                    requantiser.bounded.eq(self.bounded),
                    requantiser.lo.eq(self.lo),
                    requantiser.hi.eq(self.hi),
                    results[lane][channel].eq(
                        Mux(stages[2].high, requantiser.result[8:], requantiser.result[:8])
                    ),
                ]
        for lane in range(array.tp):
            m.d.comb += self.write_data[lane].eq(Cat(results[lane]))
        return m
