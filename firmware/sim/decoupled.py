"""Registers between the NPU and what the simulation drives, so that nothing goes through at once.

A signal that is driven from outside and reaches logic in the same cycle makes Verilator keep that
logic twice, and evaluate it three times a cycle instead of once. With these there is none. The
harness answers as many cycles sooner.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Decoupled"]


class Decoupled(wiring.Component):
    """A stream whose ``ready``, ``valid`` and ``payload`` are registers.

    Parameters
    ----------
    shape:
        Of the payload.

    Attributes
    ----------
    i: Interface, in
    o: Interface, out
        The same, a cycle later.
    empty: Signal, out
        Asserted: what was taken was given.
    """

    def __init__(self, shape: object) -> None:
        self._shape = shape
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "empty": Out(1, init=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        second = Signal(self._shape)
        waits = Signal()  # there is a second one
        put, got = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~waits),
            self.empty.eq(~self.o.valid),
            put.eq(self.i.valid & self.i.ready),
            got.eq(self.o.valid & self.o.ready),
        ]
        with m.If(got & waits):
            m.d.sync += [self.o.payload.eq(second), waits.eq(0)]
        with m.Elif(got | ~self.o.valid):
            m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(put)]
        with m.Elif(put):
            m.d.sync += [second.eq(self.i.payload), waits.eq(1)]
        return m
