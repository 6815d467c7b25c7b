"""What is known of the two banks, and which of them is active."""

from amaranth import unsigned
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory as Ram
from amaranth.lib.wiring import In, Out

from edged.npu.regmap import BANKS, MAX_ENTRIES, NO_BANK, BankStatus
from firmware.rtl.ports import ADDRESS_BITS

__all__ = ["Banks", "EntryWrite", "Program"]


class Program(data.Struct):
    """What the device knows of a program that is loaded.

    Attributes
    ----------
    dram_bytes:
        What it may use of the bank, from its beginning on.
    code, code_end, packed, packed_end:
        Device addresses of the two sections.
    entries:
        How many there are.
    """

    dram_bytes: unsigned(ADDRESS_BITS)
    code: unsigned(ADDRESS_BITS)
    code_end: unsigned(ADDRESS_BITS)
    packed: unsigned(ADDRESS_BITS)
    packed_end: unsigned(ADDRESS_BITS)
    entries: unsigned(7)


class EntryWrite(data.Struct):
    """An entry that is put down: its number, and its first instruction in CODE."""

    number: range(MAX_ENTRIES)
    instruction: unsigned(32)


class Banks(wiring.Component):
    """Both banks.

    Attributes
    ----------
    reset: Signal, in
        Strobe: no bank is active, and both are empty.
    bank: Signal, in
        Which one is meant by the four below.
    begin: Signal, in
        Strobe: its load begins.
    entry_write: Signal, in
        Strobe: put down ``entry``.
    entry: EntryWrite, in
    end: Signal, in
        Strobe: its load ends, VALID if ``sound`` is asserted, with ``digest`` and ``program``, or
        else CORRUPT.
    sound: Signal, in
    digest: Signal(256), in
    program: Program, in
    activate: Signal, in
        Strobe: make it the active one.
    statuses, generations, digests: list of Signal, out
    loading: Signal, out
        Asserted while any is being loaded.
    active: Signal(32), out
        Number of the active one, or ``NO_BANK``.
    is_active: Signal, out
        Asserted: there is one.
    active_bank: Signal, out
    active_program: Program, out
        Valid with ``is_active``.
    entry_number: Signal, in
        Of the active program.
    instruction: Signal(32), out
        Its first instruction, a cycle later.
    """

    reset: In(1)
    bank: In(range(BANKS))
    begin: In(1)
    entry_write: In(1)
    entry: In(EntryWrite)
    end: In(1)
    sound: In(1)
    digest: In(256)
    program: In(Program)
    activate: In(1)
    statuses: Out(32).array(BANKS)
    generations: Out(32).array(BANKS)
    digests: Out(256).array(BANKS)
    loading: Out(1)
    active: Out(32)
    is_active: Out(1)
    active_bank: Out(range(BANKS))
    active_program: Out(Program)
    entry_number: In(range(MAX_ENTRIES))
    instruction: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.entries = entries = Ram(shape=32, depth=BANKS * MAX_ENTRIES, init=[])
        put, get = entries.write_port(), entries.read_port()
        m.d.comb += [
            put.addr.eq(self.bank * MAX_ENTRIES + self.entry.number),
            put.data.eq(self.entry.instruction),
            put.en.eq(self.entry_write),
            get.addr.eq(self.active_bank * MAX_ENTRIES + self.entry_number),
            self.instruction.eq(get.data),
        ]
        programs = [Signal(Program, name=f"program_{number}") for number in range(BANKS)]
        for number, program in enumerate(programs):
            status, digest = self.statuses[number], self.digests[number]
            with m.If(self.bank == number):
                with m.If(self.begin):
                    m.d.sync += [
                        status.eq(BankStatus.LOADING),
                        digest.eq(0),
                        self.generations[number].eq(self.generations[number] + 1),
                    ]
                with m.If(self.end):
                    m.d.sync += status.eq(BankStatus.CORRUPT)
                    with m.If(self.sound):
                        m.d.sync += [
                            status.eq(BankStatus.VALID),
                            digest.eq(self.digest),
                            program.eq(self.program),
                        ]
            with m.If(self.reset):
                m.d.sync += [status.eq(BankStatus.EMPTY), digest.eq(0)]
            with m.If(self.active_bank == number):
                m.d.comb += self.active_program.eq(program)
        with m.If(self.activate):
            m.d.sync += [self.is_active.eq(1), self.active_bank.eq(self.bank)]
        with m.If(self.reset):
            m.d.sync += self.is_active.eq(0)
        m.d.comb += [
            self.loading.eq(
                sum((status == BankStatus.LOADING for status in self.statuses), start=0) != 0
            ),
            self.active.eq(Mux(self.is_active, self.active_bank, NO_BANK)),
        ]
        return m
