"""What the host sees of the NPU: BAR0, both queues, banks, and all that is around the core.

The ports are where a board's parts begin: the hard PCI Express core with its bridge (BAR0, the
host's memory, interrupts, function-level reset), the controller of the DRAM, and sensors.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from edged.npu.regmap import (
    ABI,
    BANKS,
    MAGIC,
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    QUEUES,
    Capability,
    Command,
    Fault,
    Reg,
    Register,
    State,
)
from edged.npu.regmap import Bank as BankReg
from edged.npu.regmap import Queue as QueueReg
from firmware.rtl.arbiter import Arbiter
from firmware.rtl.banks import Banks
from firmware.rtl.counters import Counters
from firmware.rtl.executor import Executor
from firmware.rtl.host import HostMemory
from firmware.rtl.interrupts import VECTORS, Interrupts
from firmware.rtl.loader import Loader
from firmware.rtl.mover import Mover
from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import Memory, Run
from firmware.rtl.queue import Queue
from firmware.rtl.reader import Reader
from firmware.rtl.registers import Bus, RegisterFile, member
from firmware.rtl.resets import Resets
from firmware.rtl.runner import Runner
from firmware.rtl.sharing import Sharing
from firmware.rtl.wiper import Wiper

__all__ = ["Shell"]


class Shell(wiring.Component):
    """All of the NPU but the core.

    Parameters
    ----------
    parameters:
        Of the core.
    dram_bytes:
        A power of two; each bank has its part.
    clock_khz:
        The clock of it all.
    capabilities:
        Bits of :class:`~edged.npu.regmap.Capability`.
    zeroed:
        Whether DRAM is zero at power-on.

    Attributes
    ----------
    bus: Interface, in
        BAR0.
    host: Interface, out
        The host's memory.
    messages: Signal, out
        Strobes: interrupts, a bit for each vector.
    function_level_reset: Signal, in
        Strobe: the host wants one.
    dram: Interface, out
        Device DRAM.
    core, core_dram: Interface, out and in
        The core.
    gateware_id: Signal(64), in
        What ``GATEWARE_ID`` reads.
    temperature_mc, power_mw: Signal(32), in
        The sensors, as ``TEMPERATURE_MC`` and ``POWER_MW`` read.
    calibrated: Signal, in
        Asserted: the DRAM's interface is.
    resetting: Signal, out
        Asserted: a reset is under way.
    idle: Signal, out
        Asserted: nothing happens before the host's next access; the clock may stand still.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        dram_bytes: int,
        clock_khz: int,
        capabilities: int,
        zeroed: bool = False,
    ) -> None:
        exact_log2(dram_bytes)
        if capabilities & (Capability.FLASH | Capability.FAULT_INJECTION):
            raise ValueError("cannot build shell: it has no flash, and injects no faults")
        self._parameters = parameters
        self._dram_bytes = dram_bytes
        self._bank_bytes = dram_bytes // BANKS
        self._clock_khz = clock_khz
        self._capabilities = capabilities
        self._zeroed = zeroed
        super().__init__(
            {
                "bus": In(Bus()),
                "host": Out(HostMemory()),
                "messages": Out(VECTORS),
                "function_level_reset": In(1),
                "dram": Out(Memory()),
                "core": Out(Run()),
                "core_dram": In(Memory()),
                "gateware_id": In(64),
                "temperature_mc": In(32),
                "power_mw": In(32),
                "calibrated": In(1, init=1),
                "resetting": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bank_bytes = self._bank_bytes
        m.submodules.registers = registers = RegisterFile(self._capabilities)
        m.submodules.resets = resets = Resets()
        m.submodules.interrupts = interrupts = Interrupts()
        m.submodules.counters = counters = Counters()
        m.submodules.banks = banks = Banks()
        m.submodules.loader = loader = Loader(self._parameters, bank_bytes)
        m.submodules.wiper = wiper = Wiper(bank_bytes, zeroed=self._zeroed)
        m.submodules.reader = reader = Reader()
        m.submodules.mover = mover = Mover(QUEUES)
        m.submodules.runner = runner = Runner(bank_bytes, self._clock_khz)
        m.submodules.host_sharing = host_sharing = Sharing(HostMemory(), 1 + QUEUES)
        m.submodules.dram_sharing = dram_sharing = Sharing(Memory(), 3)
        m.submodules.arbiter = arbiter = Arbiter()
        queues, executors = [], []
        for number in range(QUEUES):
            m.submodules[f"queue_{number}"] = queue = Queue()
            m.submodules[f"executor_{number}"] = executor = Executor(number, bank_bytes)
            queues.append(queue)
            executors.append(executor)

        def reg(register: Register, index: int = 0, suffix: str = "") -> Signal:
            return registers[member(register, index) + suffix]

        wiring.connect(m, wiring.flipped(self.bus), registers.bus)

        # Memories.
        wiring.connect(m, mover.host, host_sharing.users[0])
        for number, queue in enumerate(queues):
            wiring.connect(m, queue.host, host_sharing.users[1 + number])
        wiring.connect(m, host_sharing.memory, wiring.flipped(self.host))
        wiring.connect(m, mover.dram, dram_sharing.users[0])
        wiring.connect(m, reader.dram, dram_sharing.users[1])
        wiring.connect(m, wiper.dram, dram_sharing.users[2])
        wiping = dram_sharing.user == 2
        wiring.connect(m, dram_sharing.memory, arbiter.shell)
        wiring.connect(m, wiring.flipped(self.core_dram), arbiter.core)
        wiring.connect(m, arbiter.dram, wiring.flipped(self.dram))
        write = self.dram.write
        m.d.comb += [
            wiper.write.eq(write.valid & write.ready & ~(arbiter.shell_writes & wiping)),
            wiper.address.eq(write.payload.address),
        ]

        # Queues.
        for number, (queue, executor) in enumerate(zip(queues, executors, strict=True)):
            m.d.comb += [
                queue.ring_base.eq(reg(QueueReg.RING_BASE, number)),
                queue.completion_base.eq(reg(QueueReg.COMPLETION_BASE, number)),
                queue.log2_size.eq(reg(QueueReg.LOG2_SIZE, number)),
                queue.tail_write.eq(reg(QueueReg.TAIL, number, "_write")),
                queue.control_write.eq(reg(QueueReg.CONTROL, number, "_write")),
                queue.data.eq(registers.data),
                queue.abort.eq(resets.resetting),
                queue.clear.eq(resets.function_level_done),
                reg(QueueReg.HEAD, number).eq(queue.head),
                reg(QueueReg.TAIL, number).eq(queue.tail),
                reg(QueueReg.ERROR, number).eq(queue.error),
                reg(QueueReg.CONTROL, number).eq(queue.enabled),
                executor.busy.eq(runner.busy | executors[QUEUE_DATA].moves),
                executor.is_active.eq(banks.is_active),
                executor.active_bank.eq(banks.active_bank),
                executor.program.eq(banks.active_program),
                *(
                    known.eq(status)
                    for known, status in zip(executor.statuses, banks.statuses, strict=True)
                ),
            ]
            wiring.connect(m, queue.execution, executor.execution)
            wiring.connect(m, executor.piece, mover.pieces[number])
            wiring.connect(m, executor.turn, runner.turns[number])

        # Banks and loading, which the management queue does.
        manager = executors[QUEUE_MANAGEMENT]
        descriptor = queues[QUEUE_MANAGEMENT].execution.descriptor
        m.d.comb += [
            loader.start.eq(manager.load),
            loader.bank.eq(manager.bank),
            loader.length.eq(descriptor.length),
            loader.crc_given.eq(manager.checks_crc),
            loader.crc.eq(descriptor.crc),
            loader.cancel.eq(queues[QUEUE_MANAGEMENT].execution.cancel),
            manager.loaded.eq(loader.done),
            manager.load_status.eq(loader.status),
            manager.copy.eq(loader.copy),
            manager.target.eq(loader.target),
            manager.check.eq(loader.check),
            manager.check_address.eq(loader.address),
            manager.check_length.eq(loader.check_length),
            loader.moved.eq(manager.moved),
            loader.fault.eq(manager.fault),
            loader.moved_crc.eq(manager.crc),
            wiper.start.eq(loader.wipe),
            wiper.bank.eq(loader.bank),
            loader.wiped.eq(wiper.done),
            reader.forget.eq(loader.forget),
            reader.address.eq(loader.address),
            reader.want.eq(loader.want),
            loader.word.eq(reader.word),
            loader.valid.eq(reader.valid),
            banks.bank.eq(manager.bank),
            banks.begin.eq(loader.begin),
            banks.end.eq(loader.end),
            banks.sound.eq(loader.sound),
            banks.digest.eq(loader.digest),
            banks.program.eq(loader.program),
            banks.entry_write.eq(loader.entry_write),
            banks.entry.eq(loader.entry),
            banks.activate.eq(manager.activate),
        ]
        for number in range(BANKS):
            m.d.comb += [
                reg(BankReg.DIGEST, number).eq(banks.digests[number]),
                reg(BankReg.BASE, number).eq(number * bank_bytes),
                reg(BankReg.SIZE, number).eq(bank_bytes),
                reg(BankReg.STATUS, number).eq(banks.statuses[number]),
                reg(BankReg.GENERATION, number).eq(banks.generations[number]),
            ]

        # Runs, and what ends badly.
        fault = Signal(32, init=Fault.NONE)
        fault_address = Signal(64)
        wiring.connect(m, runner.core, wiring.flipped(self.core))
        m.d.comb += [
            runner.fault.eq(fault),
            runner.watchdog_ms.eq(reg(Reg.WATCHDOG_MS)),
            runner.is_active.eq(banks.is_active),
            runner.active_bank.eq(banks.active_bank),
            runner.program.eq(banks.active_program),
            runner.instruction.eq(banks.instruction),
            banks.entry_number.eq(runner.entry_number),
            counters.ended.eq(runner.ended),
            counters.expired.eq(runner.expired),
            counters.run_cycles.eq(self.core.cycles),
            counters.run_array.eq(self.core.array),
            counters.run_read.eq(self.core.read),
            counters.run_written.eq(self.core.written),
        ]
        command = reg(Reg.COMMAND, suffix="_write")
        reset = resets.soft_done | resets.function_level_done
        with m.If(runner.fault_write):
            m.d.sync += [fault.eq(runner.new_fault), fault_address.eq(runner.fault_address)]
        with m.If(reset | (command & (registers.data == Command.CLEAR_FAULT))):
            m.d.sync += [fault.eq(Fault.NONE), fault_address.eq(0)]

        # Resets.
        m.d.comb += [
            resets.soft.eq(command & (registers.data == Command.SOFT_RESET)),
            resets.function_level.eq(self.function_level_reset),
            resets.quiet.eq(~Cat(queue.enabled for queue in queues).any()),
            registers.soft.eq(resets.soft_done),
            registers.clear.eq(resets.function_level_done),
            banks.reset.eq(reset),
            counters.reset.eq(resets.function_level_done),
            interrupts.reset.eq(resets.function_level_done),
            self.resetting.eq(resets.resetting),
        ]

        # Interrupts.
        management, data = queues[QUEUE_MANAGEMENT], queues[QUEUE_DATA]
        m.d.comb += [
            interrupts.enable.eq(reg(Reg.INTERRUPT_ENABLE)),
            interrupts.raised.eq(
                Cat(
                    runner.fault_write | management.stopped | data.stopped,
                    management.interrupt,
                    data.interrupt,
                )
            ),
            interrupts.acknowledge.eq(
                Mux(reg(Reg.INTERRUPT_ACK, suffix="_write"), registers.data, 0)
            ),
            self.messages.eq(interrupts.messages),
        ]

        # What is read.
        state = reg(Reg.STATE)
        with m.If(resets.resetting):
            m.d.comb += state.eq(State.RESETTING)
        with m.Elif(fault != Fault.NONE):
            m.d.comb += state.eq(State.FAULTED)
        with m.Elif(runner.running):
            m.d.comb += state.eq(State.RUNNING)
        with m.Elif(banks.is_active):
            m.d.comb += state.eq(State.READY)
        with m.Elif(banks.loading):
            m.d.comb += state.eq(State.LOADING)
        with m.Else():
            m.d.comb += state.eq(State.CLEARED)
        parameters = self._parameters
        m.d.comb += [
            reg(register).eq(value)
            for register, value in (
                (Reg.MAGIC, MAGIC),
                (Reg.ABI, ABI),
                (Reg.GATEWARE_ID, self.gateware_id),
                (Reg.ARRAY_TI, parameters.array.ti),
                (Reg.ARRAY_TO, parameters.array.to),
                (Reg.ARRAY_TP, parameters.array.tp),
                (Reg.CAPABILITIES, self._capabilities),
                (Reg.ACTIVATION_BUFFER, parameters.activation_buffer),
                (Reg.WEIGHT_BUFFER, parameters.weight_buffer),
                (Reg.DRAM_SIZE, self._dram_bytes),
                (Reg.CLOCK_KHZ, self._clock_khz),
                (Reg.RESET_CAUSE, resets.cause),
                (Reg.INTERRUPT_PENDING, interrupts.pending),
                (Reg.TEMPERATURE_MC, self.temperature_mc),
                (Reg.POWER_MW, self.power_mw),
                (Reg.ECC_CORRECTED, 0),
                (Reg.ECC_UNCORRECTED, 0),
                (Reg.SEU_COUNT, 0),
                (Reg.DRAM_CALIBRATED, self.calibrated),
                (Reg.FAULT_CODE, fault),
                (Reg.FAULT_ADDRESS, fault_address),
                (Reg.TIMEOUTS, counters.timeouts),
                (Reg.CYCLES, counters.cycles),
                (Reg.BUSY_CYCLES, counters.busy),
                (Reg.STALL_CYCLES, counters.stalled),
                (Reg.BYTES_READ, counters.read),
                (Reg.BYTES_WRITTEN, counters.written),
                (Reg.ACTIVE_BANK, banks.active),
            )
        ]
        m.d.comb += self.idle.eq(
            Cat(queue.idle for queue in queues).all()
            & ~resets.resetting
            & ~self.bus.valid
            & ~self.function_level_reset
            & ~interrupts.messages.any()
        )
        return m
