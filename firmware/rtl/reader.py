"""Reads DRAM word by word, for who parses what stands there."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, Memory
from firmware.rtl.sharing import Claimed

__all__ = ["Reader"]

_PLACE_BITS = exact_log2(BEAT_BYTES)


class Reader(wiring.Component):
    """Keeps the beat that a word was last read from.

    Attributes
    ----------
    forget: Signal, in
        Strobe: what was read may have changed. Not with ``want``.
    want: Signal, in
        Asserted until ``valid``: read the word at ``address``.
    address: Signal(40), in
        Device address, a multiple of 4.
    valid: Signal, out
        Asserted: ``word`` is it.
    word: Signal(32), out
    dram: Interface, out
    """

    forget: In(1)
    want: In(1)
    address: In(ADDRESS_BITS)
    valid: Out(1)
    word: Out(32)
    dram: Out(Claimed(Memory()))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat = Signal(8 * BEAT_BYTES)
        number = self.address[_PLACE_BITS:]
        kept = Signal(ADDRESS_BITS - _PLACE_BITS)
        is_kept = Signal()
        memory = self.dram.memory
        m.d.comb += [
            self.valid.eq(self.want & is_kept & (kept == number)),
            self.word.eq(beat.word_select(self.address[2:_PLACE_BITS], 32)),
            memory.request.payload.address.eq(number << _PLACE_BITS),
            memory.request.payload.beats.eq(1),
        ]
        with m.If(self.forget):
            m.d.sync += is_kept.eq(0)
        with m.FSM():
            with m.State("IDLE"), m.If(self.want & ~self.valid):
                m.d.comb += [self.dram.claim.eq(1), memory.request.valid.eq(1)]
                with m.If(memory.request.ready):
                    m.d.sync += [kept.eq(number), is_kept.eq(0)]
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += [self.dram.claim.eq(1), memory.data.ready.eq(1)]
                with m.If(memory.data.valid):
                    m.d.sync += [beat.eq(memory.data.payload), is_kept.eq(1)]
                    m.next = "IDLE"
        return m
