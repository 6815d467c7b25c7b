"""A transfer of any length, as pieces for the mover."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.checksum import INITIAL, final
from firmware.rtl.mover import MAX_PIECE, Piece
from firmware.rtl.ports import ADDRESS_BITS

__all__ = ["Transfer"]


class Transfer(wiring.Component):
    """Copies between the host's memory and DRAM.

    Attributes
    ----------
    start: Signal, in
        Strobe: begin with the operands below.
    to_host: Signal, in
        Asserted: from DRAM to the host.
    copies, sums: Signal, in
        As :class:`~firmware.rtl.mover.Piece` has them.
    host: Signal(64), in
    device: Signal(40), in
    length: Signal(32), in
        Bytes; with 0 it is done at once.
    cancel: Signal, in
        While it is asserted the transfer ends after the piece under way.
    done: Signal, out
        Strobe.
    fault: Signal, out
        Valid with ``done``: a part is not mapped by the host.
    crc: Signal(32), out
        Valid with ``done``, if ``sums`` is asserted: CRC32C of the data.
    piece: Interface, out
        To the mover.
    """

    start: In(1)
    to_host: In(1)
    copies: In(1)
    sums: In(1)
    host: In(64)
    device: In(ADDRESS_BITS)
    length: In(32)
    cancel: In(1)
    done: Out(1)
    fault: Out(1)
    crc: Out(32)
    piece: Out(Piece())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(32)
        piece = self.piece
        rest = Signal(32)
        m.d.comb += [
            piece.length.eq(Mux(left < MAX_PIECE, left, MAX_PIECE)),
            rest.eq(left - piece.length),
            self.crc.eq(final(piece.crc)),
        ]
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    piece.to_host.eq(self.to_host),
                    piece.copies.eq(self.copies),
                    piece.sums.eq(self.sums),
                    piece.host.eq(self.host),
                    piece.device.eq(self.device),
                    left.eq(self.length),
                    piece.crc.eq(INITIAL),
                    self.fault.eq(0),
                ]
                with m.If(self.length == 0):
                    m.next = "DONE"
                with m.Else():
                    m.next = "PIECE"
            with m.State("PIECE"):
                m.d.comb += piece.valid.eq(1)
                with m.If(piece.done):
                    m.d.sync += [
                        piece.host.eq(piece.host + piece.length),
                        piece.device.eq(piece.device + piece.length),
                        piece.crc.eq(piece.next_crc),
                        left.eq(rest),
                        self.fault.eq(piece.fault),
                    ]
                    with m.If(piece.fault | (rest == 0) | self.cancel):
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
