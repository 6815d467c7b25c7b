"""AXI4 and AXI4-Lite: what the cores of vendors and LiteX speak, from the ports that the NPU has.

One transaction identifier for all, so that answers come in order. Signals are named as in the AMBA
AXI specification (IHI 0022), without the letters of their channel.
"""

from typing import Final

from amaranth import unsigned
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.host import HostMemory
from firmware.rtl.ports import BEAT_BYTES, Memory
from firmware.rtl.registers import Bus

__all__ = ["CONSTANTS", "Axi4", "Axi4Lite", "DramBridge", "HostBridge", "RegisterBridge"]

_BEAT_BITS = 8 * BEAT_BYTES
_SIZE = 6  # AxSIZE: 2^6 bytes a beat
_INCREMENTING = 1  # AxBURST
_PAGE_BEATS = 4096 // BEAT_BYTES
"""Beats in 4 KiB, which no burst may cross."""
_OUTSTANDING = 255
"""Writes that have not been answered, at most."""


CONSTANTS: Final = {
    "size": Const(_SIZE, 3),
    "burst": Const(_INCREMENTING, 2),
    "cache": Const(3, 4),
    "prot": Const(0, 3),
}
"""What is the same in every transaction: AxSIZE, AxBURST, AxCACHE (normal, not cached; may be
merged), AxPROT (data, unprivileged, secure)."""


class Address(data.Struct):
    """An address channel's payload.

    Attributes
    ----------
    addr:
        Of the first beat, a multiple of 64.
    len:
        Beats after the first one.
    """

    addr: unsigned(64)
    len: unsigned(8)


class ReadData(data.Struct):
    """The read data channel's payload; ``resp`` of 0 is OKAY."""

    data: unsigned(_BEAT_BITS)
    resp: unsigned(2)
    last: unsigned(1)


class WriteData(data.Struct):
    """The write data channel's payload."""

    data: unsigned(_BEAT_BITS)
    strb: unsigned(BEAT_BYTES)
    last: unsigned(1)


class Axi4(wiring.Signature):
    """AXI4 of 512 bits, as the manager drives it. Bursts increment, of full beats.

    Members
    -------
    ar, aw: :py:`Out(stream.Signature(Address))`
    r: :py:`In(stream.Signature(ReadData))`
    w: :py:`Out(stream.Signature(WriteData))`
    b: :py:`In(stream.Signature(2))`
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "ar": Out(stream.Signature(Address)),
                "r": In(stream.Signature(ReadData)),
                "aw": Out(stream.Signature(Address)),
                "w": Out(stream.Signature(WriteData)),
                "b": In(stream.Signature(2)),
            }
        )


class LiteWrite(data.Struct):
    """AXI4-Lite's write data."""

    data: unsigned(32)
    strb: unsigned(4)


class LiteRead(data.Struct):
    """AXI4-Lite's read data."""

    data: unsigned(32)
    resp: unsigned(2)


class Axi4Lite(wiring.Signature):
    """AXI4-Lite of 32 bits, as the manager drives it; 64 KiB."""

    def __init__(self) -> None:
        super().__init__(
            {
                "ar": Out(stream.Signature(16)),
                "r": In(stream.Signature(LiteRead)),
                "aw": Out(stream.Signature(16)),
                "w": Out(stream.Signature(LiteWrite)),
                "b": In(stream.Signature(2)),
            }
        )


class RegisterBridge(wiring.Component):
    """BAR0 behind AXI4-Lite.

    A write of less than a word is answered, and changes nothing: registers are words. Everything is
    answered OKAY, since reads of what there is not are 0 by the contract.

    Attributes
    ----------
    axi: :py:`In(Axi4Lite())`
    bus: :py:`Out(Bus())`
    """

    axi: In(Axi4Lite())
    bus: Out(Bus())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, bus = self.axi, self.bus
        writes, reads = Signal(), Signal()
        m.d.comb += [
            writes.eq(axi.aw.valid & axi.w.valid & ~axi.b.valid),
            reads.eq(axi.ar.valid & ~axi.r.valid & ~writes),
            axi.aw.ready.eq(writes),
            axi.w.ready.eq(writes),
            axi.ar.ready.eq(reads),
            bus.valid.eq(reads | (writes & axi.w.payload.strb.all())),
            bus.write.eq(writes),
            bus.address.eq(Mux(writes, axi.aw.payload, axi.ar.payload) & ~3),
            bus.data.eq(axi.w.payload.data),
            axi.r.payload.data.eq(bus.answer),
        ]
        for happens, answer in ((writes, axi.b), (reads, axi.r)):
            with m.If(happens):
                m.d.sync += answer.valid.eq(1)
            with m.Elif(answer.ready):
                m.d.sync += answer.valid.eq(0)
        return m


class _Bridge(wiring.Component):
    """What both bridges do: reads in bursts that end at 4 KiB, writes of single beats.

    Parameters
    ----------
    memory:
        Signature of the memory as the NPU drives it.

    Attributes
    ----------
    memory: :py:`In(memory)`
    axi: :py:`Out(Axi4())`
    """

    def __init__(self, memory: wiring.Signature) -> None:
        super().__init__({"memory": In(memory), "axi": Out(Axi4())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory, axi = self.memory, self.axi

        # Reads: a request is kept until all of its bursts have gone.
        address, left = Signal(64), Signal(8)
        room, beats = Signal(range(_PAGE_BEATS + 1)), Signal(8)
        goes, is_last = Signal(), Signal()
        m.d.comb += [
            room.eq(_PAGE_BEATS - address[6:12]),
            is_last.eq(left <= room),
            beats.eq(Mux(is_last, left, room)),
            axi.ar.valid.eq(left != 0),
            axi.ar.payload.addr.eq(address),
            axi.ar.payload.len.eq(beats - 1),
            goes.eq(axi.ar.valid & axi.ar.ready),
            memory.request.ready.eq((left == 0) | (goes & is_last)),
        ]
        with m.If(memory.request.ready):
            m.d.sync += left.eq(Mux(memory.request.valid, memory.request.payload.beats, 0))
            m.d.sync += address.eq(memory.request.payload.address)
        with m.Elif(goes):
            m.d.sync += [left.eq(left - beats), address.eq(address + Cat(Const(0, 6), beats))]
        m.d.comb += [memory.data.valid.eq(axi.r.valid), axi.r.ready.eq(memory.data.ready)]

        # Writes: address and data may go in any order.
        outstanding = Signal(range(_OUTSTANDING + 1))
        accepted, answered = Signal(), Signal()
        m.d.comb += [
            memory.write.ready.eq(
                (~axi.aw.valid | axi.aw.ready)
                & (~axi.w.valid | axi.w.ready)
                & (outstanding != _OUTSTANDING)
            ),
            accepted.eq(memory.write.valid & memory.write.ready),
            axi.b.ready.eq(1),
            answered.eq(axi.b.valid),
            memory.written.eq(outstanding == 0),
            axi.w.payload.last.eq(1),
        ]
        m.d.sync += outstanding.eq(outstanding + accepted - answered)
        for channel in (axi.aw, axi.w):
            with m.If(accepted):
                m.d.sync += channel.valid.eq(1)
            with m.Elif(channel.ready):
                m.d.sync += channel.valid.eq(0)
        with m.If(accepted):
            m.d.sync += [
                axi.aw.payload.addr.eq(memory.write.payload.address),
                axi.w.payload.data.eq(memory.write.payload.data),
                axi.w.payload.strb.eq(memory.write.payload.strobe),
            ]
        self._data(m, answered)
        return m

    def _data(self, m: Module, answered: Signal) -> None:
        raise NotImplementedError


class DramBridge(_Bridge):
    """Device DRAM behind AXI4.

    An answer that is an error is taken as it is: the controller reports what it cannot correct.
    """

    def __init__(self) -> None:
        super().__init__(Memory())

    def _data(self, m: Module, answered: Signal) -> None:
        m.d.comb += self.memory.data.payload.eq(self.axi.r.payload.data)


class HostBridge(_Bridge):
    """The host's memory behind AXI4.

    What the bridge of the PCI Express core answers with an error is not mapped. Writes are posted
    on PCI Express: such a bridge answers OKAY at once, a refused one is then seen by the host only.
    """

    def __init__(self) -> None:
        super().__init__(HostMemory())

    def _data(self, m: Module, answered: Signal) -> None:
        m.d.comb += [
            self.memory.data.payload.data.eq(self.axi.r.payload.data),
            self.memory.data.payload.fault.eq(self.axi.r.payload.resp != 0),
            self.memory.refused.eq(answered & (self.axi.b.payload != 0)),
        ]
