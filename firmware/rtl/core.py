"""The core: what executes a program."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import Unit
from firmware.rtl.activations import Banks
from firmware.rtl.execute import Execute
from firmware.rtl.load import Load
from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import BEAT_BYTES, Memory, ReadRequest, Run
from firmware.rtl.sequencer import Sequencer
from firmware.rtl.store import Store
from firmware.rtl.weights import Weights

__all__ = ["Core"]


class Core(wiring.Component):
    """Sequencer, three units and two buffers.

    Attributes
    ----------
    run: :py:`In(Run())`
    memory: :py:`Out(Memory())`
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        super().__init__({"run": In(Run()), "memory": Out(Memory())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parameters = self._parameters
        m.submodules.sequencer = sequencer = Sequencer()
        m.submodules.load = load = Load(parameters)
        m.submodules.execute = execute = Execute(parameters)
        m.submodules.store = store = Store(parameters)
        m.submodules.banks = banks = Banks(parameters)
        m.submodules.weights = weights = Weights(parameters)
        m.submodules.readers = readers = _Readers()
        run, memory = self.run, self.memory

        # The program, and where it may read and write.
        base, size = Signal.like(run.base), Signal.like(run.size)
        packed, packed_size = Signal.like(run.packed), Signal.like(run.size)
        with m.If(sequencer.clear):
            m.d.sync += [
                base.eq(run.base),
                size.eq(run.size),
                packed.eq(run.packed),
                packed_size.eq(run.packed_end - run.packed),
            ]
        m.d.comb += [
            sequencer.start.eq(run.start),
            sequencer.code.eq(run.code),
            sequencer.code_end.eq(run.code_end),
            sequencer.abort.eq(run.abort),
            run.busy.eq(sequencer.busy),
            run.done.eq(sequencer.done),
            run.fault.eq(sequencer.fault),
            run.fault_address.eq(sequencer.fault_address),
            load.base.eq(base),
            load.size.eq(size),
            load.packed.eq(packed),
            load.packed_size.eq(packed_size),
            store.base.eq(base),
            store.size.eq(size),
        ]
        for unit, block in ((Unit.LOAD, load), (Unit.EXECUTE, execute), (Unit.STORE, store)):
            wiring.connect(m, sequencer.units[unit], block.instruction)
            m.d.comb += [
                block.stop.eq(sequencer.stop),
                block.clear.eq(sequencer.clear),
                sequencer.faults[unit].eq(block.fault),
                sequencer.finishes[unit].eq(block.finishes),
                sequencer.finished[unit].eq(block.finished),
                sequencer.idle[unit].eq(block.idle),
            ]
        m.d.comb += sequencer.quiet.eq(load.quiet & store.quiet & readers.quiet)

        # Memory.
        wiring.connect(m, sequencer.request, readers.requests[0])
        wiring.connect(m, load.request, readers.requests[1])
        wiring.connect(m, readers.data[0], sequencer.data)
        wiring.connect(m, readers.data[1], load.data)
        wiring.connect(m, readers.request, wiring.flipped(memory.request))
        wiring.connect(m, wiring.flipped(memory.data), readers.beats)
        wiring.connect(m, store.write, wiring.flipped(memory.write))
        m.d.comb += store.written.eq(memory.written)

        # Buffers.
        wiring.connect(m, load.bank, banks.load)
        wiring.connect(m, store.bank, banks.store)
        m.d.comb += [
            store.bank_data.eq(banks.store_data),
            banks.read.eq(execute.read),
            banks.read_word.eq(execute.read_word),
            banks.write.eq(execute.write),
            banks.write_word.eq(execute.write_word),
            banks.write_mask.eq(execute.write_mask),
            weights.read.eq(execute.weights_read),
            weights.read_word.eq(execute.weights_word),
            weights.write.eq(load.weights_write),
            weights.write_word.eq(load.weights_word),
            weights.write_mask.eq(load.weights_mask),
            weights.write_data.eq(load.weights_data),
        ]
        for lane in range(parameters.array.tp):
            m.d.comb += [
                execute.read_data[lane].eq(banks.read_data[lane]),
                banks.write_data[lane].eq(execute.write_data[lane]),
            ]
        for number in range(parameters.slices):
            m.d.comb += execute.weights_data[number].eq(weights.read_data[number])

        # Counters.
        for counter, step in (
            (run.cycles, run.busy),
            (run.array, execute.multiplies),
            (run.read, memory.data.valid & memory.data.ready),
            (run.written, memory.write.valid & memory.write.ready),
        ):
            with m.If(sequencer.clear):
                m.d.sync += counter.eq(0)
            with m.Elif(step & run.busy & ~counter.all()):
                m.d.sync += counter.eq(counter + 1)
        return m


class _Readers(wiring.Component):
    """Two readers of one memory; the first comes first.

    A request is kept in a register until memory takes it, so that a reader may take it back until
    then.

    Attributes
    ----------
    requests, data: :py:`.array(2)`
        Of the readers.
    request, beats:
        Of memory.
    quiet: :py:`Out(1)`
        Asserted while no request is in the register.
    """

    _REQUESTS = 128
    """Requests that are outstanding at most."""

    def __init__(self) -> None:
        super().__init__(
            {
                "requests": In(stream.Signature(ReadRequest)).array(2),
                "data": Out(stream.Signature(8 * BEAT_BYTES)).array(2),
                "request": Out(stream.Signature(ReadRequest)),
                "beats": In(stream.Signature(8 * BEAT_BYTES)),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.order = order = SyncFIFOBuffered(width=1 + 8, depth=self._REQUESTS)
        kept, kept_valid = Signal(ReadRequest), Signal()
        room = order.w_rdy & (~kept_valid | self.request.ready)
        first, second = self.requests
        chosen = Mux(first.valid, first.payload.as_value(), second.payload.as_value())
        taken = room & (first.valid | second.valid)
        m.d.comb += [
            first.ready.eq(room),
            second.ready.eq(room & ~first.valid),
            order.w_en.eq(taken),
            order.w_data.eq(Mux(first.valid, first.payload.beats, (1 << 8) | second.payload.beats)),
            self.request.valid.eq(kept_valid),
            self.request.payload.eq(kept),
            self.quiet.eq(~kept_valid),
        ]
        with m.If(taken):
            m.d.sync += [kept.eq(chosen), kept_valid.eq(1)]
        with m.Elif(self.request.ready):
            m.d.sync += kept_valid.eq(0)

        # Beats come in the order of the requests.
        whose, beats = order.r_data[8], order.r_data[:8]
        came = Signal(8)
        passes = self.beats.valid & self.beats.ready
        last = came == beats - 1
        m.d.comb += order.r_en.eq(passes & last)
        with m.If(passes):
            m.d.sync += came.eq(Mux(last, 0, came + 1))
        for number, port in enumerate(self.data):
            mine = order.r_rdy & (whose == number)
            m.d.comb += [
                port.valid.eq(self.beats.valid & mine),
                port.payload.eq(self.beats.payload),
            ]
            with m.If(mine):
                m.d.comb += self.beats.ready.eq(port.ready)
        return m
