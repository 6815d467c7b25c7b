"""What computes each channel by itself."""

from __future__ import annotations

import itertools

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from edged.npu.registers import Array
from firmware.rtl.ports import BEAT_BYTES
from firmware.rtl.requantise import rounded_shift
from firmware.rtl.rotate import chosen

__all__ = ["Elements", "Mean"]


class Elements(wiring.Component):
    """A multiplier and an accumulator for each channel of each lane, and a table.

    Everything is a product: with a weight (DEPTHWISE), a power of two (VECTOR), 1 (POOL), or the
    other operand (VECTOR, the product).

    Attributes
    ----------
    valid: :py:`In(1)`
        Strobe: there is a word.
    words: :py:`In(8 * ti).array(tp)`
        A word of each lane.
    is_signed: :py:`In(1)`
        Its bytes are signed: s8, or the high ones of s16.
    wide, high: :py:`In(1)`
        It is one of the two words of s16; the second of them.
    is_second: :py:`In(1)`
        It is the second operand's.
    first, last: :py:`In(1)`
        The accumulators begin with it. They are complete with it, and ``sums`` four cycles later.
    multiply: :py:`In(1)`
        The factor is the first operand. This, and those that follow, stay the same while
        something is on its way.
    maximum: :py:`In(1)`
        Accumulate the maximum. If not asserted, the sum.
    spread: :py:`In(1)`
        Channel 0 of the second operand stands for all of them.
    look_up: :py:`In(1)`
        Accumulate what the table has at the element.
    wide_table: :py:`In(1)`
        Entries are s16. If not asserted, what stands in the sums' second byte means nothing.
    factors: :py:`In(signed(16)).array(ti)`
        Of each channel, with the word.
    table_write: :py:`In(2)`
        Strobes: write ``table_data`` to ``table_row`` of the low bytes, or the high ones.
    table_data: :py:`In(512)`
        As many entries as there are words in a beat; byte ``e·ti + c`` is entry e of channel c.
    sums: :py:`Out(signed(32)).array(tp, ti)`
        They stay until others are complete.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        self._entries = BEAT_BYTES // array.ti
        super().__init__(
            {
                "valid": In(1),
                "words": In(8 * array.ti).array(array.tp),
                "is_signed": In(1),
                "wide": In(1),
                "high": In(1),
                "is_second": In(1),
                "first": In(1),
                "last": In(1),
                "multiply": In(1),
                "maximum": In(1),
                "spread": In(1),
                "look_up": In(1),
                "wide_table": In(1),
                "factors": In(signed(16)).array(array.ti),
                "table_write": In(2),
                "table_row": In(range(256 // self._entries)),
                "table_data": In(8 * BEAT_BYTES),
                "sums": Out(signed(32)).array(array.tp, array.ti),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Of wide operands the low bytes are kept until the high ones come.
        keep, whole, hold, use = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            keep.eq(self.valid & self.wide & ~self.high),
            whole.eq(self.valid & (~self.wide | self.high)),
            hold.eq(whole & self.multiply & ~self.is_second),
            use.eq(whole & ~hold),
        ]
        valid, first, last = (Signal(4, name=name) for name in ("valids", "firsts", "lasts"))
        m.d.sync += [
            valid.eq((valid << 1) | use),
            first.eq((first << 1) | self.first | self.multiply),
            last.eq((last << 1) | self.last),
        ]
        for lane in range(self._array.tp):
            spread = Signal(signed(16), name=f"spread{lane}")
            for channel in range(self._array.ti):
                value = self._value(m, lane, channel, keep)
                if channel == 0:
                    m.d.comb += spread.eq(value)
                self._channel(m, lane, channel, value, spread, hold, use, (valid, first, last))
        return m

    def _value(self, m: Module, lane: int, channel: int, keep: Value) -> Signal:
        """The element, of one word or two."""
        byte = self.words[lane].word_select(channel, 8)
        low = Signal(8, name=f"low_{lane}_{channel}")
        value = Signal(signed(16), name=f"value_{lane}_{channel}")
        with m.If(keep):
            m.d.sync += low.eq(byte)
        sign = (byte[7] & self.is_signed).replicate(8)
        m.d.comb += value.eq(Mux(self.wide, Cat(low, byte), Cat(byte, sign)).as_signed())
        return value

    def _channel(
        self,
        m: Module,
        lane: int,
        channel: int,
        value: Signal,
        spread: Signal,
        hold: Signal,
        use: Signal,
        stages: tuple[Signal, Signal, Signal],
    ) -> None:
        valid, first, last = stages

        def register(name: str, bits: int) -> Signal:
            return Signal(signed(bits), name=f"{name}_{lane}_{channel}")

        held, x, y = register("held", 16), register("x", 16), register("y", 16)
        product, term = register("product", 32), register("term", 32)
        accumulator, following = register("accumulator", 32), register("following", 32)
        with m.If(hold):
            m.d.sync += held.eq(value)
        with m.If(use):
            m.d.sync += x.eq(Mux(self.spread & self.is_second, spread, value))
            m.d.sync += y.eq(Mux(self.multiply, held, self.factors[channel]))
        entry = self._table(m, lane, channel, x, valid[0] & self.look_up, valid[1])
        with m.If(valid[0]):
            m.d.sync += product.eq(x * y)
        with m.If(valid[1]):
            m.d.sync += term.eq(Mux(self.look_up, entry, product))
        keeps = self.maximum & (accumulator > term)
        m.d.comb += following.eq(
            Mux(
                first[2], term, Mux(self.maximum, Mux(keeps, accumulator, term), accumulator + term)
            )
        )
        with m.If(valid[2]):
            m.d.sync += accumulator.eq(following)
            with m.If(last[2]):
                m.d.sync += self.sums[lane][channel].eq(following)

    def _table(
        self, m: Module, lane: int, channel: int, x: Signal, read: Value, valid: Value
    ) -> Signal:
        """What the table has at *x*, two cycles later."""
        entries, ti = self._entries, self._array.ti
        low = (entries - 1).bit_length()
        memory = Memory(shape=2 * 8 * entries, depth=256 // entries, init=[])
        m.submodules[f"table_{lane}_{channel}"] = memory
        write, port = memory.write_port(granularity=8 * entries), memory.read_port()
        data = Cat(self.table_data.word_select(e * ti + channel, 8) for e in range(entries))
        place = Signal(low, name=f"place_{lane}_{channel}")
        m.d.comb += [
            write.addr.eq(self.table_row),
            write.data.eq(data.replicate(2)),
            write.en.eq(self.table_write),
            port.addr.eq(x[low:8]),
            port.en.eq(read),
        ]
        with m.If(read):
            m.d.sync += place.eq(x[:low])
        bytes_of_row = [
            chosen([port.data.word_select(half * entries + e, 8) for e in range(entries)], place)
            for half in range(2)
        ]
        entry = Signal(signed(16), name=f"entry_{lane}_{channel}")
        m.d.comb += entry.eq(Cat(bytes_of_row))
        return entry


class Mean(wiring.Component):
    """Sums times a factor, rounded: one channel after the other, since it is rare and its
    multiplier large.

    Attributes
    ----------
    start: :py:`In(1)`
        Strobe: take ``sums``.
    sums: :py:`In(signed(32)).array(tp, ti)`
    multiplier: :py:`In(25)`
    shifts: :py:`In(6).array(ti)`
        Places to the right, of each channel.
    done: :py:`Out(1)`
        Strobe: ``means`` are there, until the next start.
    means: :py:`Out(signed(32)).array(tp, ti)`
        Saturated.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        super().__init__(
            {
                "start": In(1),
                "sums": In(signed(32)).array(array.tp, array.ti),
                "multiplier": In(25),
                "shifts": In(6).array(array.ti),
                "done": Out(1),
                "means": Out(signed(32)).array(array.tp, array.ti),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ti = self._array.ti
        left = Signal(range(ti + 1))
        stages = Signal(2)
        taking = left != 0
        shifts = [Signal(6, name=f"shift{channel}") for channel in range(ti)]
        shift = Signal(6)
        m.d.sync += stages.eq((stages << 1) | taking)
        m.d.sync += self.done.eq(stages[1] & ~stages[0])
        with m.If(self.start):
            m.d.sync += left.eq(ti)
            m.d.sync += [mine.eq(given) for mine, given in zip(shifts, self.shifts, strict=True)]
        with m.Elif(taking):
            m.d.sync += left.eq(left - 1)
            m.d.sync += [mine.eq(above) for mine, above in itertools.pairwise(shifts)]
        with m.If(taking):
            m.d.sync += shift.eq(shifts[0])
        for lane in range(self._array.tp):
            sums = [Signal(signed(32), name=f"sum_{lane}_{channel}") for channel in range(ti)]
            product = Signal(signed(58), name=f"product{lane}")
            means = [self.means[lane][channel] for channel in range(ti)]
            with m.If(self.start):
                m.d.sync += [mine.eq(self.sums[lane][channel]) for channel, mine in enumerate(sums)]
            with m.Elif(taking):
                m.d.sync += [mine.eq(above) for mine, above in itertools.pairwise(sums)]
            with m.If(taking):
                m.d.sync += product.eq(sums[0] * self.multiplier)
            rounded = rounded_shift(m, product, shift)
            saturated = Mux(
                rounded > 2**31 - 1, 2**31 - 1, Mux(rounded < -(2**31), -(2**31), rounded)
            )
            with m.If(stages[0]):
                m.d.sync += [mine.eq(above) for mine, above in itertools.pairwise(means)]
                m.d.sync += means[-1].eq(saturated)
        return m
