"""CRC32C of data as they pass, 16 bytes in a cycle.

The polynomial is that of RFC 3720, appendix B.4 (Castagnoli), reflected: the device, the host and
the compiler compute the same. With a whole beat in a cycle it would be the larger half of the
shell, in logic as in the time to simulate it.
"""

import functools
import operator

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from firmware.rtl.ports import BEAT_BYTES

__all__ = ["INITIAL", "Checksum", "final"]

INITIAL = 0xFFFF_FFFF
"""What a checksum begins with."""
_POLYNOMIAL = 0x82F6_3B78
_STEP = 16


def final(crc: Value) -> Value:
    """The checksum of what has passed."""
    return (~crc)[:32]


def _after_bit(crc: int) -> int:
    return (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)


@functools.cache
def _effects(nbytes: int) -> list[int]:
    """What each bit that goes in adds to the next checksum, which is linear in them.

    Data are added to the low bits of the last checksum first.
    """
    effects = []
    for place in range(max(32, 8 * nbytes)):
        # It meets the register's lowest place after as many steps as it is away from it.
        effect = 1 << place if place < 32 else 1
        for _ in range(8 * nbytes - (0 if place < 32 else place)):
            effect = _after_bit(effect)
        effects.append(effect)
    return effects


def _next(crc: Value, data: Value) -> Value:
    known = crc ^ data
    sums = [Mux(known[place], effect, 0) for place, effect in enumerate(_effects(len(data) // 8))]
    while len(sums) > 1:  # a tree, which is not deep
        sums = [functools.reduce(operator.xor, sums[at : at + 2]) for at in range(0, len(sums), 2)]
    return sums[0]


class Checksum(wiring.Component):
    """Adds a beat, or some bytes of one, to a checksum.

    A whole beat takes 4 cycles; of a part of one each byte takes a cycle.

    Attributes
    ----------
    load: Signal, in
        Strobe: go on from ``value``. Not with ``add``.
    value: Signal(32), in
    add: Signal, in
        Take ``count`` bytes of ``data`` from ``first`` on, and keep all three until ``done``.
    data: Signal(512), in
    first: Signal(6), in
    count: Signal(7), in
        1 to 64.
    done: Signal, out
        Asserted in the cycle in which the last of them is taken.
    crc: Signal(32), out
        The checksum, before :func:`final`.
    """

    load: In(1)
    value: In(32)
    add: In(1)
    data: In(8 * BEAT_BYTES)
    first: In(6)
    count: In(7)
    done: Out(1)
    crc: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken = Signal(7)
        whole = self.count == BEAT_BYTES
        step = Mux(whole, _STEP, 1)
        m.d.comb += self.done.eq(self.add & (taken + step == self.count))
        some, byte = Signal(8 * _STEP), Signal(8)
        m.d.comb += [
            some.eq(self.data.word_select(taken >> exact_log2(_STEP), 8 * _STEP)),
            byte.eq(self.data.word_select((self.first + taken)[:6], 8)),
        ]
        with m.If(self.load):
            m.d.sync += self.crc.eq(self.value)
        with m.Elif(self.add):
            with m.If(whole):
                m.d.sync += self.crc.eq(_next(self.crc, some))
            with m.Else():
                m.d.sync += self.crc.eq(_next(self.crc, byte))
            m.d.sync += taken.eq(taken + step)
            with m.If(self.done):
                m.d.sync += taken.eq(0)
        return m
