"""Reads DRAM: word by word for who parses, and as a whole for its checksum."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.checksum import INITIAL, Checksum, final
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, Memory
from firmware.rtl.sharing import Claimed

__all__ = ["Reader"]

_BURST = 64
"""Beats before others get their turn."""


class Reader(wiring.Component):
    """Keeps the beat that a word was last read from.

    Attributes
    ----------
    forget: Signal, in
        Strobe: what was read may have changed.
    address: Signal(40), in
        Device address, a multiple of 4.
    word: Signal(32), out
        The word there.
    want: Signal, in
        Asserted: read it. Not while a checksum is under way.
    valid: Signal, out
        Asserted: ``word`` is it.
    check: Signal, in
        Strobe: compute the checksum of ``length`` bytes from ``address`` on, which is a multiple
        of 64 then.
    length: Signal(32), in
    checked: Signal, out
        Strobe: it is done.
    crc: Signal(32), out
        Valid with ``checked``: CRC32C.
    dram: Interface, out
    """

    forget: In(1)
    address: In(ADDRESS_BITS)
    word: Out(32)
    want: In(1)
    valid: Out(1)
    check: In(1)
    length: In(32)
    checked: Out(1)
    crc: Out(32)
    dram: Out(Claimed(Memory()))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.checksum = checksum = Checksum()
        beat = Signal(8 * BEAT_BYTES)
        number = self.address >> 6
        kept = Signal(ADDRESS_BITS - 6)
        is_kept = Signal()
        m.d.comb += [
            self.valid.eq(self.want & is_kept & (kept == number)),
            self.word.eq(beat.word_select(self.address[2:6], 32)),
        ]
        with m.If(self.forget):
            m.d.sync += is_kept.eq(0)

        memory = self.dram.memory
        left = Signal(32)
        position = Signal(ADDRESS_BITS - 6)
        burst, wanted = Signal(8), Signal(8)
        beats = (left + BEAT_BYTES - 1) >> 6
        m.d.comb += [
            burst.eq(Mux(beats < _BURST, beats, _BURST)),
            checksum.value.eq(INITIAL),
            checksum.data.eq(beat),
            checksum.count.eq(Mux(left < BEAT_BYTES, left, BEAT_BYTES)),
            self.crc.eq(final(checksum.crc)),
            memory.request.payload.address.eq(Mux(self.want, number, position) << 6),
            memory.request.payload.beats.eq(Mux(self.want, 1, burst)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.check):
                    m.d.comb += checksum.load.eq(1)
                    m.d.sync += [left.eq(self.length), position.eq(number), is_kept.eq(0)]
                    m.next = "PAUSE"
                with m.Elif(self.want & ~self.valid):
                    m.d.comb += [self.dram.claim.eq(1), memory.request.valid.eq(1)]
                    with m.If(memory.request.ready):
                        m.d.sync += [kept.eq(number), is_kept.eq(0)]
                        m.next = "WORD"
            with m.State("WORD"):
                m.d.comb += [self.dram.claim.eq(1), memory.data.ready.eq(1)]
                with m.If(memory.data.valid):
                    m.d.sync += [beat.eq(memory.data.payload), is_kept.eq(1)]
                    m.next = "IDLE"
            with m.State("PAUSE"):
                with m.If(left == 0):
                    m.d.comb += self.checked.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += [self.dram.claim.eq(1), memory.request.valid.eq(1)]
                with m.If(memory.request.ready):
                    m.d.sync += wanted.eq(burst)
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += [self.dram.claim.eq(1), memory.data.ready.eq(1)]
                with m.If(memory.data.valid):
                    m.d.sync += [beat.eq(memory.data.payload), wanted.eq(wanted - 1)]
                    m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += [self.dram.claim.eq(1), checksum.add.eq(1)]
                with m.If(checksum.done):
                    m.d.sync += [
                        left.eq(left - checksum.count),
                        position.eq(position + 1),
                    ]
                    with m.If(wanted == 0):
                        m.next = "PAUSE"
                    with m.Else():
                        m.next = "DATA"
        return m
