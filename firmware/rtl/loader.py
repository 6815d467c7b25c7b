"""LOAD_IMAGE: wipes a bank, copies a program image to its end, and checks it.

It equals what ``edged/emulator/_core.py`` does, but for two things: an image without CODE is
INCOMPATIBLE, and LAYERS is nothing to this device but a section whose checksum has to be right.
The image's digest is not computed (docs/adr/0018); that of its header is what the bank shows.
"""

from amaranth import unsigned
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import INSTRUCTION_BYTES
from edged.npu.regmap import (
    ABI,
    BANKS,
    IMAGE_ENTRY,
    IMAGE_HEADER,
    IMAGE_MAGIC,
    IMAGE_SECTION,
    MAX_ARRAY_SIZE,
    MAX_ENTRIES,
    Section,
    Status,
)
from firmware.rtl.banks import EntryWrite, Program
from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import ADDRESS_BITS
from firmware.rtl.queue import layout_of

__all__ = ["Loader"]

_PAGE_BITS = 12
_MIN_SECTIONS, _MAX_SECTIONS = 3, 16
_REQUIRED = (Section.ENTRIES, Section.LAYERS, Section.WEIGHTS)
_WITH_CODE = (Section.CODE, Section.PACKED)


class _Extent(data.Struct):
    """Where a section is: from the image's beginning, in bytes."""

    there: unsigned(1)
    offset: unsigned(32)
    length: unsigned(32)


class Loader(wiring.Component):
    """Loads an image.

    Parameters
    ----------
    parameters:
        What images have to be compiled for.
    bank_bytes:
        Of a bank.

    Attributes
    ----------
    start: Signal, in
        Strobe: load into ``bank``, which is not the active one.
    bank: Signal, in
    length: Signal(32), in
        Bytes of the image, at least 1 and at most as many as the bank has. These stay the same
        until ``done``.
    crc_given: Signal, in
        Asserted: ``crc`` is the checksum of the whole image.
    crc: Signal(32), in
    cancel: Signal, in
        While it is asserted, the load ends as soon as it can, ABORTED.
    done: Signal, out
        Strobe.
    status: Signal(16), out
        Valid with ``done``.
    begin, end, sound, digest, program, entry_write, entry:
        To :class:`~firmware.rtl.banks.Banks`.
    wipe, wiped: Signal, out and in
        To the :class:`~firmware.rtl.wiper.Wiper`.
    copy: Signal, out
        Strobe: copy the image to ``target``.
    target: Signal(40), out
    check: Signal, out
        Strobe: sum up ``check_length`` bytes of DRAM from ``address`` on.
    check_length: Signal(32), out
    moved: Signal, in
        Strobe: one or the other is done.
    fault: Signal, in
        Valid with ``moved``: the host does not map a part of the image.
    moved_crc: Signal(32), in
        Valid with ``moved``: CRC32C of the image, if ``crc_given``, or of what was summed up.
    forget, want, address, valid, word:
        To and from the :class:`~firmware.rtl.reader.Reader`.
    """

    start: In(1)
    bank: In(range(BANKS))
    length: In(32)
    crc_given: In(1)
    crc: In(32)
    cancel: In(1)
    done: Out(1)
    status: Out(16)
    begin: Out(1)
    end: Out(1)
    sound: Out(1)
    digest: Out(256)
    program: Out(Program)
    entry_write: Out(1)
    entry: Out(EntryWrite)
    wipe: Out(1)
    wiped: In(1)
    copy: Out(1)
    target: Out(ADDRESS_BITS)
    check: Out(1)
    check_length: Out(32)
    moved: In(1)
    fault: In(1)
    moved_crc: In(32)
    forget: Out(1)
    want: Out(1)
    address: Out(ADDRESS_BITS)
    valid: In(1)
    word: In(32)

    def __init__(self, parameters: Parameters, bank_bytes: int) -> None:
        self._parameters = parameters
        self._bank_bytes = bank_bytes
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pages = self.length[_PAGE_BITS:] + self.length[:_PAGE_BITS].any()
        room = Signal(ADDRESS_BITS)  # bytes of the bank in front of the image
        base = Signal(ADDRESS_BITS)
        m.d.comb += [
            room.eq(self._bank_bytes - (pages << _PAGE_BITS)),
            base.eq(self.bank * self._bank_bytes),
            self.target.eq(base + room),
        ]

        at = Signal(32)  # of the word that is looked at, from the image's beginning
        header = Signal(layout_of(IMAGE_HEADER))
        section = Signal(layout_of(IMAGE_SECTION))
        record = Signal(layout_of(IMAGE_ENTRY))
        index = Signal(5)  # of the word in one of these
        sections = Signal(range(_MAX_SECTIONS + 1))  # that were looked at
        extents = {kind: Signal(_Extent, name=kind.name.lower()) for kind in Section}
        entries, code, packed = (
            extents[kind] for kind in (Section.ENTRIES, Section.CODE, Section.PACKED)
        )
        entry = Signal(range(MAX_ENTRIES + 1))
        count = Signal(range(MAX_ENTRIES + 1))
        layer = Signal(32)
        m.d.comb += [
            self.address.eq(self.target + at),
            self.check_length.eq(section.length),
            self.digest.eq(header.digest),
        ]

        def refuse(status: Status) -> None:
            m.d.sync += self.status.eq(status)
            m.next = "END"

        def take(record: Value, size: int, then: str) -> None:
            """Read *size* bytes of words from ``at`` on into *record*."""
            words = record.as_value()
            m.d.comb += self.want.eq(1)
            with m.If(self.valid):
                m.d.sync += [
                    words.eq(Cat(words[32:], self.word)),
                    at.eq(at + 4),
                    index.eq(index + 1),
                ]
                with m.If(index == size // 4 - 1):
                    m.d.sync += index.eq(0)
                    m.next = then

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.comb += [self.begin.eq(1), self.wipe.eq(1), self.forget.eq(1)]
                m.d.sync += [at.eq(0), index.eq(0), sections.eq(0)]
                m.d.sync += [extent.there.eq(0) for extent in extents.values()]
                m.next = "WIPE"
            with m.State("WIPE"), m.If(self.wiped):
                m.d.comb += self.copy.eq(1)
                m.next = "COPY"
            with m.State("COPY"), m.If(self.moved):
                with m.If(self.fault):
                    refuse(Status.BAD_ADDRESS)
                with m.Elif(self.cancel):
                    refuse(Status.ABORTED)
                with m.Elif(self.crc_given & (self.moved_crc != self.crc)):
                    refuse(Status.BAD_CRC)
                with m.Elif(self.length < IMAGE_HEADER.size):
                    refuse(Status.BAD_IMAGE)
                with m.Else():
                    m.next = "HEADER"
            with m.State("HEADER"):
                take(header, IMAGE_HEADER.size, "CHECK HEADER")
            with m.State("CHECK HEADER"):
                table_end = IMAGE_HEADER.size + header.sections[:5] * IMAGE_SECTION.size
                with m.If(header.magic != int.from_bytes(IMAGE_MAGIC, "little")):
                    refuse(Status.BAD_IMAGE)
                with m.Elif(header.abi != ABI):
                    refuse(Status.INCOMPATIBLE)
                with m.Elif(
                    (header.file_bytes != self.length)
                    | _is_outside(header.sections, _MIN_SECTIONS, _MAX_SECTIONS)
                    | (table_end > self.length)
                    | _is_outside(header.ti, 1, MAX_ARRAY_SIZE)
                    | _is_outside(header.to, 1, MAX_ARRAY_SIZE)
                    | _is_outside(header.tp, 1, MAX_ARRAY_SIZE)
                ):
                    refuse(Status.BAD_IMAGE)
                with m.Else():
                    m.next = "SECTION"
            with m.State("SECTION"):
                take(section, IMAGE_SECTION.size, "CHECK SECTION")
            with m.State("CHECK SECTION"):
                m.d.sync += sections.eq(sections + 1)
                twice = Signal()
                with m.Switch(section.kind):
                    for kind, extent in extents.items():
                        with m.Case(kind):
                            m.d.comb += twice.eq(extent.there)
                            m.d.sync += [
                                extent.there.eq(1),
                                extent.offset.eq(section.offset),
                                extent.length.eq(section.length),
                            ]
                with m.If(
                    twice
                    | (section.offset[:6] != 0)
                    | (section.offset > self.length)
                    | (section.length > self.length)
                    | (section.offset + section.length > self.length)
                ):
                    refuse(Status.BAD_IMAGE)
                with m.Else():
                    m.d.comb += [
                        self.address.eq(self.target + section.offset[:32]),
                        self.check.eq(1),
                    ]
                    m.next = "CHECKSUM"
            with m.State("CHECKSUM"), m.If(self.moved):
                with m.If(self.cancel):
                    refuse(Status.ABORTED)
                with m.Elif(self.moved_crc != section.crc):
                    refuse(Status.BAD_IMAGE)
                with m.Elif(sections == header.sections):
                    m.next = "CHECK SECTIONS"
                with m.Else():
                    m.next = "SECTION"
            with m.State("CHECK SECTIONS"):
                m.d.sync += at.eq(entries.offset)
                missing = ~Cat(extents[kind].there for kind in _REQUIRED).all()
                one_missing = code.there != packed.there
                with m.If(
                    missing
                    | one_missing
                    | (code.length % INSTRUCTION_BYTES != 0)
                    | (packed.length[:6] != 0)
                ):
                    refuse(Status.BAD_IMAGE)
                with m.Elif(~code.there):
                    refuse(Status.INCOMPATIBLE)
                with m.Elif(entries.length < 4):
                    refuse(Status.BAD_IMAGE)
                with m.Else():
                    m.next = "ENTRIES"
            with m.State("ENTRIES"):
                m.d.comb += self.want.eq(1)
                with m.If(self.valid):
                    m.d.sync += [at.eq(at + 4), count.eq(self.word), entry.eq(0), layer.eq(0)]
                    with m.If(_is_outside(self.word, 1, MAX_ENTRIES)):
                        refuse(Status.BAD_IMAGE)
                    with m.Else():
                        m.next = "NEXT ENTRY"
            entries_end = entries.offset + entries.length
            with m.State("NEXT ENTRY"):
                with m.If(entry == count):
                    with m.If(at == entries_end):
                        m.next = "FIT"
                    with m.Else():
                        refuse(Status.BAD_IMAGE)
                with m.Elif(at + IMAGE_ENTRY.size > entries_end):
                    refuse(Status.BAD_IMAGE)
                with m.Else():
                    m.next = "ENTRY"
            with m.State("ENTRY"):
                take(record, IMAGE_ENTRY.size, "CHECK ENTRY")
            with m.State("CHECK ENTRY"):
                indices_end = at + ((record.inputs + record.outputs) << 2)
                m.d.comb += [
                    self.entry.number.eq(entry),
                    self.entry.instruction.eq(record.instruction),
                ]
                m.d.sync += [entry.eq(entry + 1), at.eq(indices_end), layer.eq(record.last)]
                with m.If(
                    (record.first != layer)
                    | (record.last <= record.first)
                    | (indices_end > entries_end)
                    | (record.instruction >= code.length // INSTRUCTION_BYTES)
                ):
                    refuse(Status.BAD_IMAGE)
                with m.Else():
                    m.d.comb += self.entry_write.eq(1)
                    m.next = "NEXT ENTRY"
            with m.State("FIT"):
                parameters = self._parameters
                with m.If(
                    (header.ti != parameters.array.ti)
                    | (header.to != parameters.array.to)
                    | (header.tp != parameters.array.tp)
                    | (header.activation_buffer != parameters.activation_buffer)
                    | (header.weight_buffer != parameters.weight_buffer)
                    | (header.dram_bytes > room)
                ):
                    refuse(Status.INCOMPATIBLE)
                with m.Elif(self.cancel):
                    refuse(Status.ABORTED)
                with m.Else():
                    m.d.sync += self.status.eq(Status.OK)
                    m.next = "SOUND"
            with m.State("SOUND"):
                m.d.comb += [self.sound.eq(1), self.end.eq(1), self.done.eq(1)]
                m.next = "IDLE"
            with m.State("END"):
                m.d.comb += [self.end.eq(1), self.done.eq(1)]
                m.next = "IDLE"

        m.d.comb += [
            self.program.dram_bytes.eq(header.dram_bytes),
            self.program.entries.eq(count),
            self.program.code.eq(self.target + code.offset),
            self.program.code_end.eq(self.target + code.offset + code.length),
            self.program.packed.eq(self.target + packed.offset),
            self.program.packed_end.eq(self.target + packed.offset + packed.length),
        ]
        return m


def _is_outside(value: Value, low: int, high: int) -> Value:
    return (value < low) | (value > high)
