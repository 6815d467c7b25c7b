"""Where core, shell and DRAM meet.

Amaranth reads annotations as values, so they are not postponed here.
"""

from amaranth import unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ADDRESS_BITS", "BEAT_BYTES", "Memory", "ReadRequest", "Run", "WriteBeat"]

BEAT_BYTES = 64
"""Bytes that pass a memory port in a cycle."""
ADDRESS_BITS = 40
"""Bits of a device address in bytes."""


class ReadRequest(data.Struct):
    """A read of consecutive beats.

    Attributes
    ----------
    address:
        Device address of the first one in bytes; a multiple of 64.
    beats:
        How many, 1 to 255.
    """

    address: unsigned(ADDRESS_BITS)
    beats: unsigned(8)


class WriteBeat(data.Struct):
    """A write of one beat.

    Attributes
    ----------
    address:
        Device address in bytes; a multiple of 64.
    data:
        Byte n of the beat in bits 8·n to 8·n + 7.
    strobe:
        A bit for each byte; where it is not asserted the byte in DRAM stays as it is.
    """

    address: unsigned(ADDRESS_BITS)
    data: unsigned(8 * BEAT_BYTES)
    strobe: unsigned(BEAT_BYTES)


class Memory(wiring.Signature):
    """Device DRAM, as its user drives it.

    A stream's ``payload`` stays the same while ``valid`` is asserted and ``ready`` is not, and a
    transfer happens in each cycle in which both are.

    Members
    -------
    request: :py:`Out(stream.Signature(ReadRequest))`
        Reads. There may be as many outstanding as are accepted.
    data: :py:`In(stream.Signature(512))`
        The beats of all reads, in the order of the requests.
    write: :py:`Out(stream.Signature(WriteBeat))`
        Posted writes. Their order with reads is unspecified, until they have been ``written``.
    written: :py:`In(1)`
        Asserted while every write that was accepted has reached DRAM: a read that is requested now
        sees it. It is not asserted in the cycle after one was accepted that has not.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(ReadRequest)),
                "data": In(stream.Signature(8 * BEAT_BYTES)),
                "write": Out(stream.Signature(WriteBeat)),
                "written": In(1),
            }
        )


class Run(wiring.Signature):
    """Starting a program and watching it, as the shell drives it.

    Members
    -------
    start: :py:`Out(1)`
        Strobe: run. Ignored while ``busy`` is asserted. The operands below are taken with it.
    code, code_end: :py:`Out(40)`
        Device addresses of the entry's first instruction, a multiple of 32, and of the end of
        section CODE. An instruction behind the end is a fault.
    packed, packed_end: :py:`Out(40)`
        Device addresses of section PACKED, multiples of 64.
    base: :py:`Out(40)`
        Device address of the bank, a multiple of 64: address 0 of the program.
    size: :py:`Out(40)`
        Bytes of the bank that the program may read and write, a multiple of 64, at most 4 GiB.
    abort: :py:`Out(1)`
        While it is asserted, a run ends as soon as outstanding transactions of the memory allow;
        nothing new is begun. When it is not asserted a run ends by END or a fault.
    busy: :py:`In(1)`
        Asserted from the cycle after ``start`` to the one of ``done``, inclusively. While it is
        not asserted the core has no transaction of the memory outstanding.
    done: :py:`In(1)`
        Strobe: the run is over, and all that it wrote has reached DRAM.
    fault: :py:`In(1)`
        Valid with ``done`` and until the next ``start``: the run ended by an instruction that there
        is not, or by one that leaves the bank. Not asserted: by END, or by ``abort``.
    fault_address: :py:`In(40)`
        Device address of that instruction.
    cycles: :py:`In(32)`
        Cycles of the last run, or of the one under way; so are the others. They do not wrap, but
        stay at the highest value.
    array: :py:`In(32)`
        Cycles in which the array multiplied.
    read, written: :py:`In(32)`
        Beats.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": Out(1),
                "code": Out(ADDRESS_BITS),
                "code_end": Out(ADDRESS_BITS),
                "packed": Out(ADDRESS_BITS),
                "packed_end": Out(ADDRESS_BITS),
                "base": Out(ADDRESS_BITS),
                "size": Out(ADDRESS_BITS),
                "abort": Out(1),
                "busy": In(1),
                "done": In(1),
                "fault": In(1),
                "fault_address": In(ADDRESS_BITS),
                "cycles": In(32),
                "array": In(32),
                "read": In(32),
                "written": In(32),
            }
        )
