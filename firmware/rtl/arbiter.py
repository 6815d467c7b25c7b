"""Core and shell at one DRAM: beat by beat, so that neither waits for the other's whole work."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from firmware.rtl.ports import Memory

__all__ = ["Arbiter"]

_OUTSTANDING = 32
"""Reads that DRAM has accepted and not answered."""


class Arbiter(wiring.Component):
    """Gives DRAM to two users in turns.

    Attributes
    ----------
    dram: Interface, out
    core, shell: Interface, in
        ``written`` says for each that what anyone has written has reached DRAM.
    shell_writes: Signal, out
        Asserted: a write that is transferred is the shell's; not asserted: the core's.
    """

    dram: Out(Memory())
    core: In(Memory())
    shell: In(Memory())
    shell_writes: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        users = (self.core, self.shell)
        m.submodules.owners = owners = SyncFIFO(width=9, depth=_OUTSTANDING)

        # Requests, and whose they are.
        reads = self._turns(m, "request")
        request = self.dram.request
        owner, left = Signal(), Signal(8)
        m.d.comb += [
            owners.w_data[0].eq(reads),
            owners.w_data[1:].eq(request.payload.beats),
            owners.w_en.eq(request.valid & request.ready),
        ]
        for number, user in enumerate(users):
            with m.If((reads == number) & owners.w_rdy):
                m.d.comb += [
                    request.valid.eq(user.request.valid),
                    request.payload.eq(user.request.payload),
                    user.request.ready.eq(request.ready),
                ]

        # Data, to whom they belong.
        data = self.dram.data
        m.d.comb += [owner.eq(owners.r_data[0]), left.eq(owners.r_data[1:])]
        beat = Signal(8)
        for number, user in enumerate(users):
            m.d.comb += user.data.payload.eq(data.payload)
            with m.If(owners.r_rdy & (owner == number)):
                m.d.comb += [user.data.valid.eq(data.valid), data.ready.eq(user.data.ready)]
        with m.If(data.valid & data.ready):
            last = beat + 1 == left
            m.d.comb += owners.r_en.eq(last)
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))

        # Writes.
        writes = self._turns(m, "write")
        m.d.comb += self.shell_writes.eq(writes)
        for number, user in enumerate(users):
            m.d.comb += user.written.eq(self.dram.written)
            with m.If(writes == number):
                m.d.comb += [
                    self.dram.write.valid.eq(user.write.valid),
                    self.dram.write.payload.eq(user.write.payload),
                    user.write.ready.eq(self.dram.write.ready),
                ]
        return m

    def _turns(self, m: Module, stream: str) -> Signal:
        """Number of the user whose turn it is: the other's, after a transfer or if one is idle."""
        turn = Signal(name=f"{stream}_turn")
        streams = [getattr(user, stream) for user in (self.core, self.shell)]
        mine, other = (Signal(name=f"{stream}_{name}") for name in ("mine", "other"))
        m.d.comb += [
            mine.eq(Mux(turn, streams[1].valid, streams[0].valid)),
            other.eq(Mux(turn, streams[0].valid, streams[1].valid)),
        ]
        passed = getattr(self.dram, stream)
        with m.If(other & (~mine | (passed.valid & passed.ready))):
            m.d.sync += turn.eq(~turn)
        return turn
