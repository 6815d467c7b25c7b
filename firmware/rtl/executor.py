"""Carries out the descriptors of one queue."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from edged.npu.regmap import (
    BANKS,
    MAX_IMAGE_BYTES,
    QUEUE_MANAGEMENT,
    BankStatus,
    DescriptorFlag,
    Operation,
    Status,
)
from firmware.rtl.banks import Program
from firmware.rtl.mover import Piece
from firmware.rtl.ports import ADDRESS_BITS
from firmware.rtl.queue import Execution
from firmware.rtl.runner import Turn
from firmware.rtl.transfer import Transfer

__all__ = ["Executor"]


class Executor(wiring.Component):
    """Knows which operations its queue has, and what a DMA of it may touch.

    Parameters
    ----------
    queue:
        Number of the queue. The management queue's loads and activates, and moves data anywhere in
        DRAM; the other's moves data in the active program's.
    bank_bytes:
        Of a bank.

    Attributes
    ----------
    execution: Interface, in
        The queue.
    turn: Interface, out
        To the :class:`~firmware.rtl.runner.Runner`.
    busy: Signal, in
        Asserted: no bank may be made active, since something is done with the one that is.
    moves: Signal, out
        Asserted: a DMA is looked at or under way.
    is_active, active_bank, program, statuses:
        From the :class:`~firmware.rtl.banks.Banks`.
    activate: Signal, out
        Strobe: make bank number ``bank`` the active one.
    load: Signal, out
        Strobe: load into it, as the descriptor says.
    checks_crc: Signal, out
        Asserted: the descriptor has a checksum.
    loaded: Signal, in
        Strobe: that is over.
    load_status: Signal(16), in
        Valid with ``loaded``.
    copy: Signal, in
        Strobe: copy the image that is loaded to ``target``.
    check: Signal, in
        Strobe: sum up ``check_length`` bytes of DRAM from ``check_address`` on.
    moved, fault, crc:
        What became of these two, as in :class:`~firmware.rtl.transfer.Transfer`.
    piece: Interface, out
        To the :class:`~firmware.rtl.mover.Mover`.
    """

    execution: In(Execution())
    turn: Out(Turn())
    busy: In(1)
    moves: Out(1)
    is_active: In(1)
    active_bank: In(range(BANKS))
    program: In(Program)
    statuses: In(32).array(BANKS)
    bank: Out(range(BANKS))
    activate: Out(1)
    load: Out(1)
    checks_crc: Out(1)
    loaded: In(1)
    load_status: In(16)
    copy: In(1)
    target: In(ADDRESS_BITS)
    check: In(1)
    check_address: In(ADDRESS_BITS)
    check_length: In(32)
    moved: Out(1)
    fault: Out(1)
    crc: Out(32)
    piece: Out(Piece())

    def __init__(self, queue: int, bank_bytes: int) -> None:
        self._manages = queue == QUEUE_MANAGEMENT
        self._bank_bytes = bank_bytes
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transfer = transfer = Transfer()
        wiring.connect(m, transfer.piece, wiring.flipped(self.piece))
        execution = self.execution
        descriptor = execution.descriptor
        m.d.comb += [
            self.checks_crc.eq((descriptor.flags & DescriptorFlag.CRC) != 0),
            transfer.to_host.eq(self.check | (descriptor.op == Operation.DMA_OUT)),
            transfer.copies.eq(~self.check),
            transfer.sums.eq(self.check | (self.checks_crc & ~transfer.to_host)),
            transfer.host.eq(descriptor.host_address),
            transfer.device.eq(
                Mux(
                    self.check,
                    self.check_address,
                    Mux(self.copy, self.target, descriptor.device_address),
                )
            ),
            transfer.length.eq(Mux(self.check, self.check_length, descriptor.length)),
            transfer.cancel.eq(execution.cancel),
            transfer.start.eq(self.copy | self.check),
            self.moved.eq(transfer.done),
            self.fault.eq(transfer.fault),
            self.crc.eq(transfer.crc),
            self.turn.entry.eq(descriptor.device_address),
            self.turn.cancel.eq(execution.cancel),
            self.bank.eq(descriptor.device_address),
        ]
        # What a DMA may touch.
        first, size = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        end = Signal(66)
        m.d.comb += end.eq(descriptor.device_address + descriptor.length)
        if self._manages:
            m.d.comb += size.eq(BANKS * self._bank_bytes)
        else:
            m.d.comb += [
                first.eq(self.active_bank * self._bank_bytes),
                size.eq(self.program.dram_bytes),
            ]
        outside = (descriptor.device_address < first) | (end > first + size)
        no_bank = descriptor.device_address >= BANKS
        status = Array(self.statuses)[self.bank]

        def answer(status: Status) -> None:
            m.d.comb += [execution.done.eq(1), execution.status.eq(status)]
            m.next = "IDLE"

        moves = (descriptor.op == Operation.DMA_IN) | (descriptor.op == Operation.DMA_OUT)
        with m.FSM() as machine:
            m.d.comb += self.moves.eq((machine.ongoing("BEGIN") & moves) | machine.ongoing("DMA"))
            with m.State("IDLE"), m.If(execution.start):
                m.next = "BEGIN"
            with m.State("BEGIN"), m.Switch(descriptor.op):
                with m.Case(Operation.DMA_IN, Operation.DMA_OUT):
                    with m.If(descriptor.length == 0):
                        answer(Status.BAD_LENGTH)
                    if not self._manages:
                        with m.Elif(~self.is_active):
                            answer(Status.NO_IMAGE)
                    with m.Elif(outside):
                        answer(Status.BAD_ADDRESS)
                    with m.Else():
                        m.d.comb += transfer.start.eq(1)
                        m.next = "DMA"
                with m.Case(Operation.RUN):
                    m.next = "RUN"
                with m.Case(Operation.FENCE, Operation.FLUSH):
                    # The queue works in order, and what was written is in DRAM.
                    answer(Status.OK)
                if self._manages:
                    with m.Case(Operation.LOAD_IMAGE):
                        with m.If(no_bank):
                            answer(Status.BAD_ADDRESS)
                        with m.Elif(self.is_active & (self.active_bank == self.bank)):
                            answer(Status.BANK_BUSY)
                        with m.Elif(
                            (descriptor.length == 0)
                            | (descriptor.length > min(MAX_IMAGE_BYTES, self._bank_bytes))
                        ):
                            answer(Status.BAD_LENGTH)
                        with m.Else():
                            m.d.comb += self.load.eq(1)
                            m.next = "LOAD"
                    with m.Case(Operation.ACTIVATE_BANK):
                        with m.If(no_bank):
                            answer(Status.BAD_ADDRESS)
                        with m.Elif(execution.cancel):
                            answer(Status.ABORTED)
                        with m.Elif(self.busy):
                            pass  # its end is waited for
                        with m.Elif(status != BankStatus.VALID):
                            answer(Status.NO_IMAGE)
                        with m.Else():
                            m.d.comb += self.activate.eq(1)
                            answer(Status.OK)
                with m.Default():
                    answer(Status.BAD_OPERATION)
            with m.State("DMA"), m.If(transfer.done):
                with m.If(transfer.fault):
                    answer(Status.BAD_ADDRESS)
                with m.Elif(execution.cancel):
                    answer(Status.ABORTED)
                with m.Elif(
                    (descriptor.op == Operation.DMA_IN)
                    & self.checks_crc
                    & (transfer.crc != descriptor.crc)
                ):
                    answer(Status.BAD_CRC)
                with m.Else():
                    answer(Status.OK)
            with m.State("RUN"):
                m.d.comb += self.turn.valid.eq(1)
                with m.If(self.turn.done):
                    m.d.comb += [execution.done.eq(1), execution.status.eq(self.turn.status)]
                    m.next = "IDLE"
            if self._manages:
                with m.State("LOAD"), m.If(self.loaded):
                    m.d.comb += [execution.done.eq(1), execution.status.eq(self.load_status)]
                    m.next = "IDLE"
        return m
