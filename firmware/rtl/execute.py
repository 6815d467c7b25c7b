"""The execute unit: from buffers to buffers."""

from __future__ import annotations

import itertools

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from edged.npu.instructions import Flag, Opcode
from edged.npu.regmap import ElementType
from firmware.rtl.array import Multipliers, groups
from firmware.rtl.elements import Elements, Mean
from firmware.rtl.loops import COUNTS, Loops
from firmware.rtl.parameters import Parameters
from firmware.rtl.ports import BEAT_BYTES
from firmware.rtl.records import CHANNEL_LAYOUT, ENTRY, FINISHED, operands
from firmware.rtl.results import Results
from firmware.rtl.rotate import chosen

__all__ = ["Execute"]

_STAGES = 4
"""Cycles from the words of a step to the sums that are complete with it."""


class Execute(wiring.Component):
    """Executes FRAME, RESULT, CONV, DEPTHWISE, POOL, VECTOR and TABLE.

    Each cycle begins a step: a word of the bank, and of the weight buffer what belongs to it. One
    cycle later they are there, four cycles later the sums are if the step was a tile's last, and
    then they are rounded and written while the next tile's steps go on. Only the next instruction
    waits until all is written, since it may read it.

    Attributes
    ----------
    instruction, fault, finishes, finished, idle, stop, clear:
        As those of :class:`~firmware.rtl.load.Load`.
    read, read_word, read_data, write, write_word, write_mask, write_data:
        To :class:`~firmware.rtl.activations.Banks`.
    weights_read, weights_word, weights_data:
        To :class:`~firmware.rtl.weights.Weights`.
    multiplies: :py:`Out(1)`
        Asserted in each cycle in which the array has operands.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        array = parameters.array
        self._entries, self._slices = parameters.parts, parameters.slices
        super().__init__(
            {
                "instruction": In(stream.Signature(ENTRY)),
                "fault": Out(1),
                "finishes": Out(1),
                "finished": Out(FINISHED),
                "idle": Out(1),
                "stop": In(1),
                "clear": In(1),
                "read": Out(1),
                "read_word": Out(range(parameters.activation_words)),
                "read_data": In(8 * array.ti).array(array.tp),
                "write": Out(1),
                "write_word": Out(range(parameters.activation_words)),
                "write_mask": Out(max(array.ti // array.to, 1)),
                "write_data": Out(8 * array.ti).array(array.tp),
                "weights_read": Out(1),
                "weights_word": Out(range(parameters.weight_words)),
                "weights_data": In(8 * BEAT_BYTES).array(self._slices),
                "multiplies": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array, words = self._parameters.array, self._parameters.activation_words
        ti, to, entries = array.ti, array.to, self._entries
        new_frame = operands(Opcode.FRAME, self.instruction.payload)
        new_result = operands(Opcode.RESULT, self.instruction.payload)
        what = operands(Opcode.VECTOR, self.instruction.payload)
        frame, frame_valid = Signal.like(new_frame), Signal()
        result, result_valid = Signal.like(new_result), Signal()

        def flag(of: Opcode, which: Flag) -> Signal:
            asserted = Signal(name=f"{of.name}_{which.name}".lower())
            m.d.comb += asserted.eq((what.op == of) & (what.flags & which).any())
            return asserted

        def operation(op: Opcode) -> Signal:
            asserted = Signal(name=f"is_{op.name}".lower())
            m.d.comb += asserted.eq(what.op == op)
            return asserted

        is_conv, is_depthwise = operation(Opcode.CONV), operation(Opcode.DEPTHWISE)
        is_pool, is_vector = operation(Opcode.POOL), operation(Opcode.VECTOR)
        is_table = operation(Opcode.TABLE)
        first, last = flag(Opcode.CONV, Flag.FIRST), flag(Opcode.CONV, Flag.LAST)
        maximum = flag(Opcode.POOL, Flag.MAXIMUM)
        add, multiply = flag(Opcode.VECTOR, Flag.ADD), flag(Opcode.VECTOR, Flag.MULTIPLY)
        spread = flag(Opcode.VECTOR, Flag.SPREAD)
        shared = (what.flags & Flag.SHARED).any()
        mean = is_pool & ~maximum
        source_wide = (result.source_type == ElementType.S16) & ~is_table
        second_wide = result.second_type == ElementType.S16
        target_wide = result.target_type == ElementType.S16
        pairs = add | multiply
        gives = ~is_conv | last  # results

        # Loops.
        m.submodules.loops = loops = Loops(words, max(ti // to, 1))
        m.d.comb += [getattr(loops, name).eq(getattr(frame, name)) for name in COUNTS[:3]]
        m.d.comb += [
            loops.kernel_rows.eq(Mux(is_vector | is_table, 1, frame.kernel_rows)),
            loops.kernel_columns.eq(
                Mux(is_vector | is_table, Mux(pairs, 2, 1), frame.kernel_columns)
            ),
            loops.kernel_blocks.eq(Mux(is_conv, frame.kernel_blocks, 1)),
            loops.source.eq(what.source),
            loops.source_block.eq(Mux(is_conv, 0, frame.source_block)),
            loops.source_row.eq(frame.source_row),
            loops.source_column.eq(frame.source_column),
            loops.kernel_row.eq(frame.kernel_row),
            loops.kernel_column.eq(frame.kernel_column),
            loops.second.eq(what.second),
            loops.second_block.eq(result.second_block),
            loops.second_row.eq(result.second_row),
            loops.second_column.eq(result.second_column),
            loops.target.eq(what.target),
            loops.target_block.eq(Mux(is_conv, groups(array) << target_wide, frame.target_block)),
            loops.target_row.eq(frame.target_row),
            loops.target_column.eq(frame.target_column),
            loops.pairs.eq(pairs),
            loops.partial.eq(is_conv),
            loops.wide.eq(Mux(loops.is_second, second_wide, source_wide)),
        ]

        # What goes down the pipeline with the words that a step reads.
        step_layout = data.StructLayout(
            {
                "words": 1,  # a step of the loops
                "parameters": 1,  # parameters of a block
                "entries": 1,  # a row of the table
                "wide": 1,
                "high": 1,
                "is_signed": 1,
                "is_second": 1,
                "first": 1,
                "last": 1,
                "word": self.write_word.shape(),
                "part": loops.target_part.shape(),
                "position": range(to),
                "slice": range(max(self._slices, 2)),
                "row": range(256 // entries),
                "table_high": 1,
            }
        )
        step = Signal(step_layout)
        stage = Signal(step_layout)
        goes, completes = Signal(), Signal()
        reads_parameters, reads_entries = Signal(), Signal()
        weight, tile_weight = Signal.like(self.weights_word), Signal.like(self.weights_word)
        position, slice_number = Signal(range(to)), Signal(range(max(self._slices, 2)))
        row, table_high = Signal(range(256 // entries)), Signal()
        kind = Mux(loops.is_second, result.second_type, result.source_type)
        m.d.comb += [
            step.wide.eq(loops.wide),
            step.high.eq(loops.high),
            step.is_signed.eq((kind == ElementType.S8) | (loops.wide & loops.high)),
            step.is_second.eq(loops.is_second),
            step.first.eq(loops.first),
            completes.eq(loops.last & gives),
            step.last.eq(completes),
            step.words.eq(goes),
            step.parameters.eq(reads_parameters),
            step.entries.eq(reads_entries),
            step.word.eq(loops.target_word),
            step.part.eq(loops.target_part),
            step.position.eq(position),
            step.slice.eq(slice_number),
            step.row.eq(row),
            step.table_high.eq(table_high),
            loops.advance.eq(goes),
            self.read.eq(goes),
            self.read_word.eq(loops.word),
            self.weights_read.eq(
                reads_parameters | reads_entries | (goes & (is_conv | is_depthwise))
            ),
            self.weights_word.eq(weight),
        ]
        m.d.sync += stage.eq(step)

        # A tile must not be complete before the results of the last one have been read.
        m.submodules.results = results = Results(array, words)
        tile_cycles = Mux(is_conv, groups(array), 1) << target_wide
        wait = Signal(range(max(ti + 16, 16)))
        with m.If(goes & completes):
            m.d.sync += wait.eq(tile_cycles - 1 + Mux(mean, ti + 8, 0))
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)

        # The words of the weight buffer, in order; each tile of a block begins with the same.
        whole = goes & (loops.high | ~loops.wide)
        with m.If(reads_parameters):
            m.d.sync += [weight.eq(weight + 1), tile_weight.eq(weight + 1)]
        with m.If(whole & is_conv):
            m.d.sync += weight.eq(Mux(loops.last & ~loops.block_end, tile_weight, weight + 1))
        with m.If(whole & is_depthwise):
            m.d.sync += position.eq(position + 1)
            with m.If(loops.last):
                m.d.sync += position.eq(0)
                m.d.sync += weight.eq(Mux(loops.block_end, weight + 1, tile_weight))
            with m.Elif(position == to - 1):
                m.d.sync += weight.eq(weight + 1)
        # Those of a table: a slice has as many rows as it has entries of `entries` bytes, or one.
        with m.If(reads_entries & (~shared | ((row & (ti - 1)) == ti - 1))):
            m.d.sync += slice_number.eq(slice_number + 1)
            with m.If(slice_number == self._slices - 1):
                m.d.sync += [slice_number.eq(0), weight.eq(weight + 1)]

        # One cycle later.
        m.submodules.multipliers = multipliers = Multipliers(array)
        m.submodules.elements = elements = Elements(array)
        m.submodules.mean = means = Mean(array)
        weights = Signal(8 * ti * to)
        m.d.comb += weights.eq(Cat(self.weights_data))
        following = [Signal(CHANNEL_LAYOUT, name=f"following{n}") for n in range(max(ti, to))]
        current = [Signal(CHANNEL_LAYOUT, name=f"current{n}") for n in range(max(ti, to))]
        with m.If(stage.parameters):
            m.d.sync += [
                channel.eq(weights.word_select(number, 8 * 8))
                for number, channel in enumerate(following)
            ]
        table_slice, table_data = Signal(8 * BEAT_BYTES), Signal(8 * BEAT_BYTES)
        m.d.comb += table_slice.eq(chosen(list(self.weights_data), stage.slice))
        one_for_all = chosen(
            [table_slice.word_select(n, 8 * entries) for n in range(ti)],
            stage.row[: (ti - 1).bit_length()],
        )
        with m.If(shared):
            m.d.comb += table_data.eq(
                Cat(one_for_all_byte.replicate(ti) for one_for_all_byte in _bytes(m, one_for_all))
            )
        with m.Else():
            m.d.comb += table_data.eq(table_slice)
        depthwise = Signal(8 * ti)
        m.d.comb += depthwise.eq(
            chosen([weights.word_select(n, 8 * ti) for n in range(to)], stage.position)
        )
        for channel in range(ti):
            left = Signal(4, name=f"left{channel}")
            m.d.comb += left.eq(
                Mux(stage.is_second, following[channel].second_left, following[channel].left)
            )
            factor = elements.factors[channel]
            with m.If(is_depthwise):
                m.d.comb += factor.eq(depthwise.word_select(channel, 8).as_signed())
            with m.Elif(is_vector):
                m.d.comb += factor.eq(1 << left)
            with m.Else():
                m.d.comb += factor.eq(1)
        for lane in range(array.tp):
            m.d.comb += [
                multipliers.activations[lane].eq(self.read_data[lane]),
                elements.words[lane].eq(self.read_data[lane]),
            ]
        for number in range(self._slices):
            m.d.comb += multipliers.weights[number].eq(self.weights_data[number])
        m.d.comb += [
            multipliers.valid.eq(stage.words & is_conv),
            multipliers.is_signed.eq(stage.is_signed),
            multipliers.high.eq(stage.high),
            multipliers.first.eq(stage.first & first & ~stage.high),
            multipliers.last.eq(stage.last),
            multipliers.group.eq(results.group),
            self.multiplies.eq(multipliers.valid),
            elements.valid.eq(stage.words & ~is_conv),
            elements.is_signed.eq(stage.is_signed),
            elements.wide.eq(stage.wide),
            elements.high.eq(stage.high),
            elements.is_second.eq(stage.is_second),
            elements.first.eq(stage.first),
            elements.last.eq(stage.last),
            elements.multiply.eq(multiply),
            elements.maximum.eq(maximum),
            elements.spread.eq(spread),
            elements.look_up.eq(is_table),
            elements.wide_table.eq(target_wide),
            elements.table_write.eq(stage.entries << stage.table_high),
            elements.table_row.eq(stage.row),
            elements.table_data.eq(table_data),
        ]

        # Four cycles later: sums that are complete, and parameters that hold from then on.
        late_layout = data.StructLayout(
            {"complete": 1, "parameters": 1, "word": step.word.shape(), "part": step.part.shape()}
        )
        late = [Signal(late_layout, name=f"late{number}") for number in range(_STAGES)]
        m.d.sync += [
            late[0].complete.eq(stage.words & stage.last),
            late[0].parameters.eq(stage.parameters),
            late[0].word.eq(stage.word),
            late[0].part.eq(stage.part),
        ]
        m.d.sync += [mine.eq(before) for before, mine in itertools.pairwise(late)]
        arrives = late[-1]
        with m.If(arrives.parameters):
            m.d.sync += [mine.eq(new) for mine, new in zip(current, following, strict=True)]
        averaging = Signal()
        mean_word = Signal.like(step.word)
        m.d.comb += [
            means.start.eq(arrives.complete & mean),
            means.multiplier.eq(result.multiplier),
            results.start.eq(Mux(mean, means.done, arrives.complete)),
            results.word.eq(Mux(mean, mean_word, arrives.word)),
            results.part.eq(arrives.part),
            results.of_array.eq(is_conv),
            results.wide.eq(target_wide),
            results.has_bias.eq(is_conv | is_depthwise),
            results.has_shift.eq(is_conv | is_depthwise | is_vector),
            results.bounded.eq(~is_table),
            results.lo.eq(result.lo),
            results.hi.eq(result.hi),
            self.write.eq(results.write),
            self.write_word.eq(results.write_word),
            self.write_mask.eq(results.write_mask),
        ]
        with m.If(means.start):
            m.d.sync += [averaging.eq(1), mean_word.eq(arrives.word)]
        with m.Elif(means.done):
            m.d.sync += averaging.eq(0)
        for number, channel in enumerate(current):
            m.d.comb += results.parameters[number].eq(channel)
        for channel in range(ti):
            m.d.comb += means.shifts[channel].eq(current[channel].shift)
        for lane in range(array.tp):
            m.d.comb += self.write_data[lane].eq(results.write_data[lane])
            for channel in range(min(ti, to)):
                m.d.comb += results.array_sums[lane][channel].eq(multipliers.sums[lane][channel])
            for channel in range(ti):
                sums = elements.sums[lane][channel]
                m.d.comb += means.sums[lane][channel].eq(sums)
                m.d.comb += results.element_sums[lane][channel].eq(
                    Mux(mean, means.means[lane][channel], sums)
                )
        settled = (
            ~(stage.words | stage.parameters | stage.entries)
            & ~Cat(item.complete | item.parameters for item in late).any()
            & ~averaging
            & results.idle
        )

        # The instruction.
        nothing = (frame.rows == 0) | (frame.columns == 0) | (frame.blocks == 0)
        no_window = (frame.kernel_rows == 0) | (frame.kernel_columns == 0)
        one = (frame.rows == 1) & (frame.columns == 1) & (frame.blocks == 1)
        done = Signal()
        m.d.comb += [
            self.instruction.ready.eq(done),
            self.finishes.eq(self.instruction.valid & done),
            self.finished.signal.eq(what.signal),
            self.finished.address.eq(self.instruction.payload.address),
            self.idle.eq(1),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.instruction.valid):
                    m.d.sync += [
                        weight.eq(what.weights),
                        position.eq(0),
                        slice_number.eq(0),
                        row.eq(0),
                        table_high.eq(0),
                    ]
                    with m.If(what.op == Opcode.FRAME):
                        m.d.sync += [frame.eq(new_frame), frame_valid.eq(1)]
                        m.d.comb += done.eq(1)
                    with m.Elif(what.op == Opcode.RESULT):
                        m.d.sync += [result.eq(new_result), result_valid.eq(1)]
                        m.d.comb += done.eq(1)
                    with m.Elif(
                        ~frame_valid
                        | ~result_valid
                        | ~(is_conv | is_depthwise | is_pool | is_vector | is_table)
                        | (is_conv & ~one & ~(first & last))
                    ):
                        m.d.comb += self.fault.eq(1)
                    with m.Elif(
                        nothing
                        | ((is_conv | is_depthwise | is_pool) & no_window)
                        | (is_conv & (frame.kernel_blocks == 0))
                    ):
                        m.d.comb += done.eq(1)
                    with m.Else():
                        m.d.comb += loops.start.eq(1)
                        with m.If(maximum):
                            m.next = "RUN"
                        with m.Elif(is_table):
                            m.next = "TABLE"
                        with m.Else():
                            m.next = "PARAMETERS"
            with m.State("PARAMETERS"):
                # Those before must have arrived when these come from the buffer.
                with m.If((wait == 0) & ~Cat(item.parameters for item in (stage, *late[:2])).any()):
                    m.d.comb += reads_parameters.eq(1)
                    m.next = "RUN"
                with m.If(self.stop):
                    m.next = "IDLE"
            with m.State("TABLE"):
                m.d.comb += reads_entries.eq(1)
                m.d.sync += row.eq(row + 1)
                with m.If(row == 256 // entries - 1):
                    m.d.sync += table_high.eq(target_wide & ~table_high)
                    with m.If(table_high | ~target_wide):
                        m.next = "RUN"
                with m.If(self.stop):
                    m.next = "IDLE"
            with m.State("RUN"):
                with m.If((wait == 0) | ~completes):
                    m.d.comb += goes.eq(1)
                    with m.If(loops.end):
                        m.next = "FINISH"
                    with m.Elif(loops.block_end & ~shared & ~maximum):
                        m.next = "PARAMETERS"
                        with m.If(is_table):
                            m.next = "TABLE"
                with m.If(self.stop):
                    m.next = "IDLE"
            with m.State("FINISH"):
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(settled):
                    m.d.comb += done.eq(1)
                    m.next = "IDLE"
        with m.If(self.clear):
            m.d.sync += [frame_valid.eq(0), result_valid.eq(0)]
        return m


def _bytes(m: Module, value: Signal) -> list[Signal]:
    """The bytes of *value*, which is built once."""
    whole = Signal(len(value))
    m.d.comb += whole.eq(value)
    return [whole.word_select(place, 8) for place in range(len(value) // 8)]
