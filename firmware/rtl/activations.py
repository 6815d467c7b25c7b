"""The activation buffer: a bank for each lane."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import BEAT_BYTES
from firmware.rtl.rotate import chosen, rotated_left, rotated_right

__all__ = ["Banks", "beat_layout", "place_layout"]


def place_layout(parameters: Parameters) -> data.StructLayout:
    """A word of the bank of a lane."""
    lanes = max(parameters.array.tp, 2)
    return data.StructLayout({"lane": range(lanes), "word": range(parameters.activation_words)})


def beat_layout(parameters: Parameters) -> data.StructLayout:
    """A beat that is written from ``word`` of bank ``lane`` on; the words with a bit in ``mask``
    are."""
    return data.StructLayout(
        {
            **place_layout(parameters).members,
            "mask": parameters.parts,
            "data": 8 * BEAT_BYTES,
        }
    )


class Banks(wiring.Component):
    """Memories of words of ``ti`` bytes.

    A bank consists of parts, as many as words fit into a beat: word n is in part n mod parts. So
    the load unit writes and the store unit reads a beat's worth of consecutive words at a time,
    while the execute unit reads another word. Each part is a memory with two ports: one belongs to
    the execute unit for reading; at the other it writes, or else a beat is read or written, at
    those parts where it does not write now and later at the others.

    Attributes
    ----------
    read: :py:`In(1)`
        Strobe: read ``read_word`` of every bank; it is ``read_data`` in the next cycle.
    read_data: :py:`Out(8 * ti).array(tp)`
    write: :py:`In(1)`
        Strobe: write ``write_data`` to ``write_word`` of every bank.
    write_mask: :py:`In(groups)`
        Which bytes: a bit for each group of ``min(ti, to)``. Where it is not asserted they stay.
    load: :py:`In(stream.Signature)`
        ``data``: a beat, of which word n goes to ``word + n`` of bank ``lane`` if its bit of
        ``mask`` is asserted.
    store: :py:`In(stream.Signature)`
        Read a beat from ``word`` of bank ``lane`` on; it is ``store_data`` in the next cycle.
    """

    def __init__(self, parameters: Parameters) -> None:
        array = parameters.array
        self._array, self._words = array, parameters.activation_words
        self._parts = parameters.parts
        super().__init__(
            {
                "read": In(1),
                "read_word": In(range(self._words)),
                "read_data": Out(8 * array.ti).array(array.tp),
                "write": In(1),
                "write_word": In(range(self._words)),
                "write_mask": In(max(array.ti // array.to, 1)),
                "write_data": In(8 * array.ti).array(array.tp),
                "load": In(stream.Signature(beat_layout(parameters))),
                "store": In(stream.Signature(place_layout(parameters))),
                "store_data": Out(8 * BEAT_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ti = self._array.ti
        low = (self._parts - 1).bit_length()  # bits of a word's number that say its part

        load, store = self.load.payload, self.store.payload
        # A part that the execute unit writes has to be moved later than the others of the beat.
        taken = Signal(self._parts)
        m.d.comb += taken.eq(self.write << self.write_word[:low])
        load_data = Signal(8 * BEAT_BYTES)
        load_mask = Signal(self._parts)
        m.d.comb += load_data.eq(rotated_left(m, load.data, load.word[:low], 8 * ti))
        m.d.comb += load_mask.eq(rotated_left(m, load.mask, load.word[:low], 1))
        loads, stores = Signal(self._parts), Signal(self._parts)
        for beat, parts, mask, may in (
            (self.store, stores, C(-1, self._parts), C(1)),
            (self.load, loads, load_mask, ~self.store.valid),
        ):
            moved, left = Signal(self._parts), Signal(self._parts)
            m.d.comb += [
                left.eq(mask & ~moved & (beat.valid & may).replicate(self._parts)),
                parts.eq(left & ~taken),
                beat.ready.eq(may & ~(left & taken).any()),
            ]
            with m.If(~beat.valid | beat.ready):
                m.d.sync += moved.eq(0)
            with m.Else():
                m.d.sync += moved.eq(moved | parts)
        word = Mux(self.store.valid, store.word, load.word)
        first, row = word[:low], word[low:]

        part_read = Signal(low)
        stored_first, stored_lane = Signal(low), Signal.like(store.lane)
        with m.If(self.read):
            m.d.sync += part_read.eq(self.read_word[:low])
        with m.If(self.store.valid & self.store.ready):
            m.d.sync += [stored_first.eq(store.word[:low]), stored_lane.eq(store.lane)]

        store_data = []
        for lane in range(self._array.tp):
            read_data, beat_data = [], []
            for part in range(self._parts):
                memory = Memory(shape=8 * ti, depth=self._words // self._parts, init=[])
                m.submodules[f"lane{lane}_part{part}"] = memory
                execute = memory.read_port()
                m.d.comb += [
                    execute.addr.eq(self.read_word[low:]),
                    execute.en.eq(self.read & (self.read_word[:low] == part)),
                ]
                reading = memory.read_port()
                writing = memory.write_port(granularity=min(8 * ti, 8 * self._array.to))
                loaded = loads[part] & (load.lane == lane)
                address = Signal(range(self._words // self._parts), name=f"row_{lane}_{part}")
                m.d.comb += [
                    address.eq(Mux(taken[part], self.write_word[low:], row + (first > part))),
                    reading.addr.eq(address),
                    reading.en.eq(stores[part] & (store.lane == lane)),
                    writing.addr.eq(address),
                    writing.data.eq(
                        Mux(taken[part], self.write_data[lane], load_data.word_select(part, 8 * ti))
                    ),
                    writing.en.eq(
                        Mux(taken[part], self.write_mask, loaded.replicate(len(writing.en)))
                    ),
                ]
                read_data.append(execute.data)
                beat_data.append(reading.data)
            m.d.comb += self.read_data[lane].eq(chosen(read_data, part_read))
            store_data.append(rotated_right(m, Cat(beat_data), stored_first, 8 * ti))
        m.d.comb += self.store_data.eq(chosen(store_data, stored_lane))
        return m
