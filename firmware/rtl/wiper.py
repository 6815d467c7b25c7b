"""Makes a bank zero again, where something was written since it was.

A bank is divided into chunks, and a bit for each tells whether anything was written to it. So a
load does not take the time to write the whole bank.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory as Ram
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from edged.npu.regmap import BANKS
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, Memory
from firmware.rtl.sharing import Claimed

__all__ = ["Wiper"]

_CHUNKS = 4096
"""At most, of a bank: as many bits as fill a small block RAM."""
_BURST = 64
"""Beats before others get their turn."""


class Wiper(wiring.Component):
    """Wipes banks.

    Parameters
    ----------
    bank_bytes:
        Of a bank; a power of two, at least 64 KiB.
    zeroed:
        Whether DRAM is zero at power-on, as a simulation's is. Otherwise the first wipe of a bank
        writes all of it.

    Attributes
    ----------
    write: Signal, in
        Strobe: somebody else writes to DRAM.
    address: Signal(40), in
        Where. What is written meanwhile to the bank that is wiped is wiped or not.
    start: Signal, in
        Strobe: wipe ``bank``.
    bank: Signal, in
    done: Signal, out
        Strobe: all of it reads as zero.
    dram: Interface, out
    """

    def __init__(self, bank_bytes: int, *, zeroed: bool) -> None:
        self._chunk_bits = exact_log2(max(bank_bytes // _CHUNKS, BEAT_BYTES * _BURST))
        self._chunks = bank_bytes >> self._chunk_bits
        self._zeroed = zeroed
        super().__init__(
            {
                "write": In(1),
                "address": In(ADDRESS_BITS),
                "start": In(1),
                "bank": In(range(BANKS)),
                "done": Out(1),
                "dram": Out(Claimed(Memory())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunks = BANKS * self._chunks
        m.submodules.written = written = Ram(
            shape=1, depth=chunks, init=[] if self._zeroed else [1] * chunks
        )
        # One port for writing, so that a block RAM of any part does: marks come first.
        note, look = written.write_port(), written.read_port()
        clears = Signal()
        chunk = Signal(range(self._chunks))
        bank = Signal(range(BANKS))
        beat = Signal(self._chunk_bits - exact_log2(BEAT_BYTES))
        place = Cat(chunk, bank)
        write = self.dram.memory.write
        m.d.comb += [
            look.addr.eq(place),
            note.addr.eq(Mux(self.write, self.address >> self._chunk_bits, place)),
            note.data.eq(self.write),
            note.en.eq(self.write | clears),
            write.payload.address.eq(Cat(beat, place) * BEAT_BYTES),
            write.payload.strobe.eq(~0),
        ]

        def go_on() -> None:
            m.d.sync += chunk.eq(chunk + 1)
            with m.If(chunk == self._chunks - 1):
                m.next = "DONE"
            with m.Else():
                m.next = "LOOK"

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [bank.eq(self.bank), chunk.eq(0), beat.eq(0)]
                m.next = "LOOK"
            with m.State("LOOK"):
                m.next = "LOOKED"
            with m.State("LOOKED"):
                with m.If(look.data):
                    m.d.comb += clears.eq(1)
                    with m.If(~self.write):
                        m.next = "WRITE"
                with m.Else():
                    go_on()
            with m.State("WRITE"):
                m.d.comb += [self.dram.claim.eq(1), write.valid.eq(1)]
                with m.If(write.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If((beat + 1) % _BURST == 0):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.comb += self.dram.claim.eq(1)
                with m.If(self.dram.memory.written):
                    m.next = "PAUSE"
            with m.State("PAUSE"):
                with m.If(beat == 0):
                    go_on()
                with m.Else():
                    m.next = "WRITE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
