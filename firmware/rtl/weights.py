"""The weight buffer."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import BEAT_BYTES

__all__ = ["Weights"]


class Weights(wiring.Component):
    """A memory of words of ``ti·to`` bytes, in slices of 64 bytes.

    Attributes
    ----------
    read: :py:`In(1)`
        Strobe: read ``read_word``; its slices are ``read_data`` in the next cycle.
    write: :py:`In(slices)`
        Strobes, a bit for each slice: write ``write_data`` to it.
    write_mask: :py:`In(64 // to)`
        Which bytes of the slice: a bit for each group of ``to``.
    """

    def __init__(self, parameters: Parameters) -> None:
        array = parameters.array
        self._to, self._words = array.to, parameters.weight_words
        self._slices = parameters.slices
        super().__init__(
            {
                "read": In(1),
                "read_word": In(range(self._words)),
                "read_data": Out(8 * BEAT_BYTES).array(self._slices),
                "write": In(self._slices),
                "write_word": In(range(self._words)),
                "write_mask": In(BEAT_BYTES // array.to),
                "write_data": In(8 * BEAT_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for number in range(self._slices):
            memory = Memory(shape=8 * BEAT_BYTES, depth=self._words, init=[])
            m.submodules[f"slice{number}"] = memory
            read = memory.read_port()
            write = memory.write_port(granularity=8 * self._to)
            m.d.comb += [
                read.addr.eq(self.read_word),
                read.en.eq(self.read),
                self.read_data[number].eq(read.data),
                write.addr.eq(self.write_word),
                write.data.eq(self.write_data),
                write.en.eq(self.write_mask & self.write[number].replicate(len(write.en))),
            ]
        return m
