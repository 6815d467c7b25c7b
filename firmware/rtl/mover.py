"""Copies between the host's memory and DRAM, aligned as they may be, and sums up what passes."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.checksum import Checksum
from firmware.rtl.host import HostMemory
from firmware.rtl.ports import ADDRESS_BITS, BEAT_BYTES, Memory
from firmware.rtl.sharing import Claimed

__all__ = ["MAX_PIECE", "Mover", "Piece"]

MAX_PIECE = 8192
"""Most bytes that are copied at a time. More would keep others from the host's memory for longer;
with less, the time that it takes to answer would count for more."""
_OFFSET_BITS = 6


class Piece(wiring.Signature):
    """A copy of some bytes, as who wants it drives it.

    Members
    -------
    valid: :py:`Out(1)`
        Asserted until ``done``; the others below stay the same meanwhile.
    to_host: :py:`Out(1)`
        Asserted: from DRAM to the host; not asserted: from the host to DRAM.
    copies: :py:`Out(1)`
        Not asserted, with ``to_host``: DRAM is read, and nothing is written.
    sums: :py:`Out(1)`
        Asserted: ``next_crc`` is wanted. It takes longer then.
    host: :py:`Out(64)`
        Host address.
    device: :py:`Out(40)`
        Device address.
    length: :py:`Out(14)`
        Bytes, 1 to :data:`MAX_PIECE`.
    crc: :py:`Out(32)`
        The :class:`~firmware.rtl.checksum.Checksum` of what was before.
    done: :py:`In(1)`
        Strobe: it is over.
    next_crc: :py:`In(32)`
        Valid with ``done``, if ``sums`` is asserted: the checksum with these bytes.
    fault: :py:`In(1)`
        Valid with ``done``: a part is not mapped by the host. What was copied is unspecified.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "to_host": Out(1),
                "copies": Out(1),
                "sums": Out(1),
                "host": Out(64),
                "device": Out(ADDRESS_BITS),
                "length": Out(range(MAX_PIECE + 1)),
                "crc": Out(32),
                "done": In(1),
                "next_crc": In(32),
                "fault": In(1),
            }
        )


class Mover(wiring.Component):
    """Copies pieces for several users, in turns.

    A beat of the source is turned by as many bytes as both addresses are apart in a beat; a beat
    of the target then has its lower bytes from one and its upper ones from the next. It takes two
    cycles, which are 32 bytes a cycle: the host gives no more. With a checksum it takes six.

    Parameters
    ----------
    users:
        How many there are.

    Attributes
    ----------
    pieces: list of Interface, in
    host: Interface, out
    dram: Interface, out
    """

    def __init__(self, users: int) -> None:
        self._users = users
        super().__init__(
            {
                "pieces": In(Piece()).array(users),
                "host": Out(Claimed(HostMemory())),
                "dram": Out(Claimed(Memory())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.checksum = checksum = Checksum()
        host, dram = self.host.memory, self.dram.memory
        user = Signal(range(self._users))
        valid = Signal()
        to_host, copies, sums = Signal(), Signal(), Signal()
        source, target = Signal(64), Signal(64)
        length = Signal(range(MAX_PIECE + 1))
        crc = Signal(32)
        done = Signal()
        fault = Signal()
        with m.Switch(user):
            for number in range(self._users):
                piece = self.pieces[number]
                with m.Case(number):
                    m.d.comb += [
                        valid.eq(piece.valid),
                        to_host.eq(piece.to_host),
                        copies.eq(piece.copies),
                        sums.eq(piece.sums),
                        source.eq(Mux(piece.to_host, piece.device, piece.host)),
                        target.eq(Mux(piece.to_host, piece.host, piece.device)),
                        length.eq(piece.length),
                        crc.eq(piece.crc),
                        piece.done.eq(done),
                        piece.next_crc.eq(checksum.crc),
                        piece.fault.eq(fault),
                    ]

        offset, place = source[:_OFFSET_BITS], target[:_OFFSET_BITS]
        turn = Signal(_OFFSET_BITS)  # bytes that the source's beats are turned by
        leads = Signal()  # the target's first beat has bytes of the source's first two
        wanted = Signal(8)  # beats of the source that are to come
        left = Signal(range(MAX_PIECE + 1))  # bytes of the target that are to come
        address = Signal(64)
        at = Signal(_OFFSET_BITS)  # first byte of the target's beat
        before = Signal(8 * BEAT_BYTES)  # the beat of the source before, turned
        beat = Signal(8 * BEAT_BYTES)
        count = Signal(_OFFSET_BITS + 1)
        m.d.comb += [
            turn.eq(place - offset),
            leads.eq(place < offset),
            checksum.data.eq(beat),
            checksum.first.eq(at),
            checksum.count.eq(count),
            checksum.value.eq(crc),
        ]

        arrived, taken, broken = Signal(), Signal(), Signal()
        incoming = Signal(8 * BEAT_BYTES)
        turned = Signal(8 * BEAT_BYTES)
        with m.If(to_host):
            m.d.comb += [
                arrived.eq(dram.data.valid),
                incoming.eq(dram.data.payload),
                dram.data.ready.eq(taken),
            ]
        with m.Else():
            m.d.comb += [
                arrived.eq(host.data.valid),
                incoming.eq(host.data.payload.data),
                broken.eq(host.data.payload.fault),
                host.data.ready.eq(taken),
            ]
        m.d.comb += turned.eq(_turned(m, incoming, turn))
        with m.If(taken & arrived):
            m.d.sync += [before.eq(turned), wanted.eq(wanted - 1), fault.eq(fault | broken)]
        with m.If(host.refused):
            m.d.sync += fault.eq(1)

        strobe = Signal(BEAT_BYTES)
        m.d.comb += strobe.eq(((1 << count) - 1) << at)
        for port in (host, dram):
            m.d.comb += [
                port.request.payload.address.eq(source & ~(BEAT_BYTES - 1)),
                port.request.payload.beats.eq(wanted),
                port.write.payload.address.eq(address),
                port.write.payload.data.eq(beat),
                port.write.payload.strobe.eq(strobe),
            ]
        active = Signal()
        m.d.comb += [self.host.claim.eq(active & copies), self.dram.claim.eq(active)]

        turns = Signal()  # to the next user that has something
        with m.If(turns), m.Switch(user):
            for number in range(self._users):
                with m.Case(number):
                    for step in range(self._users - 1, 0, -1):
                        other = (number + step) % self._users
                        with m.If(self.pieces[other].valid):
                            m.d.sync += user.eq(other)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(valid):
                    m.d.comb += checksum.load.eq(1)
                    m.d.sync += [
                        wanted.eq((offset + length + BEAT_BYTES - 1) >> _OFFSET_BITS),
                        left.eq(length),
                        address.eq(target & ~(BEAT_BYTES - 1)),
                        at.eq(place),
                        fault.eq(0),
                    ]
                    m.next = "REQUEST"
                with m.Else():
                    m.d.comb += turns.eq(1)
            with m.State("REQUEST"):
                m.d.comb += active.eq(1)
                ready = Signal()
                with m.If(to_host):
                    m.d.comb += [dram.request.valid.eq(1), ready.eq(dram.request.ready)]
                with m.Else():
                    m.d.comb += [host.request.valid.eq(1), ready.eq(host.request.ready)]
                with m.If(ready):
                    with m.If(leads):
                        m.next = "LEAD"
                    with m.Else():
                        m.next = "ALIGN"
            with m.State("LEAD"):
                m.d.comb += [active.eq(1), taken.eq(1)]
                with m.If(arrived):
                    m.next = "ALIGN"
            with m.State("ALIGN"):
                # The last beat of the target may need no more of the source.
                m.d.comb += [active.eq(1), taken.eq(wanted != 0)]
                with m.If(arrived | (wanted == 0)):
                    m.d.sync += beat.eq(
                        Cat(
                            Mux(n < turn, before.word_select(n, 8), turned.word_select(n, 8))
                            for n in range(BEAT_BYTES)
                        )
                    )
                    room = BEAT_BYTES - at
                    m.d.sync += count.eq(Mux(left < room, left, room))
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += active.eq(1)
                ready = Signal()
                with m.If(fault | ~copies):
                    m.d.comb += ready.eq(1)
                with m.Elif(to_host):
                    m.d.comb += [host.write.valid.eq(1), ready.eq(host.write.ready)]
                with m.Else():
                    m.d.comb += [dram.write.valid.eq(1), ready.eq(dram.write.ready)]
                with m.If(ready):
                    with m.If(sums):
                        m.next = "CHECKSUM"
                    with m.Else():
                        self._advance(m, left, count, address, at)
            with m.State("CHECKSUM"):
                m.d.comb += [active.eq(1), checksum.add.eq(1)]
                with m.If(checksum.done):
                    self._advance(m, left, count, address, at)
            with m.State("WRITTEN"):
                m.d.comb += [
                    self.host.claim.eq(copies & to_host),
                    self.dram.claim.eq(copies & ~to_host),
                ]
                with m.If(~copies | Mux(to_host, host.written, dram.written)):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [done.eq(1), turns.eq(1)]
                m.next = "IDLE"
        return m

    @staticmethod
    def _advance(m: Module, left: Signal, count: Signal, address: Signal, at: Signal) -> None:
        """To the next beat of the target."""
        m.d.sync += [left.eq(left - count), address.eq(address + BEAT_BYTES), at.eq(0)]
        with m.If(left == count):
            m.next = "WRITTEN"
        with m.Else():
            m.next = "ALIGN"


def _turned(m: Module, beat: Value, nbytes: Value) -> Value:
    """A beat with its byte 0 at place *nbytes*, and what leaves it at the top at the bottom."""
    for bit in range(_OFFSET_BITS):
        width = 8 << bit
        turned = Signal(8 * BEAT_BYTES, name=f"turned_{bit}")
        m.d.comb += turned.eq(Mux(nbytes[bit], Cat(beat[-width:], beat[:-width]), beat))
        beat = turned
    return beat
