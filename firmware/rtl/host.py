"""The host's memory as the shell reaches it.

On a card what is behind it is the hard PCI Express core's bridge; here this design ends.
"""

from amaranth import unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from firmware.rtl.ports import BEAT_BYTES

__all__ = ["HostData", "HostMemory", "HostRequest", "HostWrite"]


class HostRequest(data.Struct):
    """A read of consecutive beats.

    Attributes
    ----------
    address:
        Host (IO virtual) address in bytes; a multiple of 64.
    beats:
        How many, 1 to 255.
    """

    address: unsigned(64)
    beats: unsigned(8)


class HostData(data.Struct):
    """A beat that was read.

    Attributes
    ----------
    data:
        Byte n in bits 8·n to 8·n + 7.
    fault:
        Asserted: the beat is not mapped for reading, and the data are not to be used.
    """

    data: unsigned(8 * BEAT_BYTES)
    fault: unsigned(1)


class HostWrite(data.Struct):
    """A posted write of some bytes of a beat.

    Attributes
    ----------
    address:
        Host address in bytes; a multiple of 64.
    data:
        The beat.
    strobe:
        A bit for each byte that is written.
    """

    address: unsigned(64)
    data: unsigned(8 * BEAT_BYTES)
    strobe: unsigned(BEAT_BYTES)


class HostMemory(wiring.Signature):
    """The host's memory, as the device drives it.

    Members
    -------
    request: :py:`Out(stream.Signature(HostRequest))`
    data: :py:`In(stream.Signature(HostData))`
        The beats of all reads, in the order of the requests.
    write: :py:`Out(stream.Signature(HostWrite))`
        Writes reach the host in their order, all that is strobed by one at once or in any order.
    written: :py:`In(1)`
        Asserted while all writes that were accepted have been judged. Not asserted in the cycle
        after one was accepted that has not.
    refused: :py:`In(1)`
        Strobe: a write did not happen, since its address is not mapped for writing. At the latest
        in the first cycle in which it is ``written``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(HostRequest)),
                "data": In(stream.Signature(HostData)),
                "write": Out(stream.Signature(HostWrite)),
                "written": In(1),
                "refused": In(1),
            }
        )
